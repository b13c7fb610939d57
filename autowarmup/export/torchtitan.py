"""torchtitan: a configuration of its scheduler with the closed form; or its own warmup-stable-decay."""

from __future__ import annotations

from collections.abc import Iterator

from autowarmup.export.base import Form, Framework, Plan, half_cosine
from autowarmup.export.closed_form import written

CODE = """\
import math
from dataclasses import dataclass

from torchtitan.components.optimizer import LRSchedulersContainer


$multiplier


@dataclass(kw_only=True, slots=True)
class PlannedConfig(LRSchedulersContainer.Config):
    warmup_steps: int = 0  # torchtitan only prints it

    def build(self, *, optimizers, training_steps):
        return LRSchedulersContainer(optimizers, multiplier)


# In your Trainer.Config, with training.steps=$horizon and the schedule's peak, $peak, as the optimizer's lr:
lr_scheduler = PlannedConfig()
"""

OWN = """\
from torchtitan.components.optimizer import LRSchedulersContainer

# In your Trainer.Config, with training.steps={horizon} and the schedule's peak, {peak!r}, as the optimizer's lr:
lr_scheduler = LRSchedulersContainer.Config(
    warmup_steps={warmup},
    total_steps={total},
    decay_ratio={ratio!r},
    decay_type={kind!r},
    min_lr_factor={final!r},
)
"""


def _own(plan: Plan) -> Iterator[Form]:
    """As in ``torchtitan.components.optimizer.lr_scheduler`` 0.3.0: the warm-up is a straight line to the last of
    ``warmup_steps``; the decay begins one step after it."""
    kind = "cosine" if plan.decay.kind == "cosine" else "linear"
    final = 1.0 if plan.decay.kind == "constant" else plan.final_factor
    ratio = plan.decay.cooldown if plan.decay.kind == "wsd" else None
    for warmup in (plan.warmup_steps, plan.warmup_steps + 1):
        for total in (plan.horizon, plan.horizon + 1):
            if warmup < total:
                yield _form(plan, warmup, total, ratio, kind, final)


def _form(plan: Plan, warmup: int, total: int, ratio: float | None, kind: str, final: float) -> Form:
    decay = total - warmup if ratio is None else min(round(total * ratio), total - warmup)
    stable_until = total + 1 - decay

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if step < stable_until:
            return 1.0
        done = (step + 1 - stable_until) / decay
        return final + (1.0 - final) * (half_cosine(done) if kind == "cosine" else 1.0 - done)

    values = {"warmup": warmup, "total": total, "ratio": ratio, "kind": kind, "final": final}
    return Form(share, config=OWN.format(horizon=plan.horizon, peak=float(plan.peak), **values))


FRAMEWORK = Framework(
    name="torchtitan",
    title="torchtitan",
    tested="torchtitan 0.3.0",
    code=written(CODE),
    notes=("torchtitan is configured in Python; the class goes into your config_registry.py.",),
    own=_own,
    own_notes=("The warm-up is linear and starts above 0.",),
)
