"""Stalls: the loss doesn't move."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

from autowarmup.instability.history import History, Step, median
from autowarmup.instability.instability import Instability, found


class FrozenLoss:
    """Reports exactly the same loss ten times in a row. It is fatal where the losses before differed from one another:
    then something is wrong with the training. A run on one batch may get there by converging, which is recorded only. A
    loss of exactly 0 is not reported."""

    REPEATS = 10
    """Equal losses in a row that are reported."""
    BEFORE = 20
    """Losses before them from which it is decided whether that is fatal."""
    CONVERGED = 1e-4
    """A run whose losses change by less than this share of the loss is converging."""

    def __init__(self) -> None:
        self.last: deque[Step] = deque(maxlen=self.BEFORE + self.REPEATS)
        self.repeats = 0

    def observe(self, step: Step) -> Instability | None:
        self.repeats = self.repeats + 1 if self.last and self.last[-1].loss == step.loss else 1
        self.last.append(step)
        if self.repeats != self.REPEATS or step.loss == 0.0:
            return None
        first = self.last[-self.REPEATS]
        return found("stall", first, step, 0.1, self._is_fault(), f"the loss is frozen at {step.loss:.6g}")

    def _is_fault(self) -> bool:
        """Whether the losses before the frozen ones still changed from step to step."""
        losses = [past.loss for past in self.last][: -self.REPEATS + 1]
        changes = [abs(after - before) for before, after in pairwise(losses)]
        differed = len(changes) == self.BEFORE and changes.count(0.0) <= 2
        return differed and median(changes) > self.CONVERGED * abs(losses[-1])


class NothingLearnt:
    """Reports, once, a loss that has not left its start although the learning rate has stopped rising. It is never
    fatal: a run that only starts slowly looks the same."""

    LEAST = 100
    """The fewest steps to wait; otherwise a quarter of the horizon."""

    def __init__(self, history: History, horizon: int) -> None:
        self.history, self.limit = history, max(self.LEAST, horizon // 4)
        self.idle = 0
        self.since: Step | None = None

    def observe(self, step: Step) -> Instability | None:
        history = self.history
        idle = abs(history.level - history.start) <= max(history.wander, 2 * history.sigma) and not history.rate_rising
        self.idle = self.idle + 1 if idle else 0
        if self.idle == 1:
            self.since = step
        if self.idle != self.limit or self.since is None or history.start == 0.0:
            return None
        message = f"the loss has not left its start of {history.start:.4g} for {self.limit} steps"
        return found("stall", self.since, step, 0.1, False, message)
