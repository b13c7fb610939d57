"""The benchmark's tasks on text: what :class:`autowarmup.training.task.ModelTask` takes, but for the settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autowarmup.schedule.schedule import Schedule
from autowarmup.seeds import derive_seed
from autowarmup.training.settings import TrainSettings
from autowarmup.training.task import ModelTask
from benchmarks.search.optimizers import adamw, muon, sgd
from benchmarks.search.recurrent import GRU
from examples import char_gpt

CONTEXT = 32
VALIDATION_WINDOWS = 32
HISTORY = 8
"""Characters that an n-gram model sees."""


def windows(numbers: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[TensorDataset, TensorDataset]:
    """Windows of ``CONTEXT`` symbols and the same shifted by one; 32 of the last tenth of the text validate."""
    text = torch.from_numpy(numbers)
    cut = len(text) * 9 // 10
    last = len(text) - CONTEXT - 1
    starts = torch.arange(0, cut - CONTEXT - 1, 7), torch.linspace(cut, last, VALIDATION_WINDOWS).long()
    parts = [text[start[:, None] + torch.arange(CONTEXT + 1)] for start in starts]
    return TensorDataset(parts[0][:, :-1], parts[0][:, 1:]), TensorDataset(parts[1][:, :-1], parts[1][:, 1:])


def histories(examples: int) -> tuple[TensorDataset, TensorDataset]:
    """``HISTORY`` symbols of the language reference and the next one; ``examples`` of the last tenth validate."""
    text = torch.from_numpy(char_gpt.corpus()[0])
    cut, last = len(text) * 9 // 10, len(text) - HISTORY - 1
    starts = torch.arange(0, cut - HISTORY - 1, 3), torch.linspace(cut, last, examples).long()
    parts = [text[start[:, None] + torch.arange(HISTORY + 1)] for start in starts]
    return TensorDataset(parts[0][:, :-1], parts[0][:, -1]), TensorDataset(parts[1][:, :-1], parts[1][:, -1])


def gpt(layers: int, width: int, post_norm: bool) -> dict[str, Any]:
    """A character GPT on the language reference."""
    numbers, symbols = char_gpt.corpus()
    return {
        "model_fn": lambda: char_gpt.GPT(symbols, width=width, layers=layers, heads=2, post_norm=post_norm),
        "data": windows(numbers),
        "optimizer": adamw(1e-3, 0.95, 0.1),
    }


def muon_gpt() -> dict[str, Any]:
    """A pre-norm character GPT, by Muon."""
    return gpt(2, 24, post_norm=False) | {"optimizer": muon(0.02, 3e-3, 0.95)}


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
    settings = gpt(3, 32, post_norm=False)
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


class TextGRU(nn.Module):
    """Characters in, the next character's logits out: ``(batch, length)`` to ``(batch, symbols, length)``."""

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(symbols, width), GRU(width, width)
        self.head = nn.Linear(width, symbols)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(tokens))).transpose(1, 2)


def gru() -> dict[str, Any]:
    """A recurrent character model, by Adam."""
    numbers, symbols = char_gpt.corpus()
    return {
        "model_fn": lambda: TextGRU(symbols, 32),
        "data": windows(numbers),
        "optimizer": adamw(1e-3, 0.999, 0.0),
    }


def n_gram() -> dict[str, Any]:
    """A feed-forward character model (Bengio et al. 2003), by AdamW."""
    _, symbols = char_gpt.corpus()
    return {
        "model_fn": lambda: nn.Sequential(
            nn.Embedding(symbols, 8), nn.Flatten(), nn.Linear(8 * HISTORY, 32), nn.Tanh(), nn.Linear(32, symbols)
        ),
        "data": histories(512),
        "optimizer": adamw(1e-3, 0.98, 0.01),
    }


class LogBilinear(nn.Module):
    """Logits that are a sum over positions of one row of a table each: a convex problem."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.symbols = symbols
        self.rows = nn.Parameter(torch.zeros(HISTORY * symbols, symbols))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.rows[tokens + self.symbols * torch.arange(HISTORY)].sum(1)


def softmax_regression() -> dict[str, Any]:
    """Softmax regression from characters to the next one, by SGD with momentum."""
    _, symbols = char_gpt.corpus()
    model: Callable[[], nn.Module] = lambda: LogBilinear(symbols)  # noqa: E731
    return {"model_fn": model, "data": histories(512), "optimizer": sgd(0.1, 0.9)}
