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

BUDGETS = (1.0, 1.5, 2.0, 5.0, 10.0)
"""Budgets, in full runs, at which regret is reported."""
MOST = 10.0
"""Full runs that a search may spend. One that has not got there by then counts as ``math.inf``."""
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
        return dict(zip(self.table.grid, self.table.means.tolist(), strict=True))

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
class Outcome:
    """How one search went.

    Args:
        cost: full runs spent until the schedule it would return was within the seed noise of the best.
        regrets: ``(full runs spent, regret in units of the noise)`` whenever what it would return changed.
        spent: full runs, in all.
        unstable: share of the steps that went into trials that were or would have become unstable.
    """

    cost: float
    regrets: tuple[tuple[float, float], ...]
    spent: float
    unstable: float

    def regret_at(self, budget: float) -> float:
        """Its regret after so many full runs; infinite before the first trial has ended."""
        return next((regret for spent, regret in reversed(self.regrets) if spent <= budget), math.inf)


def outcome(standard: Standard, objective: Objective, seed: int) -> Outcome:
    """Judges what a method has done to an objective under one of the table's seeds."""
    horizon = objective.horizon
    regrets: list[tuple[float, float]] = []
    best = math.inf
    for done in objective.completions:
        if done.loss < best and done.spent <= MOST * horizon:
            best = done.loss
            regrets.append((done.spent / horizon, standard.regret(done.schedule)))
    cost = next((spent for spent, regret in regrets if regret <= 1.0), math.inf)
    wasted = sum(steps for schedule, steps in objective.trained.items() if (schedule, seed) in standard.unstable)
    return Outcome(cost, tuple(regrets), objective.spent / horizon, wasted / max(1, objective.spent))


def quantile(values: Sequence[float], share: float) -> float:
    """A quantile that knows infinity: the smallest value that at least this share of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """A method's figures on one table."""
    costs = [item.cost for item in outcomes]
    return {
        "searches": len(outcomes),
        "cost_median": quantile(costs, 0.5),
        "cost_p90": quantile(costs, 0.9),
        "unstable": float(np.mean([item.unstable for item in outcomes])),
        "spent": quantile([item.spent for item in outcomes], 0.5),
        "regret": {str(budget): quantile([o.regret_at(budget) for o in outcomes], 0.5) for budget in BUDGETS},
        "regret_p90": {str(budget): quantile([o.regret_at(budget) for o in outcomes], 0.9) for budget in BUDGETS},
    }
