"""The journal of a study's leases: what workers were given and have reported since its last segment was stored.

A line is appended before its answer is sent. So a server that is killed finds the leases and the steps that its
workers know to be received. A file that a power failure has cut short is read up to its last whole line; the workers
then send the rest again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from autowarmup.errors import StudyError
from autowarmup.service.messages import Report
from autowarmup.study.folder import write_file
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
        self._path = folder / FILE
        whole = self._read()
        self._left: dict[tuple[int, int], list[Entry]] = {}
        for line in whole:
            entry = READER.validate_json(line)
            self._left.setdefault((entry.number, entry.start), []).append(entry)
        self._write(whole)

    def take(self, number: int, start: int) -> list[Entry]:
        """What an earlier process has written of the segment of trial ``number`` that begins at step ``start``."""
        return self._left.pop((number, start), [])

    def append(self, entry: Entry) -> None:
        """Writes an entry, or nothing of it."""
        line = entry.model_dump_json().encode() + b"\n"
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._file.truncate(self._size)
            raise StudyError(f"can't write {self._path}: {error.strerror}") from error
        self._size += len(line)

    @property
    def is_large(self) -> bool:
        """Whether it should be written anew."""
        return self._size > MOST_BYTES

    def keep(self, segments: Set[tuple[int, int]]) -> None:
        """Writes it anew with the entries of these segments alone, each a trial's number and its first step."""
        self._file.close()
        entries = ((line, READER.validate_json(line)) for line in self._read())
        self._write([line for line, entry in entries if (entry.number, entry.start) in segments])

    def close(self) -> None:
        self._file.close()

    def _write(self, lines: Sequence[bytes]) -> None:
        data = b"".join(line + b"\n" for line in lines)
        write_file(self._path, data)
        try:
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise StudyError(f"can't write {self._path}: {error.strerror}") from error
        self._size = len(data)

    def _read(self) -> list[bytes]:
        """The lines up to the first that is not whole."""
        try:
            lines = self._path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StudyError(f"can't read {self._path}: {error.strerror}") from error
        for position, line in enumerate(lines):
            try:
                READER.validate_json(line)
            except ValidationError:
                return lines[:position]
        return lines
