"""Keras, on any backend, TensorFlow's included: a table of learning rates; or Keras' own schedules."""

from __future__ import annotations

import math
from collections.abc import Iterator

from autowarmup.export.base import Form, Framework, Plan, first_share, half_cosine, rise
from autowarmup.export.closed_form import written

CODE = """\
import math

import keras
import numpy as np
from keras import ops


$multiplier


@keras.saving.register_keras_serializable(package="planned")
class PlannedSchedule(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self):
        self.table = np.array([$peak * multiplier(step) for step in range($horizon + 1)], "float32")

    def __call__(self, step):
        return ops.take(ops.convert_to_tensor(self.table), ops.minimum(ops.cast(step, "int32"), $horizon))

    def get_config(self):
        return {}


optimizer = keras.optimizers.AdamW(learning_rate=PlannedSchedule())  # your optimizer, for $horizon steps
"""

OWN = """\
import keras

schedule = {schedule}
optimizer = keras.optimizers.AdamW(learning_rate=schedule)  # your optimizer, for {horizon} steps
"""


def _own(plan: Plan) -> Iterator[Form]:
    """As in ``keras.optimizers.schedules`` 3.15.1; only ``CosineDecay`` has a warm-up."""
    start, peak, final, warmup = first_share(plan), float(plan.peak), plan.final_factor, plan.warmup_steps
    length = plan.horizon - warmup
    if start is None or length < 1:
        return

    def form(call: str, decay: str) -> Form:
        def share(step: int) -> float:
            if step < warmup:
                return rise(step, warmup, start)
            done = (step - warmup) / length
            if decay == "exponential":
                return math.pow(final, done)
            height = half_cosine(done) if decay == "cosine" else 1.0 - done
            return final + (1.0 - final) * height

        name = f"keras.optimizers.schedules.{call}"
        return Form(share, config=OWN.format(schedule=name, horizon=plan.horizon))

    if warmup:
        extra = f", warmup_target={peak!r}, warmup_steps={warmup}"
        yield form(f"CosineDecay({start * peak!r}, decay_steps={length}, alpha={final!r}{extra})", "cosine")
        return
    yield Form(lambda step: 1.0, config=OWN.format(schedule=f"{peak!r}", horizon=plan.horizon))
    yield form(f"CosineDecay({peak!r}, decay_steps={length}, alpha={final!r})", "cosine")
    yield form(f"PolynomialDecay({peak!r}, decay_steps={length}, end_learning_rate={final * peak!r})", "linear")
    if final:
        yield form(f"ExponentialDecay({peak!r}, decay_steps={length}, decay_rate={final!r})", "exponential")


FRAMEWORK = Framework(
    name="keras",
    title="Keras / TensorFlow",
    tested="keras 3.15.1",
    code=written(CODE, single=True),
    notes=(
        "Keras keeps the count of steps with the optimizer, so a model that is resumed goes on.",
        "With gradient_accumulation_steps=N Keras counts batches: there, use step // N in the schedule's __call__.",
    ),
    own=_own,
    own_notes=("decay_steps counts the steps after the warm-up.",),
)
