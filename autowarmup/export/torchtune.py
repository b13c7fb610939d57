"""torchtune: a component with the closed form; or its cosine schedule."""

from __future__ import annotations

from collections.abc import Iterator

from autowarmup.export.base import Form, Framework, Plan, half_cosine
from autowarmup.export.closed_form import written

CODE = """\
import math

from torch.optim.lr_scheduler import LambdaLR


$multiplier


def planned_schedule(optimizer, num_training_steps, last_epoch=-1):
    return LambdaLR(optimizer, multiplier, last_epoch)
"""

CODE_CONFIG = """\
# The code is in planned.py, on Python's path.
# The optimizer's lr is the schedule's peak, $peak; the run has $horizon steps.
lr_scheduler:
  _component_: planned.planned_schedule
"""

OWN = """\
# The optimizer's lr is the schedule's peak, {peak!r}; the run has {horizon} steps.
lr_scheduler:
  _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup
  num_warmup_steps: {warmup}
"""


def _own(plan: Plan) -> Iterator[Form]:
    """As in ``torchtune.training.lr_schedulers`` 0.6.1."""
    for warmup in (plan.warmup_steps, plan.warmup_steps + 1):
        yield _form(plan, warmup)


def _form(plan: Plan, warmup: int) -> Form:
    def share(step: int) -> float:
        if step < warmup:
            return step / warmup
        return max(0.0, half_cosine((step - warmup) / max(1, plan.horizon - warmup)))

    return Form(share, config=OWN.format(peak=float(plan.peak), horizon=plan.horizon, warmup=warmup))


FRAMEWORK = Framework(
    name="torchtune",
    title="torchtune",
    tested="torchtune 0.6.1",
    code=written(CODE, config=CODE_CONFIG),
    own=_own,
    own_notes=("The length of the decay follows from the recipe's epochs and max_steps_per_epoch.",),
)
