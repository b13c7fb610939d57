"""What a detector says: what went wrong, since which step, at which learning rate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autowarmup.instability.history import Step
from autowarmup.values import Frozen

Kind = Literal["non-finite", "divergence", "spike", "gradient-explosion", "silent-failure", "stall"]

MAX_SEVERITY = 1e6


class Instability(Frozen):
    """What a detector found.

    Args:
        kind: what happened.
        severity: above 0, grows with the damage. A climb of the loss counts as its share of the progress made, a
            collapse as 1 (all is lost), a gradient as the decimal logarithm of how many times too large it is, a
            stall as 0.1, anything non-finite as 1e6.
        step, lr: the optimizer step and the learning rate where it began.
        detected: the step that gave it away.
        fatal: whether it ends the trial. The others, such as a spike that may recover, are recorded.
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
    """An instability that began at ``since`` and showed at ``now``, its severity brought into range."""
    return Instability(
        kind=kind,
        severity=min(MAX_SEVERITY, max(1e-6, severity)),
        step=since.number,
        lr=since.lr,
        detected=now.number,
        fatal=fatal,
        message=message,
    )
