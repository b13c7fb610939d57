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

from autowarmup import Schedule, SearchSpace, autotune
from autowarmup.errors import InputError, StudyError, StudyMismatchError
from tests.tasks import digits, linear, settings

(X, Y), VALIDATION = digits()
FROZEN = nn.Linear(64, 10).requires_grad_(False)
SHARED = nn.Linear(64, 10)


class Unwritable:
    """Cannot even be written."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")


class Endless(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return index


class Flow(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        yield 1


class Forever(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield X[0], Y[0]


class Ragged(Dataset[Any]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(64 + index % 2), 1


class Named(Dataset[Any]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input": X[index], "y": Y[index]}


class Apart(nn.Linear):
    """Gradients of its output can't be computed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        out.register_hook(lambda gradient: gradient.no_such())
        return out


def batches(*second: Any) -> Any:
    """Validation batches of 32, of which the second is another."""
    return [(torch.from_numpy(X[:32]), torch.from_numpy(Y[:32])), *second]


def matrices(params: Any) -> torch.optim.Optimizer:
    return torch.optim.Muon([parameter for parameter in params if parameter.dim() == 2], lr=0.02)


def raising(*_: Any) -> Any:
    raise ZeroDivisionError("a mistake of the user's")


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
    "NaN in the data": (
        {"data": ((X * np.nan, Y), VALIDATION)},
        "first training batch has a loss of nan, before any step",
    ),
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
    "not an optimizer": (
        {"optimizer": lambda p: None},
        "must return a torch.optim.Optimizer or a list of them, got NoneType",
    ),
    "optimizer that wants a closure": ({"optimizer": torch.optim.LBFGS}, "first optimizer step can't be made.*closure"),
    "optimizer by name": ({"optimizer": "adam"}, "optimizer must be a function.*got str"),
    "an optimizer in place of a function": (
        {"optimizer": torch.optim.SGD(SHARED.parameters(), lr=0.1)},
        "optimizer must be a function.*got SGD",
    ),
    "loss by name": ({"loss": "mse"}, "loss must be a function.*got 'mse'"),
    "loss too long to write": ({"loss": [10**5000]}, "loss must be a function.*got <list>"),
    "metrics that can't be written": ({"metrics": [Unwritable()]}, r"metrics must be functions.*got \[<Unwritable"),
    "metrics without names": ({"metrics": [len]}, "metrics must be functions.*by name"),
    "a metric whose name is a number": ({"metrics": {3: nn.functional.mse_loss}}, "got the name 3"),
    "a metric called loss": ({"metrics": {"loss": lambda o, t: 0.0}}, "can't be called 'loss'"),
    "a metric that raises": ({"metrics": {"f1": lambda o, t: o.no_such()}}, r"metrics \['f1'\] can't be computed"),
    "a single number as data": ({"data": (torch.tensor(1.0), VALIDATION)}, "the train data has a single number"),
    "a model without values": ({"model_fn": lambda: nn.Linear(64, 10, device="meta")}, "on the device 'meta'"),
    "lazy modules": ({"model_fn": lambda: nn.LazyLinear(10)}, "lazy modules have no shapes yet"),
    "workers that persist": (
        {"data": (DataLoader(TensorDataset(torch.tensor(X)), num_workers=1, persistent_workers=True), VALIDATION)},
        "persistent_workers=False",
    ),
    "a dataset without length": ({"data": (Endless(), VALIDATION)}, "needs __len__"),
    "an iterable dataset": ({"data": (Flow(), VALIDATION)}, "wrap it in a DataLoader"),
    "an endless validation set": (
        {"data": ((X, Y), DataLoader(Forever(), 1))},
        r"the validation data has no length, and one pass over it has not ended after 1,000 batches: it must end",
    ),
    "a batch that is None": ({"data": ((X, Y), batches(None))}, "batch 2 of the validation data is None"),
    "an empty batch": ({"data": ((X, Y), batches((X[:0], Y[:0])))}, "batch 2 of the validation data has no examples"),
    "NaN in a validation batch": (
        {"data": ((X, Y), batches((X[:32] * np.nan, Y[:32])))},
        "validation batch 2 has a loss of nan, before any step",
    ),
    "arrays of text": (
        {"data": ((X, Y.astype(str)), VALIDATION)},
        "the train data: an array of <U.* must hold numbers",
    ),
    "arrays of objects": ({"data": ((X, Y.astype(object)), VALIDATION)}, "an array of object can't be used"),
    "a sparse tensor": (
        {"data": ((torch.from_numpy(X).to_sparse(), Y), VALIDATION)},
        "a sparse_coo tensor can't be used",
    ),
    "a meta tensor": ({"data": ((torch.empty(600, 64, device="meta"), Y), VALIDATION)}, "a meta tensor can't be used"),
    "data by name": ({"data": ({"x": X, "y": Y}, VALIDATION)}, "the train data is a dict"),
    "examples in place of batches": (
        {"data": ([{"input": x, "labels": y} for x, y in zip(X, Y, strict=True)], VALIDATION)},
        "Iterables must give batches: wrap examples in a DataLoader",
    ),
    "names that the model does not take": (
        {"data": (Named(), Named()), "loss": nn.CrossEntropyLoss()},
        "its forward takes input, and not y. Call the target 'labels'",
    ),
    "items of different shapes": (
        {"data": (Ragged(), VALIDATION)},
        "the train data can't be read: RuntimeError: stack",
    ),
    "data that raise": ({"data": raising}, "data.. raised ZeroDivisionError: a mistake of the user's"),
    "a model that raises": ({"model_fn": raising}, "model_fn raised ZeroDivisionError: a mistake of the user's"),
    "an optimizer that raises": ({"optimizer": raising}, "optimizer raised ZeroDivisionError: a mistake of the user's"),
    "Muon on all parameters": ({"optimizer": torch.optim.Muon}, "optimizer raised ValueError: Muon only supports 2D"),
    "Muon on matrices only": ({"optimizer": matrices}, "doesn't train all.*: bias would stay as initialised.*several"),
    "two optimizers for one parameter": (
        {"optimizer": lambda model: [torch.optim.SGD(model.parameters(), lr=lr) for lr in (0.1, 0.2)]},
        "bias, weight: in two optimizers",
    ),
    "no optimizers": ({"optimizer": lambda params: []}, "optimizer returned an empty list"),
    "a detached loss": (
        {"loss": lambda o, t: nn.functional.cross_entropy(o.detach(), t)},
        "the loss has no gradient: it is computed from detached tensors",
    ),
    "an integer loss": ({"loss": lambda o, t: (o.argmax(1) != t).sum()}, "must be a real floating-point number.*int64"),
    "a complex loss": ({"loss": lambda o, t: o.sum() * 1j}, "must be a real floating-point number.*complex64"),
    "a backward that raises": ({"model_fn": lambda: Apart(64, 10)}, "gradients of the first training batch can't be"),
    "a million batches a step": ({"accumulate": 10**6}, "accumulate.*less than or equal to 10000, got 1000000"),
    "a billion examples a batch": ({"batch_size": 10**9}, "batch_size.*less than or equal to 1000000"),
    "other epochs than the data's": ({"steps_per_epoch": 7}, "steps_per_epoch=7: the data makes 19"),
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
    "budget too small for one trial": ({"budget": 30}, "budget=30 optimizer steps is too small.*at least 170"),
    "budget too small without pairs": ({"budget": "2 runs", "confirm_seeds": 0}, "budget=80 .*too small.*at least 130"),
    "budget of nothing": ({"budget": 0}, "budget: must be 1 to .* optimizer steps, or runs such as '6 runs', got 0"),
    "budget in parsecs": ({"budget": "3 parsecs"}, "'3 parsecs' is not a number of optimizer steps.*'6 runs'"),
    "budget as a share": ({"budget": 2.5}, "2.5 is not a number of optimizer steps such as 5000, or of runs"),
    "a current schedule that is none": ({"current": 3e-4}, "current: must be an autowarmup.Schedule, or a dict"),
    "a current schedule of another length": (
        {"current": Schedule(peak=1e-3, horizon=400)},
        "the current schedule is for 400 optimizer steps, and the run is total_steps=40 long",
    ),
    "a current peak of nothing": ({"current": {"peak": 0}}, "current: its peak must be a learning rate, 1e-12 to 1e"),
    "two current peaks": (
        {"current": Schedule(peak=1e-3, horizon=40), "current_peak": 2e-3},
        "current_peak=0.002 is not the peak of the current schedule, 0.001: leave current_peak out",
    ),
    "a current warm-up of unknown shape": (
        {"current": {"warmup_steps": "10%", "shape": "bent"}},
        "current: shape: .*'bent'.*'linear'",
    ),
    "a current warm-up without a shape": (
        {"current": {"warmup_steps": "10%"}},
        "current: .*shape 'none' takes no",
    ),
    "a current warm-up longer than the run": (
        {"current": {"warmup_steps": 50, "shape": "linear"}},
        "current: warmup_steps=50 is longer than the horizon of 40 steps",
    ),
    "a current warm-up in parsecs": (
        {"current": {"warmup_steps": "3 parsecs", "shape": "linear"}},
        "current: duration '3 parsecs' is not a number of steps",
    ),
    "an unknown part of the current schedule": ({"current": {"warmup": 4}}, "current: unknown key 'warmup'"),
    "a margin above all": ({"margin": 1.0}, "margin: must be less than 1, got 1.0"),
    "a cohort of none": ({"cohort": 0}, "cohort: must be greater than or equal to 1, got 0"),
    "less than no seed": ({"confirm_seeds": -1}, "confirm_seeds: must be greater than or equal to 0, got -1"),
    "batch of nothing": ({"batch_size": 0}, "batch_size.*got 0"),
    "unknown precision": ({"precision": "fp8"}, "precision.*'fp32', 'bf16' or 'fp16'.*got 'fp8'"),
    "no such device": ({"device": "cuda:7"}, "device='cuda:7' can't be used here"),
    "NaN as a rate": ({"current_peak": float("nan")}, "current_peak.*finite number, got nan"),
    "negative seed": ({"seed": -1}, "seed.*greater than or equal to 0, got -1"),
    "a model and a loop": ({"train_fn": lambda run: None}, "either model_fn and data, or train_fn"),
    "tracking nowhere": ({"mlflow": "mlruns"}, "tracking URI 'mlruns'"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_is_refused_before_the_first_trial(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autowarmup.training.task.MAX_BATCHES", 1_000)
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
    "option",
    [{"optimizer": torch.optim.SGD}, {"data": (1, 2)}, {"data": X}, {"precision": "bf16"}, {"clip_norm": 1.0}],
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
