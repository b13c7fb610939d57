"""The model behind the search: what it makes of evidence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autowarmup import Schedule
from autowarmup.search.prior import Prior
from autowarmup.search.surrogate import Evidence, Surrogate, features, scores
from autowarmup.training.trace import Evaluation, Trace

HORIZON = 100
PRIOR = Prior(
    peak=(0.0, 1.0),
    mean=tuple(1.0 if term in (3, 4, 5) else 0.0 for term in range(30)),
    lengths=(0.5, 0.3, 0.4, 0.3, 1.0),
    noise=0.15,
)
"""A mean that depends on the peak alone, at every step alike."""


def schedule(peak: float, warmup_steps: int = 20, shape: str = "linear") -> Schedule:
    plan = {"warmup_steps": warmup_steps, "shape": shape} if warmup_steps else {}
    return Schedule(peak=peak, horizon=HORIZON, **plan)  # type: ignore[arg-type]


def evidence(peak: float, loss: float, end: int = HORIZON, *, broke: bool = False) -> Evidence:
    """A trial that was a constant better or worse than others at every evaluation."""
    steps = range(25, end + 1, 5)
    return Evidence(schedule(peak), tuple((step, loss + 1.0 / step) for step in steps), broke)


PARABOLA = [evidence(peak, 2.0 + math.log10(peak / 0.01) ** 2) for peak in (1e-3, 1e-2, 1e-1)]


def test_the_best_is_where_the_evidence_says() -> None:
    model = Surrogate(PARABOLA, 0.01, PRIOR)
    peaks = np.geomspace(1e-4, 1.0, 41)
    mean, _ = model.predict([schedule(peak) for peak in peaks.tolist()])
    assert 0.004 < peaks[int(np.argmin(mean))] < 0.025
    assert model.reference == schedule(0.01)
    assert model.finished


def test_what_was_trained_is_known_better_than_what_was_not() -> None:
    model = Surrogate(PARABOLA, 0.01, PRIOR)
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


def test_differences_below_the_margin_say_little() -> None:
    """On a plateau losses differ by next to nothing; in units of those differences they would look far apart."""
    items = [Evidence(schedule(peak), ((25, 2.3 + off),)) for peak, off in ((0.01, 0.0), (0.1, 0.002), (1.0, 0.004))]
    asked = [schedule(0.01), schedule(1.0)]
    without, at_margin = Surrogate(items, 0.1, PRIOR), Surrogate(items, 0.1, PRIOR, margin=0.005)
    assert without.scale == pytest.approx(0.003)
    assert at_margin.scale == pytest.approx(0.005 * 2.3)
    told = [float(np.ptp(model.predict(asked)[0])) for model in (without, at_margin)]
    assert told[1] < 0.5 * told[0]


def test_trials_that_broke_before_their_first_score_count_too() -> None:
    broken = Evidence(schedule(0.02), (), broke=True)
    asked = [schedule(0.02)]
    before, after = Surrogate(PARABOLA, 0.01).predict(asked)[0], Surrogate([*PARABOLA, broken], 0.01).predict(asked)[0]
    assert after > before


def test_believing_in_one_candidate_lowers_the_worth_of_its_neighbours() -> None:
    model = Surrogate(PARABOLA, 0.01, PRIOR)
    asked = [schedule(0.03, 25), schedule(0.01, 0)]
    before, after = model.improvement(asked), model.fantasize([schedule(0.03)]).improvement(asked)
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
    unfinished = losses[:19]
    assert scores(Trace(unfinished, unfinished, unfinished), HORIZON, 10, None) == ((10, 4.5),)


def test_until_a_loop_validates_its_training_loss_is_the_score() -> None:
    losses = np.arange(30.0)
    late = Trace(losses, losses, losses, (Evaluation(25, 1.0, math.nan),))
    assert scores(late, HORIZON, 10, None) == ((10, 4.5), (20, 14.5), (25, 1.0))


# --- Exactly ----------------------------------------------------------------------------------------------


def matern(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Rasmussen & Williams 2006, equation 4.17, with five halves and a length for each coordinate."""
    lengths = np.array([0.5, 0.3, 0.4, 0.3, 1.0])
    distance = math.sqrt(5.0) * np.linalg.norm((first[:, None] - second[None]) / lengths, axis=2)
    return np.asarray((1.0 + distance + distance**2 / 3.0) * np.exp(-distance))


def forecast(
    rows: list[tuple[float, ...]], values: list[float], places: list[tuple[float, ...]], expected_peak: float
) -> tuple[np.ndarray, np.ndarray]:
    """A Gaussian process around a prior mean, by its equations (2.25 and 2.26)."""

    def prior(at: np.ndarray) -> np.ndarray:
        off = np.clip(at[:, 0] - math.log10(expected_peak), -2.0, 1.5)
        return np.asarray(2.0 * (np.sqrt(1.0 + off**2) - 1.0))

    known, asked = np.array(rows), np.array(places)
    residuals = np.array(values) - prior(known)
    offset = residuals.mean()
    covariance, across = matern(known, known) + 0.15 * np.eye(len(known)), matern(asked, known)
    mean = across @ np.linalg.solve(covariance, residuals - offset) + prior(asked) + offset
    variance = 1.0 - np.einsum("ij,ji->i", across, np.linalg.solve(covariance, across.T))
    return mean, np.sqrt(variance)


def test_the_forecast_is_that_of_a_gaussian_process_written_by_hand() -> None:
    """Differences from the reference at the same step, a broken trial half a unit worse than the worst one that got to
    the horizon, and a prior."""
    items = [
        Evidence(schedule(0.01), ((25, 3.0), (50, 2.5), (100, 2.0))),
        Evidence(schedule(0.03, 10, "exponential"), ((25, 3.4), (30, 9.0), (50, 2.4))),
        Evidence(schedule(0.1, 0), ((25, 3.2), (50, math.inf), (100, 2.3))),
        Evidence(schedule(1.0), ((25, 1.0),), broke=True),
        Evidence(schedule(2.0), (), broke=True),
    ]
    model = Surrogate(items, 0.02, PRIOR)
    assert model.reference == schedule(0.01)
    assert model.finished
    differences = [0.0, 0.0, 0.0, 0.4, -0.1, 0.2, 0.3, -2.0]
    scale = 0.3  # the median of 0.4, 0.1, 0.2, 0.3 and 2
    assert model.scale == pytest.approx(scale)
    rows = [(*features(items[i].schedule), step / 100) for i in range(4) for step, _ in items[i].scores]
    rows = [row for i, row in enumerate(rows) if i not in (4, 7)]  # no reference at step 30; a loss that is infinite
    values = [math.asinh(difference / scale) for difference in differences]
    worst = max(value for row, value in zip(rows, values, strict=True) if row[-1] == 1.0)
    rows += [(*features(item.schedule), 1.0) for item in items[3:]]
    values += [worst + 0.5] * 2
    asked = [schedule(0.01), schedule(0.05, 30, "sqrt"), schedule(0.5, 5), schedule(1e-3)]
    places = [(*features(item), 1.0) for item in asked]
    mean, deviation = forecast(rows, values, places, 0.02)
    np.testing.assert_allclose(model.predict(asked), (mean, deviation), rtol=1e-9)
    gain = -mean / deviation
    density = np.exp(-(gain**2) / 2) / math.sqrt(2 * math.pi)
    distribution = np.array([0.5 * (1.0 + math.erf(g / math.sqrt(2))) for g in gain])
    np.testing.assert_allclose(model.improvement(asked), deviation * (gain * distribution + density), rtol=1e-9)

    believed = model.fantasize([asked[1]])
    mean, deviation = forecast([*rows, places[1]], [*values, mean[1]], places, 0.02)
    np.testing.assert_allclose(believed.predict(asked), (mean, deviation), rtol=1e-9)


def test_the_reference_is_the_best_of_those_that_got_furthest() -> None:
    short, far, farther = evidence(0.1, 1.0, end=25), evidence(0.2, 3.0, end=50), evidence(0.3, 2.0, end=50)
    broke = evidence(0.4, 0.5, end=50, broke=True)
    model = Surrogate([short, far, farther, broke], 0.1)
    assert (model.reference, model.finished) == (schedule(0.3), False)
    assert Surrogate([Evidence(schedule(0.9), (), broke=True), broke], 0.1).reference == schedule(0.4)
    assert Surrogate([evidence(0.1, 1.0)], 0.1).scale == 1.0  # nothing to compare with
    assert Evidence(schedule(0.1), ()).end == 0
    assert evidence(0.1, 1.0, end=50).end == 50


def test_all_that_broke_is_worse_than_what_a_single_trial_showed() -> None:
    """A lone reference has no differences: what broke counts as half a unit worse."""
    rows = [(*features(schedule(0.1)), 1.0), (*features(schedule(1.0)), 1.0)]
    model = Surrogate([Evidence(schedule(0.1), ((100, 2.0),)), Evidence(schedule(1.0), (), broke=True)], 0.1, PRIOR)
    asked = [schedule(0.1), schedule(1.0)]
    np.testing.assert_allclose(model.predict(asked), forecast(rows, [0.0, 0.5], rows, 0.1), rtol=1e-9)


@pytest.mark.parametrize("duration", [1, 2, 20, 90])
def test_features_are_areas_under_the_curves(duration: int) -> None:
    """Up to 32 steps of the warm-up and eight of the last quarter stand for all."""
    made = schedule(0.02, duration)
    sampled = np.unique(np.linspace(0, duration - 1, 32).astype(int))
    missing = np.mean([1.0 - made.lr_at(int(step)) / 0.02 for step in sampled])
    ends = [max(int(step), duration) for step in np.linspace(75, 100, 8)]
    left = np.mean([0.5 * (1.0 + math.cos(math.pi * (step - duration) / (100 - duration))) for step in ends])
    expected = math.log10(0.02), math.sqrt(missing * duration / 100.0), missing, left
    assert features(made) == pytest.approx(expected, rel=1e-9)
    assert features(schedule(0.02, 0))[1:3] == (0.0, 0.5)


def test_scores_exactly() -> None:
    """Above the trivial loss of 2 a score is what the loss falls to in fifteen more steps, but not below 2."""
    losses = np.arange(40.0)
    marks = [(10, 3.0), (20, 2.6), (30, 2.1), (35, 2.3), (40, 2.0), (50, 1.0)]
    made = Trace(losses, losses, losses, tuple(Evaluation(step, loss + 0.5, loss) for step, loss in marks))
    found = scores(made, HORIZON, 10, trivial_loss=2.0)
    assert [step for step, _ in found] == [10, 20, 30, 35, 40, 50]
    assert [score for _, score in found] == pytest.approx([3.0, 2.0, 2.0, 2.3 + 15 * 0.04, 2.0, 1.0])
    slow = Trace(losses, losses, losses, tuple(Evaluation(step, 9.0, loss) for step, loss in [(10, 3.0), (20, 2.8)]))
    assert scores(slow, HORIZON, 10, trivial_loss=2.0)[1] == (20, pytest.approx(2.8 - 15 * 0.02))
    assert scores(slow, 20, 10, trivial_loss=2.0)[1] == (20, 9.0)
