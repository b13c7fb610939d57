"""autowarmup itself: the schedule as a ``Schedule``, which makes a scheduler for PyTorch."""

from __future__ import annotations

from autowarmup.export.base import Form, Framework, Plan

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
    arguments = "\n".join(f"    {name}={value!r}," for name, value in values.items() if value is not None)
    return Form(lambda step: plan.lr_at(step) / plan.peak, code=CODE.format(arguments=arguments))


FRAMEWORK = Framework(
    name="autowarmup",
    title="autowarmup",
    tested="this release",
    code=_code,
    notes=("It needs autowarmup at run time. The optimizer's learning rates give the ratios of its groups.",),
)
