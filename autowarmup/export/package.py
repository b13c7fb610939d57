"""autowarmup itself: the schedule as a ``Schedule``, which makes a scheduler for PyTorch."""

from __future__ import annotations

from dataclasses import replace

from autowarmup.export.base import Form, Framework, Plan

MADE = "scheduler = schedule.scheduler(optimizer)"
OPTIMIZER = "optimizer = torch.optim.AdamW(schedule.parameter_groups(model), lr=schedule.peak)  # your optimizer\n"

CODE = """\
from autowarmup import Schedule

schedule = Schedule(
{arguments}
)
scheduler = schedule.scheduler(optimizer)  # scheduler.step() after each optimizer.step()
"""


def _code(plan: Plan) -> Form:
    fields = ("peak", "horizon", "warmup_steps", "shape", "start_factor", "decay", "final_factor")
    values = {name: getattr(plan, name) for name in fields}
    for part in ("shape", "decay"):
        settings = values[part].model_dump(exclude_none=True)
        values[part] = settings["kind"] if set(settings) == {"kind"} else settings
    if plan.groups:
        values["groups"] = [group.model_dump(mode="json", exclude_defaults=True) for group in plan.groups]
    arguments = "\n".join(f"    {name}={value!r}," for name, value in values.items() if value is not None)
    return Form(lambda step: plan.lr_at(step) / plan.peak, code=CODE.format(arguments=arguments))


def _with_groups(plan: Plan) -> Form:
    form = _code(plan)
    assert form.code is not None
    frozen = any(group.frozen_steps for group in plan.groups)
    freeze = "schedule.freeze(model, step)  # before each step, counted from 0, after model.train()\n" if frozen else ""
    return replace(form, code=form.code.replace(MADE, f"{OPTIMIZER}{MADE}") + freeze)


FRAMEWORK = Framework(
    name="autowarmup",
    title="autowarmup",
    tested="this release",
    code=_code,
    groups=_with_groups,
    notes=("It needs autowarmup at run time. The optimizer's learning rates give the ratios of its groups.",),
)
