"""Where training stops being stable: a boundary between the schedules that broke and those that did not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

LEAST = 3
"""Stable and unstable trials that a boundary needs, each."""
LEAST_TOTAL = 10
"""Trials that a boundary needs."""
LEAST_ACCURACY = 0.8
"""Share of left-out trials, averaged over both classes, that a boundary must put on the right side."""
RIDGE = 0.03
"""Penalty on the standardised weights: keeps them finite where the classes separate perfectly."""


@dataclass(frozen=True)
class Boundary:
    """A logistic fit: the probability that a schedule is unstable is
    ``sigmoid(bias + per_log_peak * ln(peak) + per_root_share * sqrt(share))``, ``share`` being the warm-up's
    share of the horizon. ``accuracy`` is the share of trials that it judges rightly when they are left out of
    the fit, averaged over both classes; ``root_share_error`` the jackknife's standard error of
    ``per_root_share``.
    """

    bias: float
    per_log_peak: float
    per_root_share: float
    accuracy: float
    root_share_error: float

    @classmethod
    def fit(cls, peak: Array, share: Array, unstable: Array) -> Self | None:
        """The boundary between the two classes; None where there are too few trials of one, or no line tells
        them apart."""
        if len(peak) < LEAST_TOTAL or not LEAST <= unstable.sum() <= len(unstable) - LEAST:
            return None
        features = np.stack([np.log(peak), np.sqrt(share)], axis=1)
        left_out = _left_out(features, unstable)
        accuracy = _balanced_accuracy(left_out, features, unstable)
        if accuracy < LEAST_ACCURACY:
            return None
        bias, per_log_peak, per_root_share = _logistic(features, unstable)
        error = math.sqrt((len(peak) - 1) * left_out[:, 2].var())
        return cls(float(bias), float(per_log_peak), float(per_root_share), accuracy, error)

    @property
    def warmup_helps(self) -> bool:
        """Whether longer warm-ups clearly allow higher peaks: by more than two standard errors."""
        return self.per_root_share + 2.0 * self.root_share_error < 0.0

    def probability(self, peak: Array, share: Array) -> Array:
        """The probability that schedules are unstable."""
        return _sigmoid(self.bias + self.per_log_peak * np.log(peak) + self.per_root_share * np.sqrt(share))

    def critical_peak(self, share: float) -> float | None:
        """The peak above which a schedule is rather unstable than stable; None where no peak makes that
        difference."""
        if self.per_log_peak <= 0.0:
            return None
        exponent = -(self.bias + self.per_root_share * math.sqrt(share)) / self.per_log_peak
        return math.exp(exponent) if abs(exponent) < 700.0 else None


def _logistic(features: Array, labels: Array) -> Array:
    """Bias and weights of a ridge logistic regression, by Newton's method on standardised features."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    inputs = np.column_stack([np.ones(len(features)), (features - mean) / scale])
    ridge = np.diag([1e-6, RIDGE, RIDGE])
    weights = np.zeros(3)
    for _ in range(30):
        chance = _sigmoid(inputs @ weights)
        gradient = inputs.T @ (chance - labels) + ridge @ weights
        hessian = (inputs.T * (chance * (1.0 - chance))) @ inputs + ridge
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step / max(1.0, float(np.abs(step).max()) / 2.0)
    slopes = weights[1:] / scale
    return np.array([weights[0] - slopes @ mean, *slopes])


def _left_out(features: Array, labels: Array) -> Array:
    """For each trial the fit to all others, shape ``(n, 3)``."""
    everyone = np.arange(len(labels))
    return np.array([_logistic(features[everyone != one], labels[everyone != one]) for one in everyone])


def _balanced_accuracy(fits: Array, features: Array, labels: Array) -> float:
    """How many trials the fit without them judges rightly, as a share, averaged over both classes."""
    right = (fits[:, 0] + (features * fits[:, 1:]).sum(axis=1) > 0.0) == labels
    return float((right[labels].mean() + right[~labels].mean()) / 2.0)


def _sigmoid(value: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(value / 2.0)))
