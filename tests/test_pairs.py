"""What paired runs say, one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autowarmup.search.pairs import NoisePrior, Posterior

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
