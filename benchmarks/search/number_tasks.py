"""The benchmark's tasks on rows of numbers: what :class:`autowarmup.training.task.ModelTask` takes, but for the
settings."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine, make_friedman1
from torch import nn

from benchmarks.search.optimizers import adamw, sgd

Array = np.ndarray[Any, Any]


def _split(inputs: Array, targets: Array, held_out: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Train and validation data: standardised inputs in a random order, of which the first ``held_out`` validate."""
    order = np.random.default_rng(0).permutation(len(targets))
    inputs = ((inputs - inputs.mean(0)) / inputs.std(0)).astype(np.float32)[order]
    targets = targets[order]
    return (inputs[held_out:], targets[held_out:]), (inputs[:held_out], targets[:held_out])


def _standardized(values: Array) -> Array:
    return ((values - values.mean()) / values.std()).astype(np.float32)[:, None]


def tabular() -> dict[str, Any]:
    """A multilayer perceptron on the breast cancer data, by SGD with momentum."""
    bunch = load_breast_cancer()
    return {
        "model_fn": lambda: nn.Sequential(
            nn.Linear(30, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2)
        ),
        "data": _split(bunch.data, bunch.target.astype(np.int64), 150),
        "optimizer": sgd(0.01, 0.9),
    }


def wine() -> dict[str, Any]:
    """A perceptron of one hidden layer on the wine data, by Adam."""
    bunch = load_wine()
    return {
        "model_fn": lambda: nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 3)),
        "data": _split(bunch.data, bunch.target.astype(np.int64), 60),
        "optimizer": adamw(1e-2, 0.999, 0.1),
    }


def diabetes() -> dict[str, Any]:
    """A perceptron of one hidden layer on the diabetes data, by AdamW; mean squared error."""
    bunch = load_diabetes()
    return {
        "model_fn": lambda: nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1)),
        "data": _split(bunch.data, _standardized(bunch.target), 120),
        "optimizer": adamw(1e-3, 0.999, 0.01),
    }


def friedman() -> dict[str, Any]:
    """A multilayer perceptron on Friedman's first problem, by Adam with a short second moment; mean squared error."""
    inputs, values = make_friedman1(1500, n_features=10, noise=1.0, random_state=0)
    return {
        "model_fn": lambda: nn.Sequential(nn.Linear(10, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1)),
        "data": _split(inputs, _standardized(values), 300),
        "optimizer": adamw(1e-3, 0.95, 0.0),
    }
