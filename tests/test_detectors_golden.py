"""The detectors' answers, word for word: which step ended a run, when that began, how grave it is and what is said.

Every run is built from straight lines and seeded noise. Those of ``EDGES`` have one number that decides: what is just
below it gives one answer, what is just above it the other. So a threshold that moves by more than two per cent shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from pydantic import ValidationError

from autowarmup.instability.forest import Forest
from autowarmup.instability.gradients import Gradients
from autowarmup.instability.history import History, Lasting, Settled, Step
from autowarmup.instability.instability import Instability, Kind, found
from autowarmup.instability.monitor import Detectors, Monitor
from autowarmup.instability.non_finite import NonFinite
from autowarmup.instability.stall import FrozenLoss

Column = np.ndarray[Any, np.dtype[np.float64]]
NAN, INF = math.nan, math.inf
DEFAULTS = Detectors()
NEVER = Forest(-9.0, [])
"""A score by which no run has silently failed: then the other detectors are seen alone."""


@dataclass(frozen=True)
class Run:
    """What a run records, and what the detectors are told: a rate of 0.001 and no gradients where none are given."""

    losses: Column
    trivial: float | None = None
    norms: Column | None = None
    rates: Column | None = None
    horizon: int = 300
    detectors: Detectors = DEFAULTS


class Event(NamedTuple):
    """An instability: where it began, which step gave it away, and the rest."""

    kind: Kind
    step: int
    detected: int
    severity: float
    fatal: bool
    message: str


class Edge(NamedTuple):
    """A family of runs, and what the detectors say on both sides of the number that decides."""

    name: str
    run: Callable[[float], Run]
    low: float
    below: list[Event]
    high: float
    above: list[Event]


def watch(run: Run) -> list[Instability]:
    """All instabilities up to the first fatal one."""
    count = len(run.losses)
    rates = np.full(count, 1e-3) if run.rates is None else run.rates
    norms = np.full(count, NAN) if run.norms is None else run.norms
    monitor = Monitor(run.detectors, run.horizon, run.trivial, NEVER)
    for step in range(count):
        instability = monitor.observe(step, float(rates[step]), float(run.losses[step]), float(norms[step]))
        if instability is not None and instability.fatal:
            break
    return monitor.events


def check(events: list[Instability], expected: list[Event]) -> None:
    assert [
        Event(e.kind, e.step, e.detected, pytest.approx(e.severity, rel=1e-3), e.fatal, e.message) for e in events
    ] == (expected)


def normal(count: int, seed: int = 0) -> Column:
    return np.random.default_rng(seed).standard_normal(count)


def line(*points: tuple[float, float]) -> Column:
    """Straight from point to point, each a step and a value."""
    at, values = zip(*points, strict=True)
    return np.interp(np.arange(at[-1]), at, values)


def bump(count: int, at: int, height: float, steps: int = 6) -> Column:
    """Nothing but a raise by ``height`` for some steps."""
    return np.where((np.arange(count) >= at) & (np.arange(count) < at + steps), height, 0.0)


def fall(count: int = 300) -> Column:
    """A healthy loss: from 4.7 to 2.4."""
    return 2.4 + 2.3 * np.exp(-np.arange(count) / 45.0) + 0.01 * normal(count, 7)


def quiet(*points: tuple[float, float]) -> Column:
    """Straight lines with little noise."""
    losses = line(*points)
    return losses + 0.01 * normal(len(losses), 7)


def noisy(*points: tuple[float, float], noise: float = 1.0, seed: int = 0) -> Column:
    """Straight lines in so much noise that it decides."""
    losses = line(*points)
    return losses + noise * normal(len(losses), seed)


# --- Counts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "name"), [(NAN, "nan"), (INF, "inf"), (-INF, "-inf")])
def test_a_loss_that_is_not_finite(loss: float, name: str) -> None:
    losses = fall()
    losses[5] = loss
    check(watch(Run(losses)), [Event("non-finite", 5, 5, 1e6, True, f"the loss is {name}")])


def test_a_gradient_that_is_not_finite() -> None:
    run = Run(fall(), norms=np.where(np.arange(300) == 9, INF, 1.0))
    check(watch(run), [Event("non-finite", 9, 9, 1e6, True, "the gradient is not finite")])


def test_so_many_skipped_steps_are_no_failure_and_one_more_is() -> None:
    skipped = np.arange(300) < 30
    rates = np.where(np.arange(300) < 31, 0.0, 1e-3)
    check(watch(Run(fall(), norms=np.where(skipped, INF, 1.0), rates=rates)), [])
    skipped[30] = True
    event = Event("non-finite", 30, 30, 1e6, True, "the gradient is not finite")
    check(watch(Run(fall(), norms=np.where(skipped, INF, 1.0), rates=rates)), [event])


def test_a_step_that_is_not_skipped_starts_their_count_anew() -> None:
    detector = NonFinite(max_skips=2)
    for number, norm in enumerate([INF, INF, 1.0, INF, INF, NAN, INF, INF]):
        assert detector.observe(Step(number, 0.0, 1.0, norm)) is None
    assert detector.observe(Step(8, 0.0, 1.0, INF)) is not None


def test_ten_exploding_gradients_of_fourteen_are_fatal_and_told_once() -> None:
    message = "the gradient's norm of 40 is 40 times the largest of 50 before"
    first = Event("gradient-explosion", 50, 50, math.log10(40.0), False, message)
    steps = np.arange(300)
    high = (steps >= 50) & (steps < 68) & (steps % 2 == 0)  # nine, and at most seven of fourteen
    check(watch(Run(fall(), norms=np.where(high, 40.0, 1.0))), [first])
    high = (steps >= 50) & (steps < 64) & ~np.isin(steps, (52, 55, 58, 61))
    check(watch(Run(fall(), norms=np.where(high, 40.0, 1.0))), [first, first._replace(detected=63, fatal=True)])
    high[63] = False
    check(watch(Run(fall(), norms=np.where(high, 40.0, 1.0))), [first])


def test_an_explosion_is_another_one_after_thirteen_ordinary_gradients() -> None:
    for calm, events in (12, 1), (13, 2):
        norms = np.where(np.isin(np.arange(300), (50, 51 + calm)), 40.0, 1.0)
        assert len(watch(Run(fall(), norms=norms))) == events


def explodes(norms: list[float]) -> bool:
    """Whether the last of the gradients does."""
    detector = Gradients(explosion_factor=30.0, vanishing_factor=1e-3)
    return [detector.observe(Step(number, 0.1, 1.0, norm)) for number, norm in enumerate(norms)][-1] is not None


def test_what_a_gradient_is_compared_with() -> None:
    assert not explodes([1.0] * 7 + [1e3])
    assert explodes([1.0] * 8 + [1e3])
    assert explodes([NAN] * 4 + [1.0] * 8 + [1e3])
    assert not explodes([1.0] * 10 + [10.0] + [1.0] * 199 + [100.0])  # the large one is one of the last two hundred
    assert explodes([1.0] * 10 + [10.0] + [1.0] * 200 + [100.0])
    assert not explodes([0.0] * 20 + [1.0])


def dies(norms: list[float], losses: list[float] | None = None) -> int | None:
    """The step at which the gradient is dead."""
    detector = Gradients(explosion_factor=1e6, vanishing_factor=1e-3)
    for number, norm in enumerate(norms):
        event = detector.observe(Step(number, 0.1, losses[number] if losses else 1.0, norm))
        if event is not None:
            check(
                [event],
                [Event("silent-failure", number - 9, number, 1.0, True, f"the gradient died: its norm is {norm:.3g}")],
            )
            return number
    return None


def test_how_long_a_gradient_has_to_be_dead_and_what_interrupts_it() -> None:
    assert dies([1.0] * 20 + [0.0] * 10) == 29
    assert dies([1.0] * 20 + [0.0] * 9 + [1.0] + [0.0] * 9) is None
    assert dies([1.0] * 19 + [0.0] + [0.0] * 20) == 29  # the first 20 are what it is compared with
    assert dies([1.0] * 20 + [0.1] * 20 + [2e-4] * 10) is None  # against the last 20, not the first
    assert dies([1.0] * 10 + [0.1] * 10 + [2e-4] * 10) == 29  # the upper of two middle norms
    assert dies([1.0] * 9 + [0.1] * 11 + [2e-4] * 10) is None


def test_a_loss_that_falls_with_its_gradient_is_alive() -> None:
    assert dies([1.0] * 20 + [0.0] * 10, [-4.0] * 20 + [-0.41] * 10) == 29
    assert dies([1.0] * 20 + [0.0] * 10, [-4.0] * 20 + [-0.39] * 10) is None
    # The last 20 losses count: after ten low ones they are what a loss is compared with.
    assert dies([1.0] * 30 + [0.0] * 20, [4.0] * 30 + [0.4] * 20) == 50 - 1


def frozen(losses: list[float]) -> tuple[int, int, bool] | None:
    """Where a loss froze, when that was told, and whether it is fatal."""
    detector = FrozenLoss()
    for number, loss in enumerate(losses):
        event = detector.observe(Step(number, 0.1, loss, NAN))
        if event is not None:
            check([event], [Event("stall", event.step, number, 0.1, event.fatal, f"the loss is frozen at {loss:.6g}")])
            return event.step, event.detected, event.fatal
    return None


def test_how_long_a_loss_is_frozen_and_what_came_before() -> None:
    before = [2.0 + 0.1 * (number % 7) + 0.01 * number for number in range(20)]
    assert frozen([*before, *[1.5] * 9]) is None
    assert frozen([*before, *[1.5] * 9, 1.6, *[1.5] * 9]) is None
    assert frozen([*before, *[1.5] * 10]) == (20, 29, True)
    assert frozen([*before, *[0.0] * 20]) is None
    assert frozen([*before[1:], *[1.5] * 10]) == (19, 28, False)  # too few before it
    assert frozen([1.0] * 10) == (0, 9, False)
    twice, thrice = [*before], [*before]
    twice[5], twice[9] = twice[4], twice[8]
    thrice[5], thrice[9], thrice[13] = thrice[4], thrice[8], thrice[12]
    assert frozen([*twice, *[1.5] * 10]) == (20, 29, True)
    assert frozen([*thrice, *[1.5] * 10]) == (20, 29, False)
    converging = [3.0 + 3.3e-4 * (number % 2) for number in range(20)]  # a change is 1.1 ten-thousandths of the loss
    assert frozen([*converging, *[3.0] * 10]) == (19 + 1, 29, True)
    assert frozen([*(3.0 + 2.7e-4 * (number % 2) for number in range(20)), *[3.0] * 10]) == (20, 29, False)


def test_a_loss_that_never_moves_from_zero_is_none_of_a_stall() -> None:
    check(watch(Run(np.zeros(300))), [])


# --- What the detectors go by -----------------------------------------------------------------------------


def middle(values: Column) -> float:
    return float(np.sort(values)[len(values) // 2])


@pytest.mark.parametrize("count", [9, 10, 12, 25, 40, 41, 47, 60, 100])
def test_the_levels_and_the_noise_of_a_history(count: int) -> None:
    """Worked out anew from all losses, with numpy."""
    losses, rates = noisy((0, 4.0), (100, 1.0), noise=0.3, seed=3), line((0, 1.0), (30, 2.0), (70, 2.0), (100, 1.5))
    norms = np.exp(0.1 * normal(100, 4) - np.arange(100) / 20.0)
    history = History()
    for number in range(count):
        history.add(Step(number, float(rates[number]), float(losses[number]), float(norms[number])))
    seen = losses[:count]
    levels = np.array([middle(seen[max(0, end - 20) : end]) for end in range(1, count + 1)])
    excesses = []
    for number in range(8, count):
        window = seen[max(0, number - 20) : number]
        half = len(window) // 2
        earlier, later = middle(window[:half]), middle(window[half:])
        excesses.append(seen[number] - max(later + 0.5 * (later - earlier), min(window[half:])))
    noise = np.array(excesses[-40:])
    sigma = 1.4826 * middle(np.abs(noise - middle(noise)))
    usual = np.sort(np.abs(noise[:-4]))
    error = 1.2533 * sigma / math.sqrt(20.0)
    assert history.count == count
    assert history.first == losses[0]
    assert history.start == middle(losses[:3])
    assert history.level == levels[-1]
    assert history.recent == middle(seen[-5:])
    assert history.earlier == middle(seen[-20:][:10])
    assert history.excess == pytest.approx(excesses[-1])
    assert history.sigma == pytest.approx(sigma)
    assert history.reach == pytest.approx(usual[int(0.9 * len(usual))] if len(usual) else 0.0)
    assert history.lowest == (min(levels[9:]) if count >= 10 else INF)
    assert history.highest == (max(levels[9:]) if count >= 10 else -INF)
    assert history.max_rate == max(rates[:count])
    assert history.error == pytest.approx(error)
    assert history.wander == pytest.approx(2.0 * error * math.sqrt(2.0 * math.log(1.0 + count / 20.0)))
    lately = levels[-40:]
    below = lately[-1] < lately[0] - 2.0 * error or history.recent < history.earlier - 1.4 * sigma
    assert history.falling == below
    assert history.rate_rising == (rates[:count][-1] > 1.001 * rates[:count][-20:][0])
    assert history.calm == (count >= 20 and middle(norms[:count][-20:]) < middle(norms[:5]) / 3.0)


def history_of(losses: Column, *, rates: Column | None = None, norms: Column | None = None) -> History:
    history = History()
    for number, loss in enumerate(losses):
        rate = 0.1 if rates is None else float(rates[number])
        norm = NAN if norms is None else float(norms[number])
        history.add(Step(number, rate, float(loss), norm))
    return history


def test_progress_is_the_way_come_or_three_tenths_of_the_start() -> None:
    history = history_of(np.linspace(2.0, 1.0, 30))
    assert history.progress == history.start - history.lowest
    assert history.share(0.25) == 0.25 / history.progress
    flat = history_of(np.full(30, -2.0))
    assert flat.progress == 0.6
    assert history_of(np.zeros(30)).share(3.0) == 1.0


@pytest.mark.parametrize(("factor", "rising"), [(1.0009, False), (1.0011, True)])
def test_a_rate_rises_by_more_than_a_thousandth_in_twenty_steps(factor: float, rising: bool) -> None:
    assert history_of(np.ones(20), rates=np.linspace(1.0, factor, 20)).rate_rising == rising
    assert not history_of(np.ones(21), rates=np.array([1.0, *[2.0] * 20])).rate_rising


@pytest.mark.parametrize(("norm", "calm"), [(0.33, True), (0.34, False)])
def test_gradients_are_calm_at_a_third_of_the_first(norm: float, calm: bool) -> None:
    norms = np.array([5.0, 1.0, NAN, 2.0, 0.9, 0.9, 6.0, *[norm] * 20])  # the median of the first five is 1
    assert history_of(np.ones(27), norms=norms).calm == calm
    assert not history_of(np.ones(19), norms=np.array([1.0] * 5 + [0.1] * 14)).calm


def test_the_losses_fall_within_one_window_or_over_two() -> None:
    """By two standard errors of a level, and by 1.4 of a loss."""

    def falls(losses: Column) -> tuple[float, float, bool]:
        history = history_of(losses)
        over_two = (history.levels[0] - history.level) / history.error
        within = (history.earlier - history.recent) / history.sigma
        return over_two, within, history.falling

    answers = [
        falls(noisy((0, 3.0), (60, 3.0 - 0.01 * slope), seed=seed, noise=0.1)) for slope in range(20) for seed in (0, 1)
    ]
    answers += [falls(noisy((0, 2.0), (45, 3.0), (60, 3.0 - 0.02 * slope), seed=2, noise=0.1)) for slope in range(30)]
    for over_two, within, falling in answers:
        assert falling == (over_two > 2.0 or within > 1.4)
    assert {over_two > 2.0 for over_two, within, _ in answers if within < 1.4} == {True, False}
    assert {within > 1.4 for over_two, within, _ in answers if over_two < 2.0} == {True, False}


def test_damage_lasts_through_a_step_without_it_and_ends_where_there_are_many() -> None:
    lasting, steps = Lasting(), []
    for number, damaged in enumerate([1, 1, 1, 1, 0, 1, 0, 0, 1, 1, 0]):
        lasting.add(Step(number, 0.1, 1.0, NAN), bool(damaged))
        steps.append((lasting.steps, lasting.since.number if lasting.since else None))
    assert steps == [
        (1, 0), (2, 0), (3, 0), (4, 0), (2, 0), (3, 0), (1, 0), (0, None), (1, 8), (2, 8), (0, None)
    ]  # fmt: skip


@pytest.mark.parametrize("fall", [0.0, 0.3, 0.6, 1.0])
def test_steps_over_which_the_loss_has_not_fallen(fall: float) -> None:
    """Worked out anew, step by step."""
    losses = noisy((0, 3.0), (100, 3.0 - fall), (1500, 3.0 - fall), noise=0.2, seed=5)
    history = History()
    settled, kept, wait, level = Settled(history), [], 0, 0.0
    for number, loss in enumerate(losses):
        step = Step(number, 0.1, float(loss), NAN)
        history.add(step)
        settled.add(step)
        kept = [*kept, float(loss)][-1000:]
        wait -= 1
        if wait <= 0 and len(kept) >= 10:
            count, half = len(kept), len(kept) // 2
            wait, level = count // 20, middle(np.array(kept))
            drop = middle(np.array(kept[:half])) - middle(np.array(kept[-half:]))
            if drop > 1.2533 * history.sigma * math.sqrt(2.0 / half):
                kept = kept[count // 10 :]
        assert [step.loss for step in settled.steps] == kept
        assert settled.level == level
        assert settled.error == pytest.approx(1.2533 * history.sigma / math.sqrt(len(kept)))


# --- Patience, severities, settings ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("horizon", "patience"), [(10, 10), (166, 10), (200, 12), (300, 18), (2000, 120), (8000, 480), (10_000, 500)]
)
def test_patience_is_a_share_of_the_horizon_within_limits(horizon: int, patience: int) -> None:
    """A loss that stays above its start is fatal after so many steps; one that only climbed, after twice as many."""
    losses = quiet((0, 1.0), (30, 1.0), (80, 1.6), (1300, 3.6))
    events = watch(Run(losses, horizon=horizon, detectors=Detectors(spike_share=10.0, climb_share=10.0)))
    (divergence,) = [event for event in events if event.kind == "divergence"]
    assert divergence.detected - divergence.step == patience - 1
    losses = quiet((0, 4.0), (30, 1.0), (80, 1.0), (130, 2.0), (1300, 4.0))
    events = watch(Run(losses, horizon=horizon, detectors=Detectors(spike_share=10.0)))
    (divergence,) = [event for event in events if event.kind == "divergence"]
    assert divergence.detected - divergence.step == 2 * patience - 1


def test_a_severity_is_brought_into_range() -> None:
    since, now = Step(3, 0.1, 1.0, NAN), Step(7, 0.2, 1.0, NAN)
    assert found("spike", since, now, -1.0, False, "").severity == 1e-6
    assert found("spike", since, now, 1e9, False, "").severity == 1e6
    event = found("spike", since, now, 2.0, False, "so")
    assert (event.step, event.lr, event.detected, event.severity, event.fatal) == (3, 0.1, 7, 2.0, False)


def test_the_settings_are_those_that_were_measured() -> None:
    assert Detectors().model_dump() == {
        "spike_noise": 1.3,
        "spike_share": 0.3,
        "spike_record": 0.9,
        "patience": 0.06,
        "climb_share": 0.3,
        "explosion_factor": 10.0,
        "vanishing_factor": 1e-3,
        "max_skips": 30,
    }


@pytest.mark.parametrize(
    ("setting", "allowed", "refused"),
    [
        ("spike_noise", (1e-9, 100.0), (0.0, 100.1)),
        ("spike_share", (1e-9, 10.0), (0.0, 10.1)),
        ("spike_record", (1e-9, 100.0), (0.0, 100.1)),
        ("patience", (1e-9, 1.0), (0.0, 1.1)),
        ("climb_share", (1e-9, 10.0), (0.0, 10.1)),
        ("explosion_factor", (1.1, 1e6), (1.0, 1.1e6)),
        ("vanishing_factor", (1e-9, 0.999), (0.0, 1.0)),
        ("max_skips", (1, 10_000), (0, 10_001)),
    ],
)
def test_the_bounds_of_the_settings(setting: str, allowed: tuple[float, ...], refused: tuple[float, ...]) -> None:
    for value in allowed:
        assert getattr(Detectors.model_validate({setting: value}), setting) == value
    for value in refused:
        with pytest.raises(ValidationError, match=setting):
            Detectors.model_validate({setting: value})


@pytest.mark.parametrize(
    ("field", "value"), [("severity", 0.0), ("severity", 1.1e6), ("step", -1), ("detected", -1), ("lr", -1.0)]
)
def test_the_bounds_of_an_instability(field: str, value: float) -> None:
    fine = {"kind": "spike", "severity": 1e6, "step": 0, "lr": 0.0, "detected": 0, "fatal": False, "message": ""}
    assert Instability.model_validate(fine).severity == 1e6
    with pytest.raises(ValidationError, match=field):
        Instability.model_validate(fine | {field: value})


def test_of_several_instabilities_of_one_step_the_fatal_one_is_returned() -> None:
    """The gradient explodes for the tenth time where the loss has been frozen for ten steps."""
    monitor = Detectors().monitor(300)
    for number in range(20):
        early = number < 10
        returned = monitor.observe(number, 0.1, 2.0 + early * number, 1.0 if early else 40.0)
    assert returned is not None
    assert (returned.kind, returned.fatal) == ("gradient-explosion", True)
    assert [(event.kind, event.detected, event.fatal) for event in monitor.events] == [
        ("gradient-explosion", 10, False),
        ("gradient-explosion", 19, True),
        ("stall", 19, False),
    ]


# --- Edges -----------------------------------------------------------------------------------------------

EDGES = (
    # --- Spikes ---
    Edge(
        "a jump of a share of the progress",
        lambda a: Run(fall() + bump(300, 150, a)),
        0.6524,
        [],
        0.6656,
        [Event("spike", 150, 152, 0.3031, False, "the loss jumped from 2.49 to 3.141")],
    ),
    # Where the loss has not come far, three tenths of its start are the least.
    Edge(
        "a jump of a share of the start",
        lambda a: Run(quiet((0, 2.0), (300, 1.9)) + bump(300, 150, a)),
        0.1856,
        [],
        0.1894,
        [Event("spike", 150, 152, 0.3032, False, "the loss jumped from 1.951 to 2.132")],
    ),
    Edge(
        "a jump out of the noise",
        lambda a: Run(noisy((0, 0.0), (300, 0.0)) + bump(300, 150, a)),
        4.074,
        [Event("stall", 8, 107, 0.1, False, "the loss has not left its start of 0.1257 for 100 steps")],
        4.156,
        [
            Event("stall", 8, 107, 0.1, False, "the loss has not left its start of 0.1257 for 100 steps"),
            Event("spike", 150, 153, 8.127, False, "the loss jumped from 0.2751 to 3.867"),
        ],
    ),
    # Nine of ten of the last forty strayed less.
    Edge(
        "a jump out of noise that grows",
        lambda a: Run(
            noisy((0, 0.0), (300, 0.0), noise=0.2) * line((0, 1.0), (100, 1.0), (200, 4.0), (300, 4.0))
            + bump(300, 250, a)
        ),
        3.537,
        [Event("stall", 8, 107, 0.1, False, "the loss has not left its start of 0.02515 for 100 steps")],
        3.608,
        [
            Event("stall", 8, 107, 0.1, False, "the loss has not left its start of 0.02515 for 100 steps"),
            Event("spike", 250, 252, 5.296, False, "the loss jumped from 0.8886 to 3.77"),
        ],
    ),
    Edge(
        "a jump higher than an earlier one",
        lambda a: Run(quiet((0, 10.0), (50, 1.0), (300, 1.0)) + bump(300, 100, 4.0, 2) + bump(300, 200, a)),
        3.566,
        [],
        3.638,
        [Event("spike", 200, 202, 0.4093, False, "the loss jumped from 1.012 to 4.626")],
    ),
    # The last 500 steps count.
    Edge(
        "a jump long after an earlier one",
        lambda a: Run(quiet((0, 10.0), (50, 1.0), (700, 1.0)) + bump(700, 99, 4, 2) + bump(700, 620, a), horizon=700),
        2.632,
        [],
        2.685,
        [Event("spike", 620, 622, 0.303, False, "the loss jumped from 1.02 to 3.696")],
    ),
    Edge(
        "a jump soon after an earlier one",
        lambda a: Run(quiet((0, 10.0), (50, 1.0), (700, 1.0)) + bump(700, 99, 4, 2) + bump(700, 590, a), horizon=700),
        3.568,
        [],
        3.64,
        [Event("spike", 590, 592, 0.4105, False, "the loss jumped from 1.024 to 4.65")],
    ),
    # Two high losses are an outlier, three are a spike.
    Edge(
        "three of four losses",
        lambda a: Run(fall() + bump(300, 150, 2.0, 2) + bump(300, 153, a, 1)),
        0.6402,
        [],
        0.6532,
        [Event("spike", 150, 153, 0.303, False, "the loss jumped from 3.824 to 4.475")],
    ),
    Edge(
        "an early jump",
        lambda a: Run(quiet((0, 2.0), (300, 1.9)) + bump(300, 22, a)),
        0.1759,
        [],
        0.1794,
        [Event("spike", 23, 25, 0.3029, False, "the loss jumped from 1.993 to 2.174")],
    ),
    Edge(
        "a jump that comes half the way back",
        lambda a: Run(
            quiet((0, 6.0), (50, 2.0), (300, 2.0)) + bump(300, 100, 2.0, 20) + bump(300, 120, 2.0 * a, 200),
            detectors=Detectors(climb_share=10.0),
        ),
        0.5026,
        [Event("spike", 100, 102, 0.5058, False, "the loss jumped from 2.011 to 3.997")],
        0.5128,
        [
            Event("spike", 100, 102, 0.5058, False, "the loss jumped from 2.011 to 3.997"),
            Event("spike", 100, 136, 1, True, "the loss jumped from 2.011 to 3.997 and has not come back"),
        ],
    ),
    Edge(
        "a spike setting of noise",
        lambda a: Run(noisy((0, 0.0), (300, 0.0)) + bump(300, 150, a), detectors=Detectors(spike_noise=3.0)),
        8.671,
        [Event("stall", 8, 107, 0.1, False, "the loss has not left its start of 0.1257 for 100 steps")],
        8.846,
        [
            Event("stall", 8, 107, 0.1, False, "the loss has not left its start of 0.1257 for 100 steps"),
            Event("spike", 150, 153, 18.74, False, "the loss jumped from 0.2751 to 8.557"),
        ],
    ),
    Edge(
        "a spike setting of share",
        lambda a: Run(fall() + bump(300, 150, a), detectors=Detectors(spike_share=0.5)),
        1.078,
        [],
        1.1,
        [Event("spike", 150, 152, 0.5053, False, "the loss jumped from 2.49 to 3.575")],
    ),
    Edge(
        "a spike setting of record",
        lambda a: Run(
            quiet((0, 10.0), (50, 1.0), (300, 1.0)) + bump(300, 100, 4.0, 2) + bump(300, 200, a),
            detectors=Detectors(spike_record=1.5),
        ),
        5.942,
        [],
        6.062,
        [Event("spike", 200, 202, 0.6838, False, "the loss jumped from 1.012 to 7.05")],
    ),
    Edge(
        "a jump of the excess of the noise after a fall",
        lambda a: Run(noisy((0, 4.0), (60, 0.0), (300, 0.0), noise=0.4, seed=2) + bump(300, 70, a)),
        1.134,
        [],
        1.156,
        [Event("spike", 70, 73, 0.3209, False, "the loss jumped from 0.648 to 1.76")],
    ),
    # --- Divergence ---
    Edge(
        "a climb above the start",
        lambda a: Run(
            quiet((0, 1.0), (100, 1.0), (200, 1.0 + a), (300, 1.0 + a)), detectors=Detectors(climb_share=1.0)
        ),
        0.2471,
        [Event("stall", 9, 108, 0.1, False, "the loss has not left its start of 1 for 100 steps")],
        0.2521,
        [
            Event("stall", 9, 108, 0.1, False, "the loss has not left its start of 1 for 100 steps"),
            Event("divergence", 236, 259, 0.8565, True, "the loss climbed from 0.9946 to 1.252 and stays there"),
        ],
    ),
    Edge(
        "a climb above the start out of the noise",
        lambda a: Run(noisy((0, 0.0), (100, 0.0), (200, a), (300, a)), detectors=Detectors(climb_share=10.0)),
        1.707,
        [Event("stall", 8, 107, 0.1, False, "the loss has not left its start of 0.1257 for 100 steps")],
        1.741,
        [
            Event("stall", 8, 107, 0.1, False, "the loss has not left its start of 0.1257 for 100 steps"),
            Event("divergence", 248, 265, 4.566, True, "the loss climbed from -0.3163 to 1.702 and stays there"),
        ],
    ),
    Edge(
        "a climb of a share of the progress",
        lambda a: Run(quiet((0, 4.0), (50, 1.0), (100, 1.0), (200, 1.0 + a), (300, 1.0 + a))),
        0.8725,
        [],
        0.8902,
        [Event("divergence", 214, 249, 0.303, True, "the loss climbed from 0.9975 to 1.89 and stays there")],
    ),
    Edge(
        "a climb of a share of the start",
        lambda a: Run(quiet((0, 1.0), (100, 1.0), (200, 1.0 + a), (300, 1.0 + a))),
        0.08398,
        [Event("stall", 9, 108, 0.1, False, "the loss has not left its start of 1 for 100 steps")],
        0.08568,
        [
            Event("stall", 9, 108, 0.1, False, "the loss has not left its start of 1 for 100 steps"),
            Event("divergence", 238, 288, 0.3034, True, "the loss climbed from 0.9946 to 1.086 and stays there"),
        ],
    ),
    Edge(
        "a climb out of the noise",
        lambda a: Run(noisy((0, 1.0), (50, 0.0), (100, 0.0), (200, a), (300, a), noise=0.5)),
        0.9112,
        [Event("stall", 85, 184, 0.1, False, "the loss has not left its start of 1.063 for 100 steps")],
        0.9296,
        [
            Event("stall", 85, 184, 0.1, False, "the loss has not left its start of 1.063 for 100 steps"),
            Event("divergence", 214, 294, 0.7343, True, "the loss climbed from -0.1437 to 0.7423 and stays there"),
        ],
    ),
    Edge(
        "a climb out of the noise of a long run",
        lambda a: Run(noisy((0, 1.0), (50, 0.0), (2000, 0.0), (2100, a), (2300, a), noise=0.5)),
        0.7576,
        [
            Event("stall", 85, 184, 0.1, False, "the loss has not left its start of 1.063 for 100 steps"),
            Event("stall", 619, 718, 0.1, False, "the loss has not left its start of 1.063 for 100 steps"),
            Event("stall", 1225, 1324, 0.1, False, "the loss has not left its start of 1.063 for 100 steps"),
            Event("stall", 1992, 2091, 0.1, False, "the loss has not left its start of 1.063 for 100 steps"),
        ],
        0.7729,
        [
            Event("stall", 85, 184, 0.1, False, "the loss has not left its start of 1.063 for 100 steps"),
            Event("stall", 619, 718, 0.1, False, "the loss has not left its start of 1.063 for 100 steps"),
            Event("stall", 1225, 1324, 0.1, False, "the loss has not left its start of 1.063 for 100 steps"),
            Event("stall", 1992, 2091, 0.1, False, "the loss has not left its start of 1.063 for 100 steps"),
            Event("divergence", 2170, 2211, 0.8, True, "the loss climbed from -0.3759 to 0.7751 and stays there"),
        ],
    ),
    # Four times the start, still, after ten steps.
    Edge(
        "a blow up that falls again",
        lambda a: Run(quiet((0, 1.0), (3, 1.0), (5, 9.0), (60, a), (70, 1.0), (300, 0.5)), horizon=800),
        3.573,
        [],
        3.645,
        [Event("divergence", 9, 56, 1e-06, True, "the loss climbed from 5.017 to 5.017 and stays there")],
    ),
    Edge(
        "a blow up of a negative loss",
        lambda a: Run(quiet((0, -1.0), (3, -1.0), (5, 9.0), (60, a), (70, -1.0), (300, -1.5)), horizon=800),
        1.437,
        [],
        1.466,
        [Event("divergence", 9, 56, 1e-06, True, "the loss climbed from 3.392 to 3.392 and stays there")],
    ),
    # The first loss is the start then.
    Edge(
        "a blow up in the second step",
        lambda a: Run(quiet((0, 1.0), (1, 9.0), (60, a), (70, 1.0), (300, 0.5)), trivial=0.8, horizon=800),
        3.688,
        [],
        3.762,
        [Event("divergence", 10, 57, 1e-06, True, "the loss climbed from 4.917 to 4.917 and stays there")],
    ),
    Edge(
        "a blow up from below the trivial loss",
        lambda a: Run(quiet((0, 1.0), (1, 12.0), (60, a), (70, 1.0), (300, 0.5)), trivial=1.5, horizon=800),
        5.615,
        [],
        5.728,
        [Event("divergence", 10, 57, 1e-06, True, "the loss climbed from 7.111 to 7.111 and stays there")],
    ),
    # A loss that falls is let be.
    Edge(
        "a climb that ends in a fall",
        lambda a: Run(
            noisy((0, 4.0), (50, 1.0), (100, 1.0), (150, 2.5), (160, 2.5), (200, 2.5 - a), noise=0.1), horizon=500
        ),
        0.13,
        [Event("divergence", 140, 199, 0.4765, True, "the loss climbed from 0.9713 to 2.388 and stays there")],
        0.1327,
        [],
    ),
    Edge(
        "a climb that ends in a slow fall",
        lambda a: Run(noisy((0, 4.0), (50, 1.0), (100, 1.0), (150, 3.5), (300, 3.5 - a), noise=0.1), horizon=600),
        1.065,
        [Event("divergence", 125, 196, 0.7651, True, "the loss climbed from 0.9713 to 3.246 and stays there")],
        1.086,
        [],
    ),
    Edge(
        "a climb for a time",
        lambda a: Run(quiet((0, 4.0), (50, 1.0), (100, 1.0), (120, 2.5), (120 + a, 2.5), (140 + a, 1.0), (300, 1.0))),
        33.04,
        [],
        33.71,
        [Event("divergence", 121, 156, 0.509, True, "the loss climbed from 0.9975 to 2.497 and stays there")],
    ),
    Edge(
        "a climb setting of share",
        lambda a: Run(
            quiet((0, 4.0), (50, 1.0), (100, 1.0), (200, 1.0 + a), (300, 1.0 + a)), detectors=Detectors(climb_share=0.5)
        ),
        1.456,
        [],
        1.485,
        [Event("divergence", 209, 244, 0.5047, True, "the loss climbed from 0.9975 to 2.484 and stays there")],
    ),
    # --- Silent failure ---
    Edge(
        "a loss back near the trivial one",
        lambda a: Run(
            quiet((0, 4.0), (60, 2.0), (120, 2.0), (180, 2.0 + a), (400, 2.0 + a)), trivial=3.0, horizon=2000
        ),
        0.7952,
        [],
        0.8112,
        [Event("silent-failure", 189, 289, 1, True, "the loss sits at 2.811; ignoring the input would give 3")],
    ),
    Edge(
        "a loss back near the trivial one in noise",
        lambda a: Run(
            noisy((0, 4.0), (60, 2.4), (120, 2.4), (180, 2.4 + a), (400, 2.4 + a), noise=0.3), trivial=3.0, horizon=2000
        ),
        0.5669,
        [],
        0.5783,
        [Event("silent-failure", 172, 362, 1, True, "the loss sits at 3.044; ignoring the input would give 3")],
    ),
    Edge(
        "a gain that is lost",
        lambda a: Run(
            quiet((0, 1.0), (60, 1.0 - a), (120, 1.0 - a), (180, 1.0), (400, 1.0)),
            trivial=1.0,
            horizon=2000,
            rates=line((0, 1e-3), (60, 1e-3), (61, 1e-5), (400, 1e-5)),
        ),
        0.01256,
        [],
        0.01281,
        [Event("silent-failure", 183, 391, 1, True, "the loss sits at 0.9987; ignoring the input would give 1")],
    ),
    Edge(
        "a gain that is lost in noise",
        lambda a: Run(
            noisy((0, 1.0), (60, 1.0 - a), (120, 1.0 - a), (180, 1.0), (400, 1.0), noise=0.05),
            trivial=1.0,
            horizon=2000,
            rates=line((0, 1e-3), (60, 1e-3), (61, 1e-5), (400, 1e-5)),
        ),
        0.09066,
        [],
        0.09249,
        [Event("silent-failure", 172, 377, 1, True, "the loss sits at 1.018; ignoring the input would give 1")],
    ),
    # At least 30 steps.
    Edge(
        "a loss lost early",
        lambda a: Run(quiet((0, 4.0), (20, 2.0), (30, 2.0), (40, 2.0 + a), (400, 2.0 + a)), trivial=3.0, horizon=2000),
        0.7955,
        [Event("divergence", 61, 381, 0.4164, True, "the loss climbed from 2.003 to 2.794 and stays there")],
        0.8116,
        [Event("silent-failure", 52, 81, 1, True, "the loss sits at 2.809; ignoring the input would give 3")],
    ),
    # No longer than the patience.
    Edge(
        "a loss lost late",
        lambda a: Run(
            quiet((0, 4.0), (60, 2.0), (420, 2.0), (440, 2.0 + a), (800, 2.0 + a)), trivial=3.0, horizon=1000
        ),
        0.7968,
        [Event("divergence", 445, 567, 0.4077, True, "the loss climbed from 1.993 to 2.799 and stays there")],
        0.8129,
        [Event("silent-failure", 449, 508, 1, True, "the loss sits at 2.809; ignoring the input would give 3")],
    ),
    Edge(
        "a loss stuck below the trivial one",
        lambda a: Run(noisy((0, 4.0), (20, a), (300, a), noise=0.1), trivial=3.0),
        2.924,
        [],
        2.983,
        [Event("silent-failure", 23, 82, 1, True, "the loss sits at 3.002; ignoring the input would give 3")],
    ),
    Edge(
        "a loss stuck above the trivial one",
        lambda a: Run(quiet((0, 4.0), (20, a), (300, a)), trivial=3.0),
        3.268,
        [Event("silent-failure", 29, 76, 1, True, "the loss sits at 3.267; ignoring the input would give 3")],
        3.334,
        [],
    ),
    Edge(
        "a loss stuck above a trivial one near the start",
        lambda a: Run(quiet((0, 3.5), (20, a), (300, a)), trivial=3.0),
        3.268,
        [Event("silent-failure", 27, 74, 1, True, "the loss sits at 3.267; ignoring the input would give 3")],
        3.334,
        [],
    ),
    Edge(
        "a loss stuck above its start",
        lambda a: Run(quiet((0, 3.8), (40, a), (300, a)), trivial=3.0, horizon=800),
        3.267,
        [Event("silent-failure", 48, 105, 1, True, "the loss sits at 3.267; ignoring the input would give 3")],
        3.333,
        [],
    ),
    Edge(
        "a loss stuck that has moved",
        lambda a: Run(quiet((0, a), (20, 3.0), (300, 3.0)), trivial=3.0),
        3.14,
        [],
        3.203,
        [Event("silent-failure", 28, 81, 1, True, "the loss sits at 2.997; ignoring the input would give 3")],
    ),
    Edge(
        "a loss stuck that has moved in noise",
        lambda a: Run(noisy((0, 3.0 + a), (20, 3.0), (400, 3.0), noise=0.1, seed=5), trivial=3.0),
        0.2449,
        [Event("stall", 171, 270, 0.1, False, "the loss has not left its start of 3.165 for 100 steps")],
        0.2499,
        [Event("silent-failure", 96, 164, 1, True, "the loss sits at 2.972; ignoring the input would give 3")],
    ),
    Edge(
        "a loss stuck worse than at first",
        lambda a: Run(quiet((0, 3.0), (3, 3.0), (10, a), (400, a)), trivial=3.0, horizon=300),
        3.153,
        [],
        3.216,
        [Event("silent-failure", 21, 68, 1, True, "the loss sits at 3.217; ignoring the input would give 3")],
    ),
    Edge(
        "a loss stuck worse than at first in noise",
        lambda a: Run(noisy((0, 3.0), (10, 3.0), (40, 3.0 + a), (400, 3.0 + a), noise=0.3), trivial=3.0, horizon=300),
        0.2614,
        [Event("stall", 8, 107, 0.1, False, "the loss has not left its start of 3.038 for 100 steps")],
        0.2667,
        [
            Event("stall", 8, 107, 0.1, False, "the loss has not left its start of 3.038 for 100 steps"),
            Event("silent-failure", 115, 183, 1, True, "the loss sits at 3.293; ignoring the input would give 3"),
        ],
    ),
    Edge(
        "a rate at half its highest",
        lambda a: Run(
            quiet((0, 4.0), (20, 3.0), (300, 3.0)), trivial=3.0, rates=line((0, 1e-3), (30, 1e-3), (31, a), (300, a))
        ),
        0.000495,
        [],
        0.000505,
        [Event("silent-failure", 24, 77, 1, True, "the loss sits at 2.998; ignoring the input would give 3")],
    ),
    Edge(
        "a rate that has risen since",
        lambda a: Run(
            quiet((0, 4.0), (20, 3.0), (90, 3.0)),
            trivial=3.0,
            rates=1e-3 * line((0, 1.0), (25, 1.0), (26, a), (90, a + 0.1)),
        ),
        1.371,
        [],
        1.398,
        [Event("silent-failure", 28, 81, 1, True, "the loss sits at 2.997; ignoring the input would give 3")],
    ),
    Edge(
        "a rate that rises a little",
        lambda a: Run(quiet((0, 4.0), (20, 3.0), (90, 3.0)), trivial=3.0, rates=1e-3 * line((0, 1.0), (90, 1.0 + a))),
        0.004694,
        [Event("silent-failure", 24, 77, 1, True, "the loss sits at 2.998; ignoring the input would give 3")],
        0.004788,
        [],
    ),
    # A loss is stuck that has settled longer than the fall took.
    Edge(
        "a slow fall to the trivial loss",
        lambda a: Run(quiet((0, 4.0), (a, 3.0), (a + 100, 3.0)), trivial=3.0),
        60.21,
        [Event("silent-failure", 52, 159, 1, True, "the loss sits at 2.997; ignoring the input would give 3")],
        61.43,
        [],
    ),
    Edge(
        "gradients that shrink",
        lambda a: Run(
            quiet((0, 4.0), (20, 3.0), (90, 3.0)),
            trivial=3.0,
            norms=line((0, 1.0), (20, 1.0), (21, a), (90, a)),
            horizon=1000,
        ),
        0.33,
        [Event("silent-failure", 24, 68, 1, True, "the loss sits at 3.001; ignoring the input would give 3")],
        0.3367,
        [],
    ),
    Edge(
        "a loss stuck for long patience",
        lambda a: Run(quiet((0, a), (20, 3.0), (1000, 3.0)), trivial=3.0, horizon=10_000),
        3.158,
        [],
        3.222,
        [Event("silent-failure", 26, 976, 1, True, "the loss sits at 3.006; ignoring the input would give 3")],
    ),
    # Settled steps are told by medians of halves.
    Edge(
        "a loss stuck late",
        lambda a: Run(noisy((0, 4.0), (150, a), (800, a), noise=0.1), trivial=3.0, horizon=1000),
        3.25,
        [Event("silent-failure", 155, 382, 1, True, "the loss sits at 3.212; ignoring the input would give 3")],
        3.315,
        [],
    ),
    # While it falls it has not settled.
    Edge(
        "a loss that creeps down",
        lambda a: Run(noisy((0, 4.0), (40, 3.0), (400, 3.0 - a), noise=0.1, seed=1), trivial=3.0, horizon=2000),
        0.01827,
        [Event("silent-failure", 45, 399, 1, True, "the loss sits at 2.994; ignoring the input would give 3")],
        0.01864,
        [],
    ),
    # --- Gradients ---
    Edge(
        "a gradient that explodes",
        lambda a: Run(fall(), norms=np.where(np.arange(300) == 100, a, 1.0)),
        10.89,
        [],
        11.11,
        [
            Event(
                "gradient-explosion",
                100,
                100,
                1.046,
                False,
                "the gradient's norm of 11.1 is 11.1 times the largest of 100 before",
            )
        ],
    ),
    Edge(
        "a gradient that explodes after eight steps",
        lambda a: Run(fall(), norms=np.where(np.arange(300) == 8, a, 1.0)),
        22.27,
        [],
        22.72,
        [
            Event(
                "gradient-explosion",
                8,
                8,
                1.356,
                False,
                "the gradient's norm of 22.7 is 22.7 times the largest of 8 before",
            )
        ],
    ),
    Edge(
        "a gradient that explodes and stays",
        lambda a: Run(fall(), norms=np.where(np.arange(300) >= 100, a, line((0, 0.5), (150, 1.0), (300, 1.0)))),
        9.039,
        [],
        9.221,
        [
            Event(
                "gradient-explosion",
                100,
                100,
                1.046,
                False,
                "the gradient's norm of 9.22 is 11.1 times the largest of 100 before",
            ),
            Event(
                "gradient-explosion",
                100,
                109,
                1.046,
                True,
                "the gradient's norm of 9.22 is 11.1 times the largest of 100 before",
            ),
        ],
    ),
    Edge(
        "a gradient that dies",
        lambda a: Run(fall(), norms=np.where(np.arange(300) >= 100, a, 1.0)),
        0.00099,
        [Event("silent-failure", 100, 109, 1, True, "the gradient died: its norm is 0.00099")],
        0.00101,
        [],
    ),
    Edge(
        "a gradient that dies after twenty steps",
        lambda a: Run(fall(), norms=np.where(np.arange(300) >= 20, a, 1.0)),
        0.00099,
        [Event("silent-failure", 20, 29, 1, True, "the gradient died: its norm is 0.00099")],
        0.00101,
        [],
    ),
    # The median of the last twenty counts.
    Edge(
        "a gradient that dies after it shrank",
        lambda a: Run(fall(), norms=np.where(np.arange(300) >= 120, a, np.where(np.arange(300) >= 100, 0.02, 1.0))),
        1.98e-05,
        [Event("silent-failure", 120, 129, 1, True, "the gradient died: its norm is 1.98e-05")],
        2.02e-05,
        [],
    ),
    Edge(
        "a gradient that dies with its loss",
        lambda a: Run(
            quiet((0, 4.0), (100, 4.0), (101, 4.0 * a), (110, 4.0 * a)), norms=np.where(np.arange(110) >= 100, 0.0, 1.0)
        ),
        0.1012,
        [Event("stall", 9, 108, 0.1, False, "the loss has not left its start of 4 for 100 steps")],
        0.1033,
        [
            Event("stall", 9, 108, 0.1, False, "the loss has not left its start of 4 for 100 steps"),
            Event("silent-failure", 100, 109, 1, True, "the gradient died: its norm is 0"),
        ],
    ),
    Edge(
        "a gradient setting of explosion",
        lambda a: Run(
            fall(), norms=np.where(np.arange(300) == 100, a, 1.0), detectors=Detectors(explosion_factor=20.0)
        ),
        21.78,
        [],
        22.22,
        [
            Event(
                "gradient-explosion",
                100,
                100,
                1.347,
                False,
                "the gradient's norm of 22.2 is 22.2 times the largest of 100 before",
            )
        ],
    ),
    Edge(
        "a gradient setting of vanishing",
        lambda a: Run(
            fall(), norms=np.where(np.arange(300) >= 100, a, 1.0), detectors=Detectors(vanishing_factor=1e-2)
        ),
        0.0099,
        [Event("silent-failure", 100, 109, 1, True, "the gradient died: its norm is 0.0099")],
        0.0101,
        [],
    ),
    # --- Stalls ---
    Edge(
        "a loss that stays at its start",
        lambda a: Run(noisy((0, 2.3), (300, 2.3 - a), noise=0.1)),
        0.8202,
        [Event("stall", 8, 107, 0.1, False, "the loss has not left its start of 2.313 for 100 steps")],
        0.8368,
        [],
    ),
    # A quarter of the horizon.
    Edge(
        "a loss that stays at its start in a long run",
        lambda a: Run(noisy((0, 2.3), (600, 2.3 - a), noise=0.1), horizon=800),
        0.6477,
        [Event("stall", 8, 207, 0.1, False, "the loss has not left its start of 2.313 for 200 steps")],
        0.6608,
        [],
    ),
    Edge(
        "a loss that stays while the rate rises",
        lambda a: Run(noisy((0, 2.3), (300, 2.3), noise=0.1), rates=line((0, 1e-5), (a, 1e-3), (300, 1e-3))),
        179.4,
        [Event("stall", 199, 298, 0.1, False, "the loss has not left its start of 2.313 for 100 steps")],
        183.0,
        [],
    ),
    Edge(
        "a loss that freezes",
        lambda a: Run(np.where(np.arange(60) < 40, 2.0 + a * (np.arange(60) % 2), 2.0)),
        0.000198,
        [Event("stall", 40, 49, 0.1, False, "the loss is frozen at 2")],
        0.000202,
        [Event("stall", 40, 49, 0.1, True, "the loss is frozen at 2")],
    ),
    Edge(
        "a start of three losses",
        lambda a: Run(np.concatenate([[2.0, 2.0 + a, 2.0 + a], noisy((0, 2.3), (200, 2.3), noise=0.1)])),
        0.1041,
        [],
        0.1062,
        [Event("stall", 61, 160, 0.1, False, "the loss has not left its start of 2.106 for 100 steps")],
    ),
)


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.name.replace(" ", "-"))
def test_just_below_and_just_above_what_decides(edge: Edge) -> None:
    check(watch(edge.run(edge.low)), edge.below)
    check(watch(edge.run(edge.high)), edge.above)
