"""RateAudit in trainings that really apply a wrong learning rate: one for each known cause, and right ones."""

from __future__ import annotations

import copy
import json
import math
import re
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.multiprocessing  # registers how tensors are sent
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, LinearLR, SequentialLR

from autowarmup import RateAudit, Schedule
from autowarmup.audit.causes import Cause
from autowarmup.audit.rate_audit import TOLERANCE
from autowarmup.audit.recording import every_step, read
from autowarmup.errors import AppliedRateError, AppliedRateWarning, InputError
from autowarmup.schedule.space import DECAYS, SHAPES

PLAN = Schedule(peak=0.1, horizon=40, warmup_steps=8, shape="linear", final_factor=0.1)


def training(kind: Callable[..., Optimizer] = AdamW, lr: float = PLAN.peak) -> tuple[nn.Module, Optimizer]:
    model = nn.Linear(4, 1)
    return model, kind(model.parameters(), lr=lr)


def backward(model: nn.Module) -> None:
    model(torch.ones(2, 4)).square().mean().backward()


def factor(step: int) -> float:
    """As LambdaLR takes a schedule."""
    return PLAN.lr_at(step) / PLAN.peak


def train(model: nn.Module, optimizer: Optimizer, scheduler: Any, steps: int) -> None:
    """A plain loop."""
    for _ in range(steps):
        optimizer.zero_grad()
        backward(model)
        optimizer.step()
        scheduler.step()


def quiet(optimizer: Optimizer, **options: Any) -> RateAudit:
    return RateAudit(optimizer, PLAN, mode="record", **options)


def found(audit: RateAudit) -> tuple[int, str]:
    assert audit.finding is not None
    return audit.finding.step, audit.finding.cause


# --- Right trainings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
@pytest.mark.parametrize("use", ["ours", "LambdaLR", "by hand"])
def test_a_right_training_gives_no_message(kind: Callable[..., Optimizer], use: str) -> None:
    model, optimizer = training(kind)
    audit = RateAudit(optimizer, PLAN, mode="raise")
    scheduler = LambdaLR(optimizer, factor) if use == "LambdaLR" else PLAN.scheduler(optimizer)
    for step in range(45):
        if use == "by hand":
            optimizer.param_groups[0]["lr"] = PLAN.lr_at(step)
        backward(model)
        optimizer.step()
        if use != "by hand":
            scheduler.step()
    assert audit.finding is None
    assert audit.step == 45


def test_accumulation_done_right_gives_no_message() -> None:
    model, optimizer = training()
    scheduler = PLAN.scheduler(optimizer)
    RateAudit(optimizer, PLAN, mode="raise")
    for batch in range(40):
        backward(model)
        if batch % 4 == 3:
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


def test_skipped_steps_handled_right_give_no_message() -> None:
    model, optimizer = training()
    scheduler, scaler = PLAN.scheduler(optimizer), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    audit = RateAudit(optimizer, PLAN, mode="raise")
    for batch in range(10):
        scaled_step(model, optimizer, scaler, overflows=batch in (0, 1, 5))
        scale = scaler.get_scale()
        scaler.update()
        if scaler.get_scale() >= scale:
            scheduler.step()
    assert audit.step == 7


def test_groups_keep_their_ratios_and_frozen_ones_stay_so() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(1, 1))
    groups = [{"params": part.parameters(), "lr": lr} for part, lr in zip(model, (0.01, 0.1, 0.0), strict=True)]
    optimizer = AdamW(groups)
    audit = RateAudit(optimizer, PLAN, mode="raise")
    train(model, optimizer, PLAN.scheduler(optimizer), 40)
    assert audit.finding is None


def test_tensor_rates_are_read() -> None:
    model = nn.Linear(4, 1)
    optimizer = Adam(model.parameters(), lr=torch.tensor(0.1), foreach=False, capturable=False)
    RateAudit(optimizer, PLAN, mode="raise")
    train(model, optimizer, PLAN.scheduler(optimizer), 40)


def test_an_audited_model_can_be_sent_to_another_process() -> None:
    model, optimizer = training()
    RateAudit(optimizer, PLAN)
    received = ForkingPickler.loads(ForkingPickler.dumps(model))
    assert torch.equal(received.weight, model.weight)
    assert copy.deepcopy(model).weight._backward_hooks is None


def test_an_audit_of_a_run_of_two_optimizers() -> None:
    model, first = training()
    other, second = training(SGD, lr=0.01)
    RateAudit(first, PLAN, mode="raise")
    RateAudit(second, PLAN, mode="raise", base_lr=0.1)
    train(model, first, PLAN.scheduler(first), 20)
    train(other, second, PLAN.scheduler(second, base_lr=0.1), 20)


@pytest.mark.parametrize("kind", [SGD, AdamW])
@pytest.mark.parametrize("made", [1, 5, 20])
def test_a_resumed_run_gives_no_message(kind: Callable[..., Optimizer], made: int) -> None:
    model, optimizer = training(kind)
    scheduler, audit = PLAN.scheduler(optimizer), RateAudit(optimizer, PLAN, mode="raise")
    train(model, optimizer, scheduler, made)
    saved = copy.deepcopy([part.state_dict() for part in (optimizer, scheduler, audit)])

    model, optimizer = training(kind)
    scheduler, audit = PLAN.scheduler(optimizer), RateAudit(optimizer, PLAN, mode="raise")
    for part, state in zip((optimizer, scheduler, audit), saved, strict=True):
        part.load_state_dict(state)
    train(model, optimizer, scheduler, 10)
    assert audit.step == made + 10


def test_adam_s_own_count_is_enough_to_resume() -> None:
    model, optimizer = training()
    scheduler = PLAN.scheduler(optimizer)
    train(model, optimizer, scheduler, 5)
    fresh_model, fresh = training()
    audit = RateAudit(fresh, PLAN, mode="raise")
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(fresh_model, fresh, PLAN.scheduler(fresh, last_step=4), 5)
    assert audit.step == 10
    assert RateAudit(optimizer, PLAN).step == 5
    assert RateAudit(optimizer, PLAN, first_step=0).step == 0


@pytest.mark.parametrize("made_first", [True, False], ids=["audit first", "optimizer first"])
def test_a_run_whose_step_is_not_known_is_told_what_is_missing(made_first: bool) -> None:
    model, optimizer = training(partial(SGD, momentum=0.9))
    scheduler = PLAN.scheduler(optimizer)
    train(model, optimizer, scheduler, 20)
    saved = copy.deepcopy([optimizer.state_dict(), scheduler.state_dict()])

    model, optimizer = training(partial(SGD, momentum=0.9))
    scheduler = PLAN.scheduler(optimizer)
    audit = quiet(optimizer) if made_first else None
    for part, state in zip((optimizer, scheduler), saved, strict=True):
        part.load_state_dict(state)
    audit = audit or quiet(optimizer)
    train(model, optimizer, scheduler, 1)
    assert found(audit) == (0, "step-not-known")
    RateAudit(optimizer, PLAN, mode="raise", first_step=21)
    train(model, optimizer, scheduler, 1)


# --- A training for each known cause ------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [2, 4])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_the_scheduler_is_stepped_per_batch_under_accumulation(batches: int, set_to_none: bool) -> None:
    model, optimizer = training()
    scheduler, audit = LambdaLR(optimizer, factor), quiet(optimizer)
    for batch in range(12):
        backward(model)
        if batch % batches == batches - 1:
            optimizer.step()
            optimizer.zero_grad(set_to_none=set_to_none)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's: before the first optimizer step
            scheduler.step()
    assert found(audit) == (0, "stepped-per-batch")
    assert f"accumulated over {batches} batches" in audit.finding.explanation


def test_the_scheduler_is_stepped_once_an_epoch() -> None:
    model, optimizer = training()
    scheduler, audit = LambdaLR(optimizer, factor), quiet(optimizer)
    for _ in range(3):
        for _ in range(5):
            backward(model)
            optimizer.step()
        scheduler.step()
    assert found(audit) == (1, "not-stepped")
    assert "once an epoch, or not at all" in audit.finding.explanation


def test_the_scheduler_misses_one_step() -> None:
    model, optimizer = training()
    scheduler, audit = LambdaLR(optimizer, factor), quiet(optimizer)
    for step in range(6):
        backward(model)
        optimizer.step()
        if step != 3:
            scheduler.step()
    assert found(audit) == (4, "not-stepped")
    assert "not stepped after step 3" in audit.finding.explanation


def test_the_scheduler_is_stepped_twice_for_each_step() -> None:
    model, optimizer = training()
    scheduler, audit = LambdaLR(optimizer, factor), quiet(optimizer)
    for _ in range(6):
        backward(model)
        optimizer.step()
        scheduler.step()
        scheduler.step()
    assert found(audit) == (1, "stepped-several-times")
    assert "2 times for each optimizer step" in audit.finding.explanation


@pytest.mark.parametrize("shape", ["none", "linear"])
@pytest.mark.parametrize("wrong", ["per batch", "3 times", "never"])
def test_the_cause_is_right_where_the_schedule_is_nearly_flat(shape: str, wrong: str) -> None:
    """There the first steps that are wrong differ too little to be seen."""
    steps = 0 if shape == "none" else 40_000
    plan = Schedule(peak=0.1, horizon=200_000, shape=shape, warmup_steps=steps, start_factor=0.999 if steps else None)
    model, optimizer = training()
    scheduler = LambdaLR(optimizer, lambda step: plan.lr_at(step) / plan.peak)
    audit = RateAudit(optimizer, plan, mode="record")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's: before the first optimizer step
        while audit.finding is None:
            for _ in range(3 if wrong == "per batch" else 1):
                backward(model)
                if wrong == "per batch":
                    scheduler.step()
            optimizer.step()
            optimizer.zero_grad()
            for _ in range(3 if wrong == "3 times" else 0):
                scheduler.step()
    cause = {"per batch": "stepped-per-batch", "3 times": "stepped-several-times", "never": "not-stepped"}[wrong]
    assert audit.finding.cause == cause
    assert audit.step > 2


def test_the_scheduler_is_stepped_before_the_optimizer() -> None:
    model, optimizer = training()
    scheduler, audit = LambdaLR(optimizer, factor), quiet(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        backward(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's: before the first optimizer step
            scheduler.step()
        optimizer.step()
    assert found(audit) == (0, "stepped-early")


@pytest.mark.parametrize("kind", [SGD, AdamW])
@pytest.mark.parametrize("made_first", [True, False], ids=["scheduler first", "optimizer first"])
@pytest.mark.parametrize("made", [3, 20])
def test_the_scheduler_is_not_restored(kind: Callable[..., Optimizer], made_first: bool, made: int) -> None:
    model, optimizer = training(kind)
    audit = quiet(optimizer)
    train(model, optimizer, LambdaLR(optimizer, factor), made)
    saved, state = optimizer.state_dict(), audit.state_dict()

    model, optimizer = training(kind)
    audit = quiet(optimizer)
    if made_first:
        scheduler = LambdaLR(optimizer, factor)
    optimizer.load_state_dict(saved)
    if not made_first:
        scheduler = LambdaLR(optimizer, factor)
    audit.load_state_dict(state)
    train(model, optimizer, scheduler, 6)
    step, cause = found(audit)
    assert cause == "not-restored"
    assert step == made + made_first


def test_a_new_scheduler_for_each_epoch() -> None:
    model, optimizer = training()
    audit = quiet(optimizer)
    for _ in range(2):
        train(model, optimizer, LambdaLR(optimizer, factor), 5)
    assert found(audit) == (5, "restarted")


def test_the_first_step_at_rate_0() -> None:
    model, optimizer = training()
    scheduler = LambdaLR(optimizer, lambda step: min(1.0, step / 8))
    audit = quiet(optimizer)
    train(model, optimizer, scheduler, 3)
    assert found(audit) == (0, "starts-at-zero")


def test_a_group_that_is_added_later() -> None:
    model, optimizer = training()
    scheduler, audit = LambdaLR(optimizer, factor), quiet(optimizer)
    train(model, optimizer, scheduler, 4)
    late = nn.Linear(4, 1)
    optimizer.add_param_group({"params": late.parameters(), "lr": 0.05, "name": "head"})
    for _ in range(4):
        backward(model)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = PLAN.lr_at(audit.step)
    assert found(audit) == (4, "group-left-out")
    assert audit.finding.group == "head"
    assert audit.finding.expected == pytest.approx(PLAN.lr_at(4) / 2)
    assert "never changed" in audit.finding.explanation


def test_a_group_with_a_schedule_of_its_own() -> None:
    first, second = nn.Linear(4, 1), nn.Linear(4, 1)
    optimizer = SGD([{"params": first.parameters()}, {"params": second.parameters()}], lr=0.1)
    scheduler = LambdaLR(optimizer, [factor, lambda step: 1.0 if step == 0 else factor(step)])
    audit = quiet(optimizer)
    train(first, optimizer, scheduler, 3)
    assert found(audit) == (0, "group-left-out")


def scaled_step(model: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler, overflows: bool) -> None:
    """A step with a loss scale, as fp16 trainings make it; an overflow makes the gradients infinite."""
    optimizer.zero_grad()
    loss = model(torch.ones(2, 4)).square().mean()
    scaler.scale(loss * (math.inf if overflows else 1.0)).backward()
    scaler.step(optimizer)


@pytest.mark.parametrize("overflows", [{0}, {0, 1}, {3}, {3, 4}])
def test_steps_that_the_loss_scaler_skips(overflows: set[int]) -> None:
    model, optimizer = training()
    scheduler, scaler = LambdaLR(optimizer, factor), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    audit = quiet(optimizer)
    for batch in range(8):
        scaled_step(model, optimizer, scaler, batch in overflows)
        scaler.update()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's: before the first optimizer step
            scheduler.step()
    assert found(audit) == (min(overflows), "skipped-steps")
    assert f"skipped {len(overflows)} step" in audit.finding.explanation


def test_no_scheduler_at_all() -> None:
    model, optimizer = training()
    audit = quiet(optimizer)
    backward(model)
    optimizer.step()
    assert found(audit) == (0, "not-applied")


def test_an_optimizer_with_another_learning_rate_than_the_peak() -> None:
    model, optimizer = training(lr=0.03)
    audit = quiet(optimizer)
    train(model, optimizer, LambdaLR(optimizer, factor), 3)
    assert found(audit) == (0, "other-peak")
    assert "Make the optimizer with lr=0.1" in audit.finding.explanation


def test_a_scheduler_of_an_older_checkpoint() -> None:
    model, optimizer = training()
    train(model, optimizer, PLAN.scheduler(optimizer), 5)
    audit = quiet(optimizer)
    train(model, optimizer, PLAN.scheduler(optimizer, last_step=2), 1)
    assert found(audit) == (5, "behind")
    assert "2 steps behind" in audit.finding.explanation


def test_a_scheduler_that_is_stepped_once_too_often() -> None:
    model, optimizer = training()
    scheduler, audit = LambdaLR(optimizer, factor), quiet(optimizer)
    train(model, optimizer, scheduler, 12)
    scheduler.step()
    train(model, optimizer, scheduler, 1)
    assert found(audit) == (12, "ahead")


def test_the_documentation_lists_every_cause() -> None:
    page = (Path(__file__).parent.parent / "docs" / "applied-rate.md").read_text()
    table = page.split("| --- | --- |")[1].split("\n\n")[0]
    named = [name for row in table.splitlines() for name in re.findall(r"`([a-z-]+)`", row.split(" | ")[0])]
    assert sorted(named) == sorted(get_args(Cause))


def test_something_else_sets_the_rate() -> None:
    model, optimizer = training()
    scheduler, audit = LambdaLR(optimizer, factor), quiet(optimizer)
    train(model, optimizer, scheduler, 3)
    optimizer.param_groups[0]["lr"] = math.nan
    train(model, optimizer, scheduler, 1)
    assert found(audit) == (3, "unknown")


def test_pytorch_s_own_schedulers_in_sequence_give_no_message() -> None:
    plan = Schedule(peak=0.1, horizon=40, warmup_steps=8, shape="linear", decay="constant")
    model, optimizer = training()
    audit = RateAudit(optimizer, plan, mode="raise")
    parts = LinearLR(optimizer, start_factor=1 / 9, total_iters=8), ConstantLR(optimizer, factor=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of its own call
        train(model, optimizer, SequentialLR(optimizer, list(parts), milestones=[8]), 20)
    assert audit.finding is None


# --- Any schedule -------------------------------------------------------------------------------------------


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    horizon = draw(st.integers(4, 60))
    shape, decay = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DECAYS))
    plan: dict[str, Any] = {"peak": draw(st.floats(1e-6, 1e2)), "horizon": horizon, "decay": decay}
    plan["final_factor"] = draw(st.floats(0.01, 1.0))
    if shape in ("linear", "polynomial", "sqrt", "cosine", "exponential"):
        plan["warmup_steps"] = draw(st.integers(1, horizon))
    return Schedule(shape=shape, **plan)


def applied(plan: Schedule, rates: list[float], ratio: float = 1.0) -> RateAudit:
    """The audit of an optimizer that makes steps at given rates."""
    weights = [nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))]
    optimizer = SGD([{"params": [weights[0]]}, {"params": [weights[1]], "lr": plan.peak * ratio}], lr=plan.peak)
    audit = RateAudit(optimizer, plan, mode="record")
    for rate in rates:
        for group, share in zip(optimizer.param_groups, (1.0, ratio), strict=True):
            group["lr"] = rate * share
        optimizer.step()
    return audit


@settings(max_examples=60, deadline=None)
@given(schedules(), st.floats(0.01, 1.0))
def test_any_schedule_applied_rightly_gives_no_message(plan: Schedule, ratio: float) -> None:
    assert applied(plan, plan.curve().tolist(), ratio).finding is None


@settings(max_examples=60, deadline=None)
@given(schedules(), st.integers(0, 5), st.sampled_from([0.5, 1.0, 1.0, 1.01, 3.0]), st.floats(0.01, 1.0))
def test_a_shift_or_a_scale_is_found_at_the_first_step_that_differs(
    plan: Schedule, shift: int, scale: float, ratio: float
) -> None:
    rates = [scale * plan.lr_at(step + shift) for step in range(plan.horizon)]
    off = [step for step, rate in enumerate(rates) if abs(rate - plan.lr_at(step)) > TOLERANCE * plan.peak]
    finding = applied(plan, rates, ratio).finding
    assert (finding.step if finding else None) == (off[0] if off else None)


# --- Modes and recordings -----------------------------------------------------------------------------------


def test_it_warns_once_where_the_step_was_called() -> None:
    model, optimizer = training()
    scheduler = LambdaLR(optimizer, lambda step: 1.0)
    RateAudit(optimizer, PLAN)
    with pytest.warns(AppliedRateWarning) as told:
        train(model, optimizer, scheduler, 5)
    (warning,) = told
    assert warning.filename == __file__
    assert str(warning.message).startswith(
        "optimizer step 0 was made with a learning rate of 0.1 in parameter group 0, the schedule's is 0.01111. Likely"
    )


def test_it_raises_before_the_step_is_made() -> None:
    model, optimizer = training()
    scheduler = LambdaLR(optimizer, lambda step: 1.0)
    RateAudit(optimizer, PLAN, mode="raise")
    before = [weight.clone() for weight in model.parameters()]
    with pytest.raises(AppliedRateError, match="optimizer step 0 was made"):
        train(model, optimizer, scheduler, 1)
    assert all(map(torch.equal, before, model.parameters()))


def test_nothing_is_watched_after_it_is_closed() -> None:
    model, optimizer = training()
    scheduler = LambdaLR(optimizer, lambda step: 1.0)
    with RateAudit(optimizer, PLAN, mode="raise"):
        pass
    train(model, optimizer, scheduler, 2)


def test_a_recording_has_every_step(tmp_path: Path) -> None:
    file = tmp_path / "rates.jsonl"
    model, optimizer = training()
    with RateAudit(optimizer, PLAN, mode="raise", record=file) as audit:
        scheduler = PLAN.scheduler(optimizer)
        train(model, optimizer, scheduler, 6)
        saved = copy.deepcopy([part.state_dict() for part in (optimizer, scheduler, audit)])
        train(model, optimizer, scheduler, 3)  # lost in a crash, and made again below
    with file.open("a") as cut:
        cut.write('{"step": 9, "lr')

    model, optimizer = training()
    with RateAudit(optimizer, PLAN, mode="raise", record=file) as audit:
        scheduler = PLAN.scheduler(optimizer)
        for part, state in zip((optimizer, scheduler, audit), saved, strict=True):
            part.load_state_dict(state)
        train(model, optimizer, scheduler, 10)
    with file.open("a") as cut:
        cut.write('{"step": 16, "lr')
    first, second = read(file)
    assert (first.steps, second.steps) == (list(range(9)), list(range(6, 16)))
    assert [rates for _, _, rates in every_step([first, second])] == [[PLAN.lr_at(step)] for step in range(16)]
    assert first.schedule == PLAN
    assert first.finding is None


def test_a_recording_has_the_finding_and_added_groups(tmp_path: Path) -> None:
    file = tmp_path / "rates.jsonl"
    model, optimizer = training(SGD)
    with RateAudit(optimizer, PLAN, mode="record", record=file) as audit:
        train(model, optimizer, PLAN.scheduler(optimizer), 2)
        optimizer.add_param_group({"params": nn.Linear(4, 1).parameters(), "name": "head"})
        optimizer.step()
    first, second = read(file)
    assert (first.names, second.names, second.steps) == (["0"], ["0", "head"], [2])
    assert second.finding == audit.finding


def test_a_rate_that_is_not_finite_is_recorded(tmp_path: Path) -> None:
    file = tmp_path / "rates.jsonl"
    model, optimizer = training(SGD, lr=0.1)
    with RateAudit(optimizer, PLAN, mode="record", record=file):
        optimizer.param_groups[0]["lr"] = math.inf
        backward(model)
        optimizer.step()
    (part,) = read(file)
    assert part.rates == [[math.inf]]
    assert part.finding is not None


# --- Bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "rise"}, r"mode='rise': must be one of 'warn', 'raise', 'record' \(did you mean 'raise'\?\)"),
        ({"tolerance": 1.5}, "tolerance=1.5: must be a share of the peak"),
        ({"tolerance": math.nan}, "tolerance=nan: must be a share of the peak"),
        ({"first_step": -1}, "step=-1: must be a whole number, counted from 0"),
        ({"base_lr": 0.01}, "base_lr=0.01 must be at least the optimizer's highest learning rate"),
        ({"schedule": "cosine"}, "schedule='cosine': must be a Schedule"),
        ({"optimizer": nn.Linear(1, 1)}, r"is a torch.nn.modules.linear.Linear: RateAudit watches a torch.optim"),
    ],
)
def test_what_can_t_be_audited_is_refused(options: dict[str, Any], message: str) -> None:
    _, optimizer = training()
    with pytest.raises(InputError, match=message):
        RateAudit(**({"optimizer": optimizer, "schedule": PLAN} | options))


def test_another_state_is_refused() -> None:
    _, optimizer = training()
    audit = quiet(optimizer)
    with pytest.raises(InputError, match="not the state of a RateAudit"):
        audit.load_state_dict(PLAN.scheduler(optimizer).state_dict())


@pytest.mark.parametrize("text", ["", "{}\n", "no json\n", '{"format": "another"}\n', '{"step": 1, "lr": [0.1]}\n'])
def test_a_file_that_is_no_recording_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "rates.jsonl"
    file.write_text(text)
    with pytest.raises(InputError, match="recording of RateAudit"):
        read(file)


def test_a_recording_whose_rates_do_not_fit_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rates.jsonl"
    head = {"format": "autowarmup audit 1", "schedule": PLAN.model_dump(), "ratios": [1.0], "names": ["0"]}
    file.write_text(json.dumps(head) + '\n{"step": 0, "lr": [0.1, 0.2]}\n')
    with pytest.raises(InputError, match="line 2 is"):
        read(file)


def test_a_recording_that_can_t_be_written_is_refused(tmp_path: Path) -> None:
    model, optimizer = training()
    audit = quiet(optimizer, record=tmp_path / "none" / "rates.jsonl")
    with pytest.raises(InputError, match="can't be written: No such file"):
        train(model, optimizer, PLAN.scheduler(optimizer), 1)
    audit.close()
