"""A guarded run as JSON lines: what was planned, every step, and every event."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from autowarmup.errors import InputError
from autowarmup.guard.events import Event
from autowarmup.guard.expected import Band
from autowarmup.schedule.schedule import Schedule

FORMAT = "autowarmup guard 1"


class Record:
    """Writes a run's lines. They reach the file within a second or with the next step, so a run that is killed leaves
    its steps.

    Args:
        path: the file; a run that goes on adds to it.

    Raises:
        InputError: it can't be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(f"record={str(path)!r} can't be written: {error.strerror}") from error
        self._flushed = 0.0

    def begin(self, schedule: Schedule, mode: str, band: Band | None) -> None:
        """The plan."""
        line: dict[str, Any] = {"format": FORMAT, "mode": mode, "schedule": schedule.model_dump(mode="json")}
        if band is not None:
            line |= {"expected": band.level.tolist(), "spread": band.spread.tolist()}
        self._write(line)

    def step(self, step: int, lr: float, loss: float, grad_norm: float) -> None:
        """One step; what isn't finite is written as JSON's null."""
        numbers = {"lr": lr, "loss": loss, "grad_norm": grad_norm}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        self._file.write(json.dumps({"step": step} | finite) + "\n")
        if (now := time.monotonic()) - self._flushed > 1.0:
            self._file.flush()
            self._flushed = now

    def event(self, event: Event) -> None:
        """A finding and what was done."""
        self._write({"event": event.model_dump(mode="json")})

    def close(self) -> None:
        """Nothing more is written."""
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
