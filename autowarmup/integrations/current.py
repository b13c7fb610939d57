"""The schedule that is used today, from the learning rates that a framework's own scheduler applies."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autowarmup.errors import InputError
from autowarmup.export.deviation import EXACT, deviation
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.shapes import WITHOUT_WARMUP, half_wave

AT_PEAK = 1.0 - 1e-9
"""A learning rate of this share of the peak is the peak."""


def nearest_schedule(rates: Sequence[float]) -> tuple[Schedule, float]:
    """The schedule that comes nearest to the learning rates of a run.

    Args:
        rates: of all its optimizer steps; at least one is above 0.

    Returns:
        The schedule, and its largest difference from the rates as a share of the peak.

    Example:
        >>> schedule, deviation = nearest_schedule([0.0, 0.1, 0.2, 0.3, 0.2, 0.1])
        >>> schedule.describe(), round(deviation, 9)
        ('peak 0.3, linear warm-up over 3 steps (50%) from 0 x peak, linear decay to 0 at step 6', 0.0)
    """
    peak = max(rates)
    shares = [rate / peak for rate in rates]
    best: tuple[float, Schedule] | None = None
    for warmup in _warmups(shares):
        for decay in _decays(shares, warmup["warmup_steps"]):
            schedule = Schedule(peak=peak, horizon=len(rates), **warmup, **decay)
            off, _ = deviation(schedule, shares.__getitem__)
            if best is None or off < best[0]:
                best = off, schedule
    assert best is not None
    return best[1], best[0]


def current_settings(rates: Sequence[float], whose: str) -> dict[str, Any]:
    """What ``autotune`` takes as ``current``, for a run of any length: :func:`nearest_schedule` without its horizon.
    Where it is not the same as the rates, a warning is logged.

    Args:
        rates: of all optimizer steps.
        whose: what applies them, for messages.

    Raises:
        InputError: none of the rates is above 0.
    """
    if not max(rates) > 0.0:
        raise InputError(f"{whose} has a learning rate of {max(rates):g} at every step: there is nothing to tune")
    schedule, off = nearest_schedule(rates)
    if off > EXACT:
        logging.getLogger("autowarmup").warning(
            f"{whose} applies learning rates that no Schedule has. The current schedule, which new ones have to beat, "
            f"is the nearest, up to {off:.1%} of the peak away: {schedule.describe()}. To name another one, pass "
            f"current= to autotune"
        )
    settings = schedule.model_dump()
    del settings["horizon"]
    return settings


def rates_of(optimizer: Optimizer, scheduler: LRScheduler, steps: int) -> list[float]:
    """The learning rates of a run's optimizer steps under a scheduler that is stepped after each; it is used up. Those
    of the parameter group with the highest one. A scheduler that follows a metric is taken as constant."""
    groups = optimizer.param_groups
    group = max(groups, key=lambda one: float(one.get("initial_lr", one["lr"])))
    if "metrics" in inspect.signature(scheduler.step).parameters:
        return [float(group["lr"])] * steps
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no optimizer step is made here
        for _ in range(steps):
            rates.append(float(group["lr"]))
            scheduler.step()
    return rates


def _warmups(shares: list[float]) -> Iterator[dict[str, Any]]:
    """Warm-ups that reach the peak where ``shares`` first do."""
    steps, start = next(step for step, share in enumerate(shares) if share >= AT_PEAK), round(shares[0], 12)
    if steps == 0:
        yield WITHOUT_WARMUP
        return
    first = None if abs(start - 1.0 / (steps + 1)) < 1e-9 else start  # one step of the ramp, at any length
    yield {"shape": "linear", "warmup_steps": steps, "start_factor": first}
    yield {"shape": "cosine", "warmup_steps": steps, "start_factor": start}
    if start > 0.0:
        yield {"shape": "exponential", "warmup_steps": steps, "start_factor": start}


def _decays(shares: list[float], top: int) -> Iterator[dict[str, Any]]:
    """Decays from the peak at step ``top`` to the last step's share."""
    yield {"decay": "constant"}
    length, last = len(shares) - top, shares[-1]
    if length < 2 or last >= AT_PEAK:
        return
    left = 1.0 / length
    yield {"decay": "linear", "final_factor": _end(last, left)}
    yield {"decay": "cosine", "final_factor": _end(last, half_wave(left))}
    if last > 0.0:
        yield {"decay": "exponential", "final_factor": last ** (1.0 / (1.0 - left))}
        timescale = max(1, round((length - 1) * last**2 / (1.0 - last**2)))
        yield {"decay": {"kind": "inverse-sqrt", "timescale": timescale}}
    falls = next(step for step in range(top, len(shares)) if shares[step] < AT_PEAK)
    cooldown = len(shares) - (falls - 1)
    wsd = {"kind": "wsd", "cooldown": cooldown / len(shares)}
    yield {"decay": wsd, "final_factor": _end(last, 1.0 / cooldown)}


def _end(last: float, height: float) -> float:
    """The final factor of a decay whose last step, at this height above it, has the share ``last``."""
    return min(1.0, max(0.0, round((last - height) / (1.0 - height), 12)))
