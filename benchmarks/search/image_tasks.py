"""The benchmark's tasks on images: what :class:`autowarmup.training.task.ModelTask` takes, but for the settings."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from autowarmup.schedule.schedule import Schedule
from autowarmup.seeds import derive_seed
from autowarmup.training.settings import TrainSettings
from autowarmup.training.task import ModelTask
from benchmarks.search.optimizers import adamw, lion, sgd
from benchmarks.search.recurrent import LSTM
from examples import char_gpt, digits

# --- Convolutions -----------------------------------------------------------------------------------------


class Residual(nn.Module):
    """``x + f(x)`` with two convolutions and one normalisation, at its end."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def residual_cnn() -> dict[str, Any]:
    """A residual network without normalisation on digits, by SGD with momentum."""
    return {
        "model_fn": lambda: nn.Sequential(
            nn.Unflatten(1, (1, 8)),
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            *(Residual(16) for _ in range(4)),
            nn.Flatten(),
            nn.Linear(16 * 16, 10),
        ),
        "data": digits.data(),
        "optimizer": sgd(0.1, 0.9, 1e-4),
    }


def group_norm_cnn() -> dict[str, Any]:
    """A plain convolutional network with group normalisation on digits, by AdamW."""

    def model_fn() -> nn.Module:
        layers: list[nn.Module] = [nn.Unflatten(1, (1, 8))]
        for inputs, stride in ((1, 2), (12, 1), (12, 2)):
            layers += [nn.Conv2d(inputs, 12, 3, stride=stride, padding=1), nn.GroupNorm(3, 12), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * 4, 10))

    return {"model_fn": model_fn, "data": digits.data(), "optimizer": adamw(1e-3, 0.999, 0.05)}


def batch_norm_cnn() -> dict[str, Any]:
    """A plain convolutional network with batch normalisation on digits, by SGD with momentum. It validates with the
    statistics of the batch, too: running averages would be buffers."""

    def model_fn() -> nn.Module:
        layers: list[nn.Module] = [nn.Unflatten(1, (1, 8))]
        for inputs, stride in ((1, 2), (12, 1), (12, 2)):
            layers += [
                nn.Conv2d(inputs, 12, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(12, track_running_stats=False),
                nn.ReLU(),
            ]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * 4, 10))

    return {"model_fn": model_fn, "data": digits.data(), "optimizer": sgd(0.1, 0.9, 5e-4)}


# --- Perceptrons ------------------------------------------------------------------------------------------


def mlp() -> dict[str, Any]:
    """A plain multilayer perceptron on digits, by Adam."""
    return {
        "model_fn": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        ),
        "data": digits.data(),
        "optimizer": adamw(1e-3, 0.999, 0.01),
    }


def deep_mlp() -> dict[str, Any]:
    """A plain perceptron of six hidden layers on digits, by SGD without momentum."""

    def model_fn() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise([64, *[32] * 6]):
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(32, 10))

    return {"model_fn": model_fn, "data": digits.data(), "optimizer": sgd(0.1, 0.0)}


class PreNorm(nn.Module):
    """``x + f(norm(x))`` with two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def residual_mlp() -> dict[str, Any]:
    """A residual perceptron of eight normalised blocks on digits, by Lion."""
    return {
        "model_fn": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), *(PreNorm(32) for _ in range(8)), nn.LayerNorm(32), nn.Linear(32, 10)
        ),
        "data": digits.data(),
        "optimizer": lion(1e-4, 0.1),
    }


def _perceptron(classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes)
    )


def _some_digits(first: int, last: int) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """The digits from ``first`` to ``last``, which become classes from 0."""
    parts = [
        (images[(labels >= first) & (labels <= last)], labels[(labels >= first) & (labels <= last)] - first)
        for images, labels in digits.data()
    ]
    return parts[0], parts[1]


@cache
def pretrained() -> dict[str, Tensor]:
    """Weights of a perceptron after 500 steps on the digits from 0 to 4, all but those of the last layer."""
    settings = TrainSettings(batch_size=32, device="cpu")
    task = ModelTask(lambda: _perceptron(5), _some_digits(0, 4), optimizer=adamw(1e-3, 0.999, 0.0), settings=settings)
    schedule = Schedule(peak=3e-3, horizon=500, warmup_steps=50, shape="linear")
    trial = task.trial(schedule, derive_seed("pretrained"), schedule.horizon, None)
    for _ in trial.run(schedule.horizon):
        pass
    state = trial._model.state_dict()
    return {name: tensor.detach().clone() for name, tensor in state.items() if not name.startswith("5.")}


def transfer() -> dict[str, Any]:
    """A perceptron that knows the digits from 0 to 4 learns those from 5 to 9, with a new last layer, by SGD with
    momentum."""
    weights = pretrained()

    def model_fn() -> nn.Module:
        model = _perceptron(5)
        model.load_state_dict(weights, strict=False)
        return model

    return {"model_fn": model_fn, "data": _some_digits(5, 9), "optimizer": sgd(0.01, 0.9)}


# --- Autoencoders -----------------------------------------------------------------------------------------


def _pixels() -> np.ndarray[Any, np.dtype[np.float32]]:
    """The digits as vectors of 64 values in 0 to 1; the first 360 validate."""
    pixels = (load_digits().data / 16).astype(np.float32)
    return pixels[np.random.default_rng(0).permutation(len(pixels))]


def autoencoder() -> dict[str, Any]:
    """A deep autoencoder of digits, by Adam; mean squared error."""
    pixels = _pixels()
    sizes = [64, 64, 48, 32, 16, 32, 48, 64]

    def model_fn() -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.GELU()]
        return nn.Sequential(*layers, nn.Linear(64, 64))

    return {
        "model_fn": model_fn,
        "data": ((pixels[360:], pixels[360:]), (pixels[:360], pixels[:360])),
        "optimizer": adamw(1e-3, 0.999, 0.0),
    }


def denoising() -> dict[str, Any]:
    """A denoising autoencoder of digits, by Adam with a short second moment; mean squared error."""
    pixels = _pixels()
    noisy = (pixels + 0.3 * np.random.default_rng(1).standard_normal(pixels.shape)).astype(np.float32)
    return {
        "model_fn": lambda: nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 64)
        ),
        "data": ((noisy[360:], pixels[360:]), (noisy[:360], pixels[:360])),
        "optimizer": adamw(1e-3, 0.9, 0.0),
    }


# --- Sequences of rows ------------------------------------------------------------------------------------


class Rows(nn.Module):
    """A transformer that reads a digit row by row, 8 tokens of 8 pixels."""

    def __init__(self, width: int = 24, layers: int = 2, post_norm: bool = False) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(8, width), nn.Parameter(torch.zeros(8, width))
        self.blocks = nn.Sequential(*(char_gpt.Block(width, 2, post_norm) for _ in range(layers)))
        self.norm = nn.Identity() if post_norm else nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(images) + self.position)).mean(1))


def _half_as_many_validate() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    train, (images, labels) = digits.data()
    return train, (images[:180], labels[:180])


def rows() -> dict[str, Any]:
    """The transformer on digits, pre-norm, by AdamW."""
    return {"model_fn": Rows, "data": digits.data(), "optimizer": adamw(3e-3, 0.98, 0.05)}


def post_norm_rows() -> dict[str, Any]:
    """The transformer on digits, five post-norm layers, by Adam."""
    return {
        "model_fn": lambda: Rows(16, layers=5, post_norm=True),
        "data": _half_as_many_validate(),
        "optimizer": adamw(1e-3, 0.999, 0.0),
    }


def sgd_rows() -> dict[str, Any]:
    """The transformer on digits, pre-norm, by SGD with momentum."""
    return {"model_fn": lambda: Rows(16), "data": _half_as_many_validate(), "optimizer": sgd(0.1, 0.9)}


class RowLSTM(nn.Module):
    """Reads a digit row by row; the last state decides."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.cell, self.head = LSTM(8, width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.cell(images)[:, -1])


def lstm() -> dict[str, Any]:
    """Long short-term memory on digits, by SGD with momentum."""
    return {"model_fn": RowLSTM, "data": digits.data(), "optimizer": sgd(0.1, 0.9)}
