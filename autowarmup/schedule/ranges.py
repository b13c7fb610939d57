"""Ranges and lists of choices, as a search space holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, Field, field_validator, model_validator

from autowarmup.errors import SpaceError
from autowarmup.schedule.duration import Duration, duration_steps, parse_duration
from autowarmup.values import Frozen, Number

LOWEST_RATE, HIGHEST_RATE = 1e-12, 1e6

Rate = Annotated[Number, Field(ge=LOWEST_RATE, le=HIGHEST_RATE)]
"""A learning rate as people give it."""

MAX_CHOICES = 100
"""Longest list of choices that is looked at."""


def _choices(value: Any) -> Any:
    """A single choice is a list of one; no choice stands twice."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("must hold one choice at least")
        if len(value) > MAX_CHOICES:
            raise ValueError(f"has {len(value):,} choices; allowed: up to {MAX_CHOICES}")
        if any(value.count(choice) > 1 for choice in value):
            raise ValueError("a choice stands twice")
    return value


def _fixed(value: Any) -> Any:
    """A fixed value is a range from itself to itself."""
    if value is None or isinstance(value, Mapping | Range):
        return value
    if isinstance(value, bool) or not isinstance(value, Real) or not -math.inf < cast(float, value) < math.inf:
        raise ValueError("must be a finite number, or a range such as {low: 0.1, high: 0.5}")
    return {"low": value, "high": value}


def _fixed_duration(value: Any) -> Any:
    """The same for durations."""
    if isinstance(value, Mapping | DurationRange):
        return value
    parse_duration(value)
    return {"low": value, "high": value}


Choices = BeforeValidator(_choices)
Fixed = BeforeValidator(_fixed)
FixedDuration = BeforeValidator(_fixed_duration)


class Range(Frozen):
    """All numbers from ``low`` to ``high``, searched on a linear or a logarithmic scale."""

    low: Number
    high: Number
    scale: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError("reversed bounds: low is above high")
        if self.scale == "log" and self.low <= 0.0:
            raise ValueError("a log scale needs bounds above 0")
        return self


class PeakRange(Range):
    """Peak learning rates, searched on a logarithmic scale."""

    low: Number = Field(gt=0.0)
    high: Number = Field(gt=0.0)
    scale: Literal["log"] = "log"


class DurationRange(Frozen):
    """Warm-up durations: steps (``500``), a share of the horizon (``10%``) or epochs (``2 epochs``).

    Searched on a square-root scale: short warm-ups differ more from one another than long ones do. A duration
    of 0 is no warm-up, whatever the shape.
    """

    low: Duration
    high: Duration

    @field_validator("low", "high", mode="before")
    @classmethod
    def _readable(cls, value: Duration) -> Duration:
        parse_duration(value)
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        (low, low_unit), (high, high_unit) = parse_duration(self.low), parse_duration(self.high)
        if low > high and low_unit == high_unit:
            raise ValueError("reversed bounds: low is above high")
        return self

    def steps(self, horizon: int, steps_per_epoch: int | None) -> tuple[int, int]:
        """Both bounds in steps.

        Raises:
            InputError: a bound is in epochs, and ``steps_per_epoch`` is missing.
            SpaceError: they are reversed, or the longest warm-up leaves nothing of the horizon.
        """
        low = duration_steps(self.low, horizon, steps_per_epoch)
        high = duration_steps(self.high, horizon, steps_per_epoch)
        if low > high:
            raise SpaceError(f"warmup: reversed bounds: low={self.low!r} is {low} steps, high={self.high!r} is {high}")
        if high >= horizon:
            raise SpaceError(f"warmup: high={self.high!r} is {high} steps, the horizon is only {horizon}")
        return low, high
