"""Schedules: laws by property, rules against the closed forms of their papers and against real optimizers."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from autowarmup.errors import InputError
from autowarmup.schedule.decays import ConstantDecay, InverseSqrtDecay, WarmupStableDecay
from autowarmup.schedule.duration import duration_steps, parse_duration
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.shapes import Exponential, GIAdam, Linear, Polynomial, RAdam, UntunedExponential, UntunedLinear

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")

RAMPS = ("linear", "polynomial", "sqrt", "exponential", "cosine")
RULES = ("untuned-linear", "untuned-exponential", "radam", "gi-adam")
ENDING = ("cosine", "linear", "exponential", "wsd")
DECAYS = (*ENDING, "inverse-sqrt", "constant")

peaks = st.floats(1e-8, 1e3)
factors = st.just(0.0) | st.floats(1e-30, 1.0)  # times a peak, a normal number


@st.composite
def decays(draw: st.DrawFn, kinds: tuple[str, ...] = DECAYS) -> dict[str, Any]:
    kind = draw(st.sampled_from(kinds))
    final = draw(st.floats(1e-6, 1.0) if kind == "exponential" else factors)
    decay: dict[str, Any] = {"kind": kind}
    if kind == "wsd":
        decay["cooldown"] = draw(st.floats(0.01, 1.0))
    if kind == "inverse-sqrt":
        decay["timescale"] = draw(st.none() | st.integers(1, 1000))
    return {"decay": decay, "final_factor": final}


@st.composite
def ramped(draw: st.DrawFn, kinds: tuple[str, ...] = DECAYS) -> Schedule:
    """Schedules whose warm-up has a duration."""
    horizon = draw(st.integers(1, 60))
    kind = draw(st.sampled_from(RAMPS))
    shape: dict[str, Any] = {"kind": kind}
    if kind == "polynomial":
        shape["power"] = draw(st.floats(0.05, 10.0))
    start = draw(st.none() | (st.floats(1e-6, 1.0) if kind == "exponential" else factors))
    return Schedule(
        peak=draw(peaks),
        horizon=horizon,
        warmup_steps=draw(st.integers(1, horizon)),
        shape=shape,
        start_factor=start,
        **draw(decays(kinds)),
    )


@st.composite
def unramped(draw: st.DrawFn) -> Schedule:
    """No warm-up, and the rules."""
    kind = draw(st.sampled_from(("none", *RULES)))
    shape = {"kind": kind} if kind == "none" else {"kind": kind, "beta2": draw(st.floats(0.7, 0.9999))}
    return Schedule(peak=draw(peaks), horizon=draw(st.integers(1, 60)), shape=shape, **draw(decays()))


schedules = ramped() | unramped()


# --- Laws ------------------------------------------------------------------------------------------------


@given(schedules)
def test_the_curve_is_lr_at_to_the_bit(schedule: Schedule) -> None:
    curve = schedule.curve()
    assert curve.dtype == np.float64
    assert curve.tolist() == [schedule.lr_at(step) for step in range(schedule.horizon)]


@given(schedules)
def test_rates_lie_between_0_and_the_peak(schedule: Schedule) -> None:
    rates = [schedule.lr_at(step) for step in range(schedule.horizon + 3)]
    assert all(0.0 <= rate <= schedule.peak for rate in rates)


@given(schedules)
def test_the_first_rate_is_not_0_unless_asked(schedule: Schedule) -> None:
    assert (schedule.lr_at(0) == 0.0) == (schedule.start_factor == 0.0)


@given(ramped())
def test_the_rate_rises_to_the_peak_at_warmup_steps_and_falls_after_it(schedule: Schedule) -> None:
    curve = schedule.curve()
    before, after = curve[: schedule.warmup_steps], curve[schedule.warmup_steps :]
    assert np.all(np.diff(before) >= 0.0)
    assert np.all(np.diff(after) <= 0.0)
    assert after.size == 0 or after[0] == schedule.peak
    if schedule.start_factor is None or schedule.start_factor < 0.99:
        assert np.all(before < schedule.peak)


@given(ramped())
def test_the_start_factor_is_the_first_factor(schedule: Schedule) -> None:
    assume(schedule.start_factor is not None)
    assert schedule.lr_at(0) == schedule.peak * schedule.start_factor


@given(ramped(ENDING))
def test_the_decay_ends_at_the_final_factor_at_the_horizon_and_stays(schedule: Schedule) -> None:
    end = schedule.peak * schedule.final_factor
    assert [schedule.lr_at(schedule.horizon + more) for more in (0, 1, 1000)] == pytest.approx([end] * 3)


@given(schedules)
def test_past_the_horizon_nothing_changes(schedule: Schedule) -> None:
    assert schedule.lr_at(10 * schedule.horizon) == schedule.lr_at(schedule.horizon)


@given(schedules, st.integers(-10, 10))
def test_scaling_the_peak_scales_the_curve(schedule: Schedule, doublings: int) -> None:
    scaled = schedule.model_copy(update={"peak": schedule.peak * 2.0**doublings})
    assert np.array_equal(scaled.curve(), schedule.curve() * 2.0**doublings)


@given(schedules)
def test_round_trips(schedule: Schedule) -> None:
    assert schedule.duration >= 0  # what was computed before must not leak into any of these
    for copy in (
        Schedule.model_validate_json(schedule.model_dump_json()),
        Schedule.model_validate(schedule.model_dump()),
        pickle.loads(pickle.dumps(schedule)),  # noqa: S301 - our own bytes
    ):
        assert copy == schedule
        assert hash(copy) == hash(schedule)
        assert np.array_equal(copy.curve(), schedule.curve())


@given(schedules)
def test_the_duration_counts_the_steps_below_the_warmup_s_end(schedule: Schedule) -> None:
    constant = schedule.model_copy(update={"decay": ConstantDecay(), "start_factor": None})
    full = 0.99 if schedule.shape.kind in {"untuned-exponential", "radam", "gi-adam"} else 1.0
    assert schedule.duration == int(np.sum(constant.curve() < full * schedule.peak))


@given(schedules)
def test_every_schedule_describes_itself_in_one_line(schedule: Schedule) -> None:
    text = schedule.describe()
    assert text.startswith(f"peak {schedule.peak:.4g}, ")
    assert "\n" not in text


# --- Warm-up shapes against closed forms -----------------------------------------------------------------


def factors_of(shape: Any, steps: int = 4, **settings: Any) -> list[float]:
    schedule = Schedule(peak=1.0, horizon=steps + 1, warmup_steps=steps, shape=shape, decay="constant", **settings)
    return schedule.curve().tolist()


@pytest.mark.parametrize(
    ("shape", "golden"),
    [
        ("linear", [0.2, 0.4, 0.6, 0.8, 1.0]),
        (Polynomial(power=2.0), [0.04, 0.16, 0.36, 0.64, 1.0]),
        ("sqrt", [0.4472135955, 0.632455532, 0.7745966692, 0.894427191, 1.0]),
        ("cosine", [0.0954915028, 0.3454915028, 0.6545084972, 0.9045084972, 1.0]),
        ("exponential", [0.01, 0.0316227766, 0.1, 0.316227766, 1.0]),
    ],
)
def test_shapes_that_start_one_step_in(shape: Any, golden: list[float]) -> None:
    assert factors_of(shape) == pytest.approx(golden)


@pytest.mark.parametrize(
    ("shape", "start", "golden"),
    [
        ("linear", 0.0, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("linear", 0.2, [0.2, 0.4, 0.6, 0.8, 1.0]),
        (Polynomial(power=3.0), 0.0, [0.0, 0.015625, 0.125, 0.421875, 1.0]),
        ("sqrt", 0.5, [0.5, 0.75, 0.8535533906, 0.9330127019, 1.0]),
        ("cosine", 0.0, [0.0, 0.1464466094, 0.5, 0.8535533906, 1.0]),
        ("exponential", 0.0625, [0.0625, 0.125, 0.25, 0.5, 1.0]),
    ],
)
def test_shapes_that_start_at_a_factor(shape: Any, start: float, golden: list[float]) -> None:
    assert factors_of(shape, start_factor=start) == pytest.approx(golden)


def test_linear_is_the_polynomial_of_power_1_and_the_square_root_of_power_half() -> None:
    assert factors_of("linear", 50) == factors_of(Polynomial(power=1.0), 50)
    assert factors_of("sqrt", 50) == pytest.approx(factors_of(Polynomial(power=0.5), 50))


@pytest.mark.parametrize("shape", ["linear", "sqrt", "cosine", "exponential", Polynomial(power=10.0)])
def test_the_first_step_of_a_very_long_warmup_is_not_0(shape: Any) -> None:
    schedule = Schedule(peak=1e-4, horizon=10**12, warmup_steps=10**11, shape=shape)
    assert schedule.lr_at(0) > 0.0


# --- Rules against their papers --------------------------------------------------------------------------


@pytest.mark.parametrize(("beta2", "tau"), [(0.0, 2), (0.9, 20), (0.95, 40), (0.98, 100), (0.999, 2000)])
def test_untuned_linear_lasts_two_over_one_minus_beta2(beta2: float, tau: int) -> None:
    rule = UntunedLinear(beta2=beta2)
    assert rule.tau == tau
    assert rule.factor(0) == 1 / tau
    assert rule.factor(tau // 2 - 1) == 0.5
    assert rule.factor(tau - 2) < 1.0
    assert rule.factor(tau - 1) == rule.factor(tau) == 1.0


@pytest.mark.parametrize(("horizon", "duration"), [(198, 99), (200, 99), (190, 95), (101, 50)])
def test_untuned_linear_takes_half_the_horizon_at_most(horizon: int, duration: int) -> None:
    """With a beta2 of 0.98 the rule wants 100 steps, the last of them at the peak."""
    assert Schedule.untuned_linear(peak=0.1, horizon=horizon, beta2=0.98).duration == duration


def test_untuned_exponential_leaves_one_over_e_after_tau_steps() -> None:
    rule = UntunedExponential(beta2=0.99)  # tau = 100
    assert rule.factor(0) == pytest.approx(0.00995016625)
    assert rule.factor(99) == pytest.approx(1 - 1 / math.e)
    assert rule.factor(999) == pytest.approx(1 - math.exp(-10))


@pytest.mark.parametrize("rule", [UntunedLinear, UntunedExponential, GIAdam])
def test_rules_without_a_second_moment(rule: Any) -> None:
    assert 0.0 < rule(beta2=0.0).factor(0) <= rule(beta2=0.0).factor(100) == pytest.approx(1.0)


def adam(optimizer: type[torch.optim.Optimizer], beta2: float, rates: list[float]) -> list[list[float]]:
    """The weights after every step of an optimizer on gradients that are the same for every caller."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    runner = optimizer([weight], lr=1.0, betas=(0.9, beta2), eps=1e-300)  # type: ignore[call-arg]
    path = []
    for rate in rates:
        weight.grad = torch.randn(5, generator=generator, dtype=torch.float64)
        runner.param_groups[0]["lr"] = rate
        runner.step()
        path.append(weight.tolist())
    return path


@pytest.mark.parametrize("beta2", [0.9, 0.98, 0.999])
def test_radam_is_adam_under_this_schedule_once_it_rectifies(beta2: float) -> None:
    schedule = Schedule(peak=0.1, horizon=60, shape=RAdam(beta2=beta2), decay="constant")
    rectified = np.diff(adam(torch.optim.RAdam, beta2, [0.1] * 60), axis=0)
    scheduled = np.diff(adam(torch.optim.Adam, beta2, schedule.curve().tolist()), axis=0)
    # PyTorch rectifies from rho_t > 5 on, where the paper says > 4: the first five steps are not compared.
    assert scheduled[5:] == pytest.approx(rectified[5:], rel=1e-9)


def test_radam_s_first_defined_factor_is_held_before_it() -> None:
    rule = RAdam(beta2=0.999)
    # By hand, t = 5: rho_inf = 1999, rho_5 = 4.996, so sqrt(0.996 * 2.996 * 1999 / (1995 * 1997 * 4.996)).
    assert rule.factor(4) == pytest.approx(0.01731, rel=1e-3)
    assert [rule.factor(step) for step in range(4)] == [rule.factor(4)] * 4
    assert rule.factor(5) > rule.factor(4)
    assert rule.factor(100_000) == pytest.approx(1.0)


def gi_adam(gradients: list[float], peak: float, beta2: float, rates: list[float] | None = None) -> list[float]:
    """PyTorch's Adam with its second moment started at the first squared gradient.

    With ``rates`` the bias correction of the second moment is taken out, and they are applied instead.
    """
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=peak, betas=(0.9, beta2), eps=1e-300)
    optimizer.state[weight] = {
        "step": torch.tensor(0.0),
        "exp_avg": torch.zeros_like(weight),
        "exp_avg_sq": torch.full_like(weight, gradients[0] ** 2),
    }
    path = []
    for step, gradient in enumerate(gradients):
        if rates is not None:
            optimizer.param_groups[0]["lr"] = rates[step] / math.sqrt(1.0 - beta2 ** (step + 1))
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        path.append(weight.item())
    return path


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=30), st.floats(0.5, 0.9999))
def test_gi_adam_s_bias_correction_is_this_warmup(gradients: list[float], beta2: float) -> None:
    schedule = Schedule(peak=0.1, horizon=len(gradients), shape=GIAdam(beta2=beta2), decay="constant")
    expected = gi_adam(gradients, 0.1, beta2)
    assert gi_adam(gradients, 0.1, beta2, schedule.curve().tolist()) == pytest.approx(expected)


def test_gi_adam_s_warmup_on_plain_adam_is_gi_adam_for_a_steady_gradient() -> None:
    schedule = Schedule(peak=0.1, horizon=50, shape=GIAdam(beta2=0.99), decay="constant")
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=0.1, betas=(0.9, 0.99), eps=1e-300)
    scheduler = schedule.scheduler(optimizer)
    path = []
    for _ in range(50):
        weight.grad = torch.full_like(weight, 0.3)
        optimizer.step()
        scheduler.step()
        path.append(weight.item())
    assert path == pytest.approx(gi_adam([0.3] * 50, 0.1, 0.99))


def test_a_rule_multiplies_the_decay_as_well() -> None:
    settings: dict[str, Any] = {"peak": 0.1, "horizon": 100, "decay": "cosine"}
    rule = Schedule(shape=UntunedLinear(beta2=0.95), **settings)
    plain = Schedule(**settings)
    factors = [min(1.0, (step + 1) / 40) for step in range(100)]
    assert rule.curve() == pytest.approx(plain.curve() * factors)
    assert rule.duration == 39


def test_untuned_linear_is_clipped_to_half_the_horizon() -> None:
    clipped = Schedule.untuned_linear(peak=0.1, horizon=300, beta2=0.999, decay="linear", final_factor=0.1)
    assert clipped == Schedule(
        peak=0.1, horizon=300, warmup_steps=150, shape="linear", decay="linear", final_factor=0.1
    )
    assert Schedule.untuned_linear(peak=0.1, horizon=4000).shape == UntunedLinear(beta2=0.999)
    assert Schedule.untuned_linear(peak=0.1, horizon=1).lr_at(0) == 0.05


# --- Decays against closed forms -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decay", "final", "golden"),
    [
        ("cosine", 0.0, [1.0, 0.8535533906, 0.5, 0.1464466094, 0.0]),
        ("cosine", 0.2, [1.0, 0.8828427125, 0.6, 0.3171572875, 0.2]),
        ("linear", 0.0, [1.0, 0.75, 0.5, 0.25, 0.0]),
        ("linear", 0.2, [1.0, 0.8, 0.6, 0.4, 0.2]),
        ("exponential", 0.0625, [1.0, 0.5, 0.25, 0.125, 0.0625]),
        ("constant", 0.5, [1.0] * 5),
        (InverseSqrtDecay(timescale=4), 0.0, [1.0, 0.894427191, 0.8164965809, 0.755928946, 0.7071067812]),
        (InverseSqrtDecay(timescale=4), 0.8, [1.0, 0.894427191, 0.8164965809, 0.8, 0.8]),
        ("inverse-sqrt", 0.0, [1.0, 0.7071067812, 0.5773502692, 0.5, 0.4472135955]),
        (WarmupStableDecay(cooldown=0.5), 0.0, [1.0, 1.0, 1.0, 0.5, 0.0]),
        (WarmupStableDecay(cooldown=1.0), 0.2, [1.0, 0.8, 0.6, 0.4, 0.2]),
    ],
)
def test_decays(decay: Any, final: float, golden: list[float]) -> None:
    schedule = Schedule(peak=1.0, horizon=4, decay=decay, final_factor=final)
    assert [schedule.lr_at(step) for step in range(5)] == pytest.approx(golden)


def test_linear_warmup_and_inverse_sqrt_decay_are_the_schedule_of_vaswani_et_al() -> None:
    width, warmup = 512, 4000
    schedule = Schedule(
        peak=(width * warmup) ** -0.5,
        horizon=20_000,
        warmup_steps=warmup - 1,  # their step 4000, counted from 1, is the first one at the peak
        shape="linear",
        decay="inverse-sqrt",
    )
    steps = np.arange(1, 20_001)
    paper = width**-0.5 * np.minimum(steps**-0.5, steps * warmup**-1.5)
    assert schedule.curve() == pytest.approx(paper, rel=1e-12)


def test_the_cooldown_is_a_share_of_the_horizon() -> None:
    schedule = Schedule(peak=1.0, horizon=100, warmup_steps=50, shape="linear", decay="wsd")
    assert schedule.lr_at(80) == 1.0
    assert schedule.lr_at(81) == pytest.approx(0.95)
    late = Schedule(peak=1.0, horizon=100, warmup_steps=90, shape="linear", decay="wsd")
    assert late.lr_at(90) == 1.0
    assert late.lr_at(91) == pytest.approx(0.9)


def test_the_inverse_sqrt_decay_of_a_rule_takes_the_rule_s_timescale() -> None:
    schedule = Schedule(peak=1.0, horizon=1000, shape=UntunedLinear(beta2=0.98), decay="inverse-sqrt")
    assert schedule.lr_at(300) == pytest.approx(math.sqrt(100 / 400))


@pytest.mark.parametrize("decay", [*DECAYS])
def test_a_warmup_as_long_as_the_horizon(decay: str) -> None:
    schedule = Schedule(peak=1.0, horizon=10, warmup_steps=10, shape="exponential", decay=decay, final_factor=0.5)
    assert schedule.curve()[-1] == pytest.approx(0.01**0.1)
    assert schedule.lr_at(10) == (1.0 if decay in {"constant", "inverse-sqrt"} else 0.5)


# --- What is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peak": 0.0}, "greater than 0"),
        ({"peak": math.nan}, "finite number"),
        ({"peak": math.inf}, "finite number"),
        ({"horizon": 0}, "greater than or equal to 1"),
        ({"warmup_steps": -1}, "greater than or equal to 0"),
        ({"warmup_steps": 101, "shape": "linear"}, "warmup_steps=101 is longer than the horizon of 100"),
        ({"warmup_steps": 5}, "got warmup_steps=5, start_factor=None; for a warm-up give a shape, such as 'linear'"),
        ({"warmup_steps": 5, "shape": "radam"}, "'radam' takes no warmup_steps"),
        ({"start_factor": 0.1, "shape": "gi-adam"}, r"start_factor=0\.1"),
        ({"shape": "linear"}, "'linear' needs warmup_steps >= 1, got 0"),
        ({"shape": "lineer", "warmup_steps": 5}, "'lineer' found using 'kind'"),
        ({"shape": "exponential", "warmup_steps": 5, "start_factor": 0.0}, "can't start at 0"),
        ({"decay": "exponential"}, "can't end at 0"),
        ({"decay": {"kind": "wsd", "cooldown": 0.0}}, "greater than 0"),
        ({"decay": {"kind": "wsd", "cooldown": 1.5}}, "less than or equal to 1"),
        ({"decay": {"kind": "cosine", "cooldown": 0.5}}, "unknown key 'decay.cosine.cooldown'; known: kind$"),
        ({"shape": {"kind": "radam", "beta2": 0.6}}, r"beta2 > 0\.6, got 0\.6"),
        ({"shape": {"kind": "gi-adam", "beta2": 1.0}}, "less than 1"),
        ({"final_factor": 1.1}, "less than or equal to 1"),
        ({"total_steps": 5}, "unknown key 'total_steps'.*; known: peak, horizon"),
        ({"peak": True}, "peak: must be a number, got True"),
        ({"horizon": 10.0}, r"horizon: must be a whole number, got 10\.0"),
        ({"horizon": 10**5000}, "horizon: must be a whole number of at most 64 bits, got <int>"),
        ({"peak": 10**400}, "peak: must be a finite number, got 1000"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Schedule(**{"peak": 0.1, "horizon": 100, **settings})


def test_a_schedule_can_t_be_changed() -> None:
    schedule = Schedule(peak=0.1, horizon=10)
    with pytest.raises(ValidationError, match="frozen"):
        schedule.peak = 0.2  # type: ignore[misc]


def test_steps_are_counted_from_0() -> None:
    with pytest.raises(InputError, match="step=-1: must be a whole number, counted from 0"):
        Schedule(peak=0.1, horizon=10).lr_at(-1)


def test_shapes_are_values() -> None:
    named = Schedule(peak=0.1, horizon=10, warmup_steps=2, shape="linear")
    assert named == Schedule(peak=0.1, horizon=10, warmup_steps=2, shape=Linear())
    assert named != Schedule(peak=0.1, horizon=10, warmup_steps=2, shape=Exponential())
    assert len({named, Schedule(peak=0.1, horizon=10, warmup_steps=2, shape={"kind": "linear"})}) == 1


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "peak 0.1, no warm-up, cosine decay to 0 at step 1,000"),
        (
            {"warmup_steps": 50, "shape": Polynomial(power=3), "start_factor": 0.1, "final_factor": 0.1},
            "peak 0.1, polynomial (power 3) warm-up over 50 steps (5%) from 0.1 x peak, "
            "cosine decay to 0.01 at step 1,000",
        ),
        (
            {"shape": UntunedLinear(beta2=0.99), "decay": "constant"},
            "peak 0.1, untuned-linear warm-up over 199 steps (20%), no decay, 1,000 steps",
        ),
        (
            {"decay": InverseSqrtDecay(timescale=1000)},
            "peak 0.1, no warm-up, inverse-sqrt decay to 0.0707 at step 1,000",
        ),
    ],
)
def test_descriptions(settings: dict[str, Any], text: str) -> None:
    assert Schedule(peak=0.1, horizon=1000, **settings).describe() == text


# --- Durations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (0, 0),
        (500, 500),
        (500.0, 500),
        ("500", 500),
        ("500 steps", 500),
        ("1 step", 1),
        ("10%", 30),
        ("2.5 %", 8),
        ("100%", 300),
        ("0%", 0),
        ("2 epochs", 80),
        ("1 epoch", 40),
        ("0.5 epochs", 20),
        (" 0.5epochs ", 20),
    ],
)
def test_durations(duration: Any, steps: int) -> None:
    assert duration_steps(duration, horizon=300, steps_per_epoch=40) == steps


@pytest.mark.parametrize(
    "duration",
    [
        -5,
        "-5%",
        "10 parsecs",
        "",
        "%",
        True,
        None,
        math.nan,
        math.inf,
        "1e3",
        "9" * 400,
        "1" * 400 + "%",
        [5],
    ],
)
def test_what_is_no_duration_is_refused(duration: Any) -> None:
    with pytest.raises(InputError, match=r"duration .* is not a number of steps such as 500, .*'10%', or '2 epochs'"):
        duration_steps(duration, horizon=300, steps_per_epoch=40)


@pytest.mark.parametrize(
    ("duration", "message"),
    [
        ("110%", "'110%' is longer than the horizon: a share is from 0% to 100%"),
        (0.5, r"duration 0\.5: steps are whole numbers; for a share of the horizon write '10%'"),
        ("2 epochs", "'2 epochs' is in epochs: steps_per_epoch is needed"),
    ],
)
def test_durations_that_can_t_be_turned_into_steps(duration: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        duration_steps(duration, horizon=300)


@given(st.integers(0, 10**15 - 1))
def test_whole_numbers_are_steps(steps: int) -> None:
    assert parse_duration(steps) == (steps, "step")
    assert duration_steps(f"{steps} steps", horizon=1) == steps
