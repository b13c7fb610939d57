"""A study's folder: which folders can be one, and how files are written into it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from autowarmup.errors import StudyError

STORE = "study.db"
LOCK = "study.lock"
EARLY = {LOCK, "request.json", "current.json", "leases.jsonl", "runs.jsonl", "service.log"}
"""The names of what is written before the store: the lock, and what a service keeps of a study."""
FILES = {
    *(f"{store}{suffix}" for store in (STORE, "mlflow.db") for suffix in ("", "-wal", "-shm", "-journal")),
    *EARLY,
    *("command.json", "checkpoints", "trained.pt", "result.json", "schedule.json", "report.html", "figures"),
    *("mlflow.log", "mlflow.lock", "mlartifacts"),
}
"""The names of what a study writes."""


def check_folder(folder: Path) -> None:
    """Checks that a folder can be a study's, without changing anything: it doesn't exist yet, is empty, or holds a
    study. Hidden files don't count, nor do those of a study that was killed before it wrote its store.

    Raises:
        StudyError: it holds other things, or is no folder; or one of the study's files is a symbolic link, through
            which the study would write elsewhere.
    """
    try:
        with os.scandir(folder) as entries:
            found = {entry.name: entry.is_symlink() for entry in entries if not entry.name.startswith(".")}
    except FileNotFoundError:
        return
    except OSError as error:
        raise StudyError(f"can't write the study folder {folder}: {error.strerror}") from error
    for name, is_link in found.items():
        if is_link and name in FILES:
            raise _link_error(folder / name)
    others = sorted(found.keys() - EARLY)
    if others and STORE not in found:
        shown = ", ".join(map(repr, others[:3])) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise StudyError(
            f"{folder} holds other things than a study ({shown}): choose a new folder for the study, or an empty one"
        )


def make_folder(path: Path) -> None:
    """Makes a folder of the study's files where it is missing.

    Raises:
        StudyError: it can't be made, or is a symbolic link.
    """
    if path.is_symlink():
        raise _link_error(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"can't make the folder {path}: {error.strerror}") from error


def write_file(path: Path, content: str | bytes) -> None:
    """Writes a file in one atomic step. A symbolic link in its place is replaced, not followed.

    Args:
        path: the file; its folder exists.
        content: bytes, or text that is written as UTF-8.

    Raises:
        StudyError: it can't be written. What was there before is then still there.

    Example:
        >>> write_file(tmp_path / "note.txt", "hello")
        >>> (tmp_path / "note.txt").read_text()
        'hello'
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        draft.unlink(missing_ok=True)
        with draft.open("xb") as file:  # "x": a new file, never one behind a link
            file.write(content.encode() if isinstance(content, str) else content)
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise StudyError(f"can't write {path}: {error.strerror}") from error


def _link_error(path: Path) -> StudyError:
    return StudyError(f"{path} is a symbolic link: a study writes its files into its own folder only. Remove the link")
