"""A trial as it is decided, and the result of one segment of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field

from autowarmup.adaptive.climb import ClimbSettings
from autowarmup.instability import Instability
from autowarmup.schedule import Schedule
from autowarmup.training.trace import Trace
from autowarmup.values import Frozen

Role = Literal["probe", "baseline", "proposal", "confirmation"]
"""Why a trial runs. ``probe``: a ramp of the learning rate that measures which peaks to search. ``baseline``: a
schedule that needs no search. ``proposal``: a schedule of the search space. ``confirmation``: one of these again, on a
fresh seed."""

COMPARED: tuple[Role, ...] = ("baseline", "proposal")
"""The roles of the trials that compare with one another: those of schedules, on the search's seed."""


class TrialSpec(Frozen):
    """A trial as it is decided, before it runs.

    Args:
        number: the trial's number in its study, from 0.
        candidate: the number of its schedule in the study; trials of one schedule under several seeds share it.
        role: why it runs.
        seed: fixes its initial weights, its batches and its dropout.
        schedule: the schedule that it trains with; of a trial whose warm-up adapts, see :meth:`as_applied`.
        climb: the settings of a warm-up that adapts; None where the schedule is known beforehand.
        keeps_weights: whether its checkpoint is kept when it has got to its horizon.
        stop_only_on_nonfinite: end it early only where its loss or its gradient is not finite. Other instabilities are
            then recorded only, so that a false alarm of a detector can't make a baseline lose.
        params: the parameters of the search space that make up a proposal; empty for other roles.
    """

    number: int
    candidate: int
    role: Role
    seed: int
    schedule: Schedule
    climb: ClimbSettings | None = Field(default=None, exclude_if=lambda climb: climb is None)
    keeps_weights: bool = Field(default=False, exclude_if=lambda keeps: not keeps)
    stop_only_on_nonfinite: bool = False
    params: dict[str, float | str] = Field(default_factory=dict)

    def as_applied(self, parts: Iterable[Trace]) -> Self:
        """The trial with the schedule that it has applied: where its warm-up adapts, the nearest one to the learning
        rates of its steps so far, which are those of consecutive parts of its trace."""
        if self.climb is None:
            return self
        lrs = [lr for part in parts for lr in part.lr.tolist()]
        return self.model_copy(update={"schedule": self.climb.schedule_of(lrs)})


@dataclass(frozen=True)
class SegmentResult:
    """The result of one segment of a trial.

    Args:
        number: the trial's number.
        until: the optimizer step that the segment was to reach.
        trace: what was recorded in the segment; it ends before ``until`` where the segment ended early.
        instability: the instability that ended the trial, if any.
        events: instabilities that didn't end it, such as spikes that recovered.
        error: the traceback, where the user's code raised an exception.
        started_at: when the segment began, in seconds since the Unix epoch.
        seconds: how long it took.
    """

    number: int
    until: int
    trace: Trace
    instability: Instability | None = None
    events: tuple[Instability, ...] = ()
    error: str | None = None
    started_at: float = 0.0
    seconds: float = 0.0
