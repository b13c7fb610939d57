"""Silent failure: the loss stays at that of a predictor which ignores its input."""

from __future__ import annotations

from autowarmup.instability.history import MAX_PATIENCE, History, Lasting, Settled, Step
from autowarmup.instability.instability import Instability, found


class Collapse:
    """Reports a silent failure in two cases.

    *Lost*: the loss was below the trivial loss and has climbed back to it. *Stuck*: the loss has never been below the
    trivial loss, although the learning rate has been high. The trivial loss is that of the best predictor which ignores
    its input. Where it is not known, :class:`autowarmup.instability.silent_failure.SilentFailure` is used instead.

    Args:
        history: recent losses, shared by all detectors and already updated with the step.
        patience: optimizer steps to wait before damage counts as lasting, 10 to 500.
        trivial: the trivial loss.
    """

    NEAR = 0.2
    """A loss counts as back at the trivial loss when at most this share is left of what it had gained on it."""
    SMALLEST = 0.01
    """A gain below this share of the trivial loss doesn't count as a gain."""
    LOST, STUCK = 30, 40
    """The fewest steps to wait before a loss counts as lost, or as stuck."""
    CALM, LIVELY = 0.75, 1.2
    """Factors on the patience with a stuck loss: ``CALM`` where the gradients have shrunk, ``LIVELY`` elsewhere."""
    SLOW = 1.33
    """A stuck loss must also have settled for this many times the steps that it took to settle. A loss that fell
    slowly, as at a low learning rate, may go on falling slowly."""
    RISE = 1.4
    """A learning rate that still rises counts as high once it has risen by this factor since the loss settled."""

    def __init__(self, history: History, patience: int, trivial: float) -> None:
        self.history, self.patience, self.trivial = history, patience, trivial
        self.settled = Settled(history)
        self.lost, self.stuck = Lasting(), Lasting()

    def observe(self, step: Step) -> Instability | None:
        history, settled = self.history, self.settled
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
        """Steps to wait with a lost loss: half as many as the run had before the damage, within limits."""
        before = self.lost.since.number if self.lost.since else 0
        return max(self.LOST, min(before / 2, self.patience))

    def _patience_if_stuck(self) -> float:
        """Steps to wait with a stuck loss."""
        share = self.CALM if self.history.calm else self.LIVELY
        fall = self.settled.steps[0].number
        return max(share * max(self.STUCK, self.patience), min(self.SLOW * fall, MAX_PATIENCE))

    def _near(self, trivial: float) -> bool:
        """Whether the loss is at the trivial loss or above it."""
        history = self.history
        slack = max(2 * history.error, self.NEAR * (trivial - history.lowest))
        return min(history.level, history.recent) > trivial - slack

    def _learnt(self, trivial: float) -> bool:
        """Whether the loss has been below the trivial loss, and has climbed since."""
        history = self.history
        gain = trivial - history.lowest
        learnt = gain > max(self.SMALLEST * abs(trivial), 4 * history.error)
        return learnt and history.level - history.lowest > history.wander

    def _stuck(self, trivial: float, rate: float) -> bool:
        """Whether training has moved the loss without bringing it below the trivial loss, at a learning rate near its
        highest. A loss that has not moved yet doesn't count, nor one that is still falling from its start."""
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
        """Whether the learning rate has stopped rising, or has risen much since the loss settled."""
        return not self.history.rate_rising or rate > self.RISE * self.settled.steps[0].lr
