"""Axolotl: a plugin with the closed form; or the fields of its configuration, which are those of Transformers."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from autowarmup.export.base import Form, Framework, Plan, half_cosine
from autowarmup.export.closed_form import written
from autowarmup.export.transformers import Share, types

CODE = """\
import math

from axolotl.integrations.base import BasePlugin
from torch.optim.lr_scheduler import LambdaLR


$multiplier


class PlannedSchedule(BasePlugin):
    def create_lr_scheduler(self, cfg, trainer, optimizer, num_training_steps):
        return LambdaLR(optimizer, multiplier)
"""

CODE_CONFIG = """\
# The code is in planned_schedule.py, on Python's path.
plugins:
  - planned_schedule.PlannedSchedule
learning_rate: $peak
max_steps: $horizon
"""


def _own(plan: Plan) -> Iterator[Form]:
    for name, kwargs, warmup, share in types(plan):
        if warmup != 1:  # Axolotl turns 1 into 2
            yield _form(plan, share, {"lr_scheduler": name, "lr_scheduler_kwargs": kwargs, "warmup_steps": warmup})
    if plan.warmup_steps > 1:
        quadratic = {"lr_scheduler": "cosine", "lr_quadratic_warmup": True, "warmup_steps": plan.warmup_steps}
        yield _form(plan, _quadratic(plan.warmup_steps, plan.horizon), quadratic)


def _quadratic(warmup: int, horizon: int) -> Share:
    """As ``get_cosine_schedule_with_quadratic_warmup`` in ``axolotl.utils.schedulers`` 0.19.0."""

    def share(step: int) -> float:
        if step < warmup:
            return (step / warmup) ** 2
        return max(0.0, half_cosine((step - warmup) / max(1, horizon - warmup)))

    return share


def _form(plan: Plan, share: Share, settings: dict[str, object]) -> Form:
    whole = {"learning_rate": float(plan.peak), "max_steps": plan.horizon} | settings
    return Form(share, config=yaml.safe_dump(whole, sort_keys=False))


FRAMEWORK = Framework(
    name="axolotl",
    title="Axolotl",
    tested="axolotl 0.19.0",
    code=written(CODE, config=CODE_CONFIG),
    notes=("Leave lr_scheduler and warmup_steps out of the configuration: the plugin replaces both.",),
    own=_own,
    own_notes=("Without warmup_steps Axolotl takes 3% of the run, at most 100 steps.",),
)
