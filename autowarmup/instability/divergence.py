"""Divergence: the loss climbs and doesn't come back."""

from __future__ import annotations

from autowarmup.instability.history import History, Lasting, Step
from autowarmup.instability.instability import Instability, found


class Divergence:
    """Reports a loss that stays above where it started, or that has lost a good part of its progress and stays there.

    Args:
        history: recent losses, shared by all detectors and already updated with the step.
        climb_share: the share of the progress made that a loss must have lost.
        patience: optimizer steps to wait before damage counts as lasting, 10 to 500.
        trivial: the loss of the best predictor that ignores its input, or None.
    """

    FAR_STEPS = History.HALF
    """Consecutive losses that must all lie far above the start."""

    def __init__(self, history: History, climb_share: float, patience: int, trivial: float | None) -> None:
        self.share, self.history, self.patience, self.trivial = climb_share, history, patience, trivial
        self.above, self.climbed = Lasting(), Lasting()

    def observe(self, step: Step) -> Instability | None:
        history = self.history
        if history.count < self.FAR_STEPS:
            return None
        staying, far = not history.falling, self._far_above()
        climb = history.level - history.lowest
        above = history.level - history.start > max(4 * history.error, 0.25 * abs(history.start))
        self.above.add(step, far or (staying and above))
        self.climbed.add(step, staying and climb > max(history.wander, self.share * history.progress))
        for lasting, patience in (self.above, self.patience), (self.climbed, 2 * self.patience):
            if lasting.since is not None and lasting.steps >= patience and (staying or far):
                message = f"the loss climbed from {history.lowest:.4g} to {history.level:.4g} and stays there"
                return found("divergence", lasting.since, step, history.share(climb), True, message)
        return None

    def _far_above(self) -> bool:
        """Whether all of the last losses are several times the start. Without a warm-up the second step may already
        have diverged, which raises ``history.start``; so the start is taken to be at most the first loss or the trivial
        loss, whichever is higher."""
        history, start = self.history, self.history.start
        if self.trivial is not None:
            start = min(start, max(history.first, self.trivial))
        return history.latest.ordered[0] > start + 3 * abs(start)
