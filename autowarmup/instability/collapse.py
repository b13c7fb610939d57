"""Silent failure: the loss is that of a predictor which ignores its input."""

from __future__ import annotations

from autowarmup.instability.history import MAX_PATIENCE, History, Lasting, Settled, Step
from autowarmup.instability.instability import Instability, found


class Collapse:
    """The loss is back at the trivial predictor's, or has never come below it although the rate has been high."""

    NEAR = 0.2
    """The loss is back that has lost all but this share of what it had gained on the trivial one."""
    SMALLEST = 0.01
    """Gains below this share of the trivial loss are none."""
    LOST, STUCK = 30, 40
    """The least patience, in steps."""
    CALM, LIVELY = 0.75, 1.2
    """Patience with a stuck loss whose gradients have shrunk, and with others, in units of the patience."""
    SLOW = 1.33
    """A loss is stuck that has settled this many times as long as it took to get there: what falls slowly, as at a
    low rate, gets on slowly too."""
    RISE = 1.4
    """A rate that still rises has been high if it has risen by this factor since the loss settled."""

    def __init__(self, history: History, patience: int, trivial: float | None) -> None:
        self.history, self.patience, self.trivial = history, patience, trivial
        self.settled = Settled(history)
        self.lost, self.stuck = Lasting(), Lasting()

    def observe(self, step: Step) -> Instability | None:
        history, settled = self.history, self.settled
        if self.trivial is None:
            return None
        settled.add(step)
        if history.count < settled.LEAST:
            return None
        near = self._near(self.trivial)
        self.lost.add(step, near and self._learnt(self.trivial))
        self.stuck.add(step, near and self._stuck(self.trivial, step.lr))
        for lasting, patience in (self.lost, self._patience_if_lost()), (self.stuck, self._patience_if_stuck()):
            if lasting.since is not None and near and min(lasting.steps, len(settled.steps)) >= patience:
                message = f"the loss sits at {history.level:.4g}; ignoring the input would give {self.trivial:.4g}"
                return found("silent-failure", lasting.since, step, 1.0, True, message)
        return None

    def _patience_if_lost(self) -> float:
        """Half as many steps as the run had before, within limits."""
        before = self.lost.since.number if self.lost.since else 0
        return max(self.LOST, min(before / 2, self.patience))

    def _patience_if_stuck(self) -> float:
        share = self.CALM if self.history.calm else self.LIVELY
        fall = self.settled.steps[0].number
        return max(share * max(self.STUCK, self.patience), min(self.SLOW * fall, MAX_PATIENCE))

    def _near(self, trivial: float) -> bool:
        """At the trivial loss or above."""
        history = self.history
        slack = max(2 * history.error, self.NEAR * (trivial - history.lowest))
        return min(history.level, history.recent) > trivial - slack

    def _learnt(self, trivial: float) -> bool:
        """The loss had been below the trivial one, and has climbed since."""
        history = self.history
        gain = trivial - history.lowest
        learnt = gain > max(self.SMALLEST * abs(trivial), 4 * history.error)
        return learnt and history.level - history.lowest > history.wander

    def _stuck(self, trivial: float, rate: float) -> bool:
        """Training has moved the loss, to no avail, and the rate is as high as it gets. A loss that has not moved
        yet has not started, and one on its way down from its start has not arrived."""
        history, settled = self.history, self.settled
        way_down = 0.25 * (history.start - trivial)
        arrived = history.level - trivial < max(way_down, 0.1 * abs(trivial)) or history.level > history.start
        highest = max(history.highest, history.start - 2 * history.sigma)
        moved = highest - history.lowest > max(2 * history.wander, 0.05 * abs(trivial))
        before = max(history.start, history.lowest + history.error, trivial)
        height = min(history.level, settled.level) - before
        worse = height > max(3 * settled.error, 0.05 * abs(trivial))
        return arrived and (moved or worse) and rate > 0.5 * history.max_rate and self._rate_was_high(rate)

    def _rate_was_high(self, rate: float) -> bool:
        return not self.history.rate_rising or rate > self.RISE * self.settled.steps[0].lr
