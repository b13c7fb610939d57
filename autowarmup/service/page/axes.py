"""The axes of the page's charts: where a value is drawn, and which values are written beside an axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

SHARES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Shares of a run that are written beside an axis."""


class Tick(NamedTuple):
    """A value beside an axis: where it is drawn, and how it is written."""

    at: float
    text: str


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high``, drawn from ``start`` to ``end``, in the chart's units.

    Args:
        low, high: the ends; values beyond them are drawn at them.
        start, end: where they are drawn.
        warp: what is drawn evenly.

    Example:
        >>> rates = Axis(0.001, 0.1, 0.0, 200.0, math.log)
        >>> round(rates.at(0.01), 3), rates.at(7.0)
        (100.0, 200.0)
    """

    low: float
    high: float
    start: float
    end: float
    warp: Callable[[float], float] = float

    def at(self, value: float) -> float:
        """Where a value is drawn."""
        low, high = self.warp(self.low), self.warp(self.high)
        share = (self.warp(min(max(value, self.low), self.high)) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, values: list[float], written: str = "{:g}") -> list[Tick]:
        """Those of the values that lie on the axis."""
        return [Tick(self.at(value), written.format(value)) for value in values if self.low <= value <= self.high]


def log_steps(low: float, high: float) -> list[float]:
    """Powers of ten from ``low`` to ``high``, both > 0, and where these are few, more between them.

    >>> log_steps(0.004, 0.3), log_steps(1e-6, 1e-1)
    ([0.005, 0.01, 0.02, 0.05, 0.1, 0.2], [1e-06, 1e-05, 0.0001, 0.001, 0.01, 0.1])
    >>> log_steps(1e-10, 1e30)
    [1e-10, 1e-05, 1.0, 100000.0, 10000000000.0, 1000000000000000.0, 1e+20, 1e+25, 1e+30]
    """
    fine: tuple[int, ...] = (1,)
    if high / low < 1e3:
        fine = (1, 2, 5) if high / low > 6 else (1, 2, 3, 4, 5, 6, 7, 8, 9)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = range(first, last + 1, 1 + (last - first) // 9)
    values = [float(f"{step}e{decade}") for decade in decades for step in fine]
    return [value for value in values if low <= value <= high]


def even_steps(low: float, high: float, most: int = 5) -> list[float]:
    """At most so many round values from ``low`` to ``high``.

    >>> even_steps(0.0, 100.0), even_steps(0.21, 0.34)
    ([0.0, 20.0, 40.0, 60.0, 80.0, 100.0], [0.22, 0.24, 0.26, 0.28, 0.3, 0.32, 0.34])
    """
    least = (high - low) / most
    power = 10.0 ** math.floor(math.log10(least))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= least * 0.75)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]
