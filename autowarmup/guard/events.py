"""What a guard found at a step, and what it did."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autowarmup.instability.instability import Kind
from autowarmup.values import Frozen

Action = Literal["ok", "skip", "hold", "lower", "rewind", "stop"]
"""What is done at a step. ``ok``: the update is applied. ``skip``: it is not. ``hold``: it is applied, and the warm-up
waits. ``lower``: it is applied, with all learning rates lower from now on. ``rewind``: it is not; the weights and the
optimizer are those of a snapshot again. ``stop``: it is not, and no other one will be."""

Reason = Kind | Literal["outlier", "new-data", "optimizer-state-lost", "off-forecast"]
"""Why. The kinds of instability are those of the detectors. ``outlier``: one batch's loss and gradient are far from
all before. ``new-data``: so many in a row are that the data must have changed. ``optimizer-state-lost``: the optimizer
had a state and has none any more. ``off-forecast``: the loss has left what the study expects."""


class Finding(Frozen):
    """What is wrong at a step.

    Args:
        reason: what.
        ago: how many steps ago it began, at least 0.
        fatal: whether the weights are damaged so that going on is useless.
        message: one line for people.
        evidence: the numbers behind it, by name.
    """

    reason: Reason
    ago: int = Field(default=0, ge=0)
    fatal: bool = False
    message: str
    evidence: dict[str, float] = Field(default_factory=dict)


class Event(Frozen):
    """A finding and what followed from it.

    Args:
        step: the step of the run, counted from 0.
        began: the step at which it began.
        action: what is done; with ``mode="observe"`` what would have been done.
        applied: whether it is done.
        reason: see :data:`Reason`.
        message: one line for people.
        evidence: the numbers behind it, by name.
        lr: the learning rate at this step, after the action.
        factor: what the schedule's learning rates are multiplied by, after the action.
        snapshot: the step of the snapshot that is gone back to, or that a stopped run is to go on from.
    """

    step: int
    began: int
    action: Action
    applied: bool
    reason: Reason
    message: str
    evidence: dict[str, float]
    lr: float
    factor: float
    snapshot: int | None = None

    @property
    def found(self) -> str:
        """What is wrong, and since when."""
        return self.message + (f" (since step {self.began:,})" if self.began < self.step else "")

    @property
    def done(self) -> str:
        """The action; ``would`` and the action where it isn't done."""
        return self.action if self.applied or self.action == "ok" else f"would {self.action}"

    def describe(self) -> str:
        """One line for people.

        >>> Event(
        ...     step=7, began=7, action="skip", applied=True, reason="outlier", message="the loss is 9, expected 2",
        ...     evidence={}, lr=0.1, factor=1.0,
        ... ).describe()
        'step 7: skip: the loss is 9, expected 2'
        """
        back = f" [snapshot of step {self.snapshot:,}]" if self.snapshot is not None else ""
        return f"step {self.step:,}: {self.done}: {self.found}{back}"
