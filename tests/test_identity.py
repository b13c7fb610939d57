"""What a task is known by: the same in another process, another where the model, the data or the code differ."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from autowarmup.training.identity import digest_of, is_own
from autowarmup.training.loop import LoopTask
from autowarmup.training.settings import TrainSettings
from autowarmup.training.task import ModelTask
from tests.tasks import digits, linear

TRAIN, VALIDATION = digits()
RELU = nn.functional.relu
SCALE = 2.0


class Net(nn.Module):
    def __init__(self, activation: Callable[[torch.Tensor], torch.Tensor] = torch.relu) -> None:
        super().__init__()
        self.body, self.head, self.activation = nn.Linear(64, 8), nn.Linear(8, 10), activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.activation(self.body(x)))


class TanhNet(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(x)))


class Items(Dataset[Any]):
    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> Any:
        return torch.from_numpy(TRAIN[0][index]) + self.shift, int(TRAIN[1][index])


def sequential(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 8), activation(), nn.Linear(8, 10))


def described(model_fn: Callable[[], nn.Module] = linear, data: Any = None, **settings: Any) -> dict[str, Any]:
    task = ModelTask(
        model_fn, (TRAIN, VALIDATION) if data is None else data, settings=TrainSettings(device="cpu"), **settings
    )
    return task.describe()


def differing(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    return {key for key in first if first[key] != second[key]}


def test_the_same_task_has_the_same_description() -> None:
    assert described() == described()
    assert described(data=(Items(), VALIDATION)) == described(data=(Items(), VALIDATION))
    assert described()["model"] == "Linear"
    assert all(len(str(value)) < 400 for value in described().values())


def test_another_model_is_another_task() -> None:
    relu, tanh = (described(functools.partial(sequential, kind)) for kind in (nn.ReLU, nn.Tanh))
    assert "structure" in differing(relu, tanh)
    own = described(Net)
    assert "code" in differing(own, described(TanhNet))
    assert differing(described(lambda: Net(torch.relu)), described(lambda: Net(torch.tanh))) == {"code"}


def shuffled(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).permutation(labels)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((TRAIN, VALIDATION), ((TRAIN[0], shuffled(TRAIN[1])), VALIDATION)),
        ((TRAIN, VALIDATION), (TRAIN, (VALIDATION[0], shuffled(VALIDATION[1])))),
        ((Items(), VALIDATION), (Items(1e-3), VALIDATION)),
    ],
    ids=["train labels", "validation labels", "a dataset"],
)
def test_other_data_are_another_task(first: Any, second: Any) -> None:
    assert differing(described(data=first), described(data=second)) == {"data"}


def test_a_loader_is_known_by_its_batches() -> None:
    def loader(labels: np.ndarray[Any, Any]) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.tensor(TRAIN[0]), torch.tensor(labels)), 32, shuffle=True)

    first, again, other = (described(data=(loader(y), VALIDATION)) for y in (TRAIN[1], TRAIN[1], shuffled(TRAIN[1])))
    assert first == again
    assert differing(first, other) == {"data"}


def test_data_that_ignore_the_seed_are_known_by_their_shapes() -> None:
    class Unseeded(Items):
        def __getitem__(self, index: int) -> Any:
            x, y = super().__getitem__(index)
            return x + float(np.random.default_rng().standard_normal()), y

    assert described(data=(Unseeded(), VALIDATION)) == described(data=(Unseeded(), VALIDATION))


def test_loss_and_optimizer_are_part_of_it() -> None:
    def smoothed(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output, target, label_smoothing=0.1)

    other = described(loss=smoothed)
    assert {"loss", "code"} <= differing(described(), other)
    adam = described(optimizer=lambda params: torch.optim.AdamW(params, lr=2e-3))
    assert {"groups", "code"} <= differing(described(), adam)


def helper(x: float) -> float:
    return x * SCALE


def uses_helper(run: Any) -> None:
    run.report(helper(1.0))


LOOPS = """
import numpy as np
LABELS = np.arange(5) % {classes}
WIDTH = {width}
def helper(x):
    return x {operator} 2
def train(run):
    def step(i):
        return helper(i) if i in {{"a", "b", "c"}} else {constant}
    run.report(step(WIDTH) + LABELS.sum())
"""


def loop(**changes: Any) -> dict[str, Any]:
    values = {"classes": 3, "width": 8, "operator": "*", "constant": 1.5} | changes
    namespace: dict[str, Any] = {"__name__": "a_users_module"}
    exec(LOOPS.format(**values), namespace)  # noqa: S102 - a module as a user edits it
    return LoopTask(namespace["train"], current_peak=0.1).describe()


@pytest.mark.parametrize("change", [{"width": 9}, {"operator": "+"}, {"constant": 2.5}, {"classes": 4}], ids=str)
def test_an_edited_loop_of_the_same_name_is_another_task(change: dict[str, Any]) -> None:
    assert loop() == loop()
    assert loop()["train_fn"] == loop(**change)["train_fn"] == "train"
    assert "code" in differing(loop(), loop(**change))
    assert ("data" in differing(loop(), loop(**change))) == ("classes" in change)


def test_functions_that_a_loop_calls_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest_of(uses_helper)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3.0)
    assert digest_of(uses_helper) != before


def test_installed_packages_count_by_name() -> None:
    assert not is_own(torch.nn.Linear)
    assert not is_own(functools.partial)
    assert not is_own(LoopTask)
    assert is_own(Net)
    assert is_own(linear)


def test_what_refers_to_itself_ends() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert digest_of(circle) == digest_of(circle)


class Circular:
    """A class of the user's own that a set holds, which its method names."""

    def known(self) -> bool:
        return type(self) in KINDS


KINDS = {Circular, Net}


def test_sets_that_refer_to_what_holds_them_end() -> None:
    assert digest_of(Circular) == digest_of(Circular)
    assert digest_of(Circular) != digest_of(Net)


def test_packages_in_a_folder_of_their_own_count_as_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``pip install --target`` makes it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "targeted.py").write_text("def double(x): return 2 * x\n")
    (tmp_path / "targeted-1.0.dist-info").mkdir()
    assert not is_own(importlib.import_module("targeted").double)


SCRIPT = """
from tests.test_identity import Items, Net, VALIDATION, described, digest_of, loop, uses_helper
print(described(Net), described(data=(Items(), VALIDATION)), loop(), digest_of(uses_helper, {"b", "a", "c"}))
"""


def test_it_is_the_same_in_another_process() -> None:
    """With another seed of Python's hashes, which order sets, and with code that is compiled or read from a cache."""
    answers = set()
    for number in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": number, "PYTHONDONTWRITEBYTECODE": number}
        root = Path(__file__).parent.parent
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=root, env=environment, check=True, capture_output=True, text=True
        )
        answers.add(done.stdout)
    assert len(answers) == 1
