"""A trial as the search decides it, and what comes back of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from autowarmup.instability import Instability
from autowarmup.schedule import Schedule
from autowarmup.training.trace import Trace
from autowarmup.values import Frozen

Role = Literal["probe", "baseline", "proposal", "confirmation"]
"""Why a trial runs: to measure the peak, as a schedule that needs no search, as a proposal, on a fresh seed."""


class TrialSpec(Frozen):
    """A trial as it was decided: which candidate, why, under which seed.

    ``candidate`` numbers the schedules of a study: trials of one schedule under several seeds share it. ``params`` are
    the search space's parameters behind a proposal. With ``stop_only_on_nonfinite`` a trial ends early only where its
    loss is not finite: other instabilities are recorded, so that no false alarm makes a baseline lose.
    """

    number: int
    candidate: int
    role: Role
    seed: int
    schedule: Schedule
    stop_only_on_nonfinite: bool = False
    params: dict[str, float | str] = Field(default_factory=dict)


@dataclass(frozen=True)
class SegmentResult:
    """What a segment of a trial came to.

    Args:
        number: the trial's.
        until: the step that the segment was to reach.
        trace: what it recorded; ends before ``until`` where it went wrong.
        instability: the fatal instability, if any.
        events: instabilities that are recorded only, such as spikes that recovered.
        error: the traceback, where the user's code raised.
        started_at: seconds since the epoch.
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
