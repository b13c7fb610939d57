"""A training loop of your own: it applies the schedule, reports each step, and stops when ``run.report`` returns True.

The data are scikit-learn's handwritten digits; the loop is what a script without any framework looks like.

    python examples/own_loop.py
    autowarmup tune examples/own_loop.py:task --steps 200
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from autowarmup import LoopRun


def train(run: LoopRun) -> None:
    """Trains a multilayer perceptron with SGD and momentum under the run's schedule."""
    torch.manual_seed(run.seed)
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = torch.tensor(digits.data[order] / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target[order])
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = run.schedule.scheduler(optimizer)

    for _ in range(run.total_steps):
        batch = torch.randint(360, len(labels), (64,))
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        scheduler.step()

        val_loss = None
        if run.should_validate:
            with torch.no_grad():
                val_loss = nn.functional.cross_entropy(model(images[:360]), labels[:360]).item()
        if run.report(loss.item(), grad_norm=grad_norm.item(), val_loss=val_loss):
            break


def task() -> dict[str, Any]:
    """The arguments of ``autotune``."""
    return {"train_fn": train, "current_peak": 0.1, "space": "from-scratch-sgd"}


if __name__ == "__main__":
    from autowarmup import autotune

    print(autotune(**task(), total_steps=200, study="studies/own-loop").summary())
