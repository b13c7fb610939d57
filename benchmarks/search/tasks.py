"""The benchmark's tasks: small models on real data that behave differently under a warm-up."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autowarmup.schedule.schedule import Schedule
from autowarmup.seeds import derive_seed
from autowarmup.training.settings import TrainSettings
from autowarmup.training.task import ModelTask
from examples import char_gpt, digits

PEAKS = 11
"""Peaks of a grid, a quarter of a decade apart: 2.5 decades."""
DURATIONS = (0.05, 0.15, 0.4)
"""Warm-up durations of a grid beside 0, as shares of the horizon."""
SHAPES = ("linear", "cosine", "sqrt", "exponential")
DECAYS = ("cosine", "linear")


@dataclass(frozen=True)
class BenchmarkTask:
    """A task of the benchmark.

    Args:
        name: as in the tables.
        about: the model, the data and the optimizer in a few words.
        settings: what :class:`autowarmup.training.task.ModelTask` takes.
        lowest_peak: of the grid.
        horizon: optimizer steps of a run.
    """

    name: str
    about: str
    settings: Callable[[], dict[str, Any]]
    lowest_peak: float
    horizon: int = 200
    batch_size: int = 32

    @property
    def peaks(self) -> tuple[float, ...]:
        return tuple(float(f"{self.lowest_peak * 10 ** (i / 4):.3g}") for i in range(PEAKS))

    def grid(self, horizon: int | None = None) -> list[Schedule]:
        """Every schedule of the grid: all peaks, durations, shapes and decays."""
        horizon = horizon or self.horizon
        plans: list[dict[str, Any]] = [{}]
        plans += [{"warmup_steps": round(share * horizon), "shape": shape} for share in DURATIONS for shape in SHAPES]
        return [
            Schedule(peak=peak, horizon=horizon, decay=decay, **plan)
            for peak in self.peaks
            for decay in DECAYS
            for plan in plans
        ]

    def task(self) -> ModelTask:
        """The task, its data loaded."""
        return ModelTask(**self.settings(), settings=TrainSettings(batch_size=self.batch_size, device="cpu"))


def adamw(rate: float, beta2: float, weight_decay: float) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda params: torch.optim.AdamW(params, lr=rate, betas=(0.9, beta2), weight_decay=weight_decay)


# --- Text -------------------------------------------------------------------------------------------------

CONTEXT = 32
VALIDATION_WINDOWS = 32


def windows(numbers: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[TensorDataset, TensorDataset]:
    """Windows of ``CONTEXT`` symbols and the same shifted by one; 32 of the last tenth of the text validate."""
    text = torch.from_numpy(numbers)
    cut = len(text) * 9 // 10
    last = len(text) - CONTEXT - 1
    starts = torch.arange(0, cut - CONTEXT - 1, 7), torch.linspace(cut, last, VALIDATION_WINDOWS).long()
    parts = [text[start[:, None] + torch.arange(CONTEXT + 1)] for start in starts]
    return TensorDataset(parts[0][:, :-1], parts[0][:, 1:]), TensorDataset(parts[1][:, :-1], parts[1][:, 1:])


def text(layers: int, width: int, post_norm: bool) -> dict[str, Any]:
    """A character GPT on the language reference."""
    numbers, symbols = char_gpt.corpus()
    return {
        "model_fn": lambda: char_gpt.GPT(symbols, width=width, layers=layers, heads=2, post_norm=post_norm),
        "data": windows(numbers),
        "optimizer": adamw(1e-3, 0.95, 0.1),
    }


@cache
def source_code() -> np.ndarray[Any, np.dtype[np.int64]]:
    """Source code of CPython's standard library, in the symbols of the language reference; others become spaces."""
    import argparse
    import ast
    import dataclasses
    import typing

    corpus = "\n".join(inspect.getsource(module) for module in (argparse, ast, dataclasses, typing))
    symbols = sorted(set("\n".join(char_gpt.topics[name] for name in sorted(char_gpt.topics))))
    number = {symbol: i for i, symbol in enumerate(symbols)}
    return np.array([number.get(symbol, number[" "]) for symbol in corpus], dtype=np.int64)


@cache
def pretrained() -> dict[str, Tensor]:
    """Weights of a pre-norm GPT after 1,500 steps on the language reference."""
    settings = text(3, 32, post_norm=False)
    task = ModelTask(**settings, settings=TrainSettings(batch_size=16, device="cpu"))
    schedule = Schedule(peak=6e-3, horizon=1500, warmup_steps=150, shape="linear")
    trial = task.trial(schedule, derive_seed("pretrained"), schedule.horizon, None)
    for _ in trial.run(schedule.horizon):
        pass
    return {name: tensor.detach().clone() for name, tensor in trial._model.state_dict().items()}


def fine_tuning() -> dict[str, Any]:
    """The pre-trained GPT goes on with Python source code; the seed decides the batches only."""
    weights = pretrained()
    _, symbols = char_gpt.corpus()

    def model_fn() -> nn.Module:
        model = char_gpt.GPT(symbols, width=32, layers=3, heads=2, post_norm=False)
        model.load_state_dict(weights)
        return model

    return {
        "model_fn": model_fn,
        "data": windows(source_code()),
        "optimizer": adamw(3e-4, 0.999, 0.01),
    }


# --- Images -----------------------------------------------------------------------------------------------


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
        "optimizer": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-4),
    }


def mlp() -> dict[str, Any]:
    """A plain multilayer perceptron on digits, by Adam."""
    return {
        "model_fn": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        ),
        "data": digits.data(),
        "optimizer": adamw(1e-3, 0.999, 0.01),
    }


def autoencoder() -> dict[str, Any]:
    """A deep autoencoder of digits, by Adam; mean squared error."""
    pixels = (load_digits().data / 16).astype(np.float32)
    pixels = pixels[np.random.default_rng(0).permutation(len(pixels))]
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


# --- Fresh tasks: made when the search was final ----------------------------------------------------------------


def tabular() -> dict[str, Any]:
    """A multilayer perceptron on the breast cancer data, by SGD with momentum."""
    bunch = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    inputs = ((bunch.data - bunch.data.mean(0)) / bunch.data.std(0)).astype(np.float32)[order]
    labels = bunch.target[order].astype(np.int64)
    return {
        "model_fn": lambda: nn.Sequential(
            nn.Linear(30, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2)
        ),
        "data": ((inputs[150:], labels[150:]), (inputs[:150], labels[:150])),
        "optimizer": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
    }


class Rows(nn.Module):
    """A transformer that reads a digit row by row, 8 tokens of 8 pixels, pre-norm."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(8, width), nn.Parameter(torch.zeros(8, width))
        self.blocks = nn.Sequential(*(char_gpt.Block(width, 2, post_norm=False) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(images) + self.position)).mean(1))


def rows() -> dict[str, Any]:
    """The transformer on digits, by AdamW."""
    return {"model_fn": Rows, "data": digits.data(), "optimizer": adamw(3e-3, 0.98, 0.05)}


TASKS = {
    task.name: task
    for task in (
        BenchmarkTask(
            "post-norm-gpt",
            "GPT of 8 post-norm layers, text, AdamW",
            lambda: text(8, 32, post_norm=True),
            lowest_peak=10**-3.5,
            batch_size=4,
            horizon=160,
        ),
        BenchmarkTask(
            "pre-norm-gpt",
            "GPT of 3 pre-norm layers, text, AdamW",
            lambda: text(3, 32, post_norm=False),
            lowest_peak=1e-3,
            batch_size=8,
            horizon=160,
        ),
        BenchmarkTask(
            "fine-tuning",
            "pre-trained GPT, from prose to code, AdamW",
            fine_tuning,
            lowest_peak=3e-4 * 10**-0.5,
            batch_size=8,
            horizon=160,
        ),
        BenchmarkTask(
            "residual-cnn",
            "residual CNN without normalisation, images, SGD with momentum",
            residual_cnn,
            lowest_peak=1e-2,
        ),
        BenchmarkTask("mlp", "multilayer perceptron, images, AdamW", mlp, lowest_peak=1e-3),
        BenchmarkTask("autoencoder", "deep autoencoder, images, Adam", autoencoder, lowest_peak=10**-3.5, horizon=400),
        BenchmarkTask("tabular", "multilayer perceptron, tabular data, SGD with momentum", tabular, lowest_peak=1e-2),
        BenchmarkTask("rows", "transformer, images, AdamW", rows, lowest_peak=3e-3 * 10**-0.5, horizon=160),
    )
}
