"""A study of a training loop under Accelerate, with accumulation: scikit-learn's handwritten digits.

The lines that are there for autowarmup end in ``# glue``. Without it the loop is that of Accelerate's documentation,
with a scheduler of its own. Needs ``pip install 'autowarmup[accelerate]'``.

    python examples/accelerate_loop.py
    autowarmup tune examples/accelerate_loop.py:task --steps 200
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autowarmup import LoopRun  # glue
from autowarmup.integrations import AcceleratedSteps  # glue


def loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """The digits, 64 pixels from 0 to 1: to train on and to validate with."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    train = DataLoader(TensorDataset(images[360:], labels[360:]), batch_size=32, shuffle=True)
    return train, DataLoader(TensorDataset(images[:360], labels[:360]), batch_size=120)


def train(run: LoopRun) -> None:
    """Trains a multilayer perceptron."""
    torch.manual_seed(run.seed)  # glue
    accelerator = Accelerator(gradient_accumulation_steps=4)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, batches, held_out = accelerator.prepare(model, optimizer, *loaders())

    def validation_loss() -> float:
        model.eval()
        with torch.no_grad():
            losses = [
                accelerator.gather_for_metrics(nn.functional.cross_entropy(model(images), labels, reduction="none"))
                for images, labels in held_out
            ]
        return torch.cat(losses).mean().item()

    steps = AcceleratedSteps(run, accelerator, model, optimizer, validation_loss)  # glue
    while not run.should_stop:  # glue
        for images, labels in batches:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(images), labels)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            if steps.stop_after(loss):  # glue
                break  # glue


def task() -> dict[str, Any]:
    """The arguments of ``autotune``."""
    return {"train_fn": train, "current_peak": 1e-3}


if __name__ == "__main__":
    from autowarmup import autotune

    print(autotune(**task(), total_steps=200, study="studies/accelerate-loop").summary())  # glue
