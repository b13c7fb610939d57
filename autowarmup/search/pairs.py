"""Paired runs one after the other: what they say about a difference, and when they have said enough.

A pair is one fresh seed, on which a schedule and the current one are trained alike; its difference is the final loss of
the one minus that of the other. Two or three differences say little about their own noise: Student's t needs twelve
standard errors at two pairs. But how noisy a task is can be told roughly before any pair, and a rough guess is worth
about one pair. So the noise has a log-normal prior, and the difference a flat one::

    noise ~ LogNormal(log expected, spread)        difference of a pair ~ Normal(mean, noise)

Given the noise, the posterior of the mean is normal (Gelman et al. 2013, Bayesian Data Analysis, section 2.5); the
noise is summed out over a grid, weighted by prior and likelihood (section 3.2, with this prior in place of the flat
one).
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from autowarmup.training.objective import LOSS, Objective
from autowarmup.training.trace import Trace
from autowarmup.values import Frozen

LAST = 11
"""Evaluations that the noise is expected from: those of the last half of a run."""
FACTOR = 2.0
"""The noise of a pair over the jitter there; the median over the tables of the search benchmark."""
SMALLEST = 1e-6
"""The smallest jitter, as a share of the loss."""
LEAST = 1e-100
"""The smallest jitter where the loss is 0."""

Vector = np.ndarray[Any, np.dtype[np.float64]]

GRID = np.linspace(-5.0, 5.0, 401)
"""Places of the noise, in standard deviations of the logarithm of its prior."""


class NoisePrior(Frozen):
    """What is known of a pair's noise before there are pairs.

    Args:
        expected: the median of the noise, in units of the loss, above 0.
        spread: standard deviation of the noise's natural logarithm, above 0.
    """

    expected: float
    spread: float


class Posterior(Frozen):
    """What pairs say about the mean difference.

    Args:
        differences: one for each pair, in units of the loss; negative where the first schedule is better.
        prior: of their noise.

    Example:
        >>> prior = NoisePrior(expected=0.1, spread=1.0)
        >>> one = Posterior(differences=(-0.5,), prior=prior)
        >>> three = Posterior(differences=(-0.5, -0.4, -0.6), prior=prior)
        >>> round(one.chance_below(0.0), 2), round(three.chance_below(0.0), 4)
        (0.98, 0.999)
        >>> low, high = three.interval(0.95)
        >>> -0.75 < low < -0.5 < high < -0.25
        True
    """

    differences: tuple[float, ...]
    prior: NoisePrior

    @property
    def mean(self) -> float:
        """The mean difference that is expected."""
        return math.fsum(self.differences) / len(self.differences)

    def chance_below(self, bound: float) -> float:
        """The probability that the mean difference is below ``bound``."""
        from scipy.stats import norm

        noises, weights = self._noises
        return float(weights @ norm.cdf((bound - self.mean) * math.sqrt(len(self.differences)) / noises))

    def interval(self, confidence: float) -> tuple[float, float]:
        """The central interval that holds the mean difference with probability ``confidence``, above 0 and below 1."""
        from scipy.optimize import brentq
        from scipy.stats import norm

        noises, weights = self._noises
        errors = noises / self.prior.expected / math.sqrt(len(self.differences))
        tail = (1.0 - confidence) / 2.0
        half = self.prior.expected * brentq(lambda x: weights @ norm.cdf(-x / errors) - tail, 0.0, 10.0 * errors[-1])
        return self.mean - half, self.mean + half

    @cached_property
    def _noises(self) -> tuple[Vector, Vector]:
        """The grid of the noise and the weights of its places, which sum to 1."""
        noises: Vector = self.prior.expected * np.exp(self.prior.spread * GRID)
        squares = math.fsum((difference - self.mean) ** 2 for difference in self.differences)
        degrees = len(self.differences) - 1
        logs = -(GRID**2) / 2.0 - degrees * np.log(noises) - squares / (2.0 * noises**2)
        weights = np.exp(logs - logs.max())
        return noises, weights / weights.sum()


def expected_noise(first: Trace, second: Trace, every: int, objective: Objective = LOSS) -> float:
    """The noise to expect of a pair, in units of the loss, from two trials under one seed: twice the
    :func:`jitter` of the last half of a run. Measured on the tables of the search benchmark: the noise of their pairs
    is around it with a standard deviation of its logarithm of 0.95 (docs/search.md).

    Args:
        first: what one trial recorded, from its start.
        second: the same of the other.
        every: optimizer steps between two evaluations.
        objective: what they are judged by.

    Returns:
        A number above 0.
    """
    return FACTOR * jitter(first, second, every, LAST, objective=objective)


def jitter(
    first: Trace, second: Trace, every: int, last: int, until: float = math.inf, objective: Objective = LOSS
) -> float:
    """The standard deviation of the steps that the difference of two trials' losses takes from one evaluation to the
    next, over the square root of two: that of the evaluations, where they were independent.

    Args:
        first: what one trial recorded, from its start.
        second: the same of the other.
        every: optimizer steps between two evaluations.
        last: how many evaluations to take, the last ones that both have, >= 2.
        until: take none after this step.
        objective: what they are judged by.

    Returns:
        A number above 0, in units of the loss.

    Example:
        >>> from autowarmup.training.trace import Evaluation
        >>> def trace(losses):
        ...     zeros = np.zeros(4)
        ...     return Trace(zeros, zeros, zeros, tuple(Evaluation(i + 1, x, x) for i, x in enumerate(losses)))
        >>> round(jitter(trace([1.0, 0.8, 0.7, 0.6]), trace([1.1, 1.0, 0.8, 0.8]), every=1, last=4), 3)
        0.071
    """
    losses = {mark.step: mark.loss for mark in objective.marks(first, every) if mark.step <= until}
    common = [losses[mark.step] - mark.loss for mark in objective.marks(second, every) if mark.step in losses]
    steps = np.diff([difference for difference in common if math.isfinite(difference)][-last:])
    size = max((abs(loss) for loss in losses.values() if math.isfinite(loss)), default=0.0)
    found = float(np.sqrt(np.mean(steps**2) / 2.0)) if len(steps) else 0.0
    return max(found, SMALLEST * size, LEAST)
