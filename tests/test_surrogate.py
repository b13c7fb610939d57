"""The model behind the search: what it makes of evidence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autowarmup import Schedule
from autowarmup.search.surrogate import Evidence, Surrogate, features, scores
from autowarmup.training.trace import Evaluation, Trace

HORIZON = 100


def schedule(peak: float, warmup_steps: int = 20, shape: str = "linear") -> Schedule:
    plan = {"warmup_steps": warmup_steps, "shape": shape} if warmup_steps else {}
    return Schedule(peak=peak, horizon=HORIZON, **plan)  # type: ignore[arg-type]


def evidence(peak: float, loss: float, end: int = HORIZON, *, broke: bool = False) -> Evidence:
    """A trial that was a constant better or worse than others at every evaluation."""
    steps = range(25, end + 1, 5)
    return Evidence(schedule(peak), tuple((step, loss + 1.0 / step) for step in steps), broke)


PARABOLA = [evidence(peak, 2.0 + math.log10(peak / 0.01) ** 2) for peak in (1e-3, 1e-2, 1e-1)]


def test_the_best_is_where_the_evidence_says() -> None:
    model = Surrogate(PARABOLA, expected_peak=0.01)
    peaks = np.geomspace(1e-4, 1.0, 41)
    mean, _ = model.predict([schedule(peak) for peak in peaks.tolist()])
    assert 0.004 < peaks[int(np.argmin(mean))] < 0.025
    assert model.reference == schedule(0.01)
    assert model.finished


def test_what_was_trained_is_known_better_than_what_was_not() -> None:
    model = Surrogate(PARABOLA, expected_peak=0.01)
    _, deviation = model.predict([schedule(0.01), schedule(0.03), schedule(0.01, 0), schedule(10.0)])
    assert np.all(np.diff(deviation) > 0.0)


def test_the_fall_of_the_loss_is_no_difference() -> None:
    """A trial that is as good as the reference at every step it has made is expected to be as good at the end, though
    its last loss is higher."""
    model = Surrogate([evidence(0.01, 2.0), evidence(0.012, 2.0, end=25), evidence(0.1, 2.5)], expected_peak=0.01)
    mean, _ = model.predict([schedule(0.01), schedule(0.012)])
    assert abs(mean[1] - mean[0]) < 0.2


@given(st.permutations(range(4)), st.floats(-3.0, 3.0), st.floats(0.01, 100.0))
def test_order_level_and_unit_of_the_losses_make_no_difference(order: list[int], shift: float, unit: float) -> None:
    items = [*PARABOLA, evidence(0.03, 2.1, end=50)]
    changed = [
        Evidence(item.schedule, tuple((step, shift + unit * score) for step, score in item.scores))
        for item in (items[i] for i in order)
    ]
    asked = [schedule(peak) for peak in (1e-3, 5e-3, 2e-2, 2e-1)]
    np.testing.assert_allclose(
        Surrogate(changed, 0.01).improvement(asked), Surrogate(items, 0.01).improvement(asked), rtol=1e-5, atol=1e-8
    )


def test_what_broke_is_worse_than_everything_that_ended() -> None:
    model = Surrogate([*PARABOLA, evidence(1.0, 1.0, end=25, broke=True)], expected_peak=0.01)
    mean, _ = model.predict([schedule(1.0), schedule(0.1), schedule(0.01)])
    assert mean[0] > mean[1] > mean[2]
    assert model.reference != schedule(1.0)


def test_trials_that_broke_before_their_first_score_count_too() -> None:
    broken = Evidence(schedule(0.02), (), broke=True)
    asked = [schedule(0.02)]
    before, after = Surrogate(PARABOLA, 0.01).predict(asked)[0], Surrogate([*PARABOLA, broken], 0.01).predict(asked)[0]
    assert after > before


def test_believing_in_one_candidate_lowers_the_worth_of_its_neighbours() -> None:
    model = Surrogate(PARABOLA, expected_peak=0.01)
    asked = [schedule(0.03, 25), schedule(0.01, 0)]
    before, after = model.improvement(asked), model.fantasize(schedule(0.03)).improvement(asked)
    assert after[0] < before[0]
    assert after[0] / before[0] < after[1] / before[1]


def test_shapes_are_told_by_what_they_hold_back() -> None:
    """The square root holds back least, the exponential curve most; no warm-up holds back nothing."""
    held = [features(schedule(0.1, 20, shape))[1] for shape in ("sqrt", "linear", "exponential")]
    assert held == sorted(held)
    assert features(schedule(0.1, 0))[1] == 0.0
    assert features(schedule(0.1))[1] == pytest.approx(features(schedule(0.1, 20, "cosine"))[1], abs=0.01)


def trace(losses: list[float]) -> Trace:
    """An evaluation every ten steps."""
    flat = np.ones(10 * len(losses))
    marks = tuple(Evaluation(10 * i, loss + 0.5, loss) for i, loss in enumerate(losses, 1))
    return Trace(flat, flat, flat, marks)


def test_a_run_stuck_at_the_trivial_loss_scores_worse_than_one_that_falls_towards_it() -> None:
    stuck = scores(trace([2.4, 2.34, 2.33]), HORIZON, 10, trivial_loss=2.3)[-1]
    falling = scores(trace([2.9, 2.65, 2.4]), HORIZON, 10, trivial_loss=2.3)[-1]
    assert 2.3 <= falling[1] < stuck[1]  # credited with no more than reaching that loss
    assert scores(trace([2.9, 2.65, 2.4]), HORIZON, 10, trivial_loss=None)[-1][1] == 2.4


def test_once_under_way_the_level_counts() -> None:
    assert scores(trace([1.0, 0.5]), HORIZON, 10, trivial_loss=2.3)[-1] == (20, 0.5)


def test_at_the_horizon_the_loss_of_the_weights_themselves_counts() -> None:
    assert scores(trace([1.0, 0.5]), 20, 10, trivial_loss=2.3)[-1] == (20, 1.0)


def test_loops_that_never_validate_are_scored_by_their_training_loss() -> None:
    losses = np.arange(20.0)
    assert scores(Trace(losses, losses, losses), HORIZON, 10, None) == ((10, 4.5), (20, 14.5))


def test_until_a_loop_validates_its_training_loss_is_the_score() -> None:
    losses = np.arange(30.0)
    late = Trace(losses, losses, losses, (Evaluation(25, 1.0, math.nan),))
    assert scores(late, HORIZON, 10, None) == ((10, 4.5), (20, 14.5), (25, 1.0))
