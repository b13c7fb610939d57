"""What the commands share: exit codes, options, and how a study is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from autowarmup.errors import StudyError
from autowarmup.shell import printable
from autowarmup.study.lock import is_locked
from autowarmup.values import explain

if TYPE_CHECKING:
    from autowarmup.study.store import StudyStore

OK, FAILED, BAD_INPUT, NOTHING_STABLE, NOT_DELIVERED, INTERRUPTED, CLOSED = 0, 1, 2, 3, 4, 130, 141
"""Exit codes; see :mod:`autowarmup.cli.program`."""

STUDY = click.argument("study", metavar="DIR", type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")


NO_MLFLOW = click.option("--no-mlflow", is_flag=True, help="Don't track.")


def tracked(mlflow: str | None, no_mlflow: bool) -> dict[str, Any]:
    """Where to track, as ``mlflow`` is given in Python; nothing where neither option was given."""
    if mlflow and no_mlflow:
        raise click.UsageError("--mlflow and --no-mlflow exclude each other")
    return {"mlflow": mlflow or False} if mlflow or no_mlflow else {}


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


def plain(model: Any) -> Any:
    """A pydantic model as plain values; None stays None."""
    return None if model is None else model.model_dump(mode="json")
