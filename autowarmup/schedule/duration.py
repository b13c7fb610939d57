"""Durations as people write them, in optimizer steps."""

from __future__ import annotations

import re
from numbers import Integral
from typing import Literal

from autowarmup.errors import InputError
from autowarmup.values import short

Duration = int | float | str
"""A duration as people write it: ``500`` steps, ``"10%"`` of the horizon, ``"2 epochs"``."""

_RUNS = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*runs?\s*")
_DURATION = re.compile(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*(%|epochs?|steps?|)\s*")


def parse_duration(duration: Duration) -> tuple[float, Literal["step", "%", "epoch"]]:
    """The amount and the unit of a duration.

    Raises:
        InputError: not a duration, or above 100%.

    Example:
        >>> parse_duration(500), parse_duration("2.5 %"), parse_duration("2 epochs")
        ((500.0, 'step'), (2.5, '%'), (2.0, 'epoch'))
    """
    readable = isinstance(duration, str | float) or (isinstance(duration, Integral) and abs(duration) < 2**63)
    match = _DURATION.fullmatch(str(duration)) if readable else None
    if match is None:
        raise InputError(
            f"duration {short(duration)} is not a number of steps such as 500, a share of the horizon "
            f"such as '10%', or '2 epochs'"
        )
    amount, unit = float(match[1]), match[2]
    if unit == "%":
        if amount > 100.0:
            raise InputError(f"duration {duration!r} is longer than the horizon: a share is from 0% to 100%")
        return amount, "%"
    if unit.startswith("epoch"):
        return amount, "epoch"
    if not amount.is_integer():
        raise InputError(f"duration {duration!r}: steps are whole numbers; for a share of the horizon write '10%'")
    return amount, "step"


def duration_steps(duration: Duration, horizon: int, steps_per_epoch: int | None = None) -> int:
    """``duration`` in optimizer steps.

    Args:
        duration: ``500`` or ``"500 steps"``, ``"10%"`` of ``horizon``, ``"2 epochs"`` or ``"0.5 epochs"``.
        horizon: optimizer steps of the run.
        steps_per_epoch: optimizer steps of an epoch; needed where the duration is in epochs.

    Raises:
        InputError: not a duration, negative, above 100%, or in epochs without ``steps_per_epoch``.

    Example:
        >>> duration_steps("10%", horizon=300), duration_steps("2 epochs", 300, steps_per_epoch=40)
        (30, 80)
    """
    amount, unit = parse_duration(duration)
    if unit == "%":
        return round(amount / 100.0 * horizon)
    if unit == "step":
        return int(amount)
    if steps_per_epoch is None:
        raise InputError(f"duration {duration!r} is in epochs: steps_per_epoch is needed to turn it into steps")
    return round(amount * steps_per_epoch)


def budget_steps(budget: int | str, horizon: int) -> int:
    """``budget`` in optimizer steps.

    Args:
        budget: ``5_000``, or ``"6 runs"`` or ``"2.5 runs"``.
        horizon: optimizer steps of a whole run.

    Raises:
        InputError: neither a number of steps nor of runs.

    Example:
        >>> budget_steps(5_000, horizon=300), budget_steps("2.5 runs", horizon=300)
        (5000, 750)
    """
    if isinstance(budget, str) and (match := _RUNS.fullmatch(budget)):
        return round(float(match[1]) * horizon)
    if isinstance(budget, Integral) and not isinstance(budget, bool):
        return int(budget)
    raise InputError(
        f"budget {short(budget)} is not a number of optimizer steps such as 5000, or of runs such as '6 runs'"
    )
