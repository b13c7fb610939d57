"""The warm-up that adapts: what it measures, how it climbs and ends, and that it changes nothing but learning rates."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from autowarmup import AdaptiveWarmup
from autowarmup.adaptive.climb import BACK, DOUBLINGS, SHAPES, Climb, ClimbSettings
from autowarmup.adaptive.slope import UpdateSlope
from autowarmup.errors import InputError
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.space import DECAYS

STEPS = 60
DOWNHILL, UPHILL = -1.0, 1.0

Factory = Callable[[list[nn.Parameter]], Optimizer]
OPTIMIZERS: dict[str, Factory] = {
    "sgd": lambda weights: SGD(weights, lr=0.01),
    "momentum": lambda weights: SGD(weights, lr=0.01, momentum=0.9),
    "adamw": lambda weights: AdamW(weights, lr=1e-3),
}


def climb(**settings: Any) -> Climb:
    return Climb(ClimbSettings(**{"total_steps": 100, "longest": 40, "first_lr": 1e-3} | settings))


class Run:
    """A training with batch normalisation and dropout, whose batches follow from the step."""

    def __init__(self, factory: Factory, scheduled: bool = True) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1)
        )  # fmt: skip
        self.optimizer = factory(list(self.model.parameters()))
        self.scheduler = AdaptiveWarmup(self.optimizer, STEPS) if scheduled else None
        self.lrs: list[float] = []

    def gradients(self) -> Tensor:
        generator = torch.Generator().manual_seed(len(self.lrs))
        x = torch.randn(16, 8, generator=generator)
        self.optimizer.zero_grad()
        loss: Tensor = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        return loss

    def train(self, steps: int, closure: bool = False) -> Run:
        for _ in range(steps):
            self.lrs.append(self.optimizer.param_groups[0]["lr"])
            if closure:
                self.optimizer.step(self.gradients)
            else:
                self.gradients()
                self.optimizer.step()
            assert self.scheduler is not None
            self.scheduler.step()
        return self

    def train_at(self, lrs: list[float]) -> Run:
        for lr in lrs:
            self.lrs.append(lr)
            self.optimizer.param_groups[0]["lr"] = lr
            self.gradients()
            self.optimizer.step()
        return self

    @property
    def state(self) -> dict[str, Tensor]:
        """Weights and buffers, and the random state."""
        return {**self.model.state_dict(), "random": torch.get_rng_state()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_the_learning_rate_climbs_while_the_loss_falls_along_the_update() -> None:
    rising = climb()
    for _ in range(20):
        rising.advance(DOWNHILL)
    assert rising.schedule is None
    assert rising.lr == pytest.approx(1e-3 * 2 ** (DOUBLINGS / 2))


@pytest.mark.parametrize("slope", [UPHILL, math.inf, math.nan])
def test_a_step_back_is_a_third_of_a_step_up(slope: float) -> None:
    one = climb()
    one.advance(slope)
    assert one.lr == pytest.approx(1e-3 * 2 ** (-BACK * DOUBLINGS / 40))
    for _ in range(3):
        one.advance(slope)
    one.advance(DOWNHILL)
    assert one.lr == pytest.approx(1e-3 * 2 ** (-BACK * DOUBLINGS / 40))


@pytest.mark.parametrize("slope", [None, 0.0])
def test_without_knowing_more_the_learning_rate_stays(slope: float | None) -> None:
    one = climb()
    one.advance(slope)
    assert one.lr == 1e-3


def test_the_warmup_ends_at_the_peak_and_the_decay_takes_what_is_left() -> None:
    one, applied = climb(peak=7.9e-3, decay="cosine", final_factor=0.1), []
    for _ in range(100):
        applied.append(one.lr)
        one.advance(DOWNHILL)
    assert one.schedule is not None
    assert (one.schedule.peak, one.schedule.warmup_steps) == (7.9e-3, 12)
    assert max(applied) == applied[12] == 7.9e-3
    assert applied[12:] == one.schedule.curve().tolist()[12:]
    assert one.lr == pytest.approx(7.9e-4)


@pytest.mark.parametrize("decay", [decay for decay in DECAYS if decay != "exponential"])
def test_the_warmup_ends_after_its_longest_duration(decay: str) -> None:
    one = climb(longest="25%", decay=decay)
    for step in range(25):
        assert one.schedule is None
        one.advance(DOWNHILL if step % 3 else UPHILL)
    assert one.schedule is not None
    assert (one.schedule.warmup_steps, one.schedule.horizon) == (25, 100)
    assert one.lr == one.schedule.peak == one.schedule.lr_at(25)


def test_a_peak_below_the_first_learning_rate_leaves_no_warmup() -> None:
    one = climb(peak=5e-4)
    assert one.lr == 5e-4
    assert one.schedule is not None
    assert one.schedule.duration == 0


@given(st.lists(st.sampled_from([DOWNHILL, UPHILL, None]), min_size=40, max_size=40))
def test_the_schedule_is_near_to_what_was_applied(slopes: list[float | None]) -> None:
    one, applied = climb(), []
    for slope in slopes:
        applied.append(one.lr)
        one.advance(slope)
    schedule = one.schedule
    assert schedule is not None
    assert schedule.lr_at(0) == pytest.approx(min(1e-3, schedule.peak))

    def distance(shape: str) -> float:
        told = Schedule(**(schedule.model_dump() | {"shape": shape})).curve()[:40]
        return abs(float(told.sum()) - sum(applied))

    assert distance(schedule.shape.kind) == pytest.approx(min(map(distance, SHAPES)), rel=1e-9)  # shapes may coincide


@given(st.lists(st.sampled_from([DOWNHILL, UPHILL]), min_size=60, max_size=60), st.integers(0, 60))
def test_a_climb_goes_on_from_its_state(slopes: list[float], cut: int) -> None:
    whole, first, rest = climb(), climb(), climb()
    for slope in slopes:
        whole.advance(slope)
    for slope in slopes[:cut]:
        first.advance(slope)
    rest.load(first.state())
    for slope in slopes[cut:]:
        rest.advance(slope)
    assert rest.state() == whole.state()
    assert rest.lr == whole.lr


def test_the_slope_is_the_next_gradient_along_the_update() -> None:
    """``w^2 / 2`` with a learning rate of 0.25: from 8 to 6, where the gradient is 6, and to 4.5."""
    weight = nn.Parameter(torch.tensor([8.0]))
    optimizer = SGD([weight], lr=0.25)
    slope = UpdateSlope(optimizer)
    slopes = []
    for _ in range(3):
        weight.grad = weight.detach().clone()
        optimizer.step()
        slopes.append(slope.take())
    assert slopes == [None, 6.0 * (6.0 - 8.0), 4.5 * (4.5 - 6.0)]
    assert slope.take() is None


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 30.0])
def test_the_climb_settles_where_updates_go_too_far(sharpness: float) -> None:
    """On a parabola of that sharpness, gradient descent goes past the lowest point from a rate of 1 / sharpness on, and
    diverges from 2 / sharpness on."""
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = SGD([weight], lr=0.1 / sharpness)
    scheduler = AdaptiveWarmup(optimizer, 200)
    for _ in range(200):
        weight.grad = sharpness * weight.detach()
        optimizer.step()
        scheduler.step()
    assert scheduler.schedule is not None
    assert 0.8 < scheduler.schedule.peak * sharpness < 1.2
    assert scheduler.get_last_lr() == [0.0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_changes_nothing_but_learning_rates(name: str) -> None:
    """The same learning rates, set by hand, give the same weights, buffers and random state to the bit."""
    adaptive = Run(OPTIMIZERS[name]).train(STEPS)
    state = adaptive.state
    assert len(set(adaptive.lrs)) > 30
    assert_same(state, Run(OPTIMIZERS[name], scheduled=False).train_at(adaptive.lrs).state)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("cut", [0, 1, 2, 17, 24, 25, 40])
@pytest.mark.parametrize("optimizer_first", [True, False])
def test_a_run_goes_on_exactly_where_it_was(name: str, cut: int, optimizer_first: bool) -> None:
    whole = Run(OPTIMIZERS[name]).train(STEPS)
    end = whole.state
    first = Run(OPTIMIZERS[name]).train(cut)
    assert first.scheduler is not None
    file = io.BytesIO()
    states = (first.model.state_dict(), first.optimizer.state_dict(), first.scheduler.state_dict())
    torch.save((*states, torch.get_rng_state()), file)
    file.seek(0)
    model, optimizer, scheduler, random = torch.load(file, weights_only=True)
    rest = Run(OPTIMIZERS[name])
    assert rest.scheduler is not None
    rest.lrs = list(first.lrs)
    rest.model.load_state_dict(model)
    loads = [lambda: rest.optimizer.load_state_dict(optimizer), lambda: rest.scheduler.load_state_dict(scheduler)]
    for load in loads if optimizer_first else reversed(loads):
        load()
    torch.set_rng_state(random)
    rest.train(STEPS - cut)
    assert rest.lrs == whole.lrs
    assert rest.scheduler.schedule == whole.scheduler.schedule  # type: ignore[union-attr]
    assert_same(rest.state, end)


def test_an_earlier_state_can_be_loaded_after_the_warmup() -> None:
    run = Run(OPTIMIZERS["sgd"]).train(10)
    assert run.scheduler is not None
    saved = (run.scheduler.state_dict(), run.model.state_dict(), torch.get_rng_state())
    saved = (saved[0], {name: value.clone() for name, value in saved[1].items()}, saved[2])
    run.train(STEPS - 10)
    lrs, run.lrs = run.lrs, run.lrs[:10]
    run.scheduler.load_state_dict(saved[0])
    run.model.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    assert run.train(STEPS - 10).lrs == lrs


def test_a_step_with_a_closure_is_measured_with_that_step_s_gradient() -> None:
    plain, with_closure = Run(OPTIMIZERS["momentum"]).train(STEPS), Run(OPTIMIZERS["momentum"])
    assert with_closure.train(STEPS, closure=True).lrs == plain.lrs


def test_groups_keep_their_ratio() -> None:
    run = Run(lambda weights: SGD([{"params": weights[:2], "lr": 0.002}, {"params": weights[2:], "lr": 0.01}]))
    assert run.scheduler is not None
    assert run.scheduler.get_last_lr() == pytest.approx([0.00025, 0.00125])
    run.train(20)
    low, high = run.scheduler.get_last_lr()
    assert low == pytest.approx(0.2 * high)
    assert high > 0.00125


def test_a_step_that_is_skipped_leaves_the_learning_rate() -> None:
    """As loss scalers do where a gradient is not finite."""
    run = Run(OPTIMIZERS["sgd"]).train(10)
    assert run.scheduler is not None
    before = run.scheduler.get_last_lr()
    run.scheduler.step()
    assert run.scheduler.get_last_lr() == before


def test_nothing_is_left_behind_after_the_warmup() -> None:
    run = Run(OPTIMIZERS["sgd"]).train(STEPS)
    assert run.scheduler is not None
    assert run.scheduler.state_dict()["before"] == [None]
    assert not run.optimizer._optimizer_step_pre_hooks


def test_the_schedule_can_be_kept() -> None:
    run = Run(OPTIMIZERS["adamw"]).train(STEPS)
    assert run.scheduler is not None
    schedule = run.scheduler.schedule
    assert schedule is not None
    assert (schedule.horizon, schedule.warmup_steps, schedule.peak) == (STEPS, 24, run.lrs[24])
    assert run.lrs[24:] == schedule.curve().tolist()[24:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"total_steps": 5}, r"total_steps: must be greater than or equal to 10, got 5"),
        ({"total_steps": 60.0}, r"total_steps: must be a whole number, got 60.0"),
        ({"peak": 0.0}, r"peak: must be greater than 0, got 0.0"),
        ({"peak": math.nan}, r"peak: must be"),
        ({"first_lr": -1.0}, r"first_lr: must be greater than 0, got -1.0"),
        ({"longest": "140%"}, r"longer than the horizon"),
        ({"longest": 61}, r"longest=61 is 61 steps: must be from 1 to the total_steps, 60"),
        ({"longest": 0}, r"longest=0 is 0 steps"),
        ({"longest": "2 epochs"}, r"steps_per_epoch is needed"),
        ({"decay": "cosin"}, r"decay: .*cosine"),
        ({"decay": "exponential"}, r"final_factor must be above 0"),
        ({"final_factor": 2.0}, r"final_factor: must be less than or equal to 1, got 2.0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    optimizer = SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(InputError, match=message):
        AdaptiveWarmup(optimizer, **({"total_steps": STEPS} | settings))
    assert not optimizer._optimizer_step_pre_hooks


def test_an_optimizer_that_can_t_be_used_is_refused() -> None:
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(InputError, match=r"no parameter group has a learning rate above 0: \[0.0\]"):
        AdaptiveWarmup(SGD([weight], lr=0.0), STEPS)
    with pytest.raises(InputError, match=r"must be an optimizer of PyTorch"):
        AdaptiveWarmup(weight, STEPS)  # type: ignore[arg-type]


def test_another_s_state_and_further_groups_are_refused() -> None:
    optimizer = SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    scheduler = AdaptiveWarmup(optimizer, STEPS)
    optimizer.step()
    with pytest.raises(InputError, match=r"not the state of an AdaptiveWarmup"):
        scheduler.load_state_dict({"last_epoch": 3})
    with pytest.raises(InputError, match=r"step\(3\): takes nothing"):
        scheduler.step(3)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(InputError, match=r"2 parameter groups, the scheduler knows 1"):
        scheduler.step()
