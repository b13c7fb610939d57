"""From the horizon that was tuned to a longer one: what is known about how the best schedule changes."""

from __future__ import annotations

from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.shapes import Rule
from autowarmup.values import Frozen

EXPONENT = 0.32
"""The best peak falls with the horizon to this power. Bjorck et al. 2024, Scaling Optimal LR Across Token Horizons,
arXiv 2409.19913, section 3."""
EXPONENTS = (0.0, 0.7)
"""What was measured on this project's tables (docs/search.md): from no change to twice that."""


class Extrapolation(Frozen):
    """A schedule for a horizon that was not trained.

    Args:
        schedule: the schedule, with the expected peak.
        tuned_steps: the horizon that was trained.
        peak_low, peak_high: the range of peaks that the measured exponents allow for.
    """

    schedule: Schedule
    tuned_steps: int
    peak_low: float
    peak_high: float

    def describe(self) -> str:
        """What was measured and what was not, in a line."""
        return (
            f"tuned at {self.tuned_steps:,} steps; at {self.schedule.horizon:,} steps the peak is extrapolated: "
            f"{self.schedule.peak:.3g}, between {self.peak_low:.3g} and {self.peak_high:.3g}"
        )


def extrapolated(schedule: Schedule, horizon: int) -> Extrapolation:
    """The schedule at a longer horizon: the same share of it warms up, along the same curve, to a lower peak.

    Args:
        schedule: as tuned.
        horizon: optimizer steps of the run it is wanted for, >= the tuned ones.

    Example:
        >>> tuned = Schedule(peak=1e-2, horizon=1_000, warmup_steps=200, shape="linear")
        >>> longer = extrapolated(tuned, 10_000)
        >>> longer.schedule.warmup_steps, round(longer.schedule.peak, 5), round(longer.peak_low, 5), longer.peak_high
        (2000, 0.00479, 0.002, 0.01)
    """
    growth = horizon / schedule.horizon
    low, high = sorted(schedule.peak * growth**-exponent for exponent in EXPONENTS)
    changes: dict[str, object] = {"horizon": horizon, "peak": schedule.peak * growth**-EXPONENT}
    if not isinstance(schedule.shape, Rule):
        changes["warmup_steps"] = round(schedule.warmup_steps * growth)
    return Extrapolation(
        schedule=schedule.model_copy(update=changes), tuned_steps=schedule.horizon, peak_low=low, peak_high=high
    )
