"""The PyTorch scheduler on real optimizers: the rates that every ``optimizer.step`` applies, and resuming."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adafactor, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autowarmup.errors import InputError
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.torch_scheduler import ScheduleLR

SCHEDULE = Schedule(peak=0.3, horizon=12, warmup_steps=4, shape="linear", decay="cosine", final_factor=0.1)
CURVE = SCHEDULE.curve().tolist()
OPTIMIZERS: list[type[Optimizer]] = [SGD, AdamW, Adafactor]


def parameters(count: int = 1) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(2, 2)) for _ in range(count)]


def train(optimizer: Optimizer, scheduler: LRScheduler, steps: int) -> list[list[float]]:
    """The rates of all groups at each ``optimizer.step``, as the optimizer itself saw them."""
    applied: list[list[float]] = []
    hook = optimizer.register_step_pre_hook(
        lambda runner, *_: applied.append([float(group["lr"]) for group in runner.param_groups])
    )
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        scheduler.step()
    hook.remove()
    return applied


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_step_applies_the_schedule_s_rate(kind: Callable[..., Optimizer]) -> None:
    optimizer = kind(parameters(), lr=0.1)
    scheduler = SCHEDULE.scheduler(optimizer)
    assert isinstance(scheduler, LRScheduler)
    past_the_horizon = [SCHEDULE.lr_at(12)] * 3
    assert [rate for (rate,) in train(optimizer, scheduler, 15)] == CURVE + past_the_horizon
    assert scheduler.get_last_lr() == [SCHEDULE.lr_at(12)]


def test_the_weights_move_by_the_schedule_s_rates() -> None:
    (weight,) = parameters()
    optimizer = SGD([weight], lr=123.0)
    train(optimizer, SCHEDULE.scheduler(optimizer), 12)
    assert weight.flatten().tolist() == pytest.approx([1.0 - sum(CURVE)] * 4)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_groups_keep_their_ratios(kind: Callable[..., Optimizer]) -> None:
    first, second, third = parameters(3)
    groups = [{"params": [first], "lr": 0.002}, {"params": [second]}, {"params": [third], "lr": 0.0}]
    optimizer = kind(groups, lr=0.02)
    applied = train(optimizer, SCHEDULE.scheduler(optimizer), 12)
    assert applied == [[rate * 0.1, rate, 0.0] for rate in CURVE]


def checkpoint(optimizer: Optimizer, scheduler: ScheduleLR) -> dict[str, Any]:
    """What a user saves and reads back, by the strictest loader."""
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
    file.seek(0)
    return dict(torch.load(file, weights_only=True))


def two_groups(kind: Callable[..., Optimizer]) -> Optimizer:
    first, second = parameters(2)
    return kind([{"params": [first], "lr": 0.002}, {"params": [second]}], lr=0.02)


ACTIONS = ("make scheduler", "load optimizer", "load scheduler")
ORDERS = [order for order in permutations(ACTIONS) if order.index(ACTIONS[0]) < order.index(ACTIONS[2])]


@pytest.mark.parametrize("order", ORDERS, ids=" > ".join)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("made", [1, 3, 4, 7, 12])
def test_a_resumed_run_goes_on_where_it_was(made: int, kind: Callable[..., Optimizer], order: tuple[str, ...]) -> None:
    optimizer = two_groups(kind)
    scheduler = SCHEDULE.scheduler(optimizer)
    train(optimizer, scheduler, made)
    saved = checkpoint(optimizer, scheduler)
    expected = train(optimizer, scheduler, 5)

    optimizer = two_groups(kind)
    for action in order:
        if action == "make scheduler":
            scheduler = SCHEDULE.scheduler(optimizer)
        elif action == "load optimizer":
            optimizer.load_state_dict(saved["optimizer"])
        else:
            scheduler.load_state_dict(saved["scheduler"])
    assert scheduler.get_last_lr() == expected[0]
    assert train(optimizer, scheduler, 5) == expected


@pytest.mark.parametrize("load_optimizer", [False, True])
def test_a_run_resumes_by_the_number_of_its_last_step(load_optimizer: bool) -> None:
    optimizer = two_groups(AdamW)
    scheduler = SCHEDULE.scheduler(optimizer)
    train(optimizer, scheduler, 7)
    saved = checkpoint(optimizer, scheduler)
    expected = train(optimizer, scheduler, 5)

    optimizer = two_groups(AdamW)
    if load_optimizer:
        optimizer.load_state_dict(saved["optimizer"])
    assert train(optimizer, SCHEDULE.scheduler(optimizer, last_step=6), 5) == expected


def test_the_state_is_plain_numbers() -> None:
    optimizer = two_groups(SGD)
    scheduler = SCHEDULE.scheduler(optimizer)
    train(optimizer, scheduler, 3)
    assert scheduler.state_dict() == {"last_epoch": 3, "ratios": [0.1, 1.0]}


def test_the_state_is_a_copy() -> None:
    optimizer = two_groups(SGD)
    scheduler = SCHEDULE.scheduler(optimizer)
    scheduler.state_dict()["ratios"].clear()
    assert train(optimizer, scheduler, 1) == [[CURVE[0] * 0.1, CURVE[0]]]


def test_a_new_scheduler_on_a_used_optimizer_keeps_the_first_ratios() -> None:
    optimizer = two_groups(SGD)
    train(optimizer, SCHEDULE.scheduler(optimizer), 3)
    again = Schedule(peak=1.0, horizon=10, decay="linear")
    assert train(optimizer, again.scheduler(optimizer), 2) == [[0.1, 1.0], [0.1 * 0.9, 0.9]]


def test_tensor_rates_are_filled_in_place() -> None:
    rate = torch.tensor(0.1)
    optimizer = Adam(parameters(), lr=rate, capturable=False, foreach=False)
    scheduler = SCHEDULE.scheduler(optimizer)
    applied = train(optimizer, scheduler, 6)
    assert [step for (step,) in applied] == pytest.approx(CURVE[:6])
    state = {"last_epoch": 2, "ratios": [1.0]}
    scheduler.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(CURVE[2])
    assert [step for (step,) in train(optimizer, scheduler, 4)] == pytest.approx(CURVE[2:6])


def test_an_optimizer_at_rate_0_is_refused() -> None:
    with pytest.raises(InputError, match=r"no parameter group has a learning rate above 0: \[0\.0\]"):
        SCHEDULE.scheduler(SGD(parameters(), lr=0.0))


def test_an_optimizer_that_decayed_to_0_under_a_schedule_is_not() -> None:
    optimizer = SGD(parameters(), lr=0.1)
    short = Schedule(peak=0.1, horizon=2)
    train(optimizer, short.scheduler(optimizer), 2)
    assert optimizer.param_groups[0]["lr"] == 0.0
    assert train(optimizer, SCHEDULE.scheduler(optimizer), 1) == [[CURVE[0]]]


def test_groups_that_are_added_later_are_refused() -> None:
    first, second = parameters(2)
    optimizer = SGD([first], lr=0.1)
    scheduler = SCHEDULE.scheduler(optimizer)
    optimizer.add_param_group({"params": [second], "lr": 0.01})
    message = "has 2 parameter groups, the scheduler knows 1: add every group before the scheduler is made"
    with pytest.raises(InputError, match=message):
        train(optimizer, scheduler, 1)


def test_a_state_of_another_optimizer_is_refused_and_changes_nothing() -> None:
    optimizer = two_groups(SGD)
    scheduler = SCHEDULE.scheduler(optimizer)
    with pytest.raises(InputError, match="has 2 parameter groups, the scheduler knows 1"):
        scheduler.load_state_dict({"last_epoch": 5, "ratios": [1.0]})
    assert train(optimizer, scheduler, 1) == [[CURVE[0] * 0.1, CURVE[0]]]


def test_anything_that_knows_its_rates_can_be_applied() -> None:
    class Staircase:
        def lr_at(self, step: int) -> float:
            return 1.0 + step // 2

    optimizer = SGD(parameters(), lr=0.1)
    assert train(optimizer, ScheduleLR(optimizer, Staircase()), 4) == [[1.0], [1.0], [2.0], [2.0]]


@pytest.mark.parametrize("start_factor", [None, 0.0, 0.25])
def test_the_first_rate_is_applied_by_the_first_step(start_factor: float | None) -> None:
    schedule = Schedule(
        peak=1.0, horizon=10, warmup_steps=3, shape="linear", start_factor=start_factor, decay="constant"
    )
    optimizer = SGD(parameters(), lr=0.1)
    first = 0.25 if start_factor is None else start_factor
    assert train(optimizer, schedule.scheduler(optimizer), 1) == [[first]]


def test_the_state_of_another_scheduler_is_refused() -> None:
    optimizer = SGD(parameters(), lr=0.1)
    other = torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict()
    with pytest.raises(InputError, match="not the state of a ScheduleLR, which has last_epoch and ratios; it has"):
        SCHEDULE.scheduler(optimizer).load_state_dict(other)


def test_several_optimizers_keep_their_ratio_to_the_highest() -> None:
    muon, adam = SGD(parameters(), lr=0.02), Adam(parameters(), lr=0.005)
    schedulers = [SCHEDULE.scheduler(optimizer, base_lr=0.02) for optimizer in (muon, adam)]
    assert train(muon, schedulers[0], 3) == [[lr] for lr in CURVE[:3]]
    assert train(adam, schedulers[1], 3) == [[pytest.approx(0.25 * lr)] for lr in CURVE[:3]]


def test_a_base_below_the_optimizers_own_is_refused() -> None:
    with pytest.raises(InputError, match=r"base_lr=0.01 must be at least the optimizer's highest learning rate, 0.1"):
        SCHEDULE.scheduler(SGD(parameters(), lr=0.1), base_lr=0.01)
