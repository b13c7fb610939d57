"""The probe: its ramp, and the peak that is read off it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autowarmup.search.probe import peak_of_ramp, ramp
from autowarmup.training.trace import Trace

STEPS = np.arange(200)
LRS = np.geomspace(1e-4, 1.0, 200)


def read(loss: np.ndarray, current_peak: float = 1e-3, lrs: np.ndarray = LRS) -> float:
    return peak_of_ramp(Trace(lrs[: len(loss)], loss, loss), current_peak)


def test_the_ramp_rises_from_a_thirtieth_of_today_s_rate_to_a_hundred_times_of_it() -> None:
    schedule = ramp(0.3, 50)
    assert (schedule.peak, schedule.horizon, schedule.duration) == (30.0, 50, 50)
    rates = [schedule.lr_at(step) for step in range(50)]
    assert rates[0] == pytest.approx(0.3 / 30.0, rel=1e-9)
    ratios = np.diff(np.log(rates))
    np.testing.assert_allclose(ratios, math.log(3000.0) / 50.0, rtol=1e-6)


def smoothed(loss: np.ndarray) -> np.ndarray:
    """An average over the past that forgets a tenth a step, without its bias to 0."""
    weights = np.array([[0.9 ** (i - j) if j <= i else 0.0 for j in range(len(loss))] for i in range(len(loss))])
    return np.asarray(weights @ loss / weights.sum(1))


@pytest.mark.parametrize("lowest", [60, 100, 150])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_peak_is_a_share_of_the_last_rate_at_which_the_loss_is_lowest(lowest: int, noise: float) -> None:
    loss = 2.0 + ((STEPS - lowest) / 100.0) ** 2 + noise * np.random.default_rng(lowest).standard_normal(200)
    smooth = smoothed(loss)
    one = 1.4826 * float(np.median(np.abs(np.diff(loss)))) / math.sqrt(2.0)
    last = np.flatnonzero(smooth <= smooth.min() + one * math.sqrt(0.1 / 1.9))[-1]
    assert read(loss, 1e-5) == pytest.approx(0.4 * LRS[last], rel=1e-9)


def test_no_less_than_today_s_rate_where_the_ramp_got_there_and_the_loss_had_not_risen() -> None:
    falls_and_rises = 2.0 + ((STEPS - 60) / 100.0) ** 2
    expected = read(falls_and_rises, 1e-5)
    assert expected < 0.02
    assert read(falls_and_rises, 0.02) == 0.02
    assert read(falls_and_rises, 0.5) == expected  # at half a rate of 1 it had risen above its start
    assert read(falls_and_rises[:80], 0.5) == read(falls_and_rises[:80], 1e-5) < 0.02  # it ended before today's rate


@pytest.mark.parametrize(("rise", "low"), [(0.9, False), (1.1, True)])
def test_a_loss_has_risen_that_is_above_its_start_by_three_times_its_noise(rise: float, low: bool) -> None:
    """Every other loss is higher by 0.1, so one loss's noise is 0.1048, and that of the start and the average's too."""
    noise = 1.4826 * 0.1 / math.sqrt(2.0)
    threshold = 3.0 * math.hypot(noise * math.sqrt(0.1 / 1.9), noise / math.sqrt(3.0))
    ripple = 0.1 * (STEPS % 2)
    loss = np.where(STEPS < 50, 1.0, np.where(STEPS < 100, 0.0, rise * threshold + 1.0)) + ripple
    start = float(np.mean(loss[:3]))
    loss[100:] += start - 1.0 - 0.05  # the average of the ripple is 0.05
    expected = read(loss, 1e-5)
    assert read(loss, 0.9) == (expected if low else 0.9)


def test_losses_that_are_not_finite_and_steps_at_rate_zero_are_left_out() -> None:
    loss = 2.0 + ((STEPS - 100) / 100.0) ** 2
    expected = read(loss, 1e-5)
    late = np.concatenate([loss, [math.nan, math.inf]])
    rates = np.concatenate([LRS, [1.1, 1.2]])
    assert read(late, 1e-5, rates) == expected
    skipped = np.concatenate([[-9.0], loss])
    assert read(skipped, 1e-5, np.concatenate([[0.0], LRS])) == expected
    assert read(np.array([math.nan, 1.0]), 3.0, np.array([1.0, 0.0])) == pytest.approx(0.1)
    assert read(np.array([1.0]), 1e-9, np.array([0.5])) == 0.2
