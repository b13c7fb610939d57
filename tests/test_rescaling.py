"""Schedules for another batch size or width."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autowarmup import Schedule
from autowarmup.errors import InputError
from autowarmup.schedule.rescaling import scaling_rule

PLAN = Schedule(peak=0.01, horizon=1000, warmup_steps=100, shape="cosine", final_factor=0.1)


@pytest.mark.parametrize(
    ("options", "peak", "horizon", "warmup"),
    [
        ({"batch": 4.0, "optimizer": "sgd"}, 0.04, 250, 25),
        ({"batch": 4.0, "optimizer": "adam"}, 0.02, 250, 25),
        ({"batch": 4.0}, 0.02, 250, 25),
        ({"batch": 0.25}, 0.005, 4000, 400),
        ({"batch": 4.0, "warmup": "steps"}, 0.02, 250, 100),
        ({"width": 2.0}, 0.005, 1000, 100),
        ({"batch": 4, "width": 2}, 0.01, 250, 25),
    ],
)
def test_rules(options: dict[str, Any], peak: float, horizon: int, warmup: int) -> None:
    plan = PLAN.rescaled(**options).schedule
    assert (plan.peak, plan.horizon, plan.warmup_steps) == (pytest.approx(peak), horizon, warmup)
    assert (plan.shape, plan.decay, plan.final_factor) == (PLAN.shape, PLAN.decay, PLAN.final_factor)


@settings(deadline=None)
@given(st.floats(0.1, 9.0).filter(lambda batch: batch != 1.0), st.floats(0.9, 0.9999))
def test_adam_s_rule_keeps_what_averages_cover_in_samples(batch: float, beta: float) -> None:
    rule = scaling_rule(batch, 1.0, "adamw")
    assert batch / (1.0 - rule.new_beta(beta)) == pytest.approx(1.0 / (1.0 - beta))
    assert batch / (rule.peak * rule.weight_decay) == pytest.approx(1.0)
    assert rule.eps * rule.peak == pytest.approx(1.0)


def test_a_larger_batch_and_back_is_the_same_schedule() -> None:
    back = PLAN.rescaled(batch=4.0).schedule.rescaled(batch=0.25).schedule
    assert back.model_dump() == PLAN.model_dump() | {"peak": pytest.approx(PLAN.peak)}


def test_a_rule_s_duration_follows_beta2() -> None:
    plan = Schedule(peak=0.01, horizon=4000, shape={"kind": "untuned-linear", "beta2": 0.999})
    assert plan.duration == 1999
    assert plan.rescaled(batch=4.0).schedule.duration == 499
    assert plan.rescaled(batch=0.5, warmup="steps").schedule.duration == 1999
    assert plan.rescaled(batch=4.0, optimizer="sgd").schedule.horizon == 1000


def test_it_names_its_rule_source_and_conditions() -> None:
    words = PLAN.rescaled(batch=4.0).describe()
    assert words.startswith("peak 0.02, cosine warm-up over 25 steps (10%)")
    assert "by square-root scaling (Malladi et al. 2022, arXiv 2205.10287; weight decay: Wang & Aitchison" in words
    assert "give their groups 2 times the learning rate of the others" in PLAN.rescaled(width=2).describe()
    assert "square-root scaling and 1 / width" in PLAN.rescaled(batch=2, width=2).describe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "batch=1 and width=1 change nothing"),
        ({"batch": 0.0}, "batch=0.0: must be a factor above 0"),
        ({"batch": True}, "batch=True: must be a factor above 0"),
        ({"width": math.inf}, "width=inf: must be a factor above 0"),
        ({"batch": "4"}, "batch='4': must be a factor above 0"),
        (
            {"batch": 4.0, "optimizer": "adamx"},
            r"'adamx' \(did you mean 'adam'\?\): no rule is known; there are",
        ),
        (
            {"batch": 4.0, "optimizer": "lion"},
            "no rule is known.* A study of runs of an eighth of the length costs",
        ),
        ({"width": 2.0, "optimizer": "sgd"}, "width=2: for sgd no rule holds with one learning rate for all layers"),
        ({"batch": 4.0, "warmup": "epochs"}, "warmup='epochs': must be 'samples' or 'steps'"),
        ({"batch": 40.0, "warmup": "steps"}, "warmup_steps=100 is longer than the horizon of 25 steps"),
    ],
)
def test_where_no_rule_holds_it_says_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PLAN.rescaled(**options)


def test_a_batch_with_more_samples_than_adam_averages_over() -> None:
    rule = PLAN.rescaled(batch=16.0).rule
    with pytest.raises(InputError, match=r"batch=16: no rule holds: beta=0.9 would become -0.6"):
        rule.new_beta(0.9)
