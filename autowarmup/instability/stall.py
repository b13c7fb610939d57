"""A loss that does not move."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

from autowarmup.instability.history import History, Step, median
from autowarmup.instability.instability import Instability, found


class FrozenLoss:
    """The very same loss ten times in a row. Fatal where the losses before it differed from one another: a fault.
    A run on one batch gets there by converging, and a loss of exactly 0 is a success; neither is a fault."""

    REPEATS = 10
    BEFORE = 20
    CONVERGED = 1e-4
    """Changes below this share of the loss are those of a converging run."""

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
        losses = [past.loss for past in self.last][: -self.REPEATS + 1]
        changes = [abs(after - before) for before, after in pairwise(losses)]
        differed = len(changes) == self.BEFORE and changes.count(0.0) <= 2
        return differed and median(changes) > self.CONVERGED * abs(losses[-1])


class NothingLearnt:
    """A loss that has not left its start although the rate has stopped rising. Told once, and never fatal: a slow
    starter looks the same."""

    LEAST = 100

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
