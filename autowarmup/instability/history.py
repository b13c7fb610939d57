"""Recent steps of a trial: levels, noise, and how long something has lasted."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""
MEDIAN_ERROR = 1.2533
"""Standard error of a median of n normal values, in units of ``sigma / sqrt(n)``."""
MIN_PATIENCE, MAX_PATIENCE = 10, 500
"""Bounds of the steps that a detector waits before damage counts as lasting."""


class Step(NamedTuple):
    """One observation."""

    number: int
    lr: float
    loss: float
    grad_norm: float


def median(values: Iterable[float]) -> float:
    """The middle value, the upper one of two."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


class History:
    """Recent losses, the line through them, how far losses stray from it, and the run's marks.

    ``level`` is the median of the last 20 losses, ``recent`` that of the last five; ``sigma`` the noise of one loss,
    ``error`` that of a level; ``start`` the first losses, ``lowest`` the lowest level so far.
    """

    WINDOW = 20
    NOISE = 40

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=self.WINDOW)
        self.rates: deque[float] = deque(maxlen=self.WINDOW)
        self.levels: deque[float] = deque(maxlen=2 * self.WINDOW)
        self.excesses: deque[float] = deque(maxlen=self.NOISE)
        self.norms: deque[float] = deque(maxlen=self.WINDOW)
        self.first_norm = 0.0
        self.count = 0
        self.first = self.start = self.level = self.recent = self.earlier = self.excess = self.sigma = self.reach = 0.0
        self.lowest, self.highest = math.inf, -math.inf
        self.max_rate = 0.0

    def add(self, step: Step) -> None:
        self.count += 1
        if self.count > 8:
            self.excess = step.loss - self._expected()
            self.excesses.append(self.excess)
            middle = median(self.excesses)
            self.sigma = MAD_TO_SIGMA * median(abs(excess - middle) for excess in self.excesses)
            self.reach = self._ninth()
        self.losses.append(step.loss)
        self.rates.append(step.lr)
        self.max_rate = max(self.max_rate, step.lr)
        if math.isfinite(step.grad_norm):
            self.norms.append(step.grad_norm)
            if len(self.norms) <= 5:
                self.first_norm = median(self.norms)
        if self.count == 1:
            self.first = step.loss
        if self.count <= 3:
            self.start = median(self.losses)
        losses = list(self.losses)
        self.level, self.recent, self.earlier = median(losses), median(losses[-5:]), median(losses[:10])
        self.levels.append(self.level)
        if self.count >= 10:
            self.lowest = min(self.lowest, self.level)
            self.highest = max(self.highest, self.level)

    def _ninth(self) -> float:
        """What nine of ten excesses stay below, the last four, which may be a spike's, left out."""
        sizes = sorted(abs(excess) for excess in list(self.excesses)[:-4])
        return sizes[int(0.9 * len(sizes))] if sizes else 0.0

    def _expected(self) -> float:
        """The next loss on the line through the medians of the window's two halves, not below its lowest half."""
        losses = list(self.losses)
        half = len(losses) // 2
        earlier, later = median(losses[:half]), median(losses[half:])
        return max(later + (later - earlier) * 0.5, min(losses[half:]))

    @property
    def error(self) -> float:
        return MEDIAN_ERROR * self.sigma / math.sqrt(self.WINDOW)

    @property
    def wander(self) -> float:
        """How far the levels of a run that goes nowhere range: the extremes of n normal values lie
        ``2 sqrt(2 ln n)`` standard deviations apart, asymptotically. Leadbetter, Lindgren & Rootzén 1983, Extremes
        and Related Properties of Random Sequences and Processes, theorem 1.5.3."""
        return self.error * 2.0 * math.sqrt(2.0 * math.log(1.0 + self.count / self.WINDOW))

    @property
    def progress(self) -> float:
        """How far the loss has come; three tenths of its start at least, for want of anything better."""
        return max(self.start - self.lowest, 0.3 * abs(self.start))

    def share(self, height: float) -> float:
        """A climb as a share of the progress; 1 where there is nothing to compare it with."""
        return height / self.progress if self.progress else 1.0

    @property
    def calm(self) -> bool:
        """Whether the gradients have shrunk to a third of the first ones."""
        return len(self.norms) == self.WINDOW and median(self.norms) < self.first_norm / 3

    @property
    def falling(self) -> bool:
        """Over two windows, or, as after a spike, within this one."""
        return self.level < self.levels[0] - 2 * self.error or self.recent < self.earlier - 1.4 * self.sigma

    @property
    def rate_rising(self) -> bool:
        return self.rates[-1] > self.rates[0] * 1.001


class Lasting:
    """How long damage has lasted. Noise interrupts it now and then: a step without it takes two steps back."""

    def __init__(self) -> None:
        self.steps = 0
        self.since: Step | None = None

    def add(self, step: Step, damaged: bool) -> None:
        self.steps = self.steps + 1 if damaged else max(0, self.steps - 2)
        if self.steps == 0:
            self.since = None
        elif self.since is None:
            self.since = step


class Settled:
    """The last steps over which the loss has not fallen: the median of their later half is not significantly below
    that of their earlier half. While it is, the oldest tenth of them is forgotten: nothing fixed has to be waited for,
    and a fall too slow for two neighbouring windows to tell shows all the same."""

    LEAST, MOST = 10, 1000
    FALL = 1.0
    """Standard errors by which a fall is told; a low bar, since a false one costs no more than a tenth."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.steps: deque[Step] = deque(maxlen=self.MOST)
        self.level = 0.0
        self.wait = 0

    def add(self, step: Step) -> None:
        self.steps.append(step)
        self.wait -= 1
        count = len(self.steps)
        if self.wait > 0 or count < self.LEAST:
            return
        self.wait = count // 20
        losses = [past.loss for past in self.steps]
        half = count // 2
        self.level = median(losses)
        error = MEDIAN_ERROR * self.history.sigma * math.sqrt(2.0 / half)
        if median(losses[:half]) - median(losses[-half:]) > self.FALL * error:
            for _ in range(count // 10):
                self.steps.popleft()

    @property
    def error(self) -> float:
        """Of the level."""
        return MEDIAN_ERROR * self.history.sigma / math.sqrt(len(self.steps))
