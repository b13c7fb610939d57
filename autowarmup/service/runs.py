"""What guards have told of real runs with a study's schedule, kept in the study's folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from pydantic import TypeAdapter

from autowarmup.service.entries import EntryFile
from autowarmup.service.problems import ServiceError, UnknownRunError
from autowarmup.service.run_messages import RunEntry, RunEvent, RunSummary

FILE = "runs.jsonl"
"""Its name in the study's folder."""

MOST_ENTRIES = 10_000
"""That a study keeps; a guard finds a few things in a run."""

READER = TypeAdapter(RunEntry)


class GuardedRuns:
    """The runs of one study.

    Args:
        folder: the study's.

    Attributes:
        entries: what was received, in its order; it only grows.

    Raises:
        StudyError: the file can't be read.
    """

    def __init__(self, folder: Path) -> None:
        self._file = EntryFile(folder / FILE, READER)
        self._lock = threading.Lock()
        self.entries: list[RunEntry] = self._file.read()
        self._known = {_key(entry.run, entry.event) for entry in self.entries}

    def add(self, run: str, events: Sequence[RunEvent]) -> bool:
        """Keeps what isn't known yet of a run: the same events again change nothing.

        Returns:
            Whether there was something new.

        Raises:
            ServiceError: the study's runs have too many events.
            StudyError: it can't be written.
        """
        with self._lock:
            begun = any(entry.run == run for entry in self.entries)
            told: Sequence[RunEvent | None] = events or ([] if begun else [None])
            unknown = {key: event for event in told if (key := _key(run, event)) not in self._known}
            if len(self.entries) + len(unknown) > MOST_ENTRIES:
                detail = f"the runs of a study may have {MOST_ENTRIES:,} events, and this one has {len(self.entries):,}"
                raise ServiceError(429, "Too many events", detail, kind="too-many-events")
            now = time.time()
            entries = [RunEntry(run=run, received_at=now, event=event) for event in unknown.values()]
            if entries:
                with closing(self._file):
                    self._file.append(entries)
                self.entries += entries
                self._known |= unknown.keys()
            return bool(entries)

    def events(self, run: str) -> list[RunEvent]:
        """The events of a run, in their order.

        Raises:
            UnknownRunError: nothing was told of it.
        """
        entries = self._by_run().get(run)
        if entries is None:
            raise UnknownRunError(run)
        return _events(entries)

    def summaries(self) -> list[RunSummary]:
        """All runs, in the order in which they began."""
        return [_summary(run, entries) for run, entries in self._by_run().items()]

    def _by_run(self) -> dict[str, list[RunEntry]]:
        found: dict[str, list[RunEntry]] = {}
        for entry in self.entries:
            found.setdefault(entry.run, []).append(entry)
        return found


def _events(entries: Sequence[RunEntry]) -> list[RunEvent]:
    return [entry.event for entry in entries if entry.event is not None]


def _summary(run: str, entries: Sequence[RunEntry]) -> RunSummary:
    events, latest = _events(entries), entries[-1]
    return RunSummary(run=run, events=len(events), received_at=latest.received_at, last=latest.event)


def _key(run: str, event: RunEvent | None) -> tuple[str, str]:
    return run, "" if event is None else event.model_dump_json()
