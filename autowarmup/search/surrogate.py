"""The surrogate model: a Gaussian process that forecasts the final loss of schedules from the trials so far.

Trials on one seed see the same batches, so the model is fitted to *paired differences*: a trial's validation loss less
that of a reference trial at the same step. This removes the fall of the loss that all trials share. At the horizon the
difference is what the search needs to know: by how much a schedule would beat the best one so far.

The Gaussian process (Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, chapter 2) is one over the
features of the schedule and the step together. So every evaluation of every trial is used, whether or not the trial
got to its horizon.
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
from autowarmup.search.prior import Prior
from autowarmup.training.objective import LOSS, Objective
from autowarmup.training.trace import Trace

Vector = np.ndarray[Any, np.dtype[np.float64]]

AHEAD = 0.15
"""A score above the trivial loss is extrapolated ahead by this share of the horizon, at most down to the trivial
loss."""

BROKE = 0.5
"""By how many typical differences a trial that became unstable counts as worse than the worst one that got to the
horizon. Much more would keep the search away from gentler schedules too; harsher ones are not proposed anyway."""

GROUP_LENGTHS = (1.0, 0.4, 0.4)
"""Length scales of the features of groups; see :func:`of_groups`."""


@dataclass(frozen=True)
class Evidence:
    """What one trial says about its schedule.

    Args:
        schedule: the schedule.
        scores: ``(step, score)`` of the trial's evaluations, in order; see :func:`scores`.
        broke: whether the trial became unstable.
    """

    schedule: Schedule
    scores: tuple[tuple[int, float], ...]
    broke: bool = False

    @property
    def end(self) -> int:
        """The step of the last score, 0 where there is none."""
        return self.scores[-1][0] if self.scores else 0


def scores(
    trace: Trace, horizon: int, every: int, trivial_loss: float | None, objective: Objective = LOSS
) -> tuple[tuple[int, float], ...]:
    """A trial's scores: for each evaluation its step and a number that ranks trials at that step, lower being better.

    At the horizon the score is the validation loss. Before, it is the validation loss of the averaged weights, which
    predicts that of the model after the decay better. While this is above the trivial loss its level says little: a
    learning rate that is too high gets near the trivial loss first, and then stays there. So it is extrapolated along
    its slope. Before the first evaluation, the score is the mean training loss of every ``every`` steps.

    Where another metric than the loss is the objective, the scores are its values alone, those of averaged weights
    before the horizon where there are any.

    Args:
        trace: what the trial recorded, from its start.
        horizon: the length of its schedule in optimizer steps.
        every: optimizer steps between two scores before the first evaluation.
        trivial_loss: the loss of the best predictor that ignores its input; None where it is not known.
        objective: what trials are judged by.

    Example:
        >>> from autowarmup.training.trace import Evaluation
        >>> flat = np.ones(20)
        >>> trace = Trace(flat, flat, flat, (Evaluation(10, 1.2, 1.1), Evaluation(20, 0.8, 0.9)))
        >>> scores(trace, horizon=100, every=10, trivial_loss=None), scores(trace, 20, 10, None)
        (((10, 1.1), (20, 0.9)), ((10, 1.1), (20, 0.8)))
    """
    if not objective.is_loss:
        trivial_loss = None
    found: list[tuple[int, float]] = []
    earlier: tuple[int, float] | None = None
    for step, averaged, raw in objective.marks(trace, every):
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
    """A schedule as the surrogate's four inputs.

    They are the decimal logarithm of the peak; the square root of the area between the warm-up's curve and the peak, as
    a share of the peak times the horizon; that area as a share of the peak times the duration, which tells the shapes
    apart; and the decay's mean factor over the last quarter of the horizon.
    """
    duration, horizon = schedule.duration, schedule.horizon
    steps = np.unique(np.linspace(0, max(0, duration - 1), 32).astype(int))
    missing = float(np.mean([1.0 - schedule.shape.share(int(step), schedule) for step in steps])) if duration else 0.5
    tail = np.linspace(0.75 * horizon, horizon, 8).astype(int)
    left = float(np.mean([schedule.decay.share(max(int(step), schedule.warmup_steps), schedule) for step in tail]))
    return math.log10(schedule.peak), math.sqrt(missing * duration / horizon), missing, left


@lru_cache(maxsize=100_000)
def of_groups(schedule: Schedule) -> tuple[float, float, float]:
    """A schedule's groups as three further inputs, which are 0 where all are alike: means over the groups below the
    highest of how much lower their peak is, in decades; for how long they are frozen; and how much longer their warm-up
    is; the latter two as shares of the horizon."""
    lower, horizon = schedule.groups[:-1], schedule.horizon
    if not lower:
        return 0.0, 0.0, 0.0
    longer = [0 if group.warmup_steps is None else group.warmup_steps - schedule.warmup_steps for group in lower]
    return (
        -sum(math.log10(group.ratio) for group in lower) / len(lower),
        sum(group.frozen_steps for group in lower) / len(lower) / horizon,
        sum(longer) / len(lower) / horizon,
    )


class Surrogate:
    """The fitted model.

    Args:
        evidence: that of the trials so far; at least one has a score.
        expected_peak: the best peak to expect before there is any evidence.
        prior: what is expected of schedules; left out, what was learned from other tasks.
        margin: the smallest difference that matters, as a share of the score.

    Attributes:
        reference: the schedule that differences are taken from: the best one that got to the horizon, or else the one
            that got furthest.
        finished: whether the reference got to the horizon.
        scale: the typical difference, in units of the loss: the median size of the differences, and at least one that
            matters. So where no trial has left the plateau at the start of its run, what little they differ by there
            says little.
    """

    def __init__(
        self, evidence: Sequence[Evidence], expected_peak: float, prior: Prior | None = None, margin: float = 0.0
    ) -> None:
        self._expected_peak, self._prior = expected_peak, prior or Prior.learned()
        known = [item for item in evidence if item.scores and not item.broke] or [e for e in evidence if e.scores]
        reference = min(known, key=lambda item: (-item.end, item.scores[-1][1]))
        self.reference = reference.schedule
        self.finished = reference.end == reference.schedule.horizon
        at = dict(reference.scores)
        self._grouped = any(item.schedule.groups for item in evidence)
        rows, differences = [], []
        for item in evidence:
            place = self._place(item.schedule)
            for step, score in item.scores:
                if step in at and math.isfinite(score - at[step]):
                    rows.append((*place, step / item.schedule.horizon))
                    differences.append(score - at[step])
        sizes = np.abs([difference for difference in differences if difference != 0.0])
        self.scale = max(float(np.median(sizes)), margin * abs(reference.scores[-1][1])) if len(sizes) else 1.0
        values = list(np.arcsinh(np.array(differences) / self.scale))
        worst = max((value for row, value in zip(rows, values, strict=True) if row[-1] == 1.0), default=0.0)
        for item in evidence:
            if item.broke:
                rows.append((*self._place(item.schedule), 1.0))
                values.append(worst + BROKE)
        self._fit(np.array(rows), np.array(values))

    def fantasize(self, schedules: Sequence[Schedule]) -> Surrogate:
        """The model with further observations: ``schedules`` at the horizon, with their forecasts as values. With it
        one more of several trials that run at the same time is chosen. This is the kriging believer of Ginsbourger, Le
        Riche & Carraro 2010, Kriging Is Well-Suited to Parallelize Optimization, section 4.2."""
        model = copy(self)
        mean, _ = self.predict(schedules)
        rows = np.array([(*self._place(schedule), 1.0) for schedule in schedules])
        model._fit(np.concatenate([self._rows, rows]), np.concatenate([self._values, mean]))
        return model

    def predict(self, schedules: Sequence[Schedule]) -> tuple[Vector, Vector]:
        """Forecasts of the schedules' differences from the reference at the horizon: means and standard deviations,
        each of shape ``(n,)``.

        A mean below 0 is better than the reference. The unit is ``asinh(difference / scale)``, which is linear near 0
        and logarithmic far away.
        """
        places = np.array([(*self._place(schedule), 1.0) for schedule in schedules])
        mean, deviation = self._process.predict(places, return_std=True)
        return mean + self._mean_of(places) + self._offset, deviation

    def improvement(self, schedules: Sequence[Schedule], bound: float = 0.0) -> Vector:
        """The expected improvement on ``bound``, shape ``(n,)``, in the unit of :meth:`predict`; left out, on the
        reference. Jones, Schonlau & Welch 1998, Efficient Global Optimization of Expensive Black-Box Functions,
        equation 15."""
        from scipy.stats import norm

        mean, deviation = self.predict(schedules)
        gain = (bound - mean) / deviation
        improvement: Vector = deviation * (gain * norm.cdf(gain) + norm.pdf(gain))
        return improvement

    def _place(self, schedule: Schedule) -> tuple[float, ...]:
        """A schedule's features; where some trial has groups, with those of its groups before them."""
        return (*of_groups(schedule), *features(schedule)) if self._grouped else features(schedule)

    def _mean_of(self, rows: Vector) -> Vector:
        """The prior's mean, which knows nothing of groups."""
        return self._prior.mean_of(rows[:, -5:], self._expected_peak)

    def _fit(self, rows: Vector, values: Vector) -> None:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import Matern

        self._rows, self._values = rows, values
        residuals = values - self._mean_of(rows)
        self._offset = float(residuals.mean())
        of_features = self._prior.lengths
        lengths = (*GROUP_LENGTHS, *of_features) if self._grouped else of_features
        kernel = Matern(length_scale=lengths, nu=2.5)
        self._process = GaussianProcessRegressor(kernel, alpha=self._prior.noise, optimizer=None)
        self._process.fit(rows, residuals - self._offset)
