"""Files that appear under their name only once they are complete, and carry the checksum of what is in them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

CHUNK = 2**20
"""Bytes read at a time while a file's checksum is computed."""


@contextmanager
def writing(path: Path) -> Iterator[HashingFile]:
    """Opens a new file for writing, which replaces the one at ``path`` at the end of the context. Its contents are
    followed by their SHA-256 checksum.

    Raises:
        OSError: the file can't be written; the one at ``path`` is then as it was.

    Example:
        >>> with writing(tmp_path / "weights.pt") as file:
        ...     _ = file.write(b"weights")
        >>> with reading(tmp_path / "weights.pt") as file:
        ...     file.read(7)
        b'weights'
    """
    draft = path.with_suffix(".draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        with draft.open("xb") as file:  # "x": a new file, never one behind a link
            hashing = HashingFile(file)
            yield hashing
            file.write(hashing.digest.digest())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch wraps what the file raises into a RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        draft.unlink(missing_ok=True)
        raise cause from error


@contextmanager
def reading(path: Path) -> Iterator[IO[bytes] | None]:
    """Opens a file that :func:`writing` has written; None where there is none, or it is truncated or altered."""
    try:
        with path.open("rb") as file:
            yield file if _is_intact(file) else None
    except FileNotFoundError:
        yield None


def size(file: IO[bytes]) -> int:
    """Bytes of a file that was opened for reading, without its checksum."""
    return os.fstat(file.fileno()).st_size - hashlib.sha256().digest_size


def checksum(file: IO[bytes]) -> str:
    """The SHA-256 checksum of its contents, in hexadecimal digits. Leaves the file at its end."""
    file.seek(size(file))
    return file.read().hex()


class HashingFile:
    """A file that computes the checksum of what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _is_intact(file: IO[bytes]) -> bool:
    """Whether the last bytes are the checksum of those before. Leaves the file at its start."""
    digest = hashlib.sha256()
    left = size(file)
    while left > 0:
        part = file.read(min(CHUNK, left))
        digest.update(part)
        left -= len(part)
    intact = left == 0 and file.read() == digest.digest()
    file.seek(0)
    return intact


def _sync_folder(folder: Path) -> None:
    """Makes the renaming of a file in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
