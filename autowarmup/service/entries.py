"""Files of entries that a service appends to before it answers.

So a server that is killed finds what its clients know to be received. A file that a power failure has cut short is read
up to its last whole line; the clients then send the rest again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from autowarmup.errors import StudyError
from autowarmup.study.folder import write_file

Entry = TypeVar("Entry", bound=BaseModel)


class EntryFile(Generic[Entry]):
    """A file of entries, one a line, as JSON. It is made by the first entry.

    Args:
        path: the file, in a study's folder.
        reader: reads an entry.

    Attributes:
        size: bytes.

    Every method raises :class:`autowarmup.errors.StudyError`: the file can't be read or written.
    """

    def __init__(self, path: Path, reader: TypeAdapter[Entry]) -> None:
        self._path, self._reader = path, reader
        self._file: FileIO | None = None
        self.size = 0

    def read(self) -> list[Entry]:
        """The entries up to the first that is not whole. What follows is removed."""
        try:
            *lines, rest = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StudyError(f"can't read {self._path}: {error.strerror}") from error
        entries: list[Entry] = []
        for line in lines:
            try:
                entries.append(self._reader.validate_json(line))
            except ValidationError:
                break
        if rest or len(entries) < len(lines):
            self.rewrite(entries)
        self.size = sum(len(line) + 1 for line in lines[: len(entries)])
        return entries

    def append(self, entries: Iterable[Entry]) -> None:
        """Writes entries, all of them or none."""
        data = _lines(entries)
        try:
            if self._file is None:
                self._file = self._path.open("ab", buffering=0)
            if self._file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if self._file is not None:
                self._file.truncate(self.size)
            raise StudyError(f"can't write {self._path}: {error.strerror}") from error
        self.size += len(data)

    def rewrite(self, entries: Iterable[Entry]) -> None:
        """Writes the file anew."""
        self.close()
        data = _lines(entries)
        write_file(self._path, data)
        self.size = len(data)

    def close(self) -> None:
        """Closes the file, until something is appended."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _lines(entries: Iterable[BaseModel]) -> bytes:
    return b"".join(entry.model_dump_json().encode() + b"\n" for entry in entries)
