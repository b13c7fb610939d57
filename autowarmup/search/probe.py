"""The probe: a ramp of the learning rate, from which the range of peaks to search is read."""

from __future__ import annotations

import math

import numpy as np

from autowarmup.instability.history import MAD_TO_SIGMA
from autowarmup.schedule import ConstantDecay, Exponential, Schedule
from autowarmup.training.trace import Trace

OF_LOWEST = 0.4
"""The expected peak as a share of the highest learning rate at which the ramp's smoothed loss is at its lowest."""


def ramp(current_peak: float, steps: int) -> Schedule:
    """The probe's schedule: an exponential ramp of ``steps`` steps, from a thirtieth of ``current_peak`` to a hundred
    times it."""
    return Schedule(
        peak=current_peak * 100.0,
        horizon=steps,
        warmup_steps=steps,
        shape=Exponential(),
        start_factor=1.0 / 3000.0,
        decay=ConstantDecay(),
    )


def peak_of_ramp(trace: Trace, current_peak: float) -> float:
    """The best peak to expect, read off an exponential ramp of the learning rate.

    It is 0.4 times the highest learning rate at which the smoothed loss is at its lowest, within its noise; that rate
    itself lies above the best peaks. It is at least ``current_peak``, unless the loss has risen above its start before
    that: where the ramp shows nothing, today's peak is the best guess.

    Args:
        trace: what the ramp recorded.
        current_peak: the learning rate that is used today.

    Example:
        >>> lr = np.geomspace(1e-4, 1.0, 100)
        >>> loss = 3.0 - np.log1p(100 * lr) + (lr / 0.1) ** 2
        >>> round(peak_of_ramp(Trace(lr, loss, loss), current_peak=1e-3), 2)
        0.04
    """
    finite = np.isfinite(trace.loss) & (trace.lr > 0)
    if not finite.any():
        return current_peak / 30.0  # the first step was unstable already
    loss, lr = trace.loss[finite], trace.lr[finite]
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
    unstable = lr[risen[0]] if len(risen) else math.inf
    expected = OF_LOWEST * float(lr[low[-1]])
    return expected if unstable < current_peak or lr[-1] < current_peak else max(expected, current_peak)
