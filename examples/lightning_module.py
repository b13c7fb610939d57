"""A study of what Lightning trains: a small convolutional network, on scikit-learn's handwritten digits.

The lines that are there for autowarmup end in ``# glue``. Needs ``pip install 'autowarmup[lightning]'``.

    python examples/lightning_module.py
    autowarmup tune examples/lightning_module.py:task
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from autowarmup.integrations import from_lightning  # glue


class Digits(pl.LightningDataModule):
    """The digits, 8 x 8 pixels from 0 to 1."""

    def setup(self, stage: str) -> None:
        digits = load_digits()
        images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
        labels = torch.tensor(digits.target)
        self.train = TensorDataset(images[360:], labels[360:])
        self.held_out = TensorDataset(images[:360], labels[:360])

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=64, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.held_out, batch_size=120)


class Net(pl.LightningModule):
    """A convolution, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        output = self.net(images)
        self.log("val_loss", nn.functional.cross_entropy(output, labels))
        self.log("val_acc", (output.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": decay, "interval": "step"}}


def make_trainer() -> pl.Trainer:
    """The Trainer as it would be without autowarmup."""
    return pl.Trainer(max_epochs=8, gradient_clip_val=1.0)


def task() -> dict[str, Any]:
    """The arguments of ``autotune``."""
    return from_lightning(Net, make_trainer, Digits)  # glue


if __name__ == "__main__":
    from autowarmup import autotune

    print(autotune(**task(), study="studies/lightning-module").summary())  # glue
