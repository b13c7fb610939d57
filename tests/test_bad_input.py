"""Whatever can't work is refused before the first trial, with the value and what is allowed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from autowarmup import SearchSpace, autotune
from autowarmup.errors import InputError, StudyError, StudyMismatchError
from tests.tasks import digits, linear, settings

(X, Y), VALIDATION = digits()
FROZEN = nn.Linear(64, 10).requires_grad_(False)
SHARED = nn.Linear(64, 10)


class Endless(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return index


class Flow(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        yield 1


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no data": ({"data": None}, r"data must be \(train, validation\).*got NoneType"),
    "no validation data": ({"data": (X, Y)}, r"no validation data.*\(600, 64\) and \(600,\)"),
    "validation is None": ({"data": ((X, Y), None)}, "no validation data"),
    "three parts": ({"data": (1, 2, 3)}, "got 3 parts"),
    "empty train data": ({"data": ((X[:0], Y[:0]), VALIDATION)}, "the train data is empty"),
    "empty validation data": ({"data": ((X, Y), (X[:0], Y[:0]))}, "the validation data is empty"),
    "empty iterable": ({"data": ([], VALIDATION)}, "the train data is empty"),
    "one-shot data": ({"data": (iter([(X, Y)]), VALIDATION)}, "can only be iterated over once.*pass a callable"),
    "arrays of different lengths": ({"data": ((X, Y[:-1]), VALIDATION)}, "different lengths: 600, 599"),
    "not data": ({"data": (3.5, VALIDATION)}, "the train data is a float"),
    "inputs don't fit the model": ({"data": ((X[:, :60], Y), VALIDATION)}, r"\(32, 60\) float32.*can't be used: .*60"),
    "targets don't fit the output": (
        {"data": ((X, np.eye(9)[Y % 9]), VALIDATION)},
        r"output has shape \(32, 10\), the target \(32, 9\)",
    ),
    "more classes than outputs": ({"data": ((X, Y + 5), VALIDATION)}, "can't be used: .*out of bounds"),
    "targets of a kind no loss is known for": ({"data": ((X, np.stack([Y, Y], 1)), VALIDATION)}, "shapes don't match"),
    "NaN in the data": ({"data": ((X * np.nan, Y), VALIDATION)}, "first training loss is nan, before any step"),
    "loss with a shape": (
        {"loss": lambda o, t: nn.functional.cross_entropy(o, t, reduction="none")},
        r"one number, got shape \(32,\)",
    ),
    "loss apart from the model": (
        {"loss": lambda o, t: torch.ones((), requires_grad=True)},
        "does not depend on the model",
    ),
    "model without parameters": ({"model_fn": nn.Identity}, "no parameters to train"),
    "frozen model": ({"model_fn": lambda: FROZEN}, "requires_grad=False"),
    "a model in place of a function": ({"model_fn": SHARED}, "model_fn must be a function.*got Linear"),
    "the same model again": ({"model_fn": lambda: SHARED}, "must build a fresh model"),
    "not a model": ({"model_fn": lambda: 3}, "must return a torch.nn.Module, got int"),
    "optimizer without learning rate": (
        {"optimizer": lambda p: torch.optim.SGD(p, lr=0.0)},
        r"no learning rate above 0.*\[0.0\]",
    ),
    "not an optimizer": ({"optimizer": lambda p: None}, "must return a torch.optim.Optimizer, got NoneType"),
    "optimizer that wants a closure": ({"optimizer": torch.optim.LBFGS}, "first optimizer step can't be made.*closure"),
    "optimizer by name": ({"optimizer": "adam"}, "optimizer must be a function.*got str"),
    "an optimizer in place of a function": (
        {"optimizer": torch.optim.SGD(SHARED.parameters(), lr=0.1)},
        "optimizer must be a function.*got SGD",
    ),
    "loss by name": ({"loss": "mse"}, "loss must be a function.*got 'mse'"),
    "metrics without names": ({"metrics": [len]}, "metrics must be functions.*by name"),
    "a metric called loss": ({"metrics": {"loss": lambda o, t: 0.0}}, "can't be called 'loss'"),
    "a metric that raises": ({"metrics": {"f1": lambda o, t: o.no_such()}}, r"metrics \['f1'\] can't be computed"),
    "lazy modules": ({"model_fn": lambda: nn.LazyLinear(10)}, "lazy modules have no shapes yet"),
    "workers that persist": (
        {"data": (DataLoader(TensorDataset(torch.tensor(X)), num_workers=1, persistent_workers=True), VALIDATION)},
        "persistent_workers=False",
    ),
    "a dataset without length": ({"data": (Endless(), VALIDATION)}, "needs __len__"),
    "an iterable dataset": ({"data": (Flow(), VALIDATION)}, "wrap it in a DataLoader"),
    "horizon as a share of nothing": (
        {"total_steps": "10%"},
        "total_steps: must be steps, or epochs such as '5 epochs', not a share, got '10%'",
    ),
    "horizon shorter than the warm-up": (
        {"space": SearchSpace(warmup={"low": 0, "high": 50})},
        "high=50 is 50 steps, the horizon is only 40",
    ),
    "horizon of one step": ({"total_steps": 1}, "total_steps: must be 10 to 1,000,000,000 optimizer steps, got 1"),
    "horizon in parsecs": ({"total_steps": "3 parsecs"}, "'3 parsecs' is not a number of steps"),
    "unknown preset": ({"space": "defualt"}, "no search space 'defualt'.*did you mean 'default'"),
    "budget too small for one trial": ({"budget": 30}, "budget=30 optimizer steps is too small.*at least 450"),
    "batch of nothing": ({"batch_size": 0}, "batch_size.*got 0"),
    "unknown precision": ({"precision": "fp8"}, "precision.*'fp32', 'bf16' or 'fp16'.*got 'fp8'"),
    "no such device": ({"device": "cuda:7"}, "device='cuda:7' can't be used here"),
    "NaN as a rate": ({"current_peak": float("nan")}, "current_peak.*finite number, got nan"),
    "negative seed": ({"seed": -1}, "seed.*greater than or equal to 0, got -1"),
    "a model and a loop": ({"train_fn": lambda run: None}, "either model_fn and data, or train_fn"),
    "tracking nowhere": ({"mlflow": "mlruns"}, "tracking URI 'mlruns'"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_is_refused_before_the_first_trial(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    study = tmp_path / "study"
    with pytest.raises(InputError, match=f"(?s){message}"):
        autotune(**settings(model_fn=linear, batch_size=32, study=study) | changes)
    assert not study.exists()


def test_refusing_takes_little_work(tmp_path: Path) -> None:
    """No more than building the model and one batch's work: nowhere near a trial's."""
    calls = []

    def counted() -> nn.Module:
        calls.append(time.monotonic())
        return linear()

    with pytest.raises(InputError):
        autotune(**settings(model_fn=counted, study=tmp_path / "study", budget=30))
    assert len(calls) <= 3


def test_train_fn_must_take_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train_fn must take one argument"):
        autotune(train_fn=lambda: None, total_steps=20, study=tmp_path / "study")
    with pytest.raises(InputError, match="train_fn must be a function.*got int"):
        autotune(train_fn=3, total_steps=20, study=tmp_path / "study")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "option", [{"optimizer": torch.optim.SGD}, {"data": (1, 2)}, {"precision": "bf16"}, {"clip_norm": 1.0}]
)
def test_what_a_loop_decides_itself_is_refused(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{next(iter(option))}.*train_fn does that itself"):
        autotune(train_fn=lambda run: None, total_steps=20, study=tmp_path / "study", **option)


def test_a_file_in_place_of_the_study(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no database " * 1000)
    with pytest.raises(StudyError, match="can't write the study folder.*not a database"):
        autotune(**settings(study=tmp_path))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StudyError, match=r"can't write the study folder .*file"):
        autotune(**settings(study=tmp_path / "file"))
    with pytest.raises(StudyError, match="can't write the study folder /proc/nowhere"):
        autotune(**settings(study="/proc/nowhere"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StudyError, match="Permission denied"):
        autotune(**settings(study=tmp_path / "study"))


def test_a_study_of_another_configuration_is_refused(tmp_path: Path) -> None:
    autotune(**settings(study=tmp_path))
    before = (tmp_path / "result.json").read_bytes()
    with pytest.raises(StudyMismatchError, match="seed: there 0, here 1"):
        autotune(**settings(study=tmp_path, seed=1))
    with pytest.raises(StudyMismatchError, match="task.model: there"):
        autotune(**settings(study=tmp_path, model_fn=linear))
    assert (tmp_path / "result.json").read_bytes() == before
