"""What the commands share: exit codes, options, and how a study is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from autowarmup.errors import StudyError
from autowarmup.schedule.schedule import Schedule
from autowarmup.shell import printable
from autowarmup.study.lock import is_locked
from autowarmup.values import explain

if TYPE_CHECKING:
    from autowarmup.search.verdict import Verdict
    from autowarmup.study.store import StudyStore

OK, FAILED, BAD_INPUT, NOTHING_STABLE, NOT_DELIVERED, INTERRUPTED, CLOSED = 0, 1, 2, 3, 4, 130, 141
"""Exit codes; see :mod:`autowarmup.cli.program`."""

STUDY = click.argument("study", metavar="DIR", type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")


@dataclass(frozen=True)
class Found:
    """What a finished study found: the verdict, the schedule to use (None where nothing was stable), and how that was
    extrapolated to a longer run (None where it was tuned as it is)."""

    verdict: Verdict
    schedule: Schedule | None
    extrapolation: str | None


@contextmanager
def opened(folder: Path) -> Iterator[StudyStore]:
    """The study's store, to read from.

    Raises:
        StudyError: the folder holds no study, or one that can't be read.
    """
    from autowarmup.study.store import StudyStore

    with closing(StudyStore(folder)) as store:
        try:
            yield store
        except ValidationError as error:
            raise StudyError(f"{store.path} can't be read as a study: {explain(error, {})}") from error


def status(store: StudyStore) -> str:
    """As its driver left it; "killed" where that died without a word."""
    word = printable(str(store.meta("status") or "new"), longest=40)
    return "killed" if word == "running" and not is_locked(store.folder) else word


def found(store: StudyStore) -> Found | None:
    """What the study found; None where it has no verdict yet."""
    from autowarmup.search.verdict import Verdict

    stored = store.meta("verdict")
    if stored is None:
        return None
    verdict, schedule = Verdict.model_validate(stored), store.meta("schedule")
    extrapolation = store.meta("extrapolation")
    return Found(
        verdict,
        None if schedule is None else Schedule.model_validate(schedule),
        None if extrapolation is None else str(extrapolation),
    )


def plain(model: Any) -> Any:
    """A pydantic model as plain values; None stays None."""
    return None if model is None else model.model_dump(mode="json")
