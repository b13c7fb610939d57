"""Figures of merit of a search: how much it spends until what it would return is as good as can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from autowarmup.schedule.schedule import Schedule
from benchmarks.search.objective import Objective
from benchmarks.search.tables import Table

RUNS = (1.0, 1.5, 2.0, 5.0, 10.0)
"""Full runs spent at which regret is reported."""
TIMES = (1.0, 1.5, 2.0, 5.0, 10.0)
"""Times at which regret is reported, in lengths of a run."""
MOST_RUNS, LONGEST = 10.0, 2.0
"""What a search may spend: so many full runs, or what all slots train in so many lengths of a run, if that is more."""
TOP = 0.25
"""The seed noise is taken over this share of the schedules, the best."""
FAILED = 0.1
"""A run has failed that ends less than this share of the task's reachable progress below the trivial loss."""


@dataclass(frozen=True)
class Standard:
    """What a table's schedules are judged by.

    ``best``: what the exhaustive search finds: the schedule that is best on all seeds but one, on that one, averaged
    over them. (The lowest of hundreds of noisy means would be lower by luck.) ``noise``: the seed noise: the standard
    deviation of a schedule's final loss over the seeds, that of the seeds themselves taken out, median over the better
    quarter.
    """

    table: Table

    @cached_property
    def best(self) -> float:
        finals = self.table.finals
        chosen = [np.argmin(np.delete(finals, i, axis=1).mean(axis=1)) for i in range(finals.shape[1])]
        return float(np.mean([finals[row, i] for i, row in enumerate(chosen)]))

    @cached_property
    def noise(self) -> float:
        top = np.argsort(self.table.means)[: round(TOP * len(self.table.grid))]
        finals = self.table.finals[top]
        residuals = finals - finals.mean(axis=0) - finals.mean(axis=1, keepdims=True) + finals.mean()
        return float(np.median(residuals.std(axis=1, ddof=1)))

    @cached_property
    def mean(self) -> dict[Schedule, float]:
        """The final losses of the grid and of the baselines, averaged over the seeds."""
        grid = dict(zip(self.table.grid, self.table.means.tolist(), strict=True))
        return {schedule: self._mean(schedule) for schedule in self.table.baselines} | grid

    def _mean(self, schedule: Schedule) -> float:
        losses = [self.table.traces[schedule, seed].evaluations[-1].val_loss for seed in self.table.seeds]
        return float(np.mean(losses)) if np.isfinite(losses).all() else math.inf

    @property
    def current(self) -> Schedule:
        """What is used today: the first baseline of the table."""
        return self.table.baselines[0]

    @cached_property
    def truth(self) -> str:
        """The verdict that is right: *tuned* where the best is better than the current schedule by more than the
        noise."""
        return "tuned" if self.best < self.mean[self.current] - self.noise else "tie"

    def regret(self, schedule: Schedule) -> float:
        """How much worse than the best a schedule is, averaged over the seeds, in units of the seed noise."""
        return (self.mean[schedule] - self.best) / self.noise

    @cached_property
    def unstable(self) -> set[tuple[Schedule, int]]:
        """The schedules that diverged or collapsed under a seed: not finite, or hardly better than the trivial
        predictor although the peak is no lower than the best schedule's (a low one is slow, not unstable)."""
        table = self.table
        best_peak = table.grid[int(np.argmin(table.means))].peak
        trivial = math.inf if table.trivial_loss is None else table.trivial_loss
        worst = trivial - FAILED * (trivial - self.best)
        return {
            (schedule, seed)
            for row, schedule in enumerate(table.grid)
            for column, seed in enumerate(table.seeds)
            if schedule.peak >= best_peak and not table.finals[row, column] < worst
        }


@dataclass(frozen=True)
class Change:
    """A search's would-be result changed.

    Args:
        runs: full runs spent by then.
        time: lengths of a run since the search began.
        regret: of the new result, in units of the seed noise.
    """

    runs: float
    time: float
    regret: float


@dataclass(frozen=True)
class Outcome:
    """How one search went.

    Args:
        changes: of what it would return, in order.
        spent: full runs, in all.
        unstable: share of the steps that went into trials that were or would have become unstable.
    """

    changes: tuple[Change, ...]
    spent: float
    unstable: float

    @property
    def runs_until_within(self) -> float:
        """Full runs until what it would return was within the seed noise of the best; infinite where it never was."""
        return next((change.runs for change in self.changes if change.regret <= 1.0), math.inf)

    @property
    def time_until_within(self) -> float:
        """The same in lengths of a run."""
        return next((change.time for change in self.changes if change.regret <= 1.0), math.inf)

    def regret_at_runs(self, runs: float) -> float:
        """Its regret after so many full runs; infinite before the first trial has ended."""
        return next((change.regret for change in reversed(self.changes) if change.runs <= runs), math.inf)

    def regret_at_time(self, time: float) -> float:
        """Its regret after so many lengths of a run; infinite before the first trial has ended."""
        return next((change.regret for change in reversed(self.changes) if change.time <= time), math.inf)


def budget(slots: int) -> float:
    """Full runs that a search may spend; a segment that starts before they are spent counts to its end."""
    return max(MOST_RUNS, LONGEST * slots)


def outcome(standard: Standard, objective: Objective, seed: int) -> Outcome:
    """Judges what a method has done to an objective under one of the table's seeds."""
    horizon = objective.horizon
    changes: list[Change] = []
    best = math.inf
    for done in sorted(objective.completions, key=lambda completion: completion.time):
        spent = objective.spent_by(done.time)
        if done.loss < best:
            best = done.loss
            changes.append(Change(spent / horizon, done.time / horizon, standard.regret(done.schedule)))
    wasted = sum(steps for schedule, steps in objective.trained.items() if (schedule, seed) in standard.unstable)
    return Outcome(tuple(changes), objective.spent / horizon, wasted / max(1, objective.spent))


def quantile(values: Sequence[float], share: float) -> float:
    """A quantile that knows infinity: the smallest value that at least this share of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median and the 90th percentile."""
    return {"median": quantile(values, 0.5), "p90": quantile(values, 0.9)}


def summary(outcomes: Sequence[Outcome], slots: int) -> dict[str, Any]:
    """A method's figures on one table with so many slots; see docs/search.md."""
    most = budget(slots)
    times = [time for time in TIMES if time <= most / slots]
    ticks = np.linspace(0.0, most, 41)[1:].tolist()
    return {
        "budget": most,
        "runs_until_within": spread([item.runs_until_within for item in outcomes]),
        "time_until_within": spread([item.time_until_within for item in outcomes]),
        "regret_at_runs": {f"{x:g}": spread([item.regret_at_runs(x) for item in outcomes]) for x in RUNS},
        "regret_at_time": {f"{x:g}": spread([item.regret_at_time(x) for item in outcomes]) for x in times},
        "spent": quantile([item.spent for item in outcomes], 0.5),
        "unstable": float(np.mean([item.unstable for item in outcomes])),
        "curve": {
            "runs": ticks,
            "regret_at_runs": [quantile([item.regret_at_runs(x) for item in outcomes], 0.5) for x in ticks],
            "time": [x / slots for x in ticks],
            "regret_at_time": [quantile([item.regret_at_time(x / slots) for item in outcomes], 0.5) for x in ticks],
        },
    }
