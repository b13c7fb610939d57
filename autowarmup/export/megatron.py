"""Megatron-LM: its options; or the closed form in place of its scheduler's arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator

from autowarmup.export.base import Form, Framework, Plan, first_share, half_cosine, rise
from autowarmup.export.closed_form import written

CODE = """\
import math

from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler


$multiplier


def planned_lr(self, param_group):
    samples_per_step = self.lr_decay_steps // $horizon
    return param_group.get("max_lr", self.max_lr) * multiplier(self.num_steps // samples_per_step)


# In your pretrain script, before pretrain(...).
OptimizerParamScheduler.get_lr = planned_lr
"""

CODE_OPTIONS = "--lr $peak --min-lr 0 --lr-decay-iters $horizon --lr-warmup-iters 0\n"


def _own(plan: Plan) -> Iterator[Form]:
    """As in ``megatron.core.optimizer_param_scheduler`` 0.16.1."""
    start, warmup, horizon, final = first_share(plan), plan.warmup_steps, plan.horizon, plan.final_factor
    kind, peak = plan.decay.kind, float(plan.peak)
    if start is None or warmup >= horizon or kind == "exponential":
        return
    style = {"wsd": "WSD", "inverse-sqrt": "inverse-square-root"}.get(kind, kind)
    options = f"--lr {peak!r} --lr-decay-style {style} --lr-decay-iters {horizon} --lr-warmup-iters {warmup}"
    if warmup:
        options += f" --lr-warmup-init {start * peak!r}"
    options += f" --min-lr {0.0 if kind == 'constant' else final * peak!r}"
    cooldown = max(1, min(round(getattr(plan.decay, "cooldown", 0.0) * horizon), horizon - warmup))
    if kind == "wsd":
        options += f" --lr-wsd-decay-style linear --lr-wsd-decay-iters {cooldown}"

    def share(step: int) -> float:
        if warmup and step <= warmup:
            return rise(step, warmup, start)
        if kind == "constant":
            return 1.0
        if kind == "inverse-sqrt":
            return max(final, math.sqrt(max(1, warmup) / max(1, step)))
        if kind == "wsd":
            height = 1.0 - max(0.0, (step - horizon + cooldown) / cooldown)
        else:
            done = (step - warmup) / (horizon - warmup)
            height = half_cosine(done) if kind == "cosine" else 1.0 - done
        return final + (1.0 - final) * height

    yield Form(share, config=options + "\n")


FRAMEWORK = Framework(
    name="megatron",
    title="Megatron-LM",
    tested="megatron-core 0.16.1",
    code=written(CODE, config=CODE_OPTIONS),
    notes=(
        "Megatron counts samples; with --rampup-batch-size its steps aren't those of the schedule.",
        "To resume, pass --use-checkpoint-opt_param-scheduler, or the same options as before.",
    ),
    own=_own,
    own_notes=("To resume, pass --use-checkpoint-opt_param-scheduler, or the same options as before.",),
)
