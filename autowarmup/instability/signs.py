"""What a trial's recent steps say about a silent failure, as numbers that mean the same for every task."""

from __future__ import annotations

import math

from autowarmup.instability.history import History, Settled, Step

NAMES = (
    "settled steps",
    "settled share",
    "share of the run",
    "fall from the start",
    "climb",
    "climb in its noise",
    "fall in its noise",
    "range of levels",
    "gradient against the first",
    "gradient against the largest",
    "rate against the highest",
    "rate rises",
    "rate since settling",
    "loss falls",
    "step of settling",
    "above trivial",
    "above trivial in its noise",
    "lowest above trivial in its noise",
)
"""The signs, in the order of :meth:`Signs.of`."""
SMALL = 1e-12


class Signs:
    """Reads the signs of a silent failure off a trial's history.

    Losses are divided by the loss's start or by the noise of its level, gradients by earlier gradients, learning rates
    by earlier rates, steps by the horizon. So no unit is left.

    Args:
        history: recent losses, already updated with the step.
        settled: the last steps over which the loss has not fallen.
        horizon: the length of the trial's schedule in optimizer steps.
        trivial: the trivial loss, or None where it is not known.
    """

    def __init__(self, history: History, settled: Settled, horizon: int, trivial: float | None) -> None:
        self.history, self.settled, self.horizon, self.trivial = history, settled, horizon, trivial

    def of(self, step: Step) -> tuple[float, ...]:
        """The signs at this step, in the order of :data:`NAMES`; NaN where one is not known."""
        history, settled = self.history, self.settled
        began, count = settled.steps[0], len(settled.steps)
        level, start, lowest = history.level, history.start, history.lowest
        unit = abs(start) + SMALL
        error = history.error + 1e-9 * unit
        trivial = math.nan if self.trivial is None else self.trivial
        return (
            math.log(count),
            math.log(count / self.horizon),
            (step.number + 1) / self.horizon,
            _within(-1.0, (level - start) / unit, 2.0),
            _within(0.0, (level - lowest) / unit, 2.0),
            _within(0.0, (level - lowest) / (history.wander + error), 20.0),
            _within(-60.0, (settled.level - start) / error, 60.0),
            _within(0.0, (history.highest - lowest) / unit, 2.0),
            _log_ratio(history.norm, history.first_norm),
            _log_ratio(history.norm, history.largest_norm),
            step.lr / history.max_rate if history.max_rate else 1.0,
            float(history.rate_rising),
            _within(-5.0, _log_ratio(step.lr, began.lr), 5.0),
            float(history.falling),
            began.number / self.horizon,
            _within(-2.0, (level - trivial) / (abs(trivial) + SMALL), 2.0),
            _within(-60.0, (level - trivial) / error, 60.0),
            _within(-60.0, (lowest - trivial) / error, 60.0),
        )


def _within(low: float, value: float, high: float) -> float:
    """The value, kept between two bounds; NaN stays NaN."""
    return low if value < low else high if value > high else value


def _log_ratio(value: float, other: float) -> float:
    """The natural logarithm of a ratio of numbers that are not negative; NaN where the first one is."""
    return math.log(max(value, SMALL) / max(other, SMALL))
