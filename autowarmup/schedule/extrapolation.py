"""Extrapolating a schedule from the horizon that was tuned to a longer one."""

from __future__ import annotations

from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.shapes import Rule
from autowarmup.values import Frozen

EXPONENT = 0.32
"""The best peak is proportional to the horizon to the power of minus this. Bjorck et al. 2024, Scaling Optimal LR
Across Token Horizons, arXiv 2409.19913, section 3."""
EXPONENTS = (0.0, 1.0)
"""The range of exponents measured on this project's tasks (docs/search.md). It gives the range of peaks."""


class Extrapolation(Frozen):
    """A schedule for a longer horizon than the one that was tuned.

    Args:
        schedule: the schedule for the longer horizon, with the expected peak.
        tuned_steps: the horizon that was tuned, in optimizer steps.
        peak_low: the lowest peak in the range that measured exponents give.
        peak_high: the highest peak in that range.
    """

    schedule: Schedule
    tuned_steps: int
    peak_low: float
    peak_high: float

    def describe(self) -> str:
        """One line for people: what was tuned, and the range of the extrapolated peak."""
        return (
            f"tuned at {self.tuned_steps:,} steps; at {self.schedule.horizon:,} steps the peak is extrapolated: "
            f"{self.schedule.peak:.3g}, between {self.peak_low:.3g} and {self.peak_high:.3g}"
        )


def extrapolated(schedule: Schedule, horizon: int) -> Extrapolation:
    """The schedule for a longer horizon: the same shape over the same share of the horizon, to a lower peak. The
    duration of a rule stays, since it follows from ``beta2``.

    Args:
        schedule: the schedule that was tuned.
        horizon: the longer horizon in optimizer steps, at least that of ``schedule``.

    Example:
        >>> tuned = Schedule(peak=1e-2, horizon=1_000, warmup_steps=200, shape="linear")
        >>> longer = extrapolated(tuned, 10_000)
        >>> longer.schedule.warmup_steps, round(longer.schedule.peak, 5), round(longer.peak_low, 5), longer.peak_high
        (2000, 0.00479, 0.001, 0.01)
    """
    growth = horizon / schedule.horizon
    low, high = sorted(schedule.peak * growth**-exponent for exponent in EXPONENTS)
    changes: dict[str, object] = {"horizon": horizon, "peak": schedule.peak * growth**-EXPONENT}
    if not isinstance(schedule.shape, Rule):
        changes["warmup_steps"] = round(schedule.warmup_steps * growth)
    changes["groups"] = tuple(group.scaled(growth, horizon) for group in schedule.groups)
    return Extrapolation(
        schedule=schedule.model_copy(update=changes), tuned_steps=schedule.horizon, peak_low=low, peak_high=high
    )


def shortened(schedule: Schedule, horizon: int) -> Schedule:
    """The schedule for a shorter horizon whose extrapolation is ``schedule``: the same shape over the same share of the
    horizon, to a higher peak.

    Args:
        schedule: the schedule of the whole run.
        horizon: the shorter horizon in optimizer steps, at most that of ``schedule``.

    Example:
        >>> whole = Schedule(peak=1e-3, horizon=10_000, warmup_steps=2_000, shape="linear")
        >>> shorter = shortened(whole, 1_000)
        >>> shorter.warmup_steps, round(shorter.peak, 5)
        (200, 0.00209)
    """
    if horizon == schedule.horizon:
        return schedule
    shrink = horizon / schedule.horizon
    changes: dict[str, object] = {"horizon": horizon, "peak": schedule.peak * shrink**-EXPONENT}
    if schedule.warmup_steps:
        changes["warmup_steps"] = max(1, round(schedule.warmup_steps * shrink))
    changes["groups"] = tuple(group.scaled(shrink, horizon) for group in schedule.groups)
    return schedule.model_copy(update=changes)
