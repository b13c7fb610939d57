"""The lock of a study's folder: one process works on a study."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from autowarmup.errors import StudyError, StudyLockedError
from autowarmup.study.folder import LOCK

WAIT_S = 0.3
"""How long the lock is tried for: :func:`is_locked` holds it for a moment."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock, in a folder that is made if missing. It goes with the process that holds it, however that ends.

    Raises:
        StudyLockedError: another process holds it.
        StudyError: the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=WAIT_S, poll_interval=0.02)
        lock.acquire()
    except Timeout as error:
        raise StudyLockedError(f"another process is working on the study in {folder}") from error
    except OSError as error:
        raise StudyError(f"can't write the study folder {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a process works on the study: it holds the lock. True where that can't be told."""
    try:
        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
