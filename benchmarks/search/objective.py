"""What a method may ask of a task, and what it is charged for: a table's traces, or real training.

A method trains trials of the grid's schedules, as far as it likes, and goes on with them later. Every optimizer step is
counted once. The schedule that a method would return is, at any time, the one with the best final loss among those it
has trained to the end.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from autowarmup.instability.instability import Instability
from autowarmup.schedule.schedule import Schedule
from autowarmup.search.config import validation_interval
from autowarmup.search.probe import ramp
from autowarmup.training.task import ModelTask
from autowarmup.training.trace import Trace
from autowarmup.training.trial import ModelTrial
from benchmarks.search.tables import Table

Plan = tuple[int, int, str, str]
"""A schedule's place in the grid: number of the peak, number of the duration, shape, decay."""


class BudgetSpent(Exception):  # noqa: N818 - an end, not an error
    """The method has had all the steps it may have."""


@dataclass(frozen=True)
class Completion:
    """A trial that got to its horizon: what had been spent by then, in steps; its schedule; its final loss."""

    spent: int
    schedule: Schedule
    loss: float


class Objective(ABC):
    """A task under one seed.

    Args:
        name: of the task.
        grid: the schedules that may be tried.
        current_peak: the rate that the task's optimizer comes with.
        beta2: the optimizer's second-moment decay.
        budget: steps that the method may spend.

    Attributes:
        spent: steps trained so far.
        completions: the trials that got to their horizon, in order.
    """

    def __init__(
        self, name: str, grid: tuple[Schedule, ...], current_peak: float, beta2: float, trivial_loss: float | None,
        budget: int,
    ) -> None:  # fmt: skip
        self.name, self.grid, self.current_peak, self.beta2 = name, grid, current_peak, beta2
        self.trivial_loss = trivial_loss
        self.horizon = grid[0].horizon
        self.eval_every = validation_interval(self.horizon)
        self.budget = budget
        self.spent = 0
        self.completions: list[Completion] = []
        self._known: dict[Schedule, Trace] = {}
        self._over: set[Schedule] = set()
        self.peaks = tuple(sorted({schedule.peak for schedule in grid}))
        self.durations = tuple(sorted({schedule.warmup_steps for schedule in grid}))
        self.shapes = tuple(dict.fromkeys(s.shape.kind for s in grid if s.warmup_steps))
        self.decays = tuple(dict.fromkeys(schedule.decay.kind for schedule in grid))
        self._places: dict[Plan, Schedule] = {}
        for schedule in grid:
            for shape in (schedule.shape.kind,) if schedule.warmup_steps else self.shapes:
                place = self.peaks.index(schedule.peak), self.durations.index(schedule.warmup_steps)
                self._places[*place, shape, schedule.decay.kind] = schedule

    def schedule(self, plan: Plan) -> Schedule:
        """The grid's schedule at a place. Without a warm-up the shape makes no difference."""
        return self._places[plan]

    def train(self, schedule: Schedule, until: int, stop: Callable[[Trace], Instability | None] | None = None) -> Trace:
        """Trains a schedule's trial on to step ``until``; its trace from the start.

        The trace ends early where the loss is not finite, or where ``stop``, which sees what is new, finds an
        instability. Steps that were trained before are not charged again, not even where a method proposes the same
        schedule twice: that is in favour of methods that do.

        Raises:
            BudgetSpent: the budget is spent before that.
        """
        known = self._known.get(schedule, Trace.empty())
        if until > known.end and schedule not in self._over:
            if self.spent >= self.budget:
                raise BudgetSpent
            start = known.end
            for block in self._blocks(schedule, start, until):
                end = self._end(block, stop)
                known = Trace.join([known, block if end is None else cut(block, end)])
                if end is not None:
                    self._over.add(schedule)
                    break
            self.charge(known.end - start)
            self._known[schedule] = known
            if known.end == schedule.horizon and schedule not in self._over:
                self.completions.append(Completion(self.spent, schedule, known.evaluations[-1].val_loss))
        return cut(known, until)

    @property
    def trained(self) -> dict[Schedule, int]:
        """Steps trained of each schedule."""
        return {schedule: trace.end for schedule, trace in self._known.items()}

    @staticmethod
    def _end(block: Trace, stop: Callable[[Trace], Instability | None] | None) -> int | None:
        """The step before which a block ends its trial; None where it doesn't."""
        found = stop(block) if stop else None
        if found is not None:
            return found.detected + 1
        broken = block.steps[~np.isfinite(block.loss)].tolist()
        unvalidated = [c.step for c in block.evaluations if not math.isfinite(c.val_loss)]
        return min([step + 1 for step in broken] + unvalidated, default=None)

    def charge(self, steps: int) -> None:
        """Counts steps spent elsewhere, as on a probe."""
        self.spent += steps

    @abstractmethod
    def ramp(self, steps: int) -> Trace:
        """The whole trace of an exponential ramp of the rate over that many steps; the caller charges what it uses."""

    @abstractmethod
    def _blocks(self, schedule: Schedule, start: int, until: int) -> Iterator[Trace]: ...


class TableObjective(Objective):
    """A table's task under one of the table's seeds."""

    def __init__(self, table: Table, seed: int, budget: int) -> None:
        super().__init__(table.name, table.grid, table.current_peak, table.beta2, table.trivial_loss, budget)
        self.table, self.seed = table, seed

    def ramp(self, steps: int) -> Trace:
        """The table's ramp of the nearest length."""
        nearest = min(self.table.ramps, key=lambda schedule: abs(schedule.horizon - steps))
        return self.table.traces[nearest, self.seed]

    def _blocks(self, schedule: Schedule, start: int, until: int) -> Iterator[Trace]:
        yield between(self.table.traces[schedule, self.seed], start, until)


def between(trace: Trace, start: int, until: int) -> Trace:
    """The trace from step ``start`` to step ``until``."""
    first, last = start - trace.start, until - trace.start
    return Trace(
        trace.lr[first:last],
        trace.loss[first:last],
        trace.grad_norm[first:last],
        tuple(evaluation for evaluation in trace.evaluations if start < evaluation.step <= until),
        start,
    )


def cut(trace: Trace, until: int) -> Trace:
    """The trace up to step ``until``."""
    return between(trace, trace.start, until)


class LiveObjective(Objective):
    """A task under one seed, really trained; trials wait in memory between their parts."""

    def __init__(self, task: ModelTask, name: str, grid: tuple[Schedule, ...], seed: int, budget: int) -> None:
        super().__init__(name, grid, task.current_peak, task.beta2, task.trivial_loss, budget)
        self.task, self.seed = task, seed
        self._running: dict[Schedule, ModelTrial] = {}

    def ramp(self, steps: int) -> Trace:
        return Trace.join(list(self._blocks(ramp(self.current_peak, steps), 0, steps)))

    def _blocks(self, schedule: Schedule, start: int, until: int) -> Iterator[Trace]:
        if schedule not in self._running:
            self._running[schedule] = self.task.trial(schedule, self.seed, self.eval_every, None)
        yield from self._running[schedule].run(until)
