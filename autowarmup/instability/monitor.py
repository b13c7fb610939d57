"""All detectors together, for one trial.

A :class:`Monitor` is given one optimizer step at a time and returns the instability that it detects at that step, if
any. Losses are judged against the run itself: its start, its lowest level, its noise. So multiplying every loss and the
trivial loss by a positive constant changes no result. No logarithm of a loss is taken: losses may be zero or negative.

During warm-up the loss falls fast, and a plain standard deviation would count the fall as noise. So a loss is compared
with the *line* through the last losses, and the noise is the median absolute deviation from such lines.
"""

from __future__ import annotations

import math

from pydantic import Field

from autowarmup.instability.collapse import Collapse
from autowarmup.instability.divergence import Divergence
from autowarmup.instability.forest import Forest
from autowarmup.instability.gradients import Gradients
from autowarmup.instability.history import MAX_PATIENCE, MIN_PATIENCE, History, Step
from autowarmup.instability.instability import Instability
from autowarmup.instability.non_finite import NonFinite
from autowarmup.instability.silent_failure import SilentFailure
from autowarmup.instability.spike import Spike
from autowarmup.instability.stall import FrozenLoss, NothingLearnt
from autowarmup.values import Frozen


class Detectors(Frozen):
    """The detectors' thresholds. ``benchmarks/detectors.py`` measures what the defaults detect, and what they miss.

    A loss's *progress* is how far it has fallen from its start to its lowest level; the *horizon* is the length of the
    trial's schedule in optimizer steps.

    Example:
        >>> monitor = Detectors().monitor(horizon=100)
        >>> monitor.observe(0, 0.1, 2.3, 1.0)
        >>> instability = monitor.observe(1, 0.1, float("nan"), 1.0)
        >>> instability.kind, instability.step, instability.fatal
        ('non-finite', 1, True)
    """

    spike_noise: float = Field(default=1.3, gt=0.0, le=100.0)
    """A loss spikes when it exceeds its trend by more than three thresholds. The first is this factor times what nine
    of ten of the last losses deviated from the trend; it is higher while the run has few steps."""
    spike_share: float = Field(default=0.3, gt=0.0, le=10.0)
    """The second threshold of a spike, as a share of the progress made."""
    spike_record: float = Field(default=0.9, gt=0.0, le=100.0)
    """The third threshold of a spike, as a factor on the highest excess of one loss over its trend in the last 500
    steps. So hard batches are no spike where the run has had one before."""
    patience: float = Field(default=0.06, gt=0.0, le=1.0)
    """How long a loss must stay high before that is fatal, as a share of the horizon, but 10 to 500 steps. Twice as
    long where the loss is still below its start, and for a spike that doesn't come back. A loss at the
    known trivial loss is given at least 30 steps, and where it has never been below that, also 1.33 times the steps
    that it took to get there."""
    climb_share: float = Field(default=0.3, gt=0.0, le=10.0)
    """A loss diverges when it has climbed above its lowest level by this share of the progress made."""
    explosion_factor: float = Field(default=10.0, gt=1.0, le=1e6)
    """A gradient explodes when its norm is above this many times the largest norm of the last 200 steps, and more
    while the run has few steps. One such step is recorded, ten of the last 14 are fatal."""
    vanishing_factor: float = Field(default=1e-3, gt=0.0, lt=1.0)
    """A gradient has vanished when its norm is below this share of the median of the last 20 and the loss has not
    fallen below a tenth of its recent median. Ten such steps in a row are fatal."""
    max_skips: int = Field(default=30, ge=1, le=10_000)
    """How many consecutive steps a loss scaler may skip (a gradient that is not finite, a learning rate of 0) before
    that is fatal."""

    def monitor(self, horizon: int, trivial_loss: float | None = None) -> Monitor:
        """A monitor for one trial.

        Args:
            horizon: the length of the trial's schedule in optimizer steps, >= 1; patience grows with it.
            trivial_loss: the loss of the best predictor that ignores its input: the entropy of the labels, the
                variance of the targets. None: not known; silent failures are then told by the other signs.
        """
        return Monitor(self, horizon, trivial_loss)


class Monitor:
    """Runs all detectors on one trial. The same steps always give the same instabilities, so a resumed trial gets back
    to its state by being shown its recorded steps.

    A step costs about 20 microseconds, however long the run.

    Args:
        detectors: the thresholds.
        horizon: the length of the trial's schedule in optimizer steps, >= 1.
        trivial_loss: see :meth:`Detectors.monitor`.
        forest: the score of silent failure; left out, the one that comes with the package.

    Attributes:
        events: every instability so far, in order; where one step has several, all of them.
    """

    def __init__(
        self, detectors: Detectors, horizon: int, trivial_loss: float | None, forest: Forest | None = None
    ) -> None:
        self.events: list[Instability] = []
        history = History()
        patience = min(max(MIN_PATIENCE, round(detectors.patience * horizon)), MAX_PATIENCE)
        self._history = history
        self._non_finite = NonFinite(detectors.max_skips)
        self._finite = (
            SilentFailure(history, horizon, forest)
            if trivial_loss is None
            else Collapse(history, patience, trivial_loss),
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
        """The instability detected at this step, or None; of several a fatal one.

        Args:
            step: the optimizer step, counted from 0.
            lr: the learning rate it applied; 0 where a loss scaler skipped the step.
            loss: its training loss; may be NaN or infinite.
            grad_norm: the gradient's norm before clipping. NaN: not measured. Infinite: the gradient is not finite.
        """
        observed = Step(step, lr, loss, grad_norm)
        raised = [self._non_finite.observe(observed)]
        if raised[0] is None and math.isfinite(loss):
            self._history.add(observed)
            raised = [detector.observe(observed) for detector in self._finite]
        reached = [instability for instability in raised if instability is not None]
        if not reached:
            return None
        self.events += reached
        return max(reached, key=lambda instability: instability.fatal)
