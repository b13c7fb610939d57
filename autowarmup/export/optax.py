"""optax: a table of learning rates; or optax' own schedules, joined."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from autowarmup.export.base import Form, Framework, Plan, first_share, half_cosine
from autowarmup.export.closed_form import written

CODE = """\
import math

import jax.numpy as jnp
import optax


$multiplier


table = jnp.asarray([$peak * multiplier(step) for step in range($horizon + 1)])


def schedule(count):
    \"\"\"The learning rate of the update \"count\", counted from 0; also within jax.jit.\"\"\"
    return table[jnp.minimum(count, $horizon)]


optimizer = optax.adamw(schedule)  # your optimizer, for $horizon updates
"""

OWN = """\
import optax

schedule = optax.join_schedules(
    [
{pieces}
    ],
    boundaries={boundaries},
)
optimizer = optax.adamw(schedule)  # your optimizer, for {horizon} updates
"""


class Piece(NamedTuple):
    """A schedule of optax': how many steps it takes, its call, and its ends as shares of the peak."""

    steps: int
    call: str
    kind: str
    start: float
    end: float

    def share(self, step: int) -> float:
        done = min(1.0, step / self.steps)
        if self.kind == "exponential":
            return self.start * math.pow(self.end / self.start, done)
        if self.kind == "cosine":
            return self.end + (self.start - self.end) * half_cosine(done)
        return self.start + (self.end - self.start) * done


def _piece(kind: str, steps: int, start: float, end: float, peak: float) -> Piece:
    """As in ``optax.schedules`` 0.2.8."""
    call = {
        "constant": f"optax.constant_schedule({peak!r})",
        "linear": f"optax.linear_schedule({start * peak!r}, {end * peak!r}, transition_steps={steps})",
        "cosine": f"optax.cosine_decay_schedule({peak!r}, decay_steps={steps}, alpha={end!r})",
        "exponential": f"optax.exponential_decay({start * peak!r}, transition_steps={steps}, "
        f"decay_rate={end / start if start else 0.0!r})",
    }[kind]
    return Piece(steps, call, kind, start, end)


def _own(plan: Plan) -> Iterator[Form]:
    warmup, final, length = plan.warmup_steps, plan.final_factor, plan.horizon - plan.warmup_steps
    kind, peak = plan.decay.kind, float(plan.peak)
    start = 0.01 if plan.start_factor is None else plan.start_factor
    pieces = []
    if plan.shape.kind == "exponential":
        pieces.append(_piece("exponential", warmup, start, 1.0, peak))
    elif (first := first_share(plan)) is None:
        return
    elif warmup:
        pieces.append(_piece("linear", warmup, first, 1.0, peak))
    if kind == "inverse-sqrt" or length < 1:
        return
    if kind == "wsd":
        cooldown = round(max(1.0, min(plan.decay.cooldown * plan.horizon, length)))
        if cooldown < length:
            pieces.append(_piece("constant", length - cooldown, 1.0, 1.0, peak))
        pieces.append(_piece("linear", cooldown, 1.0, final, peak))
    else:
        pieces.append(_piece(kind, length, 1.0, 1.0 if kind == "constant" else final, peak))
    bounds = [sum(piece.steps for piece in pieces[: index + 1]) for index in range(len(pieces) - 1)]

    def share(step: int) -> float:
        index = sum(step >= bound for bound in bounds)
        return pieces[index].share(step - ([0, *bounds][index]))

    calls = "\n".join(f"        {piece.call}," for piece in pieces)
    yield Form(share, config=OWN.format(pieces=calls, boundaries=bounds, horizon=plan.horizon))


FRAMEWORK = Framework(
    name="optax",
    title="optax",
    tested="optax 0.2.8",
    code=written(CODE, single=True),
    notes=("The count is part of optax' state: a state that is restored goes on where it was.",),
    own=_own,
)
