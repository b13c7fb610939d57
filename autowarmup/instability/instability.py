"""What a detector reports: what went wrong, since which step, at which learning rate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autowarmup.instability.history import Step
from autowarmup.values import Frozen

Kind = Literal["non-finite", "divergence", "spike", "gradient-explosion", "silent-failure", "stall"]
"""What can go wrong. ``silent-failure``: the loss is that of a predictor which ignores its input."""

MAX_SEVERITY = 1e6
"""The severity of a value that is not finite, and the highest of all."""


class Instability(Frozen):
    """One instability in a trial.

    Args:
        kind: what happened.
        severity: how bad it is, above 0 and at most 1e6. A climb of the loss: its share of the progress made. A silent
            failure, or a spike that has not come back: 1, all progress is lost. Exploding gradients: the decimal
            logarithm of the norm over the largest of the last 200 steps. A stall: 0.1. A value that is not finite: 1e6.
        step: the optimizer step, counted from 0, at which it began.
        lr: the learning rate of that step.
        detected: the step at which it was detected.
        fatal: whether it ends the trial. One that isn't, such as a spike that may recover, is recorded.
        message: one line for people.
    """

    kind: Kind
    severity: float = Field(gt=0.0, le=MAX_SEVERITY)
    step: int = Field(ge=0)
    lr: float = Field(ge=0.0)
    detected: int = Field(ge=0)
    fatal: bool
    message: str


def found(kind: Kind, since: Step, now: Step, severity: float, fatal: bool, message: str) -> Instability:
    """An instability that began at ``since`` and was detected at ``now``, with its severity clamped to the allowed
    range."""
    return Instability(
        kind=kind,
        severity=min(MAX_SEVERITY, max(1e-6, severity)),
        step=since.number,
        lr=since.lr,
        detected=now.number,
        fatal=fatal,
        message=message,
    )
