"""Checkpoints of paused trials: one file each, written atomically and verified when read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from autowarmup.errors import StudyError

if TYPE_CHECKING:
    pass

CHUNK = 2**20
"""Bytes read at a time while a file's checksum is computed."""


class Checkpoints:
    """The checkpoints of a study's paused trials, in ``folder``, by trial number and optimizer step.

    A file holds the trial's state followed by its SHA-256 checksum. It appears under its name only once it is complete.
    A file that is truncated or altered is treated as missing; its trial is then trained again from its start.

    Example:
        >>> checkpoints = Checkpoints(tmp_path / "checkpoints")
        >>> with checkpoints.writing(3, 100) as file:
        ...     _ = file.write(b"weights")
        >>> with checkpoints.reading(3, 100) as file:
        ...     file.read(7)
        b'weights'
        >>> with checkpoints.reading(3, 200) as file:
        ...     print(file)
        None
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def writing(self, number: int, step: int) -> Iterator[HashingFile]:
        """Opens the checkpoint of trial ``number`` at ``step`` for writing.

        Raises:
            StudyError: the file can't be written; the disk is full, for example.
        """
        path = self._path(number, step)
        draft = path.with_suffix(".draft")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)
            with draft.open("xb") as file:  # "x": a new file, never one behind a link
                hashing = HashingFile(file)
                yield hashing
                file.write(hashing.digest.digest())
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            _sync_folder(self._folder)
        except (OSError, RuntimeError) as error:  # torch wraps what the file raises into a RuntimeError
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            draft.unlink(missing_ok=True)
            raise StudyError(
                f"can't write the checkpoint {path}: {cause.strerror}. When that is fixed, make the same call again: "
                f"the study goes on where it stopped"
            ) from error

    @contextmanager
    def reading(self, number: int, step: int) -> Iterator[IO[bytes] | None]:
        """Opens the checkpoint of trial ``number`` at ``step`` for reading; None where there is no intact one."""
        try:
            with self._path(number, step).open("rb") as file:
                yield file if _is_intact(file) else None
        except FileNotFoundError:
            yield None

    @staticmethod
    def size(file: IO[bytes]) -> int:
        """Bytes of the trial's state in a checkpoint that was opened for reading."""
        return os.fstat(file.fileno()).st_size - hashlib.sha256().digest_size

    @staticmethod
    def checksum(file: IO[bytes]) -> str:
        """The SHA-256 checksum of that state, in hexadecimal digits. Leaves the file at its end."""
        file.seek(Checkpoints.size(file))
        return file.read().hex()

    def has(self, number: int, step: int) -> bool:
        """Whether there is a checkpoint of trial ``number`` at ``step``; it may be one that is not intact."""
        return self._path(number, step).exists()

    def forget(self, number: int) -> None:
        """Deletes all checkpoints of trial ``number``."""
        for path in self._folder.glob(f"trial-{number:05d}-*"):
            path.unlink(missing_ok=True)

    def _path(self, number: int, step: int) -> Path:
        return self._folder / f"trial-{number:05d}-{step:09d}.pt"


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
    left = os.fstat(file.fileno()).st_size - digest.digest_size
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
