"""A guarded run as JSON lines: what was planned, every step, and every event."""

from __future__ import annotations

import json
import math
from typing import Any

from autowarmup.guard.events import Event
from autowarmup.guard.expected import Band
from autowarmup.json_lines import JsonLines
from autowarmup.schedule.schedule import Schedule

FORMAT = "autowarmup guard 1"


class Record(JsonLines):
    """Writes a run's lines."""

    def begin(self, schedule: Schedule, mode: str, band: Band | None) -> None:
        """The plan."""
        line: dict[str, Any] = {"format": FORMAT, "mode": mode, "schedule": schedule.model_dump(mode="json")}
        if band is not None:
            line |= {"expected": band.level.tolist(), "spread": band.spread.tolist()}
        self.write(line)

    def step(self, step: int, lr: float, loss: float, grad_norm: float) -> None:
        """One step; what isn't finite is written as JSON's null."""
        numbers = {"lr": lr, "loss": loss, "grad_norm": grad_norm}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        self.add(json.dumps({"step": step} | finite))

    def event(self, event: Event) -> None:
        """A finding and what was done."""
        self.write({"event": event.model_dump(mode="json")})
