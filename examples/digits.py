"""An image classifier on scikit-learn's digits: the shortest use of ``autotune``.

python examples/digits.py
autowarmup tune examples/digits.py:task --steps 200
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from torch import nn


def model_fn() -> nn.Module:
    """A small convolutional network for 8 x 8 images in ten classes."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 16, 10),
    )


def data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Train and validation images, shape ``(n, 8, 8)`` in 0 to 1, with their labels: 1,437 and 360."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images, labels = (digits.images[order] / 16).astype(np.float32), digits.target[order]
    return (images[360:], labels[360:]), (images[:360], labels[:360])


def task() -> dict[str, Any]:
    """The arguments of ``autotune``."""
    return {"model_fn": model_fn, "data": data(), "batch_size": 64}


if __name__ == "__main__":
    from autowarmup import autotune

    print(autotune(**task(), total_steps=200, study="studies/digits").summary())
