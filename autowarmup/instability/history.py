"""Recent steps of a trial: the level of the loss, its noise, and how long a condition has lasted."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from autowarmup.instability.windows import SortedWindow

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""
MEDIAN_ERROR = 1.2533
"""Standard error of a median of n normal values, in units of ``sigma / sqrt(n)``."""
MIN_PATIENCE, MAX_PATIENCE = 10, 500
"""The fewest and the most optimizer steps that a detector waits before damage counts as lasting."""


class Step(NamedTuple):
    """One optimizer step: its number, counted from 0, the learning rate it applied, its training loss and the norm of
    its gradient."""

    number: int
    lr: float
    loss: float
    grad_norm: float


def median(values: Iterable[float]) -> float:
    """The middle value; of an even number of values the upper of the two in the middle."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def unsure(count: int) -> float:
    """The factor by which a threshold is raised that rests on ``count`` values, 1 or more: 2 with ten, 1.1 with a
    hundred. What a run's losses and gradients can do shows only in time."""
    return 1.0 + 10.0 / count


@dataclass(eq=False)
class History:
    """What the detectors know of a trial: recent losses, rates and norms, and what follows from them.

    A *level* is the median of the last ``WINDOW`` losses. An *excess* is how far a loss lies above the line through the
    losses before it. Only steps with a finite loss are added.
    """

    WINDOW: ClassVar[int] = 20
    """Steps of a level."""
    HALF: ClassVar[int] = WINDOW // 2
    NOISE: ClassVar[int] = 40
    """Excesses from which the noise is estimated."""
    UNSURE: ClassVar[int] = 4
    """The newest excesses, which may belong to a spike."""

    count: int = 0
    """Steps added so far."""

    losses: SortedWindow = field(default_factory=lambda: SortedWindow(History.WINDOW))
    """The last ``WINDOW`` losses."""
    latest: SortedWindow = field(default_factory=lambda: SortedWindow(History.HALF))
    """The last ``HALF`` losses."""
    middles: deque[float] = field(default_factory=lambda: deque(maxlen=History.HALF + 1))
    """The medians of ``latest`` at the last ``HALF + 1`` steps at which it was full."""
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=History.WINDOW))
    """The learning rates of the last ``WINDOW`` steps."""
    norms: SortedWindow = field(default_factory=lambda: SortedWindow(History.WINDOW))
    """The last ``WINDOW`` finite gradient norms."""
    levels: deque[float] = field(default_factory=lambda: deque(maxlen=2 * History.WINDOW))
    """The last ``2 * WINDOW`` levels."""
    excesses: SortedWindow = field(default_factory=lambda: SortedWindow(History.NOISE))
    """The last ``NOISE`` excesses."""
    sizes: SortedWindow = field(default_factory=lambda: SortedWindow(History.NOISE - History.UNSURE))
    """Their absolute values, without the newest ``UNSURE`` ones."""

    first: float = 0.0
    """The first loss."""
    start: float = 0.0
    """The median of the first three losses."""
    first_norm: float = 0.0
    """The median of the first five finite gradient norms."""
    norm: float = math.nan
    """The median of ``norms``; NaN where there is none."""
    largest_norm: float = 0.0
    """The largest such median so far."""
    lowest: float = math.inf
    """The lowest level since step 10."""
    highest: float = -math.inf
    """The highest level since step 10."""
    max_rate: float = 0.0
    """The highest learning rate so far."""
    rate_rising: bool = False
    """Whether the learning rate has risen over the window."""

    level: float = 0.0
    """The median of the last ``WINDOW`` losses."""
    recent: float = 0.0
    """The median of the last five losses."""
    earlier: float = 0.0
    """The median of the ten oldest losses of the window."""
    excess: float = 0.0
    """The last loss's excess."""
    sigma: float = 0.0
    """The noise of one loss: a robust standard deviation of the excesses."""
    reach: float = 0.0
    """Nine of ten excesses, the newest four left aside, are no larger than this in absolute value."""
    error: float = 0.0
    """The standard error of a level."""
    wander: float = 0.0
    """How far apart the lowest and the highest level of a run without a trend lie by chance: the extremes of n normal
    values are ``2 sqrt(2 ln n)`` standard deviations apart, asymptotically. Leadbetter, Lindgren & Rootzén 1983,
    Extremes and Related Properties of Random Sequences and Processes, theorem 1.5.3."""
    progress: float = 0.0
    """How far the loss has fallen from its start, or from its first value where that is lower, to its lowest level, but
    at least three tenths of that start: early in a run there is no progress to measure with yet. A run that blows up in
    its second step has not made progress by coming back."""
    dropping: bool = False
    """Whether the loss falls within the last window, as after a spike."""
    falling: bool = False
    """Whether the loss falls: its level over the last two windows, or, as after a spike, the losses within the last
    one."""

    def add(self, step: Step) -> None:
        """Takes in one step; its loss is finite."""
        self.count += 1
        if self.count > 8:
            self._add_excess(step.loss - self.expected())
        self._add_loss(step.loss)
        self._add_rate(step.lr)
        if math.isfinite(step.grad_norm):
            self._add_norm(step.grad_norm)

    def _add_excess(self, excess: float) -> None:
        excesses = self.excesses
        excesses.add(excess)
        self.excess = excess
        self.sigma = MAD_TO_SIGMA * excesses.deviation
        self.error = MEDIAN_ERROR * self.sigma / math.sqrt(self.WINDOW)
        if len(excesses) > self.UNSURE:
            self.sizes.add(abs(excesses.values[-1 - self.UNSURE]))
            self.reach = self.sizes.ordered[int(0.9 * len(self.sizes))]

    def _add_loss(self, loss: float) -> None:
        count, losses, latest = self.count, self.losses, self.latest
        losses.add(loss)
        latest.add(loss)
        if count <= 3:
            self.start = losses.median
            self.first = losses.values[0]
        if count >= self.HALF:
            self.middles.append(latest.median)
        level = self.level = losses.median
        self.recent = median(losses.values[-5:])
        self.earlier = self.middles[0] if self.middles else level
        self.levels.append(level)
        if count >= 10:
            self.lowest = min(self.lowest, level)
            self.highest = max(self.highest, level)
        self.wander = self.error * 2.0 * math.sqrt(2.0 * math.log(1.0 + count / self.WINDOW))
        start = min(self.start, self.first)
        self.progress = max(start - self.lowest, 0.3 * abs(start))
        self.dropping = self.recent < self.earlier - 1.4 * self.sigma
        self.falling = level < self.levels[0] - 2 * self.error or self.dropping

    def _add_rate(self, rate: float) -> None:
        self.rates.append(rate)
        self.max_rate = max(self.max_rate, rate)
        self.rate_rising = rate > self.rates[0] * 1.001

    def _add_norm(self, norm: float) -> None:
        self.norms.add(norm)
        self.norm = self.norms.median
        self.largest_norm = max(self.largest_norm, self.norm)
        if len(self.norms) <= 5:
            self.first_norm = self.norm

    def expected(self) -> float:
        """The next loss on the line through the medians of the window's two halves, but not below the lowest loss of
        the later half."""
        if len(self.losses) == self.WINDOW:
            earlier, later, least = self.earlier, self.middles[-1], self.latest.ordered[0]
        else:
            losses = self.losses.values
            half = len(losses) // 2
            earlier, later, least = median(losses[:half]), median(losses[half:]), min(losses[half:])
        return max(later + (later - earlier) * 0.5, least)

    def share(self, height: float) -> float:
        """A climb of the loss as a share of the progress; 1 where the progress is 0."""
        return height / self.progress if self.progress else 1.0

    @property
    def calm(self) -> bool:
        """Whether the gradients have shrunk to a third of the first ones."""
        return len(self.norms) == self.WINDOW and self.norm < self.first_norm / 3


class Lasting:
    """Counts for how many steps damage has lasted. A step without damage takes two off the count rather than all,
    since noise hides damage now and then.

    Attributes:
        steps: the count.
        since: the step at which the damage began, None while the count is 0.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.since: Step | None = None

    def add(self, step: Step, damaged: bool) -> None:
        """Takes in one step."""
        self.steps = self.steps + 1 if damaged else max(0, self.steps - 2)
        if self.steps == 0:
            self.since = None
        elif self.since is None:
            self.since = step


class Settled:
    """The last steps over which the loss has not fallen: the median of their later half is not significantly below
    that of their earlier half.

    While it is below, the oldest tenth of the steps is dropped. So the window adapts to the run, and a fall that is too
    slow to show between two neighbouring windows of fixed length still shows.

    Attributes:
        steps: the steps, oldest first.
        level: their median loss.
    """

    LEAST, MOST = 10, 1000
    """The fewest steps that are judged, and the most that are kept."""
    FALL = 1.0
    """Standard errors that count as a fall. The threshold is low, since a false fall drops a tenth of the steps at
    most."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.steps: deque[Step] = deque(maxlen=self.MOST)
        self._losses: deque[float] = deque(maxlen=self.MOST)
        self.level = 0.0
        self.wait = 0

    def add(self, step: Step) -> None:
        """Takes in one step, and drops old ones while the loss falls."""
        self.steps.append(step)
        self._losses.append(step.loss)
        self.wait -= 1
        count = len(self.steps)
        if self.wait > 0 or count < self.LEAST:
            return
        self.wait = count // 20
        losses = [*self._losses]
        half = count // 2
        earlier, later = sorted(losses[:half]), sorted(losses[-half:])
        self.level = median([*earlier, *losses[half:-half], *later])
        error = MEDIAN_ERROR * self.history.sigma * math.sqrt(2.0 / half)
        if earlier[half // 2] - later[half // 2] > self.FALL * error:
            for _ in range(count // 10):
                self.steps.popleft()
                self._losses.popleft()

    @property
    def error(self) -> float:
        """The standard error of ``level``."""
        return MEDIAN_ERROR * self.history.sigma / math.sqrt(len(self.steps))
