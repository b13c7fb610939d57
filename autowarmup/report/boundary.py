"""Where training stops being stable: how likely a schedule is to break, by the trials that did and did not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

BEYOND = math.log(30.0)
"""How far beyond the peaks that were tried the threshold may lie."""
GAINS = np.linspace(-1.0, 5.0, 37)
"""What a warm-up may do: the logarithm of the threshold rises by this times the square root of the warm-up's share."""
GAIN_MEAN, GAIN_DEVIATION = 1.5, 1.5
"""What is expected of it before any trial: a warm-up of 30% of the run doubles the threshold, give or take as much."""
WIDTHS = np.geomspace(0.05, 1.5, 8)
"""How gradually the chance rises with the logarithm of the peak."""
KEPT = 0.999
"""Share of the posterior that is kept; the least likely rest costs time only."""


@dataclass(frozen=True)
class Boundary:
    """The probability that a schedule is unstable: a logistic function of ``ln(peak) - threshold - gain * sqrt(share)``
    over ``width``, ``share`` being the warm-up's share of the run.

    The three are not known; the probability is averaged over all of their values, each as likely as the trials make it
    (Bayes' rule on a grid). So it is gradual where few trials tell, and sharp where many do.

    Args:
        threshold, gain, width, weight: values and their probabilities, each of shape ``(n,)``.
        peaks: the peaks that can be told about, from the lowest to the highest.

    Example:
        >>> boundary = Boundary.fit(np.array([0.01, 0.04]), np.array([0.1, 0.1]), np.array([False, True]))
        >>> round(boundary.critical_peak(0.1), 3)
        0.02
    """

    threshold: Array
    gain: Array
    width: Array
    weight: Array
    peaks: tuple[float, float]

    @classmethod
    def fit(cls, peak: Array, share: Array, unstable: Array) -> Self | None:
        """The boundary that trials show; None unless one was stable and one was not.

        Args:
            peak: the trials' peaks, shape ``(n,)``.
            share: their warm-ups' shares of the run, 0 to 1, shape ``(n,)``.
            unstable: which of them broke, shape ``(n,)``.
        """
        if len(peak) == 0 or unstable.all() or not unstable.any():
            return None
        lowest, highest = float(np.log(peak.min())) - BEYOND, float(np.log(peak.max())) + BEYOND
        grid = np.meshgrid(np.arange(lowest, highest, 0.05), GAINS, WIDTHS, indexing="ij")
        threshold, gain, width = (values.ravel() for values in grid)
        logs = -0.5 * ((gain - GAIN_MEAN) / GAIN_DEVIATION) ** 2
        for ln_peak, root, broke in zip(np.log(peak), np.sqrt(share), unstable, strict=True):
            distance = (ln_peak - threshold - gain * root) / width
            logs -= np.logaddexp(0.0, -distance if broke else distance)
        weight = np.exp(logs - logs.max())
        order = np.argsort(-weight)
        kept = order[: int(np.searchsorted(np.cumsum(weight[order]), KEPT * weight.sum())) + 1]
        ends = math.exp(lowest), math.exp(highest)
        return cls(threshold[kept], gain[kept], width[kept], weight[kept] / weight[kept].sum(), ends)

    @property
    def warmup_helps(self) -> bool:
        """Whether longer warm-ups clearly allow higher peaks: with a probability of 95%."""
        return bool(self.weight[self.gain > 0.0].sum() > 0.95)

    def probability(self, peak: Array, share: Array) -> Array:
        """The probability that schedules are unstable; arrays of one shape."""
        chance = np.empty(np.shape(peak))
        for index in np.ndindex(chance.shape):
            distance = np.log(peak[index]) - self.threshold - self.gain * math.sqrt(share[index])
            chance[index] = 0.5 * (1.0 + np.tanh(distance / self.width / 2.0)) @ self.weight
        return chance

    def critical_peak(self, share: float, chance: float = 0.5) -> float:
        """The peak at which a schedule with that warm-up is unstable with probability ``chance``."""
        peaks = np.geomspace(*self.peaks, 500)
        return float(np.interp(chance, self.probability(peaks, np.full(500, share)), peaks))
