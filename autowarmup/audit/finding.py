"""What an audit finds: the first step of a training that was made with another learning rate than the schedule's."""

from __future__ import annotations

from pydantic import Field

from autowarmup.audit.causes import Cause
from autowarmup.values import Frozen


class Finding(Frozen):
    """The first step that is off.

    Args:
        step: its number, counted from 0.
        group: the parameter group, by its ``name`` where it has one, or else by its number.
        expected: the schedule's learning rate for that group.
        applied: the learning rate that the optimizer applied.
        cause: the likely cause, in a word.
        explanation: the likely cause, and what to do about it.
    """

    step: int
    group: str
    expected: float
    applied: float = Field(allow_inf_nan=True)
    cause: Cause
    explanation: str

    def describe(self) -> str:
        """In words.

        Example:
            >>> finding = Finding(
            ...     step=0, group="0", expected=0.1, applied=0.0, cause="unknown", explanation="not known"
            ... )
            >>> finding.describe().partition(", ")[0]
            'optimizer step 0 was made with a learning rate of 0 in parameter group 0'
        """
        return (
            f"optimizer step {self.step:,} was made with a learning rate of {_number(self.applied, self.expected)} in "
            f"parameter group {self.group}, the schedule's is {_number(self.expected, self.applied)}. "
            f"Likely cause: {self.explanation}"
        )


def _number(value: float, beside: float) -> str:
    """With as many digits as it takes to tell it from another."""
    digits = next((digits for digits in range(4, 17) if f"{value:.{digits}g}" != f"{beside:.{digits}g}"), 17)
    return f"{value:.{digits}g}"
