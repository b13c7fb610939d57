"""Checkpoints of paused trials: one file each, written atomically and verified when read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from autowarmup import checked_file
from autowarmup.errors import StudyError

KEPT = 2
"""Checkpoints of a trial that are kept: the last one, and the one before it, from which the trial goes on where the
study was killed before the last segment was stored."""


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
    def writing(self, number: int, step: int) -> Iterator[checked_file.HashingFile]:
        """Opens the checkpoint of trial ``number`` at ``step`` for writing.

        Raises:
            StudyError: the file can't be written; the disk is full, for example.
        """
        path = self.path(number, step)
        try:
            with checked_file.writing(path) as file:
                yield file
            for older in self._of(number)[:-KEPT]:
                older.unlink(missing_ok=True)
        except OSError as error:
            raise StudyError(
                f"can't write the checkpoint {path}: {error.strerror}. When that is fixed, make the same call again: "
                f"the study goes on where it stopped"
            ) from error

    @contextmanager
    def reading(self, number: int, step: int) -> Iterator[IO[bytes] | None]:
        """Opens the checkpoint of trial ``number`` at ``step`` for reading; None where there is no intact one."""
        with checked_file.reading(self.path(number, step)) as file:
            yield file

    def has(self, number: int, step: int) -> bool:
        """Whether there is a checkpoint of trial ``number`` at ``step``; it may be one that is not intact."""
        return self.path(number, step).exists()

    def forget(self, number: int) -> None:
        """Deletes all checkpoints of trial ``number``."""
        for path in self._of(number):
            path.unlink(missing_ok=True)

    def _of(self, number: int) -> list[Path]:
        """The files of trial ``number``, in the order of their steps."""
        return sorted(self._folder.glob(f"trial-{number:05d}-*"))

    def path(self, number: int, step: int) -> Path:
        """The file of the checkpoint of trial ``number`` at ``step``, which may not be there."""
        return self._folder / f"trial-{number:05d}-{step:09d}.pt"
