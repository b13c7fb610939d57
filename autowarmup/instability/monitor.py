"""Detectors of instability: what went wrong in a trace, since which step, at which rate.

A :class:`Monitor` is fed one optimizer step at a time and returns an instability when a step completes one. Everything
is judged against the run itself: its own start, its lowest level, its noise. So multiplying every loss by a positive
constant, and the trivial predictor's loss with it, changes no result. No logarithm is taken: losses may be zero or
negative.

During warm-up the loss falls fast, and a plain standard deviation mistakes the fall for noise. Here the loss is
compared with the *line* through the last steps, and the noise is the median absolute deviation from such lines.
"""

from __future__ import annotations

import math

from pydantic import Field

from autowarmup.instability.collapse import Collapse
from autowarmup.instability.divergence import Divergence
from autowarmup.instability.gradients import Gradients
from autowarmup.instability.history import MAX_PATIENCE, MIN_PATIENCE, History, Step
from autowarmup.instability.instability import Instability
from autowarmup.instability.non_finite import NonFinite
from autowarmup.instability.spike import Spike
from autowarmup.instability.stall import FrozenLoss, NothingLearnt
from autowarmup.values import Frozen


class Detectors(Frozen):
    """The detectors' settings. The defaults are measured by ``benchmarks/detectors.py``.

    Example:
        >>> monitor = Detectors().monitor(horizon=100)
        >>> monitor.observe(0, 0.1, 2.3, 1.0)
        >>> instability = monitor.observe(1, 0.1, float("nan"), 1.0)
        >>> instability.kind, instability.step, instability.fatal
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


class Monitor:
    """Watches one trial. The same observations give the same instabilities, so a resumed trial replays its trace.

    ``events`` holds every instability so far, also those that a graver one of the same step hid. A step costs the same
    however long the run: some 30 microseconds.
    """

    def __init__(self, detectors: Detectors, horizon: int, trivial_loss: float | None) -> None:
        self.events: list[Instability] = []
        history = History()
        patience = min(max(MIN_PATIENCE, round(detectors.patience * horizon)), MAX_PATIENCE)
        self._history = history
        self._non_finite = NonFinite(detectors.max_skips)
        self._finite = (
            Collapse(history, patience, trivial_loss),
            Divergence(history, detectors.climb_share, patience, trivial_loss),
            Spike(
                history,
                noise=detectors.spike_noise,
                share=detectors.spike_share,
                record=detectors.spike_record,
                patience=2 * patience,
            ),
            Gradients(detectors.explosion_factor, detectors.vanishing_factor),
            FrozenLoss(),
            NothingLearnt(history, horizon),
        )

    def observe(self, step: int, lr: float, loss: float, grad_norm: float) -> Instability | None:
        """The instability that this step completes, if any; of several the fatal one.

        Args:
            step: the optimizer step, counted from 0.
            lr: the learning rate it applied; 0 where a loss scaler skipped the step.
            loss: its training loss, any number, NaN or infinite.
            grad_norm: the gradient's norm before clipping; NaN: not measured, infinite: measured and not finite.
        """
        observed = Step(step, lr, loss, grad_norm)
        raised = [self._non_finite.observe(observed)]
        if raised[0] is None and math.isfinite(loss):
            self._history.add(observed)
            raised = [detector.observe(observed) for detector in self._finite]
        reached = [instability for instability in raised if instability is not None]
        self.events += reached
        return max(reached, key=lambda instability: instability.fatal, default=None)
