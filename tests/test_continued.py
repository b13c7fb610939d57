"""Schedules for runs that go on from a checkpoint with another horizon."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autowarmup import RateAudit, Schedule
from autowarmup.audit.recording import read
from autowarmup.errors import InputError
from autowarmup.schedule.schedule import ContinuedSchedule
from autowarmup.schedule.space import DECAYS, RULES, SHAPES

PLAN = Schedule(peak=0.1, horizon=40, warmup_steps=8, shape="linear", final_factor=0.1)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    horizon, shape = draw(st.integers(2, 60)), draw(st.sampled_from([name for name in SHAPES if name not in RULES]))
    steps = 0 if shape == "none" else draw(st.integers(1, horizon - 1))
    decay, final = draw(st.sampled_from(DECAYS)), draw(st.floats(0.01, 1.0))
    return Schedule(peak=0.1, horizon=horizon, shape=shape, warmup_steps=steps, decay=decay, final_factor=final)


@settings(deadline=None)
@given(schedules(), st.integers(1, 80), st.data())
def test_the_rate_goes_on_from_where_it_is_to_the_same_end(plan: Schedule, more: int, data: st.DataObject) -> None:
    at_step = data.draw(st.integers(0, plan.horizon))
    horizon = max(at_step, plan.warmup_steps) + more
    longer = plan.continued(at_step, horizon)
    curve = longer.curve()
    assert len(curve) == longer.horizon == horizon
    assert curve[:at_step].tolist() == [plan.lr_at(step) for step in range(at_step)]
    assert longer.lr_at(at_step) == pytest.approx(plan.lr_at(at_step))
    if plan.decay.kind not in ("constant", "inverse-sqrt"):
        assert longer.lr_at(horizon) == pytest.approx(plan.lr_at(plan.horizon))
    tail = curve[max(at_step, plan.warmup_steps) :].tolist()
    assert tail == sorted(tail, reverse=True)


@settings(deadline=None)
@given(schedules(), st.integers(2, 80), st.data())
def test_with_rewarm_it_climbs_to_the_peak_and_decays_again(plan: Schedule, left: int, data: st.DataObject) -> None:
    at_step, climb = data.draw(st.integers(0, plan.horizon)), data.draw(st.integers(1, left - 1))
    longer = plan.continued(at_step, at_step + left, rewarm=climb)
    assert longer.lr_at(at_step) == pytest.approx(plan.lr_at(at_step))
    assert longer.lr_at(at_step + climb) == pytest.approx(plan.peak)
    steps = [longer.lr_at(at_step + step) for step in range(climb + 1)]
    assert steps == pytest.approx([steps[0] + (plan.peak - steps[0]) * step / climb for step in range(climb + 1)])


@pytest.mark.parametrize("shape", RULES)
def test_a_rule_s_warmup_is_not_begun_again(shape: str) -> None:
    plan = Schedule(peak=0.1, horizon=100, shape={"kind": shape, "beta2": 0.9})
    longer = plan.continued(60, horizon=200)
    assert longer.lr_at(60) == plan.lr_at(60)
    assert longer.lr_at(61) < plan.lr_at(60)


@pytest.mark.parametrize(
    ("at_step", "kind"),
    [(4, "linear"), (8, "linear"), (20, "none"), (39, "none")],
)
def test_in_the_warmup_it_is_the_schedule_with_the_new_horizon(at_step: int, kind: str) -> None:
    longer = PLAN.continued(at_step, horizon=100)
    assert longer.after.shape.kind == kind
    if kind == "linear":
        assert longer.curve().tolist() == PLAN.model_copy(update={"horizon": 100}).curve().tolist()


def test_a_shorter_horizon_decays_faster() -> None:
    shorter = PLAN.continued(20, horizon=30)
    assert shorter.lr_at(30) == pytest.approx(0.01)
    assert shorter.lr_at(25) < PLAN.lr_at(25)


@pytest.mark.parametrize("rewarm", [None, 5, "10%"])
def test_a_training_goes_on_with_it(rewarm: Any, tmp_path: Path) -> None:
    """The scheduler's saved state fits, and every step has the continued schedule's rate."""
    file = tmp_path / "rates.jsonl"

    def train(plan: Any, steps: int, saved: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
        model = nn.Linear(4, 1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        scheduler = plan.scheduler(optimizer)
        with RateAudit(optimizer, plan, mode="raise", record=file):
            for part, state in zip((optimizer, scheduler), saved or [], strict=False):
                part.load_state_dict(state)
            for _ in range(steps):
                model(torch.ones(2, 4)).sum().backward()
                optimizer.step()
                scheduler.step()
        return copy.deepcopy([optimizer.state_dict(), scheduler.state_dict()])

    longer = PLAN.continued(30, horizon=60, rewarm=rewarm)
    train(longer, 30, train(PLAN, 30))
    first, second = read(file)
    assert (first.schedule, second.schedule) == (PLAN, longer)
    assert [rate for (rate,) in first.rates + second.rates] == longer.curve().tolist()


def test_it_is_a_value() -> None:
    longer = PLAN.continued(30, horizon=60, rewarm=5)
    assert ContinuedSchedule.model_validate_json(longer.model_dump_json()) == longer
    start, _, end = longer.describe().partition(" from 0.299993 x peak")
    assert start == "from step 30 on: peak 0.1, linear warm-up over 5 steps (17%)"
    assert end == ", cosine decay to 0.01 at step 60"
    assert PLAN.continued(4, horizon=60).describe().endswith("cosine decay to 0.01 at step 60")


@pytest.mark.parametrize(
    ("at_step", "horizon", "rewarm", "message"),
    [
        (-1, 60, None, "at_step=-1, horizon=60: must be whole numbers"),
        (30, 30, None, "at_step=30, horizon=30: must be whole numbers, at_step at least 0, and horizon"),
        (1.5, 30, None, "at_step=1.5, horizon=30: must be whole numbers"),
        (4, 6, None, "warmup_steps=8 is longer than the horizon of 6 steps"),
        (20, 60, 50, "warmup_steps=50 is longer than the horizon of 40 steps"),
        (20, 60, 0, "shape 'linear' needs warmup_steps >= 1, got 0"),
        (20, 60, "2 epochs", "steps_per_epoch is needed"),
    ],
)
def test_what_can_t_be_continued_is_refused(at_step: Any, horizon: Any, rewarm: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PLAN.continued(at_step, horizon, rewarm)


def test_a_run_at_rate_0_needs_a_new_warmup() -> None:
    plan = Schedule(peak=0.1, horizon=40, warmup_steps=8, shape="linear")
    with pytest.raises(InputError, match="at step 40 the learning rate is 0, so that a run can't go on from it: give"):
        plan.continued(40, horizon=60)
    assert plan.continued(40, horizon=60, rewarm=4).lr_at(44) == 0.1
