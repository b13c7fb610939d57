"""Detectors of instability: what went wrong in a trace, since which step, at which rate.

A :class:`Monitor` is fed one optimizer step at a time and returns a verdict when a step completes one. Everything
is judged against the run itself: its own start, its lowest level, its noise. So multiplying every loss by a positive
constant, and the trivial predictor's loss with it, changes no verdict. No logarithm is taken: losses may be zero or
negative.

During warm-up the loss falls fast, and a plain standard deviation mistakes the fall for noise. Here the loss is
compared with the *line* through the last steps, and the noise is the median absolute deviation from such lines.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from typing import Literal, NamedTuple

from pydantic import Field

from autowarmup.schedule import Frozen

Kind = Literal["non-finite", "divergence", "spike", "gradient-explosion", "silent-failure", "stall"]

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""
MEDIAN_ERROR = 1.2533
"""Standard error of a median of n normal values, in units of ``sigma / sqrt(n)``."""
MAX_SEVERITY = 1e6


class Instability(Frozen):
    """A detector's verdict.

    Args:
        kind: what happened.
        severity: above 0, grows with the damage. A climb of the loss counts as its share of the progress made, a
            collapse as 1 (all is lost), a gradient as the decimal logarithm of how many times too large it is, a
            stall as 0.1, anything non-finite as 1e6.
        step, rate: the optimizer step and the learning rate where it began.
        detected: the step that gave it away.
        fatal: whether it ends the trial. The others, such as a spike that may recover, are recorded.
        message: one line for people.
    """

    kind: Kind
    severity: float = Field(gt=0.0, le=MAX_SEVERITY)
    step: int = Field(ge=0)
    rate: float = Field(ge=0.0)
    detected: int = Field(ge=0)
    fatal: bool
    message: str


class Detectors(Frozen):
    """The detectors' settings. The defaults are measured by ``benchmarks/detectors.py``.

    Example:
        >>> monitor = Detectors().monitor(horizon=100)
        >>> monitor.observe(0, 0.1, 2.3, 1.0)
        >>> verdict = monitor.observe(1, 0.1, float("nan"), 1.0)
        >>> verdict.kind, verdict.step, verdict.fatal
        ('non-finite', 1, True)
    """

    spike_noise: float = Field(default=2.0, gt=0.0, le=100.0)
    """A spike exceeds the trend by this factor more than nine of ten of the last losses strayed from it,"""
    spike_share: float = Field(default=0.3, gt=0.0, le=10.0)
    """and by this share of the progress made, start less lowest level,"""
    spike_record: float = Field(default=2.0, ge=1.0, le=100.0)
    """and by this factor the highest such excess of the last 500 steps."""
    patience: float = Field(default=0.06, gt=0.0, le=1.0)
    """Share of the horizon, but 10 to 500 steps, that a loss stays high before that is fatal. Twice as long where it
    has not come back to its start. At the trivial loss at least 30 steps, and where it has never come below that also
    half as long again as it took to get there."""
    climb_share: float = Field(default=0.3, gt=0.0, le=10.0)
    """A loss diverges that has climbed this share of the progress made above its lowest level."""
    explosion_factor: float = Field(default=30.0, gt=1.0, le=1e6)
    """A gradient explodes above this many times the largest norm of the last 40 steps. One step of that is
    recorded, ten in a row are fatal."""
    vanishing_factor: float = Field(default=1e-3, gt=0.0, lt=1.0)
    """Gradients are dead below this share of their median, the loss not having fallen with them."""
    max_skips: int = Field(default=30, ge=1, le=10_000)
    """Consecutive steps without a finite gradient, skipped at rate 0 by a loss scaler, that are still no failure."""

    def monitor(self, horizon: int, trivial_loss: float | None = None) -> Monitor:
        """A monitor for one trial.

        Args:
            horizon: optimizer steps of the whole run, >= 1; patience grows with it.
            trivial_loss: the loss of the best predictor that ignores its input: the entropy of the labels, the
                variance of the targets. None: unknown; a collapse is then told by how far the loss climbed.
        """
        return Monitor(self, horizon, trivial_loss)


class Step(NamedTuple):
    """One observation."""

    number: int
    rate: float
    loss: float
    grad_norm: float


class Monitor:
    """Watches one trial. The same observations give the same verdicts, so a resumed trial replays its trace.

    ``events`` holds all verdicts so far, also those that a graver one of the same step hid. A step costs the same
    however long the run: some 30 microseconds.
    """

    MIN_PATIENCE, MAX_PATIENCE = 10, 500

    def __init__(self, detectors: Detectors, horizon: int, trivial_loss: float | None) -> None:
        self.events: list[Instability] = []
        history = History()
        patience = min(max(self.MIN_PATIENCE, round(detectors.patience * horizon)), self.MAX_PATIENCE)
        self._history = history
        self._non_finite = NonFinite(detectors)
        self._finite = (
            Collapse(history, patience, trivial_loss),
            Divergence(detectors, history, patience, trivial_loss),
            Spike(detectors, history, 2 * patience),
            Gradients(detectors),
            FrozenLoss(),
            NothingLearnt(history, horizon),
        )

    def observe(self, step: int, rate: float, loss: float, grad_norm: float) -> Instability | None:
        """The verdict that this step completes, if any; of several the fatal one.

        Args:
            step: the optimizer step, counted from 0.
            rate: the learning rate it applied; 0 where a loss scaler skipped the step.
            loss: its training loss, any number, NaN or infinite.
            grad_norm: the gradient's norm before clipping; NaN: not measured, infinite: measured and not finite.
        """
        observed = Step(step, rate, loss, grad_norm)
        found = [self._non_finite.observe(observed)]
        if found[0] is None and math.isfinite(loss):
            self._history.add(observed)
            found = [detector.observe(observed) for detector in self._finite]
        reached = [instability for instability in found if instability is not None]
        self.events += reached
        return max(reached, key=lambda instability: instability.fatal, default=None)


def verdict(kind: Kind, since: Step, now: Step, severity: float, fatal: bool, message: str) -> Instability:
    """The verdict, its severity brought into range."""
    return Instability(
        kind=kind,
        severity=min(MAX_SEVERITY, max(1e-6, severity)),
        step=since.number,
        rate=since.rate,
        detected=now.number,
        fatal=fatal,
        message=message,
    )


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
        self.rates.append(step.rate)
        self.max_rate = max(self.max_rate, step.rate)
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


class NonFinite:
    """A loss that is NaN or infinite, an infinite gradient that was applied, or nothing but skipped steps."""

    def __init__(self, detectors: Detectors) -> None:
        self.max_skips = detectors.max_skips
        self.skips = 0

    def observe(self, step: Step) -> Instability | None:
        if not math.isfinite(step.loss):
            return verdict("non-finite", step, step, MAX_SEVERITY, True, f"the loss is {step.loss}")
        if not math.isinf(step.grad_norm):
            self.skips = 0
            return None
        self.skips += 1
        if step.rate == 0.0 and self.skips <= self.max_skips:
            return None
        return verdict("non-finite", step, step, MAX_SEVERITY, True, "the gradient is not finite")


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
        self.stuck.add(step, near and self._stuck(self.trivial, step.rate))
        for lasting, patience in (self.lost, self._patience_if_lost()), (self.stuck, self._patience_if_stuck()):
            if lasting.since is not None and near and min(lasting.steps, len(settled.steps)) >= patience:
                message = f"the loss sits at {history.level:.4g}; ignoring the input would give {self.trivial:.4g}"
                return verdict("silent-failure", lasting.since, step, 1.0, True, message)
        return None

    def _patience_if_lost(self) -> float:
        """Half as many steps as the run had before, within limits."""
        before = self.lost.since.number if self.lost.since else 0
        return max(self.LOST, min(before / 2, self.patience))

    def _patience_if_stuck(self) -> float:
        share = self.CALM if self.history.calm else self.LIVELY
        fall = self.settled.steps[0].number
        return max(share * max(self.STUCK, self.patience), min(self.SLOW * fall, Monitor.MAX_PATIENCE))

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
        return not self.history.rate_rising or rate > self.RISE * self.settled.steps[0].rate


class Divergence:
    """The loss stays above its start, or has climbed back a good part of the way there and stays."""

    FAR_STEPS = 10

    def __init__(self, detectors: Detectors, history: History, patience: int, trivial: float | None) -> None:
        self.share, self.history, self.patience, self.trivial = detectors.climb_share, history, patience, trivial
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
                return verdict("divergence", lasting.since, step, history.share(climb), True, message)
        return None

    def _far_above(self) -> bool:
        """All of the last losses are several times the start. Without a warm-up the second step may have blown up
        already: then the first loss is the start, the trivial one at least."""
        history, start = self.history, self.history.start
        if self.trivial is not None:
            start = min(start, max(history.first, self.trivial))
        return min(list(history.losses)[-self.FAR_STEPS :]) > start + 3 * abs(start)


class Spike:
    """Three of four losses far above their trend; fatal if the loss has not come half the way back in time."""

    MEMORY = 500

    def __init__(self, detectors: Detectors, history: History, patience: int) -> None:
        self.settings, self.history, self.patience = detectors, history, patience
        self.last: deque[tuple[float, Step]] = deque(maxlen=4)
        self.heights: deque[float] = deque(maxlen=self.MEMORY)
        self.since: Step | None = None
        self.base = self.peak = 0.0

    def observe(self, step: Step) -> Instability | None:
        if self.history.count <= 10:
            return None
        return self._watch(step) if self.since else self._look(step)

    def _look(self, step: Step) -> Instability | None:
        """Whether a spike begins."""
        history, settings = self.history, self.settings
        self.last.append((history.excess, step))
        if len(self.last) < 4:
            return None
        height = sorted(excess for excess, _ in self.last)[1]
        threshold = max(
            settings.spike_noise * history.reach,
            settings.spike_record * max(self.heights, default=0.0),
            settings.spike_share * history.progress,
        )
        if height <= threshold or len(self.heights) < 8:
            self.heights.append(height)
            return None
        self.since = next(past for excess, past in self.last if excess >= height)
        self.peak = self.since.loss
        self.base = self.peak - height
        message = f"the loss jumped from {self.base:.4g} to {self.peak:.4g}"
        return verdict("spike", self.since, step, history.share(height), False, message)

    def _watch(self, step: Step) -> Instability | None:
        """Whether the spike that began has recovered."""
        assert self.since is not None
        if self.history.recent < 0.5 * (self.base + self.peak):
            self.since = None
            self.last.clear()
            return None
        if step.number - self.since.number != self.patience:
            return None
        message = f"the loss jumped from {self.base:.4g} to {self.peak:.4g} and has not come back"
        return verdict("spike", self.since, step, 1.0, True, message)


class Gradients:
    """Norms that explode, or die while the loss does not."""

    BEFORE_FATAL = 10
    """Consecutive steps."""
    ALIVE = 20
    """Steps with a gradient before one can die; what converges sooner is a toy."""

    def __init__(self, detectors: Detectors) -> None:
        self.settings = detectors
        self.norms: deque[float] = deque(maxlen=40)
        self.losses: deque[float] = deque(maxlen=20)
        self.high: list[Step] = []
        self.dead: list[Step] = []

    def observe(self, step: Step) -> Instability | None:
        norm = step.grad_norm
        if not math.isfinite(norm):
            return None
        self.losses.append(step.loss)
        exploding = dead = False
        if len(self.norms) >= 8:
            exploding = norm > self.settings.explosion_factor * max(self.norms) > 0
        if len(self.norms) >= self.ALIVE:
            dead = norm < self.settings.vanishing_factor * median(list(self.norms)[-self.ALIVE :])
            dead = dead and abs(step.loss) > 0.1 * abs(median(self.losses))
        self.high = [*self.high, step] if exploding else []
        self.dead = [*self.dead, step] if dead else []
        if not exploding and not dead:
            self.norms.append(norm)
        if len(self.high) in (1, self.BEFORE_FATAL):
            fatal = len(self.high) > 1
            factor = norm / max(self.norms)
            message = f"the gradient's norm of {norm:.3g} is {factor:.3g} times the largest of the last 40 steps"
            return verdict("gradient-explosion", self.high[0], step, math.log10(factor), fatal, message)
        if len(self.dead) == self.BEFORE_FATAL:
            return verdict(
                "silent-failure", self.dead[0], step, 1.0, True, f"the gradient died: its norm is {norm:.3g}"
            )
        return None


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
        return verdict("stall", first, step, 0.1, self._is_fault(), f"the loss is frozen at {step.loss:.6g}")

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
        return verdict("stall", self.since, step, 0.1, False, message)
