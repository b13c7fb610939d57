"""A loss that climbs and stays."""

from __future__ import annotations

from autowarmup.instability.history import History, Lasting, Step
from autowarmup.instability.instability import Instability, found


class Divergence:
    """The loss stays above its start, or has climbed back a good part of the way there and stays."""

    FAR_STEPS = 10

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
        """All of the last losses are several times the start. Without a warm-up the second step may have blown up
        already: then the first loss is the start, the trivial one at least."""
        history, start = self.history, self.history.start
        if self.trivial is not None:
            start = min(start, max(history.first, self.trivial))
        return min(list(history.losses)[-self.FAR_STEPS :]) > start + 3 * abs(start)
