"""timm: a scheduler with the closed form; or WSDLRScheduler, which has every decay after a linear warm-up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from autowarmup.export.base import Form, Framework, Plan, first_share, half_cosine, rise
from autowarmup.export.closed_form import written

CODE = """\
import math

import torch
from timm.scheduler.scheduler import Scheduler


$multiplier


class PlannedScheduler(Scheduler):
    def _get_lr(self, t):
        return [value * multiplier(t) for value in self.base_values]


# Your optimizer, with the schedule's peak as its learning rate.
optimizer = torch.optim.AdamW(model.parameters(), lr=$peak)
scheduler = PlannedScheduler(optimizer, param_group_field="lr", t_in_epochs=False)
scheduler.step_update(0)  # and scheduler.step_update(n) after n optimizer steps, up to $horizon
"""

OWN = """\
import torch
from timm.scheduler import WSDLRScheduler

# Your optimizer, with the schedule's peak as its learning rate.
optimizer = torch.optim.AdamW(model.parameters(), lr={peak!r})
scheduler = WSDLRScheduler(
    optimizer,
{arguments}
)
scheduler.step_update(0)  # and scheduler.step_update(n) after n optimizer steps, up to {horizon}
"""


def _own(plan: Plan) -> Iterator[Form]:
    """As in ``timm.scheduler.wsd_lr`` 1.0.31: a linear warm-up; a stable phase; a decay to ``lr_min``."""
    start, warmup, length = first_share(plan), plan.warmup_steps, plan.horizon - plan.warmup_steps
    final, kind = plan.final_factor, plan.decay.kind
    if start is None or length < 1:
        return
    settings: dict[str, Any] = {"t_initial": length, "decay_t": length, "lr_min": final * plan.peak}
    if kind in ("constant", "inverse-sqrt"):
        settings |= {"t_initial": length + 1, "decay_t": 1}  # the decay begins after the run
    if kind == "inverse-sqrt":
        settings |= {"stable_fn": "rsqrt", "stable_timescale": plan.decay.timescale or plan.duration + 1}
    if kind == "wsd":
        settings["decay_t"] = max(1, min(plan.decay.cooldown * plan.horizon, length))
    settings["decay_fn"] = {"cosine": "cosine", "exponential": "exp"}.get(kind, "linear")
    if kind == "exponential":
        if final == 1.0:
            return
        settings["decay_ratio"] = final
    settings |= {"warmup_t": warmup, "warmup_lr_init": start * plan.peak if warmup else 0.0, "t_in_epochs": False}

    def share(step: int) -> float:
        if step < warmup:
            return rise(step, warmup, start)
        after = step - warmup
        scale = settings.get("stable_timescale")
        stable = max(final, 1.0 if scale is None else (1.0 + after / scale) ** -0.5)
        done = (after - settings["t_initial"] + settings["decay_t"]) / settings["decay_t"]
        return stable if done <= 0.0 else final + (stable - final) * _fall(settings, min(1.0, done))

    arguments = "\n".join(f"    {name}={value!r}," for name, value in settings.items())
    yield Form(share, config=OWN.format(peak=float(plan.peak), arguments=arguments, horizon=plan.horizon))


def _fall(settings: dict[str, Any], done: float) -> float:
    if settings["decay_fn"] == "cosine":
        return half_cosine(done)
    if settings["decay_fn"] == "exp":
        ratio: float = settings["decay_ratio"]
        return (math.pow(ratio, done) - ratio) / (1.0 - ratio)
    return 1.0 - done


FRAMEWORK = Framework(
    name="timm",
    title="timm",
    tested="timm 1.0.31",
    code=written(CODE),
    notes=("timm's schedulers keep no count: pass the number of optimizer steps made so far, also when you resume.",),
    own=_own,
    own_notes=("With t_in_epochs=False the scheduler counts optimizer steps, and only step_update() moves it.",),
)
