"""What the trials so far say about every schedule that could be tried: one smooth model over schedules and time.

Trials of one seed see the same batches, so what is modelled is the *paired difference* of a trial's validation loss
from the reference trial's at the same step. That takes out how the loss falls as such, and at the horizon it is what a
decision needs: by how much a schedule would beat the best one so far. A Gaussian process (Rasmussen & Williams 2006,
Gaussian Processes for Machine Learning, chapter 2) over the schedule's features and the step takes every evaluation of
every trial as evidence, whether or not the trial was finished.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from autowarmup.schedule.schedule import Schedule
from autowarmup.training.trace import Trace

Vector = np.ndarray[Any, np.dtype[np.float64]]

LENGTHS = (0.5, 0.3, 0.4, 0.3, 1.0)
"""How far apart schedules still resemble one another: in decades of the peak, in the square root of the rate that the
warm-up holds back (as a share of the horizon), in its curve, in the decay's tail, in shares of the horizon trained."""
NOISE = 0.15
"""Variance of one evaluation, in units of the typical difference."""
PRIOR_WIDTH = 1.0
"""Decades from the expected peak at which a schedule is expected to be worse by about one typical difference."""
AHEAD = 0.15
"""A loss above the trivial predictor's is extrapolated by this share of the horizon, at most down to that one."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a schedule.

    Args:
        schedule: the schedule.
        scores: ``(step, score)`` of its evaluations, in order; see :func:`scores`.
        broke: whether it became unstable.
    """

    schedule: Schedule
    scores: tuple[tuple[int, float], ...]
    broke: bool = False

    @property
    def end(self) -> int:
        return self.scores[-1][0] if self.scores else 0


def scores(trace: Trace, horizon: int, every: int, trivial_loss: float | None) -> tuple[tuple[int, float], ...]:
    """What a trial's evaluations say about its end: lower is better.

    At the horizon it is the validation loss. Before, it is that of the averaged weights, which stand in for the decayed
    model. While that loss is above the trivial predictor's, its level says little: a rate that is too high gets near it
    first and then stays. So it is extrapolated along its fall. Before a loop validates for the first time it is
    scored by the mean training loss of every ``every`` steps.

    Example:
        >>> from autowarmup.training.trace import Evaluation
        >>> flat = np.ones(20)
        >>> trace = Trace(flat, flat, flat, (Evaluation(10, 1.2, 1.1), Evaluation(20, 0.8, 0.9)))
        >>> scores(trace, horizon=100, every=10, trivial_loss=None), scores(trace, 20, 10, None)
        (((10, 1.1), (20, 0.9)), ((10, 1.1), (20, 0.8)))
    """
    first = trace.evaluations[0].step if trace.evaluations else trace.end + 1
    ends = range(every, first, every)
    marks = [(end, loss, loss) for end in ends for loss in [float(trace.loss[end - every : end].mean())]]
    marks += [(evaluation.step, evaluation.score, evaluation.val_loss) for evaluation in trace.evaluations]
    found: list[tuple[int, float]] = []
    earlier: tuple[int, float] | None = None
    for step, averaged, raw in marks:
        if step == horizon:
            found.append((step, raw))
        elif trivial_loss is None or earlier is None or averaged <= trivial_loss:
            found.append((step, averaged))
        else:
            slope = (earlier[1] - averaged) / (step - earlier[0])
            found.append((step, max(trivial_loss, averaged - slope * AHEAD * horizon)))
        earlier = step, averaged
    return tuple(found)


@lru_cache(maxsize=100_000)
def features(schedule: Schedule) -> tuple[float, float, float, float]:
    """A schedule in the terms in which schedules resemble one another; see :data:`LENGTHS`.

    Any shape is told by what its warm-up holds back: the area between its curve and the peak.
    """
    duration, horizon = schedule.duration, schedule.horizon
    steps = np.unique(np.linspace(0, max(0, duration - 1), 32).astype(int))
    missing = float(np.mean([1.0 - schedule.shape.share(int(step), schedule) for step in steps])) if duration else 0.5
    tail = np.linspace(0.75 * horizon, horizon, 8).astype(int)
    left = float(np.mean([schedule.decay.share(max(int(step), schedule.warmup_steps), schedule) for step in tail]))
    return math.log10(schedule.peak), math.sqrt(missing * duration / horizon), missing, left


class Surrogate:
    """The model, fitted.

    Args:
        evidence: of the trials so far, one at least with a score.
        expected_peak: where the best peak is expected before anything is known.

    Attributes:
        reference: the schedule that differences are taken from: the best one that got to the horizon, else the one
            that got furthest.
        finished: whether that one did get to the horizon.
        scale: the typical difference, in units of the loss.
    """

    def __init__(self, evidence: Sequence[Evidence], expected_peak: float) -> None:
        self._expected = math.log10(expected_peak)
        known = [item for item in evidence if item.scores and not item.broke] or [e for e in evidence if e.scores]
        reference = min(known, key=lambda item: (-item.end, item.scores[-1][1]))
        self.reference = reference.schedule
        self.finished = reference.end == reference.schedule.horizon
        at = dict(reference.scores)
        rows, differences = [], []
        for item in evidence:
            place = features(item.schedule)
            for step, score in item.scores:
                if step in at and math.isfinite(score - at[step]):
                    rows.append((*place, step / item.schedule.horizon))
                    differences.append(score - at[step])
        sizes = np.abs([difference for difference in differences if difference != 0.0])
        self.scale = float(np.median(sizes)) if len(sizes) else 1.0
        values = list(np.arcsinh(np.array(differences) / self.scale))
        worst = max(values, default=0.0)
        for item in evidence:
            if item.broke:  # as bad as the worst, to the end
                rows.append((*features(item.schedule), 1.0))
                values.append(worst + 1.0)
        self._fit(np.array(rows), np.array(values))

    def fantasize(self, schedule: Schedule) -> Surrogate:
        """The model as it would be if the schedule ended as expected: what else is worth training at the same time?
        Ginsbourger, Le Riche & Carraro 2010, Kriging Is Well-Suited to Parallelize Optimization, section 4.2."""
        model = copy(self)
        mean, _ = self.predict([schedule])
        row = np.array([[*features(schedule), 1.0]])
        model._fit(np.concatenate([self._rows, row]), np.concatenate([self._values, mean]))
        return model

    def predict(self, schedules: Sequence[Schedule]) -> tuple[Vector, Vector]:
        """Mean and standard deviation of each schedule's final difference from the reference, in typical differences
        (on an inverse hyperbolic sine's scale: linear near 0, logarithmic far away). Below 0 is better."""
        places = np.array([(*features(schedule), 1.0) for schedule in schedules])
        mean, deviation = self._process.predict(places, return_std=True)
        return mean + self._prior(places) + self._offset, deviation

    def improvement(self, schedules: Sequence[Schedule]) -> Vector:
        """The expected improvement on the reference, in typical differences. Jones, Schonlau & Welch 1998, Efficient
        Global Optimization of Expensive Black-Box Functions, equation 15."""
        from scipy.stats import norm

        mean, deviation = self.predict(schedules)
        gain = -mean / deviation
        improvement: Vector = deviation * (gain * norm.cdf(gain) + norm.pdf(gain))
        return improvement

    def _fit(self, rows: Vector, values: Vector) -> None:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import Matern

        self._rows, self._values = rows, values
        residuals = values - self._prior(rows)
        self._offset = float(residuals.mean())
        kernel = Matern(length_scale=LENGTHS, nu=2.5)
        self._process = GaussianProcessRegressor(kernel, alpha=NOISE, optimizer=None)
        self._process.fit(rows, residuals - self._offset)

    def _prior(self, rows: Vector) -> Vector:
        """What is expected before anything is known: a bowl around the expected peak, with straight flanks."""
        prior: Vector = 2.0 * (np.hypot(1.0, (rows[:, 0] - self._expected) / PRIOR_WIDTH) - 1.0)
        return prior
