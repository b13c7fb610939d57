"""The probe: one ramp of the learning rate tells which peaks to expect."""

from __future__ import annotations

import math

import numpy as np

from autowarmup.instability.history import MAD_TO_SIGMA
from autowarmup.schedule import ConstantDecay, Exponential, Schedule
from autowarmup.training.trace import Trace

OF_LOWEST = 0.4
"""The expected peak, as a share of the highest rate at which a ramp's smoothed loss is at its lowest."""


def ramp(current_peak: float, steps: int) -> Schedule:
    """The probe: an exponential ramp from a thirtieth of today's rate to a hundred times of it."""
    return Schedule(
        peak=current_peak * 100.0,
        horizon=steps,
        warmup_steps=steps,
        shape=Exponential(),
        start_factor=1.0 / 3000.0,
        decay=ConstantDecay(),
    )


def peak_of_ramp(trace: Trace, current_peak: float) -> float:
    """The peak to expect, read off an exponential ramp of the rate: 0.4 of the highest rate at which the smoothed loss
    was at its lowest, within its noise. That rate lies above the best peaks. But no less than today's rate, unless the
    loss had risen above its start by then: where the ramp shows nothing, today's rate is the best guess.

    Example:
        >>> rate = np.geomspace(1e-4, 1.0, 100)
        >>> loss = 3.0 - np.log1p(100 * rate) + (rate / 0.1) ** 2
        >>> round(peak_of_ramp(Trace(rate, loss, loss), current_peak=1e-3), 2)
        0.04
    """
    finite = np.isfinite(trace.loss) & (trace.lr > 0)
    if not finite.any():
        return current_peak / 30.0  # broke at once
    loss, rate = trace.loss[finite], trace.lr[finite]
    smooth, weight = np.empty_like(loss), 0.0
    value = 0.0
    for i, item in enumerate(loss):
        value, weight = 0.9 * value + 0.1 * item, 0.9 * weight + 0.1
        smooth[i] = value / weight
    jumps = np.abs(np.diff(loss))
    noise = MAD_TO_SIGMA * float(np.median(jumps)) / math.sqrt(2.0) if len(jumps) else 0.0
    averaged = noise * math.sqrt(0.1 / 1.9)  # the noise of an average with a decay of 0.9
    low = np.flatnonzero(smooth <= smooth.min() + averaged)
    start = float(np.mean(loss[:3]))
    risen = np.flatnonzero(smooth > start + 3.0 * math.hypot(averaged, noise / math.sqrt(3.0)))
    broken = rate[risen[0]] if len(risen) else math.inf
    expected = OF_LOWEST * float(rate[low[-1]])
    return expected if broken < current_peak or rate[-1] < current_peak else max(expected, current_peak)
