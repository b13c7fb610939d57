"""Runs as others and guards have written them down: JSON lines, or a Trainer's ``trainer_state.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from autowarmup.errors import InputError
from autowarmup.guard.events import Event
from autowarmup.guard.record import FORMAT
from autowarmup.instability.history import Step
from autowarmup.json_lines import parsed
from autowarmup.schedule.schedule import Schedule
from autowarmup.values import nearest, short

STEP = ("step", "global_step", "iteration", "iter", "current_steps", "_step", "trainer/global_step")
LOSS = ("loss", "train_loss", "train/loss", "training_loss", "loss/train", "train_loss_step", "loss_step", "lm_loss")
RATE = ("lr", "learning_rate", "train/lr", "train/learning_rate", "lr_applied")
NORM = ("grad_norm", "train/grad_norm", "gradient_norm", "grad/norm", "train/gradient_norm", "total_grad_norm")
"""What the step, its loss, its learning rate and its gradient norm are called, the usual name first."""


class Begin(NamedTuple):
    """What a guard's record begins with: the schedule, and whether the guard protects; and the expected level of the
    loss at each step with its spread, where there is a study."""

    schedule: Schedule
    protects: bool
    band: tuple[list[float], list[float]] | None


Entry = Begin | Step | Event


class Source(Protocol):
    """A run that is written down somewhere.

    Attributes:
        name: of the file or the run.
        total: optimizer steps of the whole run; None where it isn't written down.
        ended: whether nothing will be added; None where that can't be told.
    """

    name: str
    total: int | None
    ended: bool | None

    def fresh(self) -> list[Entry]:
        """What was added since it was last asked."""
        ...


class Lines:
    """A file of JSON lines. A last line that isn't complete yet is left for the next time; one that a killed process
    left unfinished is passed over.

    Args:
        path: the file.
        loss: what the loss is called; left out, one of the usual names.
    """

    ended: bool | None = None
    total: int | None = None

    def __init__(self, path: Path, loss: str | None) -> None:
        self.name = str(path)
        self._path, self._loss = path, loss
        self._offset = self._number = 0
        self._keys: set[str] = set()
        self._found = False

    def fresh(self) -> list[Entry]:
        """The entries of new lines.

        Raises:
            InputError: the file can't be read, or isn't JSON lines, or none of its first lines has a step and a loss.
        """
        entries = [entry for line in self._lines() if (entry := self._entry(line)) is not None]
        self._found = self._found or bool(entries)
        if not self._found and self._number:
            raise unknown(self.name, self._keys, self._loss)
        return entries

    def _lines(self) -> Iterable[str]:
        try:
            if self._path.stat().st_size < self._offset:  # written anew
                self._offset = self._number = 0
            with self._path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
            complete = content[: content.rfind(b"\n") + 1]
            self._offset += len(complete)
            return complete.decode().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise unreadable(self._path, error) from error

    def _entry(self, line: str) -> Entry | None:
        self._number += 1
        if not line.strip():
            return None
        try:
            if (found := parsed(line)) is None:
                return None
            if isinstance(found, dict):
                self._keys |= found.keys()
                return entry(found, self._loss)
        except (ValueError, KeyError, TypeError) as error:
            raise self._refused(line) from error
        raise self._refused(line)

    def _refused(self, line: str) -> InputError:
        return InputError(
            f"{self.name} can't be read as a run: line {self._number} is {short(line.strip())}; it must be a JSON "
            f"object such as " + '{"step": 10, "loss": 2.31, "lr": 0.001, "grad_norm": 1.2}'
        )


class TrainerState:
    """What a Trainer of Transformers saves with each checkpoint.

    Args:
        path: ``trainer_state.json``, or a folder of checkpoints, whose last one is read.
        loss: what the loss is called; left out, one of the usual names.
    """

    ended: bool | None = None
    total: int | None = None

    def __init__(self, path: Path, loss: str | None) -> None:
        self.name, self._path, self._loss, self._taken = str(path), path, loss, 0

    def fresh(self) -> list[Entry]:
        """The entries that the log has got since.

        Raises:
            InputError: it can't be read, or has no losses.
        """
        state = self._state()
        log = state["log_history"]
        new, self._taken = log[self._taken :], len(log)
        self.total = int(state.get("max_steps") or 0) or None
        entries = [found for line in new if (found := entry(line, self._loss)) is not None]
        if log and not entries and len(new) == len(log):
            raise unknown(self.name, {key for line in log for key in line}, self._loss)
        return entries

    def _state(self) -> dict[str, Any]:
        path = newest_state(self._path) if self._path.is_dir() else self._path
        try:
            state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise unreadable(path, error) from error
        return state


def source_of(path: Path, loss: str | None) -> Source:
    """A file or a folder of checkpoints as what it is.

    Raises:
        InputError: it can't be read.
    """
    if path.is_dir() or _has_log_history(path):
        return TrainerState(path, loss)
    return Lines(path, loss)


def newest_state(folder: Path) -> Path:
    """The ``trainer_state.json`` with the most steps in a folder, its own or that of one of its checkpoints.

    Raises:
        InputError: there is none.
    """
    found = [*folder.glob("trainer_state.json"), *folder.glob("checkpoint-*/trainer_state.json")]
    if not found:
        raise InputError(f"{folder} is a folder, without a trainer_state.json of Transformers in it or its checkpoints")
    return max(found, key=_steps_of)


def _steps_of(path: Path) -> float:
    """Those that a checkpoint is named after; the folder's own file is written at the end."""
    steps = path.parent.name.removeprefix("checkpoint-")
    return int(steps) if steps.isdecimal() else math.inf


def entry(line: Mapping[str, Any], loss: str | None) -> Entry | None:
    """What a line of a log says; None for one without a step and a loss, such as that of an evaluation.

    Args:
        line: names and values. A learning rate or a gradient norm that isn't there is NaN.
        loss: what the loss is called; left out, one of the usual names.

    Raises:
        ValueError, TypeError, KeyError: its values can't be used.

    Example:
        >>> entry({"global_step": 10, "train/loss": 2.31, "train/lr": 0.1}, None)
        Step(number=10, lr=0.1, loss=2.31, grad_norm=nan)
    """
    if "format" in line:
        if line["format"] != FORMAT:
            raise ValueError(f"format {line['format']!r}")
        band = (line["expected"], line["spread"]) if "expected" in line else None
        return Begin(Schedule.model_validate(line["schedule"]), line["mode"] == "protect", band)
    if isinstance(line.get("event"), Mapping):
        return Event.model_validate(line["event"])
    if "train_runtime" in line:  # Transformers' last line: the mean of the whole run
        return None
    names = {part: _known(line, usual) for part, usual in (("step", STEP), ("lr", RATE), ("norm", NORM))}
    found = _known(line, LOSS if loss is None else [loss])
    if names["step"] is None or found is None:
        return None
    lr, norm = (math.nan if name is None else _number(line[name]) for name in (names["lr"], names["norm"]))
    return Step(
        number=int(line[names["step"]]),
        lr=lr,
        loss=_number(line[found]),
        grad_norm=math.inf if names["norm"] is not None and math.isnan(norm) else norm,
    )


def _known(line: Mapping[str, Any], names: Iterable[str]) -> str | None:
    return next((name for name in names if name in line), None)


def _number(value: Any) -> float:
    """A value of a log. What isn't finite stands there as null, as a bare word or as text."""
    return math.nan if value is None else float(value)


def _has_log_history(path: Path) -> bool:
    if path.suffix != ".json":
        return False
    try:
        return "log_history" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def unreadable(path: Path, error: Exception) -> InputError:
    """The error for a file that can't be read."""
    reason = getattr(error, "strerror", None) or "it isn't JSON"
    return InputError(f"{path} can't be read as a run: {reason}")


def unknown(name: str, keys: Iterable[str], loss: str | None) -> InputError:
    """The error for a run without a step and a loss under known names."""
    there = ", ".join(sorted(keys)) or "nothing"
    if loss is not None:
        return InputError(f"{name} has no {loss!r}{nearest(loss, keys)} beside a step; it has: {there}")
    return InputError(
        f"{name} has no step with a loss: the step must be called {' or '.join(STEP[:3])}, and the loss "
        f"{' or '.join(LOSS[:3])}, or what --loss says; it has: {there}"
    )
