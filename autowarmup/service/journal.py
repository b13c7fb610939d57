"""The journal of a study's leases: what workers were given and have reported since its last segment was stored."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from autowarmup.service.entries import EntryFile
from autowarmup.service.messages import Report
from autowarmup.values import Frozen

FILE = "leases.jsonl"
"""Its name in the study's folder."""

MOST_BYTES = 8 * 2**20
"""Size from which a journal is written anew, without what has been stored since."""


class Granted(Frozen):
    """A trial was leased to a worker, to be trained on from step ``start``; ``seq`` is its last report's number."""

    kind: Literal["granted"] = "granted"
    number: int
    start: int
    client: str
    lease: str
    seq: int = 0


class Freed(Frozen):
    """A trial was given back by its worker, or its lease has lapsed."""

    kind: Literal["freed"] = "freed"
    number: int
    start: int


class Reported(Frozen):
    """A worker's report was received, in the segment that begins at step ``start``."""

    kind: Literal["reported"] = "reported"
    number: int
    start: int
    report: Report


Entry = Granted | Freed | Reported
READER: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


class Journal:
    """The file.

    Args:
        folder: the study's.

    Raises:
        StudyError: it can't be read or written. So does every method.
    """

    def __init__(self, folder: Path) -> None:
        self._file = EntryFile(folder / FILE, READER)
        entries = self._file.read()
        self._left: dict[tuple[int, int], list[Entry]] = {}
        for entry in entries:
            self._left.setdefault((entry.number, entry.start), []).append(entry)
        self._file.rewrite(entries)

    def take(self, number: int, start: int) -> list[Entry]:
        """What an earlier process has written of the segment of trial ``number`` that begins at step ``start``."""
        return self._left.pop((number, start), [])

    def append(self, entry: Entry) -> None:
        """Writes an entry, or nothing of it."""
        self._file.append([entry])

    @property
    def is_large(self) -> bool:
        """Whether it should be written anew."""
        return self._file.size > MOST_BYTES

    def keep(self, segments: Set[tuple[int, int]]) -> None:
        """Writes it anew with the entries of these segments alone, each a trial's number and its first step."""
        self._file.rewrite([entry for entry in self._file.read() if (entry.number, entry.start) in segments])

    def close(self) -> None:
        self._file.close()
