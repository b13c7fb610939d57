"""What guards have told of real runs with a study's schedule, kept in the study's folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
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
                self._file.append(entries)
                self._file.close()
                self.entries += entries
                self._known |= unknown.keys()
            return bool(entries)

    def names(self) -> list[str]:
        """The runs, in the order in which they began."""
        return list(dict.fromkeys(entry.run for entry in self.entries))

    def events(self, run: str) -> list[RunEvent]:
        """The events of a run, in their order.

        Raises:
            UnknownRunError: nothing was told of it.
        """
        return [entry.event for entry in self._of(run) if entry.event is not None]

    def summary(self, run: str) -> RunSummary:
        """A run in summary.

        Raises:
            UnknownRunError: nothing was told of it.
        """
        events = self.events(run)
        received_at = self._of(run)[-1].received_at
        return RunSummary(run=run, events=len(events), received_at=received_at, last=events[-1] if events else None)

    def _of(self, run: str) -> list[RunEntry]:
        found = [entry for entry in self.entries if entry.run == run]
        if not found:
            raise UnknownRunError(run)
        return found


def _key(run: str, event: RunEvent | None) -> tuple[str, str]:
    return run, "" if event is None else event.model_dump_json()
