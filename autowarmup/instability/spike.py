"""Loss spikes: the loss jumps, and comes back or doesn't."""

from __future__ import annotations

from collections import deque

from autowarmup.instability.history import History, Step, unsure
from autowarmup.instability.instability import Instability, found
from autowarmup.instability.windows import SortedWindow


class Spike:
    """Reports three of four losses far above their trend, and once more, as fatal, where the loss has not come back
    half the way after ``patience`` steps.

    Args:
        history: recent losses, shared by all detectors and already updated with the step.
        noise: see :attr:`Detectors.spike_noise`.
        share: see :attr:`Detectors.spike_share`.
        record: see :attr:`Detectors.spike_record`.
        patience: optimizer steps within which the loss must have come back.
    """

    MEMORY = 500
    """Steps of which the excesses over the trend are remembered."""
    FEWEST = 8
    """Remembered excesses before the first judgement."""

    def __init__(self, history: History, *, noise: float, share: float, record: float, patience: int) -> None:
        self.history, self.patience = history, patience
        self.noise, self.share, self.record = noise, share, record
        self.last: deque[Step] = deque(maxlen=4)
        self.excesses: deque[float] = deque(maxlen=4)
        self.before = SortedWindow(self.MEMORY)
        self.since: Step | None = None
        self.base = self.peak = 0.0

    def observe(self, step: Step) -> Instability | None:
        if self.history.count <= 10:
            return None
        return self._watch(step) if self.since else self._look(step)

    def _look(self, step: Step) -> Instability | None:
        """Looks for the beginning of a spike."""
        history, before = self.history, self.before
        if len(self.last) == 4:
            before.add(self.excesses[0])
        self.last.append(step)
        self.excesses.append(history.excess)
        if len(self.last) < 4 or len(before) < self.FEWEST:
            return None
        height = sorted(self.excesses)[1]
        noise = self.noise * unsure(len(before)) * history.reach
        if height <= max(noise, self.record * before.ordered[-1], self.share * history.progress):
            return None
        self.since = next(past for excess, past in zip(self.excesses, self.last, strict=True) if excess >= height)
        self.peak = self.since.loss
        self.base = self.peak - height
        message = f"the loss jumped from {self.base:.4g} to {self.peak:.4g}"
        return found("spike", self.since, step, history.share(height), False, message)

    def _watch(self, step: Step) -> Instability | None:
        """Waits for the loss to recover from the spike that has begun."""
        assert self.since is not None
        if self.history.recent < 0.5 * (self.base + self.peak):
            self.since = None
            self.last.clear()
            self.excesses.clear()
            return None
        if step.number - self.since.number != self.patience:
            return None
        message = f"the loss jumped from {self.base:.4g} to {self.peak:.4g} and has not come back"
        return found("spike", self.since, step, 1.0, True, message)
