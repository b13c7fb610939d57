"""DeepSpeed: a function that makes the scheduler; or one of DeepSpeed's schedulers, by configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from autowarmup.export.base import Form, Framework, Plan, first_share, half_cosine
from autowarmup.export.closed_form import written

CODE = """\
import math

import deepspeed
from torch.optim.lr_scheduler import LambdaLR


$multiplier


# ds_config is your configuration, with the schedule's peak, $peak, as the optimizer's "lr" and without "scheduler".
engine, optimizer, _, scheduler = deepspeed.initialize(
    model=model,
    model_parameters=model.parameters(),
    config=ds_config,
    lr_scheduler=lambda optimizer: LambdaLR(optimizer, multiplier),
)
"""


def _own(plan: Plan) -> Iterator[Form]:
    """As in ``deepspeed.runtime.lr_schedules`` 0.19.8. The first step's rate is that of the scheduler's making, and the
    second's that of its step 0, so step t has what the scheduler computes for t - 1."""
    start = first_share(plan)
    if start is None or plan.warmup_steps < 3:
        return
    # The step that is repeated is the first; the line goes on from the second as planned.
    second = start + (1.0 - start) / plan.warmup_steps
    for low, warmup in ((start, plan.warmup_steps), (second, plan.warmup_steps - 1)):
        yield _form("WarmupLR", plan, low, warmup)
        yield _form("WarmupDecayLR", plan, low, warmup)
        yield _form("WarmupCosineLR", plan, low, warmup)


def _form(name: str, plan: Plan, low: float, warmup: int) -> Form:
    total, final = plan.horizon, plan.final_factor
    params: dict[str, Any] = {"warmup_num_steps": warmup, "warmup_type": "linear"}
    if name == "WarmupCosineLR":
        params |= {"total_num_steps": total, "warmup_min_ratio": low, "cos_min_ratio": final}
    else:
        params |= {"warmup_min_lr": low * plan.peak, "warmup_max_lr": plan.peak}
    if name == "WarmupDecayLR":
        params |= {"total_num_steps": total - 1}

    def share(step: int) -> float:
        last = step - 1
        if last < 0:
            return 0.0 if name == "WarmupCosineLR" else low
        if last < warmup:
            return low + (1.0 - low) * last / warmup
        if name == "WarmupLR":
            return 1.0
        if name == "WarmupDecayLR":
            return low + (1.0 - low) * max(0.0, (total - 1 - last) / max(1, total - 1 - warmup))
        done = min(1.0, (last - warmup + 1) / max(1, total - warmup))
        return final + (1.0 - final) * half_cosine(done)

    return Form(share, config=json.dumps({"scheduler": {"type": name, "params": params}}, indent=2) + "\n")


FRAMEWORK = Framework(
    name="deepspeed",
    title="DeepSpeed",
    tested="deepspeed 0.19.8",
    code=written(CODE),
    notes=("The engine steps the scheduler; steps that are skipped under fp16 don't count.",),
    own=_own,
    own_notes=(
        "DeepSpeed applies its first learning rate twice, or 0 first (WarmupCosineLR).",
        "WarmupCosineLR takes its peak from the optimizer's lr in the configuration.",
    ),
)
