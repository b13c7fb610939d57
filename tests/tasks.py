"""Small tasks that the tests train: real models on scikit-learn's digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """600 images to train on and 200 to validate with, flattened to 64 numbers from 0 to 1."""
    bunch = load_digits()
    images, labels = (bunch.data / 16).astype(np.float32), bunch.target.astype(np.int64)
    return (images[:600], labels[:600]), (images[600:800], labels[600:800])


def mlp() -> nn.Module:
    """Has all that makes resuming hard: dropout, and buffers that training changes."""
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10))


def linear() -> nn.Module:
    return nn.Linear(64, 10)


def loaders(batch_size: int = 64, workers: int = 0) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """The digits as DataLoaders that shuffle with the global random state."""
    (x, y), (x_val, y_val) = digits()
    train = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    validation = TensorDataset(torch.from_numpy(x_val), torch.from_numpy(y_val))
    return (
        DataLoader(train, batch_size=batch_size, shuffle=True, num_workers=workers),
        DataLoader(validation, batch_size=100),
    )


def settings(**changes: Any) -> dict[str, Any]:
    """What a small study takes: some 7 trials of at most 40 steps, in about a second."""
    return {"model_fn": mlp, "data": digits(), "batch_size": 64, "total_steps": 40, "mlflow": False} | changes


def wide(**changes: Any) -> dict[str, Any]:
    """The same, four trials at a time, on every engine: some 17 trials, several of them paused at once."""
    return settings(cohort=4, confirm_seeds=4, budget=1000) | changes
