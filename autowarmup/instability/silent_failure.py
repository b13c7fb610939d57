"""Silent failure, told by many signs at once: the loss stays where a model learns nothing."""

from __future__ import annotations

from autowarmup.instability.forest import Forest, shipped
from autowarmup.instability.history import History, Lasting, Settled, Step
from autowarmup.instability.instability import Instability, found
from autowarmup.instability.signs import Signs


class SilentFailure:
    """Reports a silent failure: the loss was lower and has climbed back to a level at which it stays, or it has never
    left that level, although the learning rate has been high.

    Whether a run has failed or just not started yet, or converged, follows from many signs together: how long the loss
    has settled, how far it has fallen and climbed, how small the gradients have become, where the schedule is. A score
    that was fitted to many runs weighs them. It needs no trivial loss; where that is known,
    :class:`autowarmup.instability.collapse.Collapse` is used instead.

    Args:
        history: recent losses, shared by all detectors and already updated with the step.
        horizon: the length of the trial's schedule in optimizer steps.
        forest: the score; left out, the one that comes with the package.
    """

    SCORE = 3.5
    """A run counts as failed where the log-odds are above this."""
    FIRST = 15
    """Steps before the first judgement."""
    SHARE, LEAST, MOST = 0.12, 5, 240
    """How long that must last: as a share of the horizon, within limits in steps. Steps at which the loss drops don't
    count."""

    def __init__(self, history: History, horizon: int, forest: Forest | None = None) -> None:
        self.history = history
        self.patience = min(max(self.LEAST, self.SHARE * horizon), self.MOST)
        self.settled = Settled(history)
        self.signs = Signs(history, self.settled, horizon, None)
        self.forest = forest or shipped()
        self.failed = Lasting()

    def observe(self, step: Step) -> Instability | None:
        self.settled.add(step)
        if self.history.count <= self.FIRST:
            return None
        if self.history.dropping:  # as after a spike: wait
            return None
        self.failed.add(step, not self._not_started and self.forest.exceeds(self.signs.of(step), self.SCORE))
        if self.failed.since is None or self.failed.steps < self.patience:
            return None
        message = (
            f"the loss sits at {self.history.level:.4g} and learns nothing more, as where a model ignores its input"
        )
        return found("silent-failure", self.failed.since, step, 1.0, True, message)

    @property
    def _not_started(self) -> bool:
        """Whether the loss has not moved yet, and the learning rate still rises."""
        history = self.history
        return history.rate_rising and history.highest - history.lowest <= 2 * history.wander
