"""The study's store: one SQLite file that holds everything the study has found. Only the driver writes to it.

Trials are trained in segments, each of which ends at a rung. The result of a segment (what the trial recorded, and how
the segment ended) is written in one transaction, with its place in the order of arrival, and never changed. So a study
that was killed finds every segment that had finished, in the order in which the search was told of them, and nothing
half-written.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from autowarmup.errors import StudyError
from autowarmup.instability import Instability
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.shell import printable
from autowarmup.study.folder import STORE
from autowarmup.training.objective import LOSS, Objective
from autowarmup.training.trace import Outcome, Trace

P = ParamSpec("P")
R = TypeVar("R")

FORMAT = 3
"""The number of the schema below, kept in the file."""

SCHEMA = f"""
PRAGMA user_version = {FORMAT};
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trials (
    number INTEGER PRIMARY KEY,
    spec TEXT NOT NULL,
    outcome TEXT
);
CREATE TABLE IF NOT EXISTS segments (
    number INTEGER NOT NULL REFERENCES trials (number),
    until INTEGER NOT NULL,
    trace BLOB NOT NULL,
    instability TEXT,
    events TEXT NOT NULL,
    error TEXT,
    started_at REAL NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (number, until)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS arrivals (
    position INTEGER PRIMARY KEY,
    number INTEGER NOT NULL,
    until INTEGER NOT NULL,
    slots INTEGER NOT NULL,
    FOREIGN KEY (number, until) REFERENCES segments (number, until)
);
"""
TABLES = {"meta", "trials", "segments", "arrivals"}


@dataclass(frozen=True)
class StoredTrial:
    """A trial as it is stored.

    Args:
        spec: the trial as it was decided; where its warm-up adapts, with the nearest schedule so far.
        outcome: how it ended; None while it may go on.
        segments: the results of its segments, in order.
        objective: what it is judged by.
    """

    spec: TrialSpec
    outcome: Outcome | None
    segments: tuple[SegmentResult, ...]
    objective: Objective = LOSS

    @property
    def trace(self) -> Trace:
        """What it has recorded, from its start."""
        return Trace.join([segment.trace for segment in self.segments])

    @property
    def instability(self) -> Instability | None:
        """The instability that ended it, if any."""
        return next((segment.instability for segment in self.segments if segment.instability), None)

    @property
    def events(self) -> tuple[Instability, ...]:
        """The instabilities that didn't end it, such as spikes that recovered."""
        return tuple(event for segment in self.segments for event in segment.events)

    @property
    def error(self) -> str | None:
        """The traceback that ended it, if any."""
        return next((segment.error for segment in self.segments if segment.error), None)

    @property
    def final_loss(self) -> float | None:
        """The objective at the horizon, lower being better: that of the last validation; for the loss, the mean
        training loss of the last tenth of the steps where there was no validation. None where the trial didn't get to
        its horizon."""
        return self.objective.final(self.trace) if self.outcome == "completed" else None

    @property
    def seconds(self) -> float:
        """How long it has trained."""
        return sum(segment.seconds for segment in self.segments)


class StoredArrival(NamedTuple):
    """When a segment arrived.

    Args:
        position: its place in the order of arrival, >= 0; a segment that failed and was run again leaves a gap.
        number, until: the segment: the trial's number, and the step that it was to reach.
        slots: how many trials could run at once then.
    """

    position: int
    number: int
    until: int
    slots: int


def _reads(method: Callable[Concatenate[StudyStore, P], R]) -> Callable[Concatenate[StudyStore, P], R]:
    """A method that reads the file: what goes wrong, whatever the file holds, is a ``StudyError``."""

    @wraps(method)
    def reading(store: StudyStore, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(store, *args, **kwargs)
        except StudyError:
            raise
        except Exception as error:
            raise StudyError(f"{store.path} can't be read as a study: {_first_line(error)}") from error

    return reading


def _writes(method: Callable[Concatenate[StudyStore, P], R]) -> Callable[Concatenate[StudyStore, P], R]:
    """A method that writes to the file: what SQLite refuses, as on a full disk, is a ``StudyError``."""

    @wraps(method)
    def writing(store: StudyStore, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(store, *args, **kwargs)
        except sqlite3.Error as error:
            raise StudyError(
                f"can't write {store.path}: {error}. What was stored before stays; when that is mended, make the same "
                f"call again to go on"
            ) from error

    return writing


def _first_line(error: Exception) -> str:
    return printable(next(iter(str(error).splitlines()), type(error).__name__), longest=200)


@contextmanager
def store_if_begun(folder: Path) -> Iterator[StudyStore | None]:
    """The store of the study in a folder, to read from; None where its driver has not made it yet."""
    if not _is_begun(folder):
        yield None
        return
    with closing(StudyStore(folder)) as store:
        yield store


def _is_begun(folder: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"{(folder / STORE).absolute().as_uri()}?mode=ro", uri=True, timeout=30.0)) as db:
            return bool(db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'arrivals'").fetchone()[0])
    except sqlite3.Error:
        return False


class StudyStore:
    """The study in ``folder``: opened for writing by its driver, read-only by everyone else. The
    file is its owner's alone.

    Raises:
        StudyError: the folder holds no study; its file can't be written, or holds something else. Every method raises
            it.
    """

    def __init__(self, folder: Path, *, write: bool = False) -> None:
        self.folder = folder
        self.path = folder / STORE
        try:
            if not write and not self.path.exists():
                raise StudyError(f"{folder} holds no study (no {self.path.name} in it)")
            if write:
                folder.mkdir(parents=True, exist_ok=True)
                self.path.touch(mode=0o600)
            uri = f"{self.path.absolute().as_uri()}?mode={'rwc' if write else 'ro'}"
            self._db = sqlite3.connect(uri, uri=True, timeout=30.0, isolation_level=None)
            self._check_format()
            if write:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.executescript(SCHEMA)
        except (OSError, sqlite3.Error, UnicodeDecodeError) as error:  # a damaged name of a table
            reason = error.strerror if isinstance(error, OSError) else error
            raise StudyError(
                f"can't {'write' if write else 'read'} the study folder {printable(str(folder), longest=200)}: {reason}"
            ) from error

    def _check_format(self) -> None:
        """Refuses a database of another program or version, before anything is written into it."""
        tables = {str(row[0]) for row in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if tables - TABLES - {"reports"}:  # which the first version had
            self._db.close()
            raise StudyError(
                f"{self.path} is not a study: a database with the tables {', '.join(sorted(tables)[:5])}. "
                f"Choose another folder"
            )
        if tables and found != FORMAT:
            self._db.close()
            raise StudyError(
                f"the study in {self.folder} was written by another version of autowarmup (format {found}, this one "
                f"reads {FORMAT}): use that version for it, or start a new study in another folder"
            )

    def close(self) -> None:
        self._db.close()

    # -- settings --

    @_reads
    def meta(self, key: str) -> Any:
        """The setting ``key`` of the study; None where it is not set."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    @_writes
    def set_meta(self, key: str, value: Any) -> None:
        """Stores a setting; ``value`` is anything that JSON can hold."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    # -- what the driver writes --

    @_writes
    def add_trial(self, spec: TrialSpec) -> None:
        """Stores a trial that was decided; does nothing where it is stored already.

        Raises:
            StudyError: another trial is stored under its number. Then the study was begun with other versions of
                autowarmup or its libraries, which decide differently.
        """
        wanted = spec.model_dump_json()
        self._db.execute("INSERT OR IGNORE INTO trials (number, spec) VALUES (?, ?)", (spec.number, wanted))
        stored = self._db.execute("SELECT spec FROM trials WHERE number = ?", (spec.number,)).fetchone()[0]
        if TrialSpec.model_validate_json(stored) != spec:
            raise StudyError(
                f"trial {spec.number} of the study in {self.folder} is not the one that is decided now: the study was "
                f"begun with other versions of autowarmup or its libraries. Go on with those, or choose another folder"
            )

    @_writes
    def add_segment(self, result: SegmentResult, position: int, slots: int) -> None:
        """Stores the result of a segment, with its place in the order of arrival and the slots at that time."""
        row = (
            result.number,
            result.until,
            result.trace.to_bytes(),
            result.instability.model_dump_json() if result.instability else None,
            json.dumps([event.model_dump() for event in result.events]),
            result.error,
            result.started_at,
            result.seconds,
        )
        with self._db:  # commits, or rolls back
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            self._db.execute("INSERT INTO arrivals VALUES (?, ?, ?, ?)", (position, result.number, result.until, slots))

    @_writes
    def finish(self, number: int, outcome: Outcome) -> None:
        """Stores how trial ``number`` ended."""
        self._db.execute("UPDATE trials SET outcome = ? WHERE number = ?", (outcome, number))

    # -- what everyone reads --

    @_reads
    def segment(self, number: int, until: int) -> SegmentResult | None:
        """The result of the segment of trial ``number`` that ends at step ``until``; None where it hasn't finished."""
        return next(self._segments("WHERE number = ? AND until = ?", (number, until)), None)

    @_reads
    def arrivals(self) -> list[StoredArrival]:
        """All segments in the order in which they arrived."""
        rows = self._db.execute("SELECT position, number, until, slots FROM arrivals ORDER BY position")
        return [StoredArrival(*map(int, row)) for row in rows]

    @property
    def objective(self) -> Objective:
        """What the study's trials are judged by."""
        return Objective.model_validate((self.meta("config") or {}).get("objective", {}))

    def trial(self, number: int) -> StoredTrial:
        """Trial ``number``.

        Raises:
            StudyError: the study has no trial of that number.
        """
        return self._trial(number, self.objective)

    @_reads
    def _trial(self, number: int, objective: Objective) -> StoredTrial:
        row = self._db.execute("SELECT spec, outcome FROM trials WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise StudyError(f"the study in {self.folder} has no trial {number}; it has {len(self.numbers())}, from 0")
        spec, outcome = row
        segments = tuple(self._segments("WHERE number = ?", (number,)))
        if any(one.trace.end != following.trace.start for one, following in pairwise(segments)):
            raise StudyError(f"{self.path} can't be read as a study: trial {number} lacks a part")
        applied = TrialSpec.model_validate_json(spec).as_applied(segment.trace for segment in segments)
        return StoredTrial(applied, outcome, segments, objective)

    @_reads
    def numbers(self) -> list[int]:
        """The numbers of all trials, in order."""
        return [row[0] for row in self._db.execute("SELECT number FROM trials ORDER BY number")]

    @_reads
    def segment_count(self) -> int:
        """How many segments have been stored."""
        return int(self._db.execute("SELECT count(*) FROM segments").fetchone()[0])

    @_reads
    def trials(self) -> list[StoredTrial]:
        """All trials, in order of their numbers."""
        objective = self.objective
        return [self._trial(number, objective) for number in self.numbers()]

    def _segments(self, where: str, values: tuple[int, ...]) -> Iterator[SegmentResult]:
        query = f"SELECT * FROM segments {where} ORDER BY number, until"
        with closing(self._db.execute(query, values)) as rows:
            for number, until, trace, instability, events, error, started_at, seconds in rows:
                yield SegmentResult(
                    int(number),
                    int(until),
                    Trace.from_bytes(trace),
                    Instability.model_validate_json(instability) if instability else None,
                    tuple(Instability.model_validate(event) for event in json.loads(events)),
                    None if error is None else str(error),
                    float(started_at),
                    float(seconds),
                )
