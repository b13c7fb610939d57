"""The detectors: what they must catch, how soon, and what they must leave alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from autowarmup.instability.forest import shipped
from autowarmup.instability.instability import Instability
from autowarmup.instability.monitor import Detectors, Monitor
from autowarmup.instability.windows import SortedWindow
from autowarmup.schedule.schedule import Schedule

law = settings(deadline=None, max_examples=60)
NAN, INF = math.nan, math.inf
TRIVIAL = 3.25


def watch(
    losses: Iterable[float],
    *,
    trivial: float | None = None,
    norms: Iterable[float] | None = None,
    rates: Iterable[float] | None = None,
    horizon: int | None = None,
    detectors: Detectors | None = None,
) -> list[Instability]:
    """All verdicts up to the first fatal one."""
    losses = list(losses)
    monitor = (detectors or Detectors()).monitor(horizon or len(losses), trivial)
    rates = [1e-3] * len(losses) if rates is None else list(rates)
    norms = [NAN] * len(losses) if norms is None else list(norms)
    for step, (rate, loss, norm) in enumerate(zip(rates, losses, norms, strict=True)):
        verdict = monitor.observe(step, rate, loss, norm)
        if verdict is not None and verdict.fatal:
            break
    return monitor.events


def curve(steps: int = 300, seed: int = 0, noise: float = 0.05) -> np.ndarray:
    """A healthy loss: from 4.7 through the trivial 3.25 to 2.4."""
    noises = noise * np.random.default_rng(seed).standard_normal(steps)
    return 2.4 + 2.3 * np.exp(-np.arange(steps) / (0.15 * steps)) + noises


def norms(steps: int = 300, seed: int = 1) -> np.ndarray:
    return np.exp(0.3 * np.random.default_rng(seed).standard_normal(steps))


def warmup(steps: int, share: float = 0.3) -> list[float]:
    schedule = Schedule(peak=1e-2, horizon=steps, warmup_steps=round(share * steps), shape="linear")
    return [schedule.lr_at(step) for step in range(steps)]


def fatal(events: list[Instability]) -> list[tuple[str, int]]:
    return [(event.kind, event.detected) for event in events if event.fatal]


# --- Non-finite ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("at", [0, 1, 7, 150])
def test_a_non_finite_loss_ends_the_trial_at_that_very_step(bad: float, at: int) -> None:
    losses = curve()
    losses[at] = bad
    (event,) = watch(losses, trivial=TRIVIAL)
    assert (event.kind, event.step, event.detected, event.fatal) == ("non-finite", at, at, True)


@law
@given(
    losses=st.lists(st.floats(-1e6, 1e6), max_size=60),
    bad=st.sampled_from([NAN, INF, -INF]),
    norm=st.one_of(st.just(NAN), st.just(INF), st.floats(0, 1e9)),
    lr=st.floats(0, 1),
)
def test_a_non_finite_loss_is_judged_first_whatever_came_before(
    losses: list[float], bad: float, norm: float, lr: float
) -> None:
    monitor = Detectors().monitor(100)
    for step, loss in enumerate(losses):
        monitor.observe(step, lr, loss, norm)
    verdict = monitor.observe(len(losses), lr, bad, norm)
    assert verdict is not None
    assert (verdict.kind, verdict.detected, verdict.fatal) == ("non-finite", len(losses), True)


def test_an_infinite_gradient_that_was_applied_is_fatal() -> None:
    gradient = norms()
    gradient[40] = INF
    assert fatal(watch(curve(), norms=gradient)) == [("non-finite", 40)]


def test_steps_skipped_by_a_loss_scaler_are_no_failure() -> None:
    gradient, rates = norms(), warmup(300)
    for step in (0, 1, 2, 3, 80):
        gradient[step], rates[step] = INF, 0.0
    assert watch(curve(), norms=gradient, rates=rates, trivial=TRIVIAL) == []


def test_nothing_but_skipped_steps_is_a_failure() -> None:
    events = watch(curve(), norms=[INF] * 300, rates=[0.0] * 300, detectors=Detectors(max_skips=12))
    assert fatal(events) == [("non-finite", 12)]


# --- Spikes and jumps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [30, 60, 100, 200])
@pytest.mark.parametrize("height", [2.0, 4.0])
def test_a_spike_that_recovers_is_recorded_and_not_fatal(at: int, height: float) -> None:
    losses = curve()
    losses[at:] += height * np.exp(-np.arange(300 - at) / 10)
    (event,) = watch(losses, trivial=TRIVIAL)
    assert (event.kind, event.fatal, event.step) == ("spike", False, at)
    assert event.detected <= at + 3
    assert event.severity > 0.5


@pytest.mark.parametrize("trivial", [TRIVIAL, None])
@pytest.mark.parametrize("at", [30, 60, 100, 200])
def test_a_jump_that_persists_is_seen_at_once_and_soon_fatal(at: int, trivial: float | None) -> None:
    losses = curve()
    losses[at:] += 4.0
    events = watch(losses, trivial=trivial)
    assert (events[0].kind, events[0].step) == ("spike", at)
    assert events[0].detected <= at + 3
    assert events[-1].fatal
    assert events[-1].detected <= at + 60


def test_the_loss_may_be_zero_or_negative() -> None:
    assert watch(curve() - 3.0) == []
    jumped = curve() - 3.0
    jumped[150:] += 4.0
    assert watch(jumped)[0].kind == "spike"


def test_jitter_of_a_regression_loss_near_zero_is_no_spike() -> None:
    rng = np.random.default_rng(0)
    losses = np.exp(-np.arange(2000) / 100) * rng.chisquare(3, 2000) / 3
    assert watch(losses, trivial=1.0) == []


# --- Divergence ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trivial", [TRIVIAL, None])
def test_a_loss_that_blows_up_without_becoming_infinite_is_fatal(trivial: float | None) -> None:
    losses = np.concatenate([curve()[:50], 3.5 * 1.5 ** np.arange(50)])
    events = watch(losses, trivial=trivial)
    assert events[-1].fatal
    assert events[-1].detected <= 75


def test_a_loss_that_blows_up_in_the_second_step_is_fatal() -> None:
    losses = np.concatenate([[4.7], 1e3 * np.ones(60) + np.random.default_rng(0).standard_normal(60)])
    assert fatal(watch(losses, trivial=TRIVIAL))[0][0] == "divergence"


# --- Silent failure ------------------------------------------------------------------------------------------


def collapsed(steps: int = 300, at: int = 100, seed: int = 0) -> np.ndarray:
    """Learns, then climbs back to the trivial loss within thirty steps and sits there."""
    losses = curve(steps, seed)
    back = np.clip((np.arange(steps) - at) / 30, 0, 1)
    noise = 0.05 * np.random.default_rng(seed + 1).standard_normal(steps)
    return np.asarray((1 - back) * losses + back * (TRIVIAL + noise))


@pytest.mark.parametrize("seed", range(5))
def test_a_collapse_to_the_trivial_loss_is_fatal(seed: int) -> None:
    events = watch(collapsed(seed=seed), trivial=TRIVIAL, rates=warmup(300))
    assert fatal(events)
    assert 120 <= events[-1].step <= events[-1].detected <= 185


@pytest.mark.parametrize("seed", range(5))
def test_a_collapse_is_told_without_the_trivial_loss_too(seed: int) -> None:
    losses = collapsed(seed=seed)
    losses[130:] += 0.5
    events = watch(losses)
    assert events[-1].fatal
    assert events[-1].detected <= 240


@pytest.mark.parametrize("shrinking", [True, False])
def test_a_loss_that_falls_to_the_trivial_one_and_stays_is_stuck_once_the_rate_is_high(shrinking: bool) -> None:
    noise = 0.05 * np.random.default_rng(0).standard_normal(400)
    losses = TRIVIAL + 1.4 * np.exp(-np.arange(400) / 10) + noise
    gradient = norms(400) * (np.where(np.arange(400) < 20, 1.0, 0.1) if shrinking else 1.0)
    events = watch(losses, trivial=TRIVIAL, rates=warmup(400, 0.1), norms=gradient)
    assert fatal(events)[0][0] == "silent-failure"
    assert events[-1].detected <= (200 if shrinking else 280)


@pytest.mark.parametrize("start", [4.7, TRIVIAL])
@pytest.mark.parametrize("seed", range(10))
def test_a_slow_starter_is_left_alone(start: float, seed: int) -> None:
    """Nothing happens for the first half of a long warm-up; then the loss falls, dwelling at the trivial one."""
    rng = np.random.default_rng(seed)
    steps = np.arange(1000)
    fall = np.interp(steps, [0, 300, 500, 600, 1000], [start, start, TRIVIAL, TRIVIAL - 0.05, 2.4])
    assert watch(fall + 0.1 * rng.standard_normal(1000), trivial=TRIVIAL, rates=warmup(1000, 0.6)) == []


@pytest.mark.parametrize("seed", range(5))
def test_without_the_trivial_loss_a_slow_starter_is_left_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fall = np.interp(np.arange(1000), [0, 300, 500, 600, 1000], [4.7, 4.7, TRIVIAL, TRIVIAL - 0.05, 2.4])
    assert watch(fall + 0.1 * rng.standard_normal(1000), rates=warmup(1000, 0.6)) == []


@pytest.mark.parametrize("seed", range(5))
def test_without_the_trivial_loss_a_stuck_loss_with_small_gradients_has_silently_failed(seed: int) -> None:
    steps = np.arange(400)
    losses = TRIVIAL + 1.4 * np.exp(-steps / 10) + 0.05 * np.random.default_rng(seed).standard_normal(400)
    events = watch(losses, rates=warmup(400, 0.1), norms=norms(400) * np.where(steps < 20, 1.0, 0.1))
    assert fatal(events)[0][0] == "silent-failure"
    assert events[-1].detected < 399


GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("trace", "dead"),
    [("stuck-9", True), ("stuck-10", True), ("stuck-11", True), ("slow-3", False), ("slow-15", False)],
)
def test_real_starts_of_a_small_gpt_are_told_apart(trace: str, dead: bool) -> None:
    """The first 72 of 240 steps: peaks of 0.009 to 0.016 are stuck at the trivial loss, peaks of 0.0007 just slow."""
    with np.load(GOLDEN / "gpt.npz") as stored:
        rates, losses, gradient = stored[trace].astype(float)
        trivial = float(stored["trivial"])
    for unit in (1.0, 1e-3):
        events = watch(unit * losses, trivial=unit * trivial, rates=rates, norms=unit * gradient, horizon=240)
        assert [event.kind for event in events if event.fatal] == (["silent-failure"] if dead else [])


def test_a_loss_that_falls_slowly_at_a_low_rate_is_not_stuck() -> None:
    """It takes 600 steps to come to the trivial loss, and dwells there for 200."""
    rng = np.random.default_rng(0)
    losses = np.interp(np.arange(1000), [0, 600, 800, 1000], [4.7, TRIVIAL, TRIVIAL, 3.1])
    assert watch(losses + 0.1 * rng.standard_normal(1000), trivial=TRIVIAL) == []


def test_a_loss_that_never_moves_is_told_but_not_fatal() -> None:
    losses = 2.3 + 0.1 * np.random.default_rng(0).standard_normal(1000)
    (event,) = watch(losses, trivial=2.3)
    assert (event.kind, event.fatal) == ("stall", False)


def test_dead_gradients_are_fatal_within_ten_steps() -> None:
    gradient = norms()
    gradient[120:] = 0.0
    losses = curve()
    losses[120:] = losses[100:120].mean() + 0.05 * np.random.default_rng(3).standard_normal(180)
    assert fatal(watch(losses, norms=gradient, trivial=TRIVIAL)) == [("silent-failure", 129)]


def test_gradients_that_vanish_because_the_loss_does_are_a_success() -> None:
    losses = np.where(np.arange(300) < 150, curve(), 0.0)
    gradient = np.where(np.arange(300) < 150, norms(), 0.0)
    assert watch(losses, norms=gradient) == []


def test_an_exploding_gradient_is_recorded_and_fatal_when_it_lasts() -> None:
    gradient = norms()
    gradient[100] *= 1000
    (event,) = watch(curve(), norms=gradient)
    assert (event.kind, event.step, event.fatal) == ("gradient-explosion", 100, False)
    gradient[101:] *= 1000
    assert fatal(watch(curve(), norms=gradient)) == [("gradient-explosion", 109)]


# --- Frozen losses -------------------------------------------------------------------------------------------


def test_a_loss_that_freezes_is_fatal_within_ten_steps() -> None:
    losses = curve()
    losses[120:] = losses[120]
    assert fatal(watch(losses)) == [("stall", 129)]


def test_a_run_that_converges_to_the_last_bit_is_not_killed() -> None:
    losses = (1.0 + 0.9 ** np.arange(400)).astype(np.float32)
    assert fatal(watch(map(float, losses))) == []


@pytest.mark.parametrize("constant", [0.0, 1.0, -2.0])
def test_a_constant_loss_is_never_fatal(constant: float) -> None:
    events = watch([constant] * 500, trivial=1.0, norms=[0.0] * 500)
    assert fatal(events) == []
    assert {event.kind for event in events} <= {"stall"}


# --- Laws ----------------------------------------------------------------------------------------------------

TRACES = st.lists(st.floats(-100, 100), min_size=1, max_size=150)


@law
@given(drops=st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=200), start=st.floats(-100, 100))
def test_a_falling_loss_is_never_fatal_and_never_a_spike(drops: list[float], start: float) -> None:
    losses = start - np.cumsum(drops)
    assert [event for event in watch(losses) if event.fatal or event.kind != "stall"] == []


@law
@given(losses=TRACES, power=st.integers(-20, 20))
def test_the_unit_of_the_loss_does_not_matter(losses: list[float], power: int) -> None:
    assume(all(loss == 0 or abs(loss) > 1e-100 for loss in losses))
    scaled = [loss * 2.0**power for loss in losses]
    before, after = watch(losses), watch(scaled)
    assert [(e.kind, e.step, e.detected, e.fatal) for e in before] == [
        (e.kind, e.step, e.detected, e.fatal) for e in after
    ]


@law
@given(losses=TRACES, trivial=st.one_of(st.none(), st.floats(-10, 10)), seed=st.integers(0, 9))
def test_replaying_a_trace_gives_the_same_verdicts(losses: list[float], trivial: float | None, seed: int) -> None:
    gradient = norms(len(losses), seed)
    assert watch(losses, trivial=trivial, norms=gradient) == watch(losses, trivial=trivial, norms=gradient)


@law
@given(losses=TRACES, trivial=st.floats(-100, 100), horizon=st.integers(1, 100_000))
def test_verdicts_point_backwards_and_are_recorded(losses: list[float], trivial: float, horizon: int) -> None:
    monitor = Detectors().monitor(horizon, trivial)
    for step, loss in enumerate(losses):
        verdict = monitor.observe(step, 0.1, loss, NAN)
        if verdict is not None:
            assert verdict in monitor.events
            assert verdict.step <= verdict.detected == step
            assert 0 < verdict.severity <= 1e6


@pytest.mark.parametrize("horizon", [50, 300, 3000])
@pytest.mark.parametrize("seed", range(6))
def test_healthy_runs_raise_nothing(horizon: int, seed: int) -> None:
    losses = curve(horizon, seed, noise=0.1)
    assert watch(losses, trivial=TRIVIAL, rates=warmup(horizon), norms=norms(horizon, seed)) == []
    assert watch(losses, rates=warmup(horizon)) == []


# --- Windows -------------------------------------------------------------------------------------------------


@law
@given(st.integers(1, 8), st.lists(st.integers(-3, 3).map(float) | st.floats(-1e300, 1e300), min_size=1, max_size=30))
def test_a_window_knows_what_sorting_its_values_would_tell(length: int, values: list[float]) -> None:
    window = SortedWindow(length)
    for end, value in enumerate(values, start=1):
        window.add(value)
        last = values[max(0, end - length) : end]
        middle = sorted(last)[len(last) // 2]
        assert window.values == last
        assert window.ordered == sorted(last)
        assert window.median == middle
        assert window.deviation == sorted(abs(value - middle) for value in last)[len(last) // 2]


# --- Settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting", [{"patience": 0.0}, {"spike_share": -1.0}, {"vanishing_factor": 1.0}, {"window": 3}]
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(setting))):
        Detectors.model_validate(setting)


def test_settings_survive_json() -> None:
    detectors = Detectors(patience=0.1)
    assert Detectors.model_validate_json(detectors.model_dump_json()) == detectors
    assert isinstance(detectors.monitor(10), Monitor)


@law
@given(
    st.lists(st.floats(-20, 20) | st.just(NAN), min_size=18, max_size=18),
    st.floats(-8, 8),
)
def test_a_score_exceeds_a_limit_where_the_whole_sum_does(signs: list[float], limit: float) -> None:
    score = shipped().score(signs)
    assume(abs(score - limit) > 1e-9)  # sums in another order round differently
    assert shipped().exceeds(signs, limit) == (score > limit)
