"""The schedules along which the figures draw the forecast."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.shapes import WITHOUT_WARMUP, Linear, NoWarmup, Rule
from autowarmup.study.result import TuneResult


def usual_schedule(result: TuneResult) -> Schedule:
    """The schedule whose peak and warm-up duration the figures vary: the chosen one. Where that has no duration to vary
    (no warm-up, or one that follows a rule), the curve and the decay that most proposals have; where none has one, a
    linear warm-up."""
    chosen = result.verdict.schedule
    if chosen is not None and _varies(chosen):
        return chosen
    kinds = Counter(
        record.schedule.model_copy(update={"peak": 1.0, "warmup_steps": 1, "groups": ()})
        for record in result.records
        if record.role == "proposal" and _varies(record.schedule)
    )
    current = result.config.current_schedule
    plain = current.model_copy(update={"shape": Linear(), "warmup_steps": 1, "groups": ()})
    return kinds.most_common(1)[0][0] if kinds else plain


def _varies(schedule: Schedule) -> bool:
    return not isinstance(schedule.shape, NoWarmup | Rule)


def durations(longest: int, count: int) -> list[int]:
    """Warm-up durations from 0 to ``longest`` steps, evenly spaced on the square-root scale that is searched."""
    return sorted({round(root**2) for root in np.linspace(0.0, math.sqrt(longest), count)})


def varied(schedule: Schedule, peak: float, warmup_steps: int) -> Schedule:
    """A schedule with another peak and warm-up duration; 0 is no warm-up."""
    warmup = {"warmup_steps": warmup_steps} if warmup_steps else WITHOUT_WARMUP
    return schedule.rewarmed(**warmup).model_copy(update={"peak": peak})
