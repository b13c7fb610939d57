"""The study's store: one SQLite file, the one truth. Only the driver writes it.

A trial is worked on in segments, each ending at a rung. A segment's report (what the trial recorded and how the
segment ended) is committed in one transaction and never changed, so a study that was killed finds everything that was
finished, and nothing half-written.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from autowarmup.errors import StudyError
from autowarmup.instability import Instability
from autowarmup.schedule import Frozen, Schedule
from autowarmup.trace import Outcome, Trace

Role = Literal["probe", "baseline", "proposal", "confirmation"]
"""Why a trial runs: to measure the peak, as a schedule that needs no search, as a proposal, on a fresh seed."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trials (
    number INTEGER PRIMARY KEY,
    spec TEXT NOT NULL,
    outcome TEXT
);
CREATE TABLE IF NOT EXISTS reports (
    number INTEGER NOT NULL REFERENCES trials (number),
    until INTEGER NOT NULL,
    trace BLOB NOT NULL,
    verdict TEXT,
    events TEXT NOT NULL,
    error TEXT,
    started_at REAL NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (number, until)
) WITHOUT ROWID;
"""


class TrialSpec(Frozen):
    """A trial as it was decided: which candidate, why, under which seed.

    ``candidate`` numbers the schedules of a study: trials of one schedule under several seeds share it. ``params`` are
    the search space's parameters behind a proposal. A ``patient`` trial ends early only where its loss is not finite:
    other instabilities are recorded, so that no false alarm makes a baseline lose.
    """

    number: int
    candidate: int
    role: Role
    seed: int
    schedule: Schedule
    patient: bool = False
    params: dict[str, float | str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """How a segment of a trial went.

    Args:
        number: the trial's.
        until: the step that the segment was to reach.
        trace: what it recorded; ends before ``until`` where it went wrong.
        verdict: the fatal instability, if any.
        events: instabilities that are recorded only, such as spikes that recovered.
        error: the traceback, where the user's code raised.
        started_at: seconds since the epoch.
        seconds: how long it took.
    """

    number: int
    until: int
    trace: Trace
    verdict: Instability | None = None
    events: tuple[Instability, ...] = ()
    error: str | None = None
    started_at: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Trial:
    """A trial as the store has it: its specification, its outcome (None while it is open) and its reports."""

    spec: TrialSpec
    outcome: Outcome | None
    reports: tuple[Report, ...]

    @property
    def trace(self) -> Trace:
        return Trace.join([report.trace for report in self.reports])

    @property
    def verdict(self) -> Instability | None:
        return next((report.verdict for report in self.reports if report.verdict), None)

    @property
    def events(self) -> tuple[Instability, ...]:
        return tuple(event for report in self.reports for event in report.events)

    @property
    def error(self) -> str | None:
        return next((report.error for report in self.reports if report.error), None)

    @property
    def seconds(self) -> float:
        return sum(report.seconds for report in self.reports)


class StudyStore:
    """The study in ``folder``: opened for writing by its driver, read-only by everyone else.

    Raises:
        StudyError: the folder holds no study, or can't be written.
    """

    def __init__(self, folder: Path, *, write: bool = False) -> None:
        self.folder = folder
        self.path = folder / "study.db"
        if not write and not self.path.exists():
            raise StudyError(f"{folder} holds no study (no {self.path.name} in it)")
        try:
            if write:
                folder.mkdir(parents=True, exist_ok=True)
            uri = f"{self.path.absolute().as_uri()}?mode={'rwc' if write else 'ro'}"
            self._db = sqlite3.connect(uri, uri=True, timeout=30.0, isolation_level=None)
            if write:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise StudyError(f"can't {'write' if write else 'read'} the study folder {folder}: {error}") from error

    def close(self) -> None:
        self._db.close()

    # -- settings --

    def meta(self, key: str) -> Any:
        """A setting of the study, None where there is none."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def set_meta(self, key: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    # -- what the driver writes --

    def add_trial(self, spec: TrialSpec) -> None:
        """Notes a trial that was decided.

        Raises:
            StudyError: the study has another trial of that number: it was made by other versions of the libraries.
        """
        wanted = spec.model_dump_json()
        self._db.execute("INSERT OR IGNORE INTO trials (number, spec) VALUES (?, ?)", (spec.number, wanted))
        stored = self._db.execute("SELECT spec FROM trials WHERE number = ?", (spec.number,)).fetchone()[0]
        if TrialSpec.model_validate_json(stored) != spec:
            raise StudyError(
                f"trial {spec.number} of the study in {self.folder} is not the one that is decided now: the study was "
                f"begun with other versions of autowarmup or its libraries. Go on with those, or choose another folder"
            )

    def add_report(self, report: Report) -> None:
        self._db.execute(
            "INSERT INTO reports VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                report.number,
                report.until,
                report.trace.to_bytes(),
                report.verdict.model_dump_json() if report.verdict else None,
                json.dumps([event.model_dump() for event in report.events]),
                report.error,
                report.started_at,
                report.seconds,
            ),
        )

    def finish(self, number: int, outcome: Outcome) -> None:
        self._db.execute("UPDATE trials SET outcome = ? WHERE number = ?", (outcome, number))

    # -- what everyone reads --

    def report(self, number: int, until: int) -> Report | None:
        """The report of one segment, None where it hasn't finished."""
        return next(self._reports("WHERE number = ? AND until = ?", (number, until)), None)

    def trial(self, number: int) -> Trial:
        row = self._db.execute("SELECT spec, outcome FROM trials WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise StudyError(f"the study in {self.folder} has no trial {number}; it has {len(self.numbers())}, from 0")
        spec, outcome = row
        reports = tuple(self._reports("WHERE number = ?", (number,)))
        return Trial(TrialSpec.model_validate_json(spec), outcome, reports)

    def numbers(self) -> list[int]:
        """All trials' numbers, in order."""
        return [row[0] for row in self._db.execute("SELECT number FROM trials ORDER BY number")]

    def trials(self) -> list[Trial]:
        return [self.trial(number) for number in self.numbers()]

    def _reports(self, where: str, values: tuple[int, ...]) -> Iterator[Report]:
        query = f"SELECT * FROM reports {where} ORDER BY number, until"
        with closing(self._db.execute(query, values)) as rows:
            for number, until, trace, verdict, events, error, started_at, seconds in rows:
                yield Report(
                    number,
                    until,
                    Trace.from_bytes(trace),
                    Instability.model_validate_json(verdict) if verdict else None,
                    tuple(Instability.model_validate(event) for event in json.loads(events)),
                    error,
                    started_at,
                    seconds,
                )
