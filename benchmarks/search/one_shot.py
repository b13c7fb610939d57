"""Rules that choose a schedule without a search: each trains one run, and returns it. All decay linearly."""

from __future__ import annotations

from collections.abc import Callable

from autowarmup.schedule.schedule import Schedule
from autowarmup.search.probe import peak_of_ramp
from benchmarks.search.objective import Objective, cut
from benchmarks.search.snapping import nearest

PROBE = 0.1
"""Length of the ramp as a share of the horizon."""


def today_10(objective: Objective, seed: int) -> None:
    """Today's rate, 10% linear warm-up."""
    _train(objective, objective.current_peak, 0.1)


def today_15(objective: Objective, seed: int) -> None:
    """Today's rate, 15% linear warm-up."""
    _train(objective, objective.current_peak, 0.15)


def ramp_15(objective: Objective, seed: int) -> None:
    """The ramp's peak, 15% linear warm-up."""
    _train(objective, _peak_of_ramp(objective), 0.15)


def ramp_40(objective: Objective, seed: int) -> None:
    """The ramp's peak, 40% linear warm-up."""
    _train(objective, _peak_of_ramp(objective), 0.4)


def _train(objective: Objective, peak: float, share: float) -> None:
    """A whole run of the nearest schedule in the grid, from when the probe, if any, has ended."""
    horizon = objective.horizon
    wanted = Schedule(peak=peak, horizon=horizon, warmup_steps=round(share * horizon), shape="linear", decay="linear")
    objective.train(nearest(wanted, objective.grid), horizon)


def _peak_of_ramp(objective: Objective) -> float:
    steps = max(10, round(PROBE * objective.horizon))
    trace = cut(objective.ramp(steps), steps)
    objective.slots.now = objective.charge(len(trace))
    return peak_of_ramp(trace, objective.current_peak)


ONE_SHOT: dict[str, Callable[[Objective, int], None]] = {
    rule.__name__: rule for rule in (today_10, today_15, ramp_15, ramp_40)
}
ONE_SHOT_ABOUT = {
    "today_10": "one shot: today's rate, 10% warm-up",
    "today_15": "one shot: today's rate, 15% warm-up",
    "ramp_15": "one shot: the ramp's peak, 15% warm-up",
    "ramp_40": "one shot: the ramp's peak, 40% warm-up",
}
