"""What paired runs say, one after the other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autowarmup.search.confirmation import SPREAD
from autowarmup.search.pairs import FACTOR, NoisePrior, Posterior, expected_noise, jitter
from autowarmup.training.trace import Evaluation, Trace
from benchmarks.verdict import simulated

DIFFERENCES = st.lists(st.floats(-10.0, 10.0), min_size=1, max_size=6)


@given(DIFFERENCES, st.floats(0.01, 100.0))
@settings(deadline=None, max_examples=50)
def test_it_does_not_depend_on_the_unit_of_the_loss(differences: list[float], unit: float) -> None:
    one = Posterior(differences=tuple(differences), prior=NoisePrior(expected=1.0, spread=1.0))
    scaled = tuple(unit * difference for difference in differences)
    other = Posterior(differences=scaled, prior=NoisePrior(expected=unit, spread=1.0))
    assert one.chance_below(0.0) == pytest.approx(other.chance_below(0.0), abs=1e-9)


@given(DIFFERENCES)
@settings(deadline=None, max_examples=50)
def test_turning_the_sign_turns_the_answer(differences: list[float]) -> None:
    prior = NoisePrior(expected=0.5, spread=1.0)
    one = Posterior(differences=tuple(differences), prior=prior)
    other = Posterior(differences=tuple(-difference for difference in differences), prior=prior)
    assert one.chance_below(0.0) == pytest.approx(1.0 - other.chance_below(0.0), abs=1e-9)


@pytest.mark.parametrize("pairs", [1, 2, 3])
def test_intervals_of_a_fixed_number_of_pairs_cover_what_they_say(pairs: int) -> None:
    """Where the noise is as its prior says: 95% within two standard errors of 1,000 studies."""
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(1_000):
        noise = float(np.exp(generator.normal()))
        differences = tuple(generator.normal(0.0, noise, pairs).tolist())
        low, high = Posterior(differences=differences, prior=NoisePrior(expected=1.0, spread=1.0)).interval(0.95)
        covered.append(low <= 0.0 <= high)
    assert 0.936 <= np.mean(covered) <= 0.964


def trace(losses: list[float]) -> Trace:
    flat = np.zeros(len(losses))
    return Trace(flat, flat, flat, tuple(Evaluation(i, x, math.nan) for i, x in enumerate(losses, 1)))


def test_the_noise_is_expected_from_the_steps_of_the_difference() -> None:
    """What both share is no noise, nor is what they always differ by."""
    rng = np.random.default_rng(0)
    shared = np.cumsum(rng.normal(size=21))
    first = shared + 0.1 * rng.normal(size=21)
    second = shared + 5.0
    expected = np.sqrt(np.mean(np.diff((first - second)[-11:]) ** 2) / 2.0)
    assert jitter(trace(first.tolist()), trace(second.tolist()), 1, 11) == pytest.approx(expected)
    assert expected_noise(trace(first.tolist()), trace(second.tolist()), 1) == pytest.approx(FACTOR * expected)
    early = np.sqrt(np.mean(np.diff((first - second)[3:10]) ** 2) / 2.0)
    assert jitter(trace(first.tolist()), trace(second.tolist()), 1, 7, until=10) == pytest.approx(early)


@pytest.mark.parametrize("last", [math.inf, math.nan, 0.5])
def test_losses_that_are_not_finite_are_left_out(last: float) -> None:
    first, second = [1.0, 0.8, 0.7, last, last], [1.1, 1.0, 0.8, 0.9, last]
    assert 0.0 < jitter(trace(first), trace(second), 1, 5) < 1.0


@pytest.mark.parametrize("loss", [0.0, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("difference", [0.0, -1e-6, 1.0, -1e6])
def test_losses_that_never_move_have_a_noise_that_can_be_reckoned_with(loss: float, difference: float) -> None:
    flat = trace([loss] * 20)
    prior = NoisePrior(expected=expected_noise(flat, flat, 1), spread=1.0)
    for count in (1, 2):
        posterior = Posterior(differences=(difference,) * count, prior=prior)
        low, high = posterior.interval(0.95)
        assert low <= difference <= high
        assert 0.0 <= posterior.chance_below(0.0) <= 1.0
        if difference == 0.0:
            assert posterior.chance_below(0.0) == pytest.approx(0.5)


@pytest.mark.parametrize("together", [False, True])
def test_the_verdict_of_pairs_is_right_as_often_as_it_says(together: bool) -> None:
    """Where the noise is around the expected one as its prior says: *tuned* where nothing is better in at most 5% of
    studies, and at four noises in nearly all; intervals hold the difference in 93% at least. Within two standard
    errors."""
    ratios = np.exp(np.random.default_rng(0).normal(0.0, SPREAD, 400)).tolist()
    options = {"spread": SPREAD, "worth": 0.0, "together": together, "studies": 400, "seed": 1}
    nothing, plain = (simulated(better_by, ratios, **options) for better_by in (0.0, 4.0))  # type: ignore[arg-type]
    assert nothing.share("tuned") <= 0.05 + 0.022
    assert plain.share("tuned") >= 0.95
    assert min(nothing.covered(), plain.covered()) >= 0.93 - 0.026
    assert np.mean(plain.pairs) == 4.0 if together else np.mean(plain.pairs) < np.mean(nothing.pairs) < 4.0
