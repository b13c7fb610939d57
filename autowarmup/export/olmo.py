"""OLMo-core: a scheduler with the closed form; or its ComposableScheduler, in linear and cosine stages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from autowarmup.export.base import Form, Framework, Plan, half_cosine
from autowarmup.export.closed_form import written

CODE = """\
import math
from dataclasses import dataclass

from olmo_core.optim import Scheduler


$multiplier


@dataclass
class PlannedScheduler(Scheduler):
    def get_lr(self, initial_lr, current, t_max):
        return initial_lr * multiplier(max(0, current - 1))  # the trainer counts from 1


# In your train module's config, with the schedule's peak, $peak, as the optimizer's lr, for $horizon steps.
scheduler = PlannedScheduler()
"""

OWN = """\
from olmo_core.optim.scheduler import ComposableScheduler, ComposableSchedulerStage, ComposableSchedulerStageType

# In your train module's config, with the schedule's peak, {peak!r}, as the optimizer's lr, for {horizon} steps.
scheduler = ComposableScheduler(
    stages=[
{stages}
    ]
)
"""

STAGE = """\
        ComposableSchedulerStage(
            duration={duration},
            shape=ComposableSchedulerStageType.{shape},
            start_lr_fraction={start!r},
            end_lr_fraction={end!r},
        ),"""


class Stage(NamedTuple):
    """As in ``olmo_core.optim.scheduler`` 3.0.0."""

    duration: int
    shape: str
    start: float
    end: float

    def share(self, current: int) -> float:
        done = current / self.duration
        if self.shape == "cosine":
            return self.end + (self.start - self.end) * half_cosine(done)
        return self.start + (self.end - self.start) * done


def _own(plan: Plan) -> Iterator[Form]:
    if plan.decay.kind in ("exponential", "inverse-sqrt") or plan.shape.kind not in ("none", "linear", "cosine"):
        return
    stages = [*_warmup(plan), *_decay(plan)]
    ends = [sum(stage.duration for stage in stages[: index + 1]) for index in range(len(stages))]

    def share(step: int) -> float:
        current = step + 1
        index = sum(current >= end for end in ends)
        return stages[index].share(current - [0, *ends][index]) if index < len(stages) else stages[-1].end

    text = "\n".join(STAGE.format(**stage._asdict()) for stage in stages)
    yield Form(share, config=OWN.format(peak=float(plan.peak), horizon=plan.horizon, stages=text))


def _warmup(plan: Plan) -> list[Stage]:
    """The trainer counts from 1, so the peak's step is ``warmup_steps + 1``."""
    steps, start = plan.warmup_steps, plan.start_factor
    if steps == 0:
        return [Stage(1, "linear", 1.0, 1.0)]
    if start is None:
        return [Stage(steps + 1, plan.shape.kind, 0.0, 1.0)]
    return [Stage(1, "linear", start, start), Stage(steps, plan.shape.kind, start, 1.0)]


def _decay(plan: Plan) -> list[Stage]:
    length, final = plan.horizon - plan.warmup_steps, plan.final_factor
    if length == 0:
        return []
    if plan.decay.kind == "constant":
        return [Stage(length, "linear", 1.0, 1.0)]
    if plan.decay.kind == "wsd":
        cooldown = max(1, min(round(plan.decay.cooldown * plan.horizon), length))
        stable = [Stage(length - cooldown, "linear", 1.0, 1.0)] if cooldown < length else []
        return [*stable, Stage(cooldown, "linear", 1.0, final)]
    return [Stage(length, plan.decay.kind, 1.0, final)]


FRAMEWORK = Framework(
    name="olmo-core",
    title="OLMo-core",
    tested="ai2-olmo-core 3.0.0",
    code=written(CODE),
    own=_own,
    own_notes=("The stages count steps from the trainer's, which begin at 1.",),
)
