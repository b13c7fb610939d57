"""How far what a framework applies is from the schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from autowarmup.export.base import Plan

EXACT = 1e-6
"""A learning rate is exact where it is within this share of the peak."""

EVERY = 20_000
"""Schedules of up to so many steps are compared at every step."""

NEAR_BENDS = 100
"""Steps on each side of a bend that are compared in longer ones."""


def deviation(
    plan: Plan, share: Callable[[int], float], by_group: Mapping[str, Callable[[int], float]] | None = None
) -> tuple[float, int]:
    """The largest difference from the schedule as a share of the peak, and the step where it is. A horizon above
    20,000 steps is compared at about as many, among them all near the start, the end, and the bends of the schedule.

    Args:
        plan: the schedule.
        share: what a framework applies at each step, as a share of the peak.
        by_group: the same for each of the schedule's groups, by its name.
    """
    largest, step = max((abs(share(step) - expected), -step) for step, expected in _expected(plan))
    for name, of_group in (by_group or {}).items():
        found = max((abs(of_group(at) - plan.rates_at(at)[name] / plan.peak), -at) for at, _ in _expected(plan))
        largest, step = max((largest, step), found)
    return largest, -step


@lru_cache(maxsize=4)
def _expected(plan: Plan) -> list[tuple[int, float]]:
    """Steps, each with its share of the peak."""
    steps = set(range(0, plan.horizon, max(1, plan.horizon // EVERY)))
    thaws = [group.frozen_steps for group in plan.groups]
    for bend in (0, plan.warmup_steps, plan.duration, _cooldown(plan), plan.horizon, *thaws):
        steps |= set(range(max(0, bend - NEAR_BENDS), min(plan.horizon, bend + NEAR_BENDS)))
    return [(step, plan.lr_at(step) / plan.peak) for step in sorted(steps)]


def _cooldown(plan: Plan) -> int:
    """The step where a warmup-stable-decay schedule begins to fall."""
    return plan.horizon - round(getattr(plan.decay, "cooldown", 0.0) * plan.horizon)
