"""Transformers: the closed form in a Trainer's optimizers; or one of the scheduler types, by configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from autowarmup.export.base import Form, Framework, Plan, half_cosine
from autowarmup.export.by_group import written_by_group
from autowarmup.export.closed_form import written

CODE = """\
import math

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainingArguments


$multiplier


# Your optimizer, with the schedule's peak as its learning rate.
optimizer = torch.optim.AdamW(model.parameters(), lr=$peak)
scheduler = LambdaLR(optimizer, multiplier)
args = TrainingArguments(output_dir="output", max_steps=$horizon)
trainer = Trainer(model=model, args=args, train_dataset=train_dataset, optimizers=(optimizer, scheduler))
"""

GROUPS = """\
import math
from fnmatch import fnmatchcase

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments


$multipliers

$optimizer
scheduler = LambdaLR(optimizer, [MULTIPLIERS[group["name"]] for group in optimizer.param_groups])

# if frozen
$freezing

class GradualUnfreezing(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        freeze(state.global_step)


# end
args = TrainingArguments(output_dir="output", max_steps=$horizon)
trainer = Trainer(model=model, args=args, train_dataset=train_dataset, optimizers=(optimizer, scheduler))
# if frozen
trainer.add_callback(GradualUnfreezing())
# end
"""

Share = Callable[[int], float]


def types(plan: Plan) -> Iterator[tuple[str, dict[str, Any], int, Share]]:
    """The scheduler types that can come near: name, ``lr_scheduler_kwargs``, ``warmup_steps``, and what they apply.
    As in ``transformers.optimization`` 5.24.0."""
    horizon, final = plan.horizon, plan.final_factor
    if plan.warmup_steps == 0:
        yield "constant", {}, 0, lambda step: 1.0
    for warmup in (plan.warmup_steps, min(plan.warmup_steps + 1, horizon)):
        left = _left(warmup, horizon)
        cosine = _cosine(left)
        yield "constant_with_warmup", {}, warmup, _from_zero(warmup, lambda step: 1.0)
        yield "linear", {}, warmup, _from_zero(warmup, left)
        yield "cosine", {}, warmup, _from_zero(warmup, cosine)
        if final and warmup < horizon:
            end = {"lr_end": final * plan.peak, "power": 1.0}
            yield "polynomial", end, warmup, _from_zero(warmup, _above(final, left))
        yield "cosine_with_min_lr", {"min_lr_rate": final}, warmup, _from_zero(warmup, _above(final, cosine))
        scale = getattr(plan.decay, "timescale", None) or plan.duration + 1
        yield "inverse_sqrt", {"timescale": scale}, warmup, _from_zero(warmup, _root(warmup, scale))
        for rate in (None, plan.start_factor) if warmup > 1 else (None,):
            kwargs = {"min_lr_rate": final} | ({} if rate is None else {"warmup_lr_rate": rate})
            yield "cosine_warmup_with_min_lr", kwargs, warmup, _cosine_warmup(warmup, horizon, final, rate)
    yield from _stable(plan)


def _stable(plan: Plan) -> Iterator[tuple[str, dict[str, Any], int, Share]]:
    """``warmup_stable_decay``, with the lengths of the decay that the schedule may have. It starts and ends at the same
    share of the peak."""
    warmup, horizon, low = plan.warmup_steps, plan.horizon, plan.final_factor
    shape = "cosine" if plan.shape.kind == "cosine" else "linear"
    decay = "cosine" if plan.decay.kind == "cosine" else "linear"
    for length in (horizon - warmup, round(getattr(plan.decay, "cooldown", 1.0) * horizon)):
        if not 0 < length <= horizon - warmup:
            continue
        kwargs = {"num_decay_steps": length, "warmup_type": shape, "decay_type": decay, "min_lr_ratio": low}

        def share(step: int, length: int = length) -> float:
            if step < warmup:
                done = step / warmup
                return low + (1.0 - low) * (done if shape == "linear" else 1.0 - half_cosine(done))
            done = max(0.0, (step - horizon + length) / length)
            return low + (1.0 - low) * (1.0 - done if decay == "linear" else half_cosine(done))

        yield "warmup_stable_decay", kwargs, warmup, share


def _left(warmup: int, horizon: int) -> Share:
    return lambda step: max(0.0, (horizon - step) / max(1, horizon - warmup))


def _cosine(left: Share) -> Share:
    return lambda step: half_cosine(1.0 - left(step))


def _above(low: float, share: Share) -> Share:
    return lambda step: low + (1.0 - low) * share(step)


def _root(warmup: int, scale: int) -> Share:
    return lambda step: 1.0 / math.sqrt((step + scale - warmup) / scale)


def _from_zero(warmup: int, decay: Share) -> Share:
    """A linear warm-up that starts at 0."""
    return lambda step: step / warmup if step < warmup else decay(step)


def _cosine_warmup(warmup: int, horizon: int, final: float, rate: float | None) -> Share:
    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup if rate is None else rate + (1.0 - rate) * step / (warmup - 1)
        return max(0.0, final + (1.0 - final) * half_cosine((step - warmup + 1) / max(1, horizon - warmup)))

    return share


def _own(plan: Plan) -> Iterator[Form]:
    for name, kwargs, warmup, share in types(plan):
        settings = {
            "learning_rate": float(plan.peak),
            "max_steps": plan.horizon,
            "lr_scheduler_type": name,
            "lr_scheduler_kwargs": kwargs,
            "warmup_steps": warmup,
        }
        yield Form(share, config=yaml.safe_dump(settings, sort_keys=False))


FRAMEWORK = Framework(
    name="transformers",
    title="Transformers",
    tested="transformers 5.24.0",
    code=written(CODE),
    groups=written_by_group(GROUPS),
    notes=("Your own TrainingArguments stay; the Trainer steps the scheduler after each optimizer step.",),
    own=_own,
    own_notes=("These are fields of TrainingArguments. warmup_steps counts optimizer steps; below 1 it is a ratio.",),
)
