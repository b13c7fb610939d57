"""A study of what Transformers' Trainer trains: a small vision transformer, on scikit-learn's handwritten digits.

The lines that are there for autowarmup end in ``# glue``. Needs ``pip install 'autowarmup[transformers]'``.

    python examples/transformers_trainer.py
    autowarmup tune examples/transformers_trainer.py:task
"""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from transformers import EvalPrediction, Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from autowarmup.integrations import from_trainer  # glue


def images() -> list[dict[str, Any]]:
    """The digits, 8 x 8 pixels from 0 to 1."""
    digits = load_digits()
    pixels = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    return [{"pixel_values": image, "labels": int(label)} for image, label in zip(pixels, digits.target, strict=True)]


ROWS = images()


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of digits that are recognised."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def make_trainer() -> Trainer:
    """The Trainer as it would be without autowarmup."""
    shape = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10}
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = ViTForImageClassification(ViTConfig(**shape, **size))
    args = TrainingArguments(
        output_dir="studies/vit", num_train_epochs=4, per_device_train_batch_size=32, per_device_eval_batch_size=128,
        learning_rate=1e-3, warmup_steps=0.1, lr_scheduler_type="cosine", report_to=[],
    )  # fmt: skip
    return Trainer(model=model, args=args, train_dataset=ROWS[360:], eval_dataset=ROWS[:360], compute_metrics=accuracy)


def task() -> dict[str, Any]:
    """The arguments of ``autotune``."""
    return from_trainer(make_trainer)  # glue


if __name__ == "__main__":
    from autowarmup import autotune

    print(autotune(**task(), study="studies/transformers-trainer").summary())  # glue
