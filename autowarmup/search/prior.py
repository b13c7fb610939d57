"""What is expected of schedules before anything is known of the task: a prior that was learned from other tasks.

It says what tasks have in common: where the best peak lies, given the current one and what the probe tells; how much
worse a peak is that lies off it; that high peaks and short warm-ups look better a quarter into a run than they are at
its end; and how alike schedules end that are alike.

Everything is fitted to the tables of the search benchmark: ``python -m benchmarks.search.prior`` makes ``prior.json``.
docs/search.md has what it brings on tasks that it was not fitted to.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from autowarmup.values import Frozen

Array = np.ndarray[Any, np.dtype[np.float64]]

SHARES = (0.25, 0.5, 1.0)
"""Shares of the horizon at which the mean has coefficients of its own; in between they are interpolated."""
LOWEST, HIGHEST = -2.0, 1.5
"""Peaks that are off the expected one by more than this, in decades, count as off by this."""


class Prior(Frozen):
    """A prior over the losses of schedules, in the unit of :class:`autowarmup.search.surrogate.Surrogate`.

    Args:
        peak: ``(a, b)``: the best peak to expect is ``current * 10**a * (reading / current)**b``, where ``reading`` is
            what the probe tells.
        mean: coefficients of the mean, one for each of the :func:`terms`.
        lengths: length scales of the kernel: one for each of a schedule's features, and one for the step as a share of
            the horizon.
        noise: variance of one evaluation.

    Example:
        >>> prior = Prior.learned()
        >>> peaks = np.array([-3.5, -2.5, -1.5])  # decimal logarithms
        >>> rows = np.stack([peaks, *(np.full(3, value) for value in (0.4, 0.5, 0.1, 1.0))], axis=1)
        >>> low, expected, high = prior.mean_of(rows, expected_peak=10**-2.5)
        >>> bool(low > expected < high)
        True
    """

    peak: tuple[float, float]
    mean: tuple[float, ...]
    lengths: tuple[float, float, float, float, float]
    noise: float

    @classmethod
    @cache
    def learned(cls) -> Prior:
        """The one that is shipped."""
        text = resources.files("autowarmup.search").joinpath("prior.json").read_text(encoding="utf-8")
        return cls.model_validate_json(text)

    def expected_peak(self, current: float, reading: float) -> float:
        """The best peak to expect.

        Args:
            current: the current peak.
            reading: the peak that the probe tells; see :func:`autowarmup.search.probe.peak_of_ramp`.
        """
        offset, slope = self.peak
        return float(current * 10.0**offset * (reading / current) ** slope)

    def mean_of(self, rows: Array, expected_peak: float) -> Array:
        """The mean of schedules at steps, shape ``(n,)``, up to a constant.

        Args:
            rows: shape ``(n, 5)``: a schedule's :func:`~autowarmup.search.surrogate.features`, and the step as a share
                of the horizon.
            expected_peak: the best peak to expect.
        """
        mean: Array = terms(rows, math.log10(expected_peak)) @ np.array(self.mean)
        return mean


def terms(rows: Array, expected: float) -> Array:
    """What the mean is a linear combination of: products of features of the schedule with weights of the step.

    Args:
        rows: as in :meth:`Prior.mean_of`.
        expected: the decimal logarithm of the best peak to expect.

    Returns:
        Shape ``(n, 30)``.
    """
    peak, area, shape, left, share = rows.T
    off = np.clip(peak - expected, LOWEST, HIGHEST)
    bowl = 2.0 * (np.hypot(1.0, off) - 1.0)
    of_schedule = (off, bowl, off**3, area, area**2, area * off, area * bowl, shape, left, left * off)
    of_step = [np.interp(share, SHARES, unit) for unit in np.eye(len(SHARES))]
    return np.stack([one * weight for one in of_schedule for weight in of_step], axis=1)
