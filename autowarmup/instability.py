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

    ``severity`` is above 0 and grows with the damage; ``step`` and ``rate`` say where it began, ``detected`` the step
    that gave it away. A fatal one ends the trial; the others (a spike that recovered) are recorded.
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

    spike_sigmas: float = Field(default=6.0, gt=0.0, le=100.0)
    """A spike exceeds the trend by this many standard deviations of the noise,"""
    spike_share: float = Field(default=0.15, gt=0.0, le=10.0)
    """and by this share of the progress made, start less lowest level,"""
    spike_record: float = Field(default=1.5, ge=1.0, le=100.0)
    """and by this factor the largest excess of the last 100 steps."""
    patience: float = Field(default=0.06, gt=0.0, le=1.0)
    """Share of the horizon, but 10 steps at least, that damage lasts before it is fatal."""
    climb_share: float = Field(default=0.3, gt=0.0, le=10.0)
    """A loss diverges that has climbed this share of the progress made above its lowest level."""
    explosion_factor: float = Field(default=30.0, gt=1.0, le=1e6)
    """A gradient explodes above this many times the largest norm of the last 100 steps."""
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

    ``events`` holds all verdicts so far.
    """

    def __init__(self, detectors: Detectors, horizon: int, trivial_loss: float | None) -> None:
        self.events: list[Instability] = []
        history = History()
        patience = max(10, round(detectors.patience * horizon))
        self._history = history
        self._non_finite = NonFinite(detectors)
        self._finite = (
            Collapse(history, patience, trivial_loss),
            Divergence(detectors, history, patience),
            Spike(detectors, history, 2 * patience),
            Gradients(detectors),
            Frozenness(),
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
        verdict = self._non_finite.observe(observed)
        if verdict is None and math.isfinite(loss):
            self._history.add(observed)
            found = [detector.observe(observed) for detector in self._finite]
            verdict = max((v for v in found if v is not None), key=lambda v: v.fatal, default=None)
        if verdict is not None:
            self.events.append(verdict)
        return verdict


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
        self.count = 0
        self.start = self.level = self.recent = self.excess = self.sigma = 0.0
        self.lowest, self.highest = math.inf, -math.inf
        self.max_rate = 0.0

    def add(self, step: Step) -> None:
        self.count += 1
        if self.count > 8:
            self.excess = step.loss - self._expected()
            self.excesses.append(self.excess)
            middle = median(self.excesses)
            self.sigma = MAD_TO_SIGMA * median(abs(excess - middle) for excess in self.excesses)
        self.losses.append(step.loss)
        self.rates.append(step.rate)
        self.max_rate = max(self.max_rate, step.rate)
        if self.count <= 3:
            self.start = min(self.losses[0], median(self.losses))
        self.level, self.recent = median(self.losses), median(list(self.losses)[-5:])
        self.levels.append(self.level)
        if self.count >= 5:
            self.lowest = min(self.lowest, self.level)
            self.highest = max(self.highest, self.level)

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
        """How far the levels of a run that goes nowhere range: the range of n normal values is about
        ``2 sqrt(2 ln n)`` standard deviations; one more for safety."""
        return self.error * (1.0 + 2.0 * math.sqrt(2.0 * math.log(1.0 + self.count / self.WINDOW)))

    @property
    def progress(self) -> float:
        """How far the loss has come; at the very start a twentieth of the loss, for want of anything better."""
        return max(self.start - self.lowest, 0.05 * abs(self.start))

    @property
    def falling(self) -> bool:
        return self.level < self.levels[0] - 3 * self.error

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


class Collapse:
    """The loss is back at the trivial predictor's, or has never come below it although the rate has been high."""

    NEAR = 0.2

    def __init__(self, history: History, patience: int, trivial: float | None) -> None:
        self.history, self.patience, self.trivial = history, patience, trivial
        self.since: Step | None = None
        self.done = False

    def observe(self, step: Step) -> Instability | None:
        history = self.history
        if self.trivial is None or self.done or history.count < history.WINDOW:
            return None
        patience = self._patience(step, self.trivial)
        if patience is None:
            self.since = None
            return None
        self.since = self.since or step
        if step.number - self.since.number < patience:
            return None
        self.done = True
        message = f"the loss sits at {history.level:.4g}; predicting without the input gives {self.trivial:.4g}"
        return verdict("silent-failure", self.since, step, 1.0, True, message)

    def _patience(self, step: Step, trivial: float) -> int | None:
        """How long the loss may stay where it is now; None: as long as it likes."""
        history = self.history
        learnt = trivial - history.lowest
        near = trivial - max(2 * history.error, self.NEAR * learnt)
        if min(history.level, history.recent) < near or history.falling:
            return None
        climb = history.level - history.lowest
        if learnt > 0.01 * abs(trivial) and climb > history.wander:
            return self.patience
        moved = history.highest - history.lowest > max(2 * history.wander, 0.05 * abs(trivial))
        started = not history.rate_rising and step.rate > 0.5 * history.max_rate
        return 2 * self.patience if moved and started else None


class Divergence:
    """The loss stays above its start, or has climbed back a good part of the way there and stays."""

    def __init__(self, detectors: Detectors, history: History, patience: int) -> None:
        self.share, self.history, self.patience = detectors.climb_share, history, patience
        self.since: Step | None = None
        self.done = False

    def observe(self, step: Step) -> Instability | None:
        history = self.history
        if self.done or history.count < 8:
            return None
        above_start = history.recent > history.start + max(5 * history.sigma, 0.25 * abs(history.start))
        climbed = history.recent > history.lowest + max(6 * history.error, self.share * history.progress)
        if not (above_start or climbed) or history.falling:
            self.since = None
            return None
        self.since = self.since or step
        if step.number - self.since.number < (self.patience if above_start else 2 * self.patience):
            return None
        self.done = True
        severity = (history.recent - history.lowest) / history.progress if history.progress else 1.0
        message = f"the loss climbed from {history.lowest:.4g} to {history.recent:.4g} and stays there"
        return verdict("divergence", self.since, step, severity, True, message)


class Spike:
    """Two of three losses far above their trend; fatal if the loss has not come half the way back in time."""

    def __init__(self, detectors: Detectors, history: History, patience: int) -> None:
        self.settings, self.history, self.patience = detectors, history, patience
        self.excesses: deque[float] = deque(maxlen=100)
        self.high: deque[Step | None] = deque(maxlen=3)
        self.since: Step | None = None
        self.base = self.peak = 0.0

    def observe(self, step: Step) -> Instability | None:
        if self.history.count <= 10:
            return None
        return self._watch(step) if self.since else self._look(step)

    def _look(self, step: Step) -> Instability | None:
        """Whether a spike begins."""
        history, settings = self.history, self.settings
        threshold = max(
            settings.spike_sigmas * history.sigma,
            settings.spike_record * max(self.excesses, default=0.0),
            settings.spike_share * history.progress,
        )
        outlier = history.excess > threshold and len(self.excesses) >= 8
        self.high.append(step if outlier else None)
        high = [past for past in self.high if past is not None]
        if not outlier:
            self.excesses.append(history.excess)
        if len(high) < 2:
            return None
        self.since, self.peak = high[0], min(past.loss for past in high)
        self.base = self.peak - history.excess
        message = f"the loss jumped from {self.base:.4g} to {self.peak:.4g}"
        severity = history.excess / history.progress if history.progress else 1.0
        return verdict("spike", self.since, step, severity, False, message)

    def _watch(self, step: Step) -> Instability | None:
        """Whether the spike that began has recovered."""
        assert self.since is not None
        if self.history.recent < 0.5 * (self.base + self.peak):
            self.since = None
            self.high.clear()
            return None
        if step.number - self.since.number != self.patience:
            return None
        message = f"the loss jumped from {self.base:.4g} to {self.peak:.4g} and has not come back"
        return verdict("spike", self.since, step, 1.0, True, message)


class Gradients:
    """Norms that explode, or die while the loss does not."""

    BEFORE_FATAL = 10

    def __init__(self, detectors: Detectors) -> None:
        self.settings = detectors
        self.norms: deque[float] = deque(maxlen=100)
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
            exploding = norm > self.settings.explosion_factor * max(self.norms)
            dead = norm < self.settings.vanishing_factor * median(list(self.norms)[-20:])
            dead = dead and step.loss > 0.1 * median(self.losses)
        self.high = [*self.high, step] if exploding else []
        self.dead = [*self.dead, step] if dead else []
        if not exploding and not dead:
            self.norms.append(norm)
        if len(self.high) in (1, self.BEFORE_FATAL):
            fatal = len(self.high) > 1
            factor = norm / max(self.norms)
            message = f"the gradient's norm of {norm:.3g} is {factor:.3g} times the largest of the last 100 steps"
            return verdict("gradient-explosion", self.high[0], step, factor, fatal, message)
        if len(self.dead) == self.BEFORE_FATAL:
            return verdict("silent-failure", self.dead[0], step, 1.0, True, f"the gradient died: its norm is {norm:.3g}")
        return None


class Frozenness:
    """The very same loss for ten steps, after losses that never repeated themselves."""

    REPEATS = 10

    def __init__(self) -> None:
        self.last: Step | None = None
        self.first: Step | None = None
        self.repeats = 0
        self.changes = 0

    def observe(self, step: Step) -> Instability | None:
        repeated = self.last is not None and self.last.loss == step.loss
        if not repeated:
            self.changes = self.changes + 1 if self.repeats == 0 else 0
            self.first, self.repeats = step, 0
        self.last = step
        self.repeats += repeated
        if self.repeats != self.REPEATS or step.loss == 0.0:
            return None
        assert self.first is not None
        fatal = self.changes > 20
        return verdict("stall", self.first, step, 1.0, fatal, f"the loss is frozen at {step.loss:.6g}")
