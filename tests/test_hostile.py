"""Wrong calls of all kinds, generated: each ends in an error of autowarmup's own, and leaves nothing on the disk."""

from __future__ import annotations

import io
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import autowarmup.study.driver
from autowarmup import Detectors, RaySettings, Schedule, SearchSpace, autotune
from autowarmup.cli.program import cli
from autowarmup.errors import AutowarmupError, SpaceError
from autowarmup.schedule.space import presets
from tests.test_bad_input import Unwritable

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def model() -> nn.Module:
    return nn.Linear(4, 1)


class Begun(BaseException):
    """The arguments were taken: the first trial would be trained now."""


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder; a study that begins ends with :class:`Begun`."""
    begun = autowarmup.study.driver.opened_study

    @contextmanager
    def begin(*arguments: Any) -> Iterator[None]:
        with begun(*arguments):
            raise Begun
        yield

    monkeypatch.setattr(autowarmup.study.driver, "opened_study", begin)
    monkeypatch.chdir(tmp_path)


SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 300),
    st.floats(),
    st.floats(-1.0, 2.0),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.sampled_from(
        [
            *(math.nan, math.inf, -math.inf, -0.0, 5e-324, 1e308, 10**19, -(10**19), 10**400, 10**5000, 1j),
            *("", "7", "nan", "10%", "101%", "5 epochs", "-1", "1e400", "\0", "\udcff", "x" * 1_000, "local", "ray"),
            *(
                "a\x1b[31m",
                "[/bold]",
                "s3://bucket/study",
                "http://",
                "sqlite:///",
                "sqlite:///\0",
                "no.yaml",
                ".",
                "/",
            ),
            *("http://[", "http://host:port", "sqlite:////proc/none/x.db", "auto", "cuda:99", "meta", "cpu:-1", "fp8"),
            *(np.int64(-1), np.float32("nan"), np.bool_(True), np.array([1.0, 2.0]), np.array(3), np.datetime64("NaT")),
            *(torch.tensor(1), torch.tensor([1.0, 2.0]), torch.device("cpu"), torch.float32),
            *(
                Decimal("NaN"),
                Fraction(1, 3),
                object(),
                Unwritable(),
                Ellipsis,
                NotImplemented,
                int,
                nn.Linear,
                len,
                sys,
            ),
            *(Path(), Path("\0"), Path("x" * 300), Path("\udcff"), Path("/proc/none/study"), range(3), slice(3)),
            *(lambda: None, lambda *_: 1 / 0, lambda *_: None, model, nn.Linear(4, 1), RaySettings(), Detectors()),
            *(SearchSpace(), Schedule(peak=1.0, horizon=10), SearchSpace(shapes=["radam"]), iter(()), open),
        ]
    ),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.tuples(SCALARS, SCALARS),
    st.dictionaries(
        st.sampled_from(["shapes", "peak", "warmup", "power", "low", "high", "loss", ""]), SCALARS, max_size=3
    ),
    st.dictionaries(st.integers(), SCALARS, max_size=2),
)

OUTSIDE = {"/", "/proc/none/study"}

SETTINGS = [
    *("total_steps", "tune_steps", "batch_size", "accumulate", "clip_norm", "precision", "device", "compile", "space"),
    *("budget", "seed", "current", "current_peak", "margin", "beta2", "confirm_seeds", "cohort", "detectors"),
    *("study", "mlflow", "progress", "engine"),
]


def hammer(examples: int, values: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Runs the check on that many generated values."""
    unhurried = settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    unhurried(given(values)(check))()


def changes(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """One to three arguments and what is passed for them."""
    return st.dictionaries(st.sampled_from(names), VALUES, min_size=1, max_size=3)


def is_elsewhere(path: Any) -> bool:
    """Whether a study's folder lies outside of the test's."""
    return (
        isinstance(path, str | Path) and (".." in str(path) or str(path).startswith("/")) and str(path) not in OUTSIDE
    )


def is_long(number: Any) -> bool:
    """Whether so many batches are allowed, but take more than a moment."""
    return isinstance(number, int | np.integer) and 100 < number <= 10_000


def call_autotune(changed: dict[str, Any]) -> None:
    if is_elsewhere(changed.get("study")) or is_long(changed.get("accumulate")):
        return
    valid = {"model_fn": model, "data": ((X, Y), (X, Y)), "total_steps": 20, "mlflow": False}
    if callable(changed.get("train_fn")):
        valid["model_fn"] = valid["data"] = None  # type: ignore[assignment]
    try:
        with redirect_stderr(io.StringIO()):
            autotune(**valid | changed)
    except AutowarmupError:
        assert os.listdir() == []
    except Begun:
        for entry in Path().iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@pytest.mark.parametrize("examples", [400, pytest.param(2_000, marks=pytest.mark.slow)])
def test_wrong_settings(examples: int) -> None:
    hammer(examples, changes(SETTINGS), call_autotune)


ODD: list[Any] = [
    *(X, Y, X.long(), X.to(torch.complex64), X.to_sparse(), X.to("meta"), X * torch.nan, X[:0], X[0, 0], X > 0),
    *(X.to(torch.float16), X.expand(1, 32, 4), np.asarray(X)[::-1], np.array(["a"] * 32), np.full((32, 4), None)),
    *(np.zeros((32, 4), dtype="datetime64[s]"), [{"x": X[0]}] * 4, [X[0], X[1, :2]], {"x": X, "y": Y}, "text", None),
    *({}, [], [None], [(X, Y)], [(X, None)], [(X, Y), None], [1, 2], [(1, 2)], [(X[:1], Y[:2])]),
]
DATA = st.tuples(*[st.one_of(st.sampled_from(ODD), st.tuples(st.sampled_from(ODD), st.sampled_from(ODD)))] * 2)
LOSSES = st.sampled_from(
    [
        *(lambda o, t: o.detach().mean(), lambda o, t: o.mean().long(), lambda o, t: o.mean().to(torch.complex64)),
        *(lambda o, t: o, lambda o, t: None, lambda o, t: 1.0, lambda o, t: "loss", lambda o, t: o.mean().item()),
        *(lambda o, t: o.mean() * torch.nan, lambda o: o, lambda o, t: 1 / 0, lambda o, t: o.mean().to("meta")),
        *(lambda o, t: [o.mean()], lambda o, t: o.sum() + torch.tensor(math.inf), nn.CrossEntropyLoss(), nn.MSELoss),
    ]
)
MODELS = st.sampled_from(
    [
        *(lambda: 1 / 0, lambda: None, lambda: nn.Linear, lambda: nn.Linear(5, 1), lambda: nn.Linear(4, 1).half()),
        *(lambda: nn.Linear(4, 1, dtype=torch.complex64), lambda: nn.Linear(4, 1, device="meta"), lambda x: model()),
        *(lambda: nn.LSTM(4, 1), lambda: nn.Embedding(3, 2), lambda: nn.Linear(4, 0), nn.Module, nn.ModuleList),
    ]
)
OPTIMIZERS = st.sampled_from(
    [
        *(lambda p: 1 / 0, lambda p: None, lambda p: torch.optim.SGD, lambda: 1, torch.optim.SparseAdam),
        *(lambda p: torch.optim.SGD(p, lr=math.nan), lambda p: torch.optim.SGD(p, lr=1e30), torch.optim.LBFGS),
        *(lambda p: torch.optim.SGD(p, lr=torch.tensor(0.1)), lambda p: torch.optim.SGD([torch.zeros(1)], lr=0.1)),
        *(lambda p: torch.optim.Adam(p, betas=(0.9, 0.5)), lambda p: torch.optim.Adam([], lr=0.1)),
    ]
)
METRICS = st.dictionaries(st.text(max_size=4) | st.sampled_from(["val_loss", "lr", 3, None]), LOSSES, max_size=2)
KINDS = {
    "data": DATA | VALUES | DATA.map(lambda pair: lambda: pair),
    "loss": LOSSES | VALUES,
    "model_fn": MODELS | VALUES,
    "optimizer": OPTIMIZERS | VALUES,
    "metrics": METRICS | VALUES,
    "train_fn": VALUES,
}


@st.composite
def tasks(draw: st.DrawFn) -> dict[str, Any]:
    """One to three of a model, data, loss, optimizer, metrics and loop that can't be used."""
    return {name: draw(KINDS[name]) for name in draw(st.sets(st.sampled_from(list(KINDS)), min_size=1, max_size=3))}


@pytest.mark.parametrize("examples", [100, pytest.param(1_000, marks=pytest.mark.slow)])
def test_wrong_models_and_data(examples: int) -> None:
    hammer(examples, tasks(), call_autotune)


# --- The command line ----------------------------------------------------------------------------------------

TASK = """
import torch
from torch import nn

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)

def task():
    return {"model_fn": lambda: nn.Linear(4, 1), "data": ((X, Y), (X, Y)), "total_steps": 20, "mlflow": False}

def other():
    return 3

def broken():
    raise RuntimeError("broken")
"""
WORDS = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        [
            *("", "-1", "0", "7", "nan", "inf", "1e400", "9" * 30, "x" * 5_000, "5 epochs", "10%", "\udcff", "[/bold]"),
            *("no.yaml", "default", "linear", "radam", "s3://bucket/x", "mlruns", "sqlite:///", "http://[", "cuda:99"),
            *("fp16", "ray", "local", "task.py", "task.py:task", "task.py:other", "task.py:broken", "task.py:no", "."),
        ]
    ),
)


def options(command: click.Command) -> list[str]:
    return [name for parameter in command.params for name in parameter.opts if name.startswith("-")]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from([name for name in cli.commands if name not in ("doctor", "browse", "serve")]))
    words = [name]
    if name == "tune" and draw(st.booleans()):
        words.append("task.py:task")
    known = [*options(cli.commands[name]), "--no-such"]
    for option in draw(st.lists(st.sampled_from(known), max_size=3)):
        words += [option, draw(WORDS)] if draw(st.booleans()) else [option]
    return words + draw(st.lists(WORDS, max_size=2))


def call_cli(words: list[str]) -> None:
    studies = [word for option, word in pairwise(words) if option == "--study"]
    if any(map(is_elsewhere, studies)) or "--curve" in words:
        return
    Path("task.py").write_text(TASK)
    try:
        result = CliRunner().invoke(cli, words)
    except Begun:
        return
    finally:
        left = set(os.listdir())
        for entry in Path().iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    assert result.exit_code in (0, 1, 2, 3, 4), result.output
    assert isinstance(result.exception, SystemExit | None), (words, result.exception)
    assert left <= {"task.py", "__pycache__"}


@pytest.mark.parametrize("examples", [150, pytest.param(1_500, marks=pytest.mark.slow)])
def test_wrong_command_lines(examples: int) -> None:
    hammer(examples, command_lines(), call_cli)


# --- YAML files ----------------------------------------------------------------------------------------------

PRESETS = [path.read_text(encoding="utf-8") for path in presets().values()]
KEYS = st.sampled_from([*SearchSpace.model_fields, "low", "high", "scale", "kind", "", "1"])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("10%"))


def nested(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The parts, and lists and mappings of them."""
    return parts | st.lists(parts, max_size=4) | st.dictionaries(KEYS, parts, max_size=4)


TREES = st.dictionaries(KEYS, nested(nested(LEAVES)), max_size=4)
PIECES = st.text(max_size=5) | st.sampled_from(["*a", "&a ", "!!x ", "{", "- [", "9" * 40])


@st.composite
def mutated_presets(draw: st.DrawFn) -> str:
    """A preset with pieces cut out and others put in."""
    text = draw(st.sampled_from(PRESETS))
    for _ in range(draw(st.integers(1, 3))):
        start, length = draw(st.integers(0, len(text))), draw(st.integers(0, 20))
        text = text[:start] + draw(PIECES) + text[start + length :]
    return text


YAML = st.one_of(TREES.map(yaml.safe_dump), mutated_presets(), st.text(max_size=200), st.binary(max_size=200))


def load_yaml(text: str | bytes) -> None:
    file = Path("space.yaml")
    file.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogateescape"))
    with suppress(SpaceError):
        SearchSpace.load(file)


@pytest.mark.parametrize("examples", [150, pytest.param(1_000, marks=pytest.mark.slow)])
def test_wrong_yaml(examples: int) -> None:
    hammer(examples, YAML, load_yaml)
