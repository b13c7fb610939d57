"""What a method may ask of a task, and what it is charged for: a table's traces, or real training.

A method trains trials of the grid's schedules, as far as it likes, and goes on with them later. Every optimizer step is
counted once. Training takes simulated time, a unit of it a step; what runs beside each other is in different slots. The
schedule that a method would return is, at any time, the one with the best final loss among those it has trained to the
end.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from autowarmup.instability.instability import Instability
from autowarmup.schedule.schedule import Schedule
from autowarmup.search.config import validation_interval
from autowarmup.search.probe import ramp
from autowarmup.training.task import ModelTask
from autowarmup.training.trace import Trace
from autowarmup.training.trial import ModelTrial
from benchmarks.search.slots import Slots
from benchmarks.search.snapping import nearest
from benchmarks.search.tables import Table

Plan = tuple[int, int, str, str]
"""A schedule's place in the grid: number of the peak, number of the duration, shape, decay."""


class BudgetSpent(Exception):  # noqa: N818 - an end, not an error
    """The method has had all the steps it may have."""


@dataclass(frozen=True)
class Completion:
    """A trial that got to its horizon: at what time, its schedule, its final loss."""

    time: int
    schedule: Schedule
    loss: float


class Objective(ABC):
    """A task under one seed.

    Args:
        name: of the task.
        grid: the schedules that may be tried.
        baselines: those that need no search; the first is the one that is used today.
        current_peak: the rate that the task's optimizer comes with.
        beta2: the optimizer's second-moment decay.
        trivial_loss: of the task, where it is known.
        budget: steps that the method may spend.
        slots: where its trials run; left out, one after the other.

    Attributes:
        spent: steps of all segments that were started.
        completions: the trials that get to their horizon, in the order in which their last segments started.
    """

    def __init__(
        self,
        name: str,
        grid: tuple[Schedule, ...],
        baselines: tuple[Schedule, ...],
        current_peak: float,
        beta2: float,
        trivial_loss: float | None,
        budget: int,
        slots: Slots[Any] | None = None,
    ) -> None:
        self.name, self.grid, self.baselines = name, grid, baselines
        self.current_peak, self.beta2, self.trivial_loss = current_peak, beta2, trivial_loss
        self.horizon = grid[0].horizon
        self.eval_every = validation_interval(self.horizon)
        self.budget, self.slots = budget, slots or Slots(1)
        self.spent = 0
        self.completions: list[Completion] = []
        self._segments: list[tuple[int, int]] = []
        self._known: dict[Hashable, Trace] = {}
        self._ends: dict[Hashable, int] = {}
        self._steps: dict[Schedule, int] = {}
        self._over: set[Hashable] = set()
        self.peaks = tuple(sorted({schedule.peak for schedule in grid}))
        self.durations = tuple(sorted({schedule.warmup_steps for schedule in grid}))
        self.shapes = tuple(dict.fromkeys(s.shape.kind for s in grid if s.warmup_steps)) or ("linear",)
        self.decays = tuple(dict.fromkeys(schedule.decay.kind for schedule in grid))
        self._places: dict[Plan, Schedule] = {}
        for schedule in grid:
            for shape in (schedule.shape.kind,) if schedule.warmup_steps else self.shapes:
                place = self.peaks.index(schedule.peak), self.durations.index(schedule.warmup_steps)
                self._places[*place, shape, schedule.decay.kind] = schedule

    def schedule(self, plan: Plan) -> Schedule:
        """The grid's schedule at a place, or the nearest where the grid has none there. Without a warm-up the shape
        makes no difference."""
        if plan not in self._places:
            peak, duration, shape, decay = plan
            steps = self.durations[duration]
            settings: dict[str, Any] = {"warmup_steps": steps, "shape": shape} if steps else {}
            wanted = Schedule(peak=self.peaks[peak], horizon=self.horizon, decay=decay, **settings)
            self._places[plan] = nearest(wanted, self.grid)
        return self._places[plan]

    def snapped(self, schedule: Schedule) -> Schedule:
        """The nearest schedule that can be trained here: itself, where it is one of the grid or of the baselines."""
        known = (*self.grid, *self.baselines)
        return schedule if schedule in known else nearest(schedule, known)

    def train(
        self,
        schedule: Schedule,
        until: int,
        stop: Callable[[Trace], Instability | None] | None = None,
        trial: Hashable = None,
    ) -> Trace:
        """Trains a schedule's trial on to step ``until``; its trace from the start.

        The trace ends early where the loss is not finite, or where ``stop``, which sees what is new, finds an
        instability. Steps that were trained before are not charged again, not even where a method proposes the same
        schedule twice: that is in favour of methods that do. A method that tells its trials apart names the ``trial``.

        Raises:
            BudgetSpent: the budget is spent before that.
        """
        key = schedule if trial is None else trial
        known = self._known.get(key, Trace.empty())
        if until > known.end and key not in self._over:
            if self.spent >= self.budget:
                raise BudgetSpent
            start = known.end
            for block in self._blocks(schedule, start, until, key):
                end = self._end(block, stop)
                known = Trace.join([known, block if end is None else cut(block, end)])
                if end is not None:
                    self._over.add(key)
                    break
            self._ends[key] = self.charge(known.end - start, self.end(key))
            self._steps[schedule] = self._steps.get(schedule, 0) + known.end - start
            self._known[key] = known
            if known.end == schedule.horizon and key not in self._over:
                self.completions.append(Completion(self._ends[key], schedule, known.evaluations[-1].val_loss))
        return cut(known, until)

    def end(self, trial: Hashable) -> int:
        """The time at which a trial has got as far as it was trained: ``now`` at the earliest."""
        return max(self.slots.now, self._ends.get(trial, 0))

    @property
    def trained(self) -> dict[Schedule, int]:
        """Steps trained of each schedule."""
        return dict(self._steps)

    def spent_by(self, time: int) -> int:
        """Steps spent by a time; of segments that were still running, what they had done."""
        return sum(min(end, time) - begin for begin, end in self._segments if begin < time)

    @staticmethod
    def _end(block: Trace, stop: Callable[[Trace], Instability | None] | None) -> int | None:
        """The step before which a block ends its trial; None where it doesn't."""
        found = stop(block) if stop else None
        if found is not None:
            return found.detected + 1
        broken = block.steps[~np.isfinite(block.loss)].tolist()
        unvalidated = [c.step for c in block.evaluations if not math.isfinite(c.val_loss)]
        return min([step + 1 for step in broken] + unvalidated, default=None)

    def charge(self, steps: int, begin: int | None = None) -> int:
        """Counts the steps of a segment, as of a probe, which begins now if not later; the time at which it ends."""
        begin = self.slots.now if begin is None else begin
        self._segments.append((begin, begin + steps))
        self.spent += steps
        return begin + steps

    @abstractmethod
    def ramp(self, steps: int) -> Trace:
        """The whole trace of an exponential ramp of the rate over that many steps; the caller charges what it uses."""

    @abstractmethod
    def _blocks(self, schedule: Schedule, start: int, until: int, trial: Hashable) -> Iterator[Trace]: ...


class TableObjective(Objective):
    """A table's task under one of the table's seeds."""

    def __init__(self, table: Table, seed: int, budget: int, slots: Slots[Any] | None = None) -> None:
        super().__init__(
            table.name, table.grid, table.baselines, table.current_peak, table.beta2, table.trivial_loss, budget, slots
        )
        self.table, self.seed = table, seed

    def ramp(self, steps: int) -> Trace:
        """The table's ramp of the nearest length."""
        nearest = min(self.table.ramps, key=lambda schedule: abs(schedule.horizon - steps))
        return self.table.traces[nearest, self.seed]

    def _blocks(self, schedule: Schedule, start: int, until: int, trial: Hashable) -> Iterator[Trace]:
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
    """A table's task under one seed, really trained; trials wait in memory between their parts."""

    def __init__(self, task: ModelTask, table: Table, seed: int, budget: int) -> None:
        super().__init__(
            table.name, table.grid, table.baselines, task.current_peak, task.beta2, task.trivial_loss, budget
        )
        self.task, self.seed = task, seed
        self._running: dict[Hashable, ModelTrial] = {}

    def ramp(self, steps: int) -> Trace:
        probe = ramp(self.current_peak, steps)
        return Trace.join(list(self._blocks(probe, 0, steps, probe)))

    def _blocks(self, schedule: Schedule, start: int, until: int, trial: Hashable) -> Iterator[Trace]:
        if trial not in self._running:
            self._running[trial] = self.task.trial(schedule, self.seed, self.eval_every, None)
        yield from self._running[trial].run(until)
