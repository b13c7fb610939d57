"""A trial that workers train, as the engine knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autowarmup.reported import ReportedTrial
from autowarmup.search.trials import TrialSpec

State = Literal["wanted", "leased", "ended", "paused"]
"""*wanted*: the search has started a segment, no worker has it. *leased*: a worker trains it. *ended*: its segment has
ended, the search hasn't decided yet. *paused*: the search may go on with it later."""


@dataclass
class OpenTrial:
    """A trial that may go on.

    Attributes:
        reported: what was reported of it.
        start, until: the segment that it is in.
        state: see :data:`State`.
        worker, lease, seq: who has it, under which lease, and the number of the last report. They stay after the
            lease has ended, for a report that is sent again.
        heard_at: when its worker was heard of, on the engine's clock.
        began_at: when the segment was first leased, in seconds since the Unix epoch; None before that.
        over: why the trial can't go on; None where it can.
    """

    reported: ReportedTrial
    start: int
    until: int
    state: State = "wanted"
    worker: str | None = None
    lease: str | None = None
    seq: int = 0
    heard_at: float = 0.0
    began_at: float | None = None
    over: str | None = None

    @property
    def spec(self) -> TrialSpec:
        return self.reported.spec
