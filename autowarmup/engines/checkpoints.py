"""Paused trials on disk: one file each, written in one atomic step and checked when read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from autowarmup.errors import StudyError

if TYPE_CHECKING:
    from autowarmup.training.base import Writable

CHUNK = 2**20


class Checkpoints:
    """The paused trials of a study, in ``folder``, by number and step.

    A file is the state that was written followed by its SHA-256. It is there as a whole or not at all, and one that is
    truncated or altered counts as not there: its trial starts again and catches up.

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
    def writing(self, number: int, step: int) -> Iterator[Writable]:
        """Where the state of trial ``number`` at ``step`` is to be written.

        Raises:
            StudyError: it can't be written: the disk is full, say.
        """
        path = self._path(number, step)
        draft = path.with_suffix(".draft")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                summed = _Summed(file)
                yield summed
                file.write(summed.digest.digest())
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
                f"can't write the checkpoint {path}: {cause.strerror}. Mend that and make the same call again: the "
                f"study goes on where it stopped"
            ) from error

    @contextmanager
    def reading(self, number: int, step: int) -> Iterator[IO[bytes] | None]:
        """The state of trial ``number`` at ``step``, None where there is none that is whole."""
        try:
            with self._path(number, step).open("rb") as file:
                yield file if _is_whole(file) else None
        except FileNotFoundError:
            yield None

    def forget(self, number: int) -> None:
        """Removes all states of trial ``number``."""
        for path in self._folder.glob(f"trial-{number:05d}-*"):
            path.unlink(missing_ok=True)

    def _path(self, number: int, step: int) -> Path:
        return self._folder / f"trial-{number:05d}-{step:09d}.pt"


class _Summed:
    """A file that sums up what goes through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _is_whole(file: IO[bytes]) -> bool:
    """Whether the last bytes are the sum of those before; the file is at its start afterwards."""
    digest = hashlib.sha256()
    left = os.fstat(file.fileno()).st_size - digest.digest_size
    while left > 0:
        part = file.read(min(CHUNK, left))
        digest.update(part)
        left -= len(part)
    whole = left == 0 and file.read() == digest.digest()
    file.seek(0)
    return whole


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
