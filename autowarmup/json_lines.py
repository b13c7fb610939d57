"""Files of JSON lines that grow while a training goes on."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from autowarmup.errors import InputError


class JsonLines:
    """Adds lines to a file. They reach it within a second or with the next one, so a training that is killed leaves its
    steps.

    Args:
        path: the file; where it is there it goes on, on a line of its own.

    Raises:
        InputError: it can't be written.

    Example:
        >>> lines = JsonLines(tmp_path / "run.jsonl")
        >>> lines.add('{"step": 0}')
        >>> lines.write({"end": True})
        >>> (tmp_path / "run.jsonl").read_text().splitlines()
        ['{"step": 0}', '{"end": true}']
        >>> lines.close()
    """

    def __init__(self, path: Path) -> None:
        try:
            unfinished = path.exists() and not _ends_with_a_line(path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(f"record={str(path)!r} can't be written: {error.strerror}") from error
        self._flushed = 0.0
        if unfinished:
            self._file.write("\n")

    def add(self, line: str) -> None:
        """One line of many, as JSON."""
        self._file.write(line + "\n")
        if (now := time.monotonic()) - self._flushed > 1.0:
            self._file.flush()
            self._flushed = now

    def write(self, line: dict[str, Any]) -> None:
        """One that reaches the file at once."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Nothing more is written."""
        self._file.close()


def parsed(line: str) -> Any:
    """What a line says; None for the beginning of an object, which a process that was killed has left unfinished.

    Raises:
        ValueError: it is no JSON.

    Example:
        >>> parsed('{"step": 0}'), parsed('{"step": 1, "lo')
        ({'step': 0}, None)
    """
    try:
        return json.loads(line)
    except ValueError:
        if line.startswith("{"):
            return None
        raise


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
