"""A trial as the search sees it while it decides."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from autowarmup.instability import Instability
from autowarmup.schedule import Schedule
from autowarmup.search.config import TuneConfig
from autowarmup.search.surrogate import Evidence, scores
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.training.objective import LOSS, Objective
from autowarmup.training.trace import Outcome, Trace


@dataclass(eq=False)
class TrialState:
    """A trial as the search sees it.

    Args:
        spec: the trial as it was decided.
        trace: what it has recorded so far.
        instability: the instability that ended it, if any.
        error: the traceback that ended it, if any.
        outcome: how it ended; None while it may go on.
        objective: what it is judged by.
    """

    spec: TrialSpec
    trace: Trace = field(default_factory=Trace.empty)
    instability: Instability | None = None
    error: str | None = None
    outcome: Outcome | None = None
    objective: Objective = LOSS

    @property
    def schedule(self) -> Schedule:
        """The schedule that it trains with; of a warm-up that adapts, the nearest one so far."""
        return self.spec.as_applied([self.trace]).schedule

    @property
    def end(self) -> int:
        """Optimizer steps trained so far."""
        return self.trace.end

    def take(self, result: SegmentResult) -> None:
        """Adds the result of its next segment.

        Raises:
            InputError: the trial doesn't report its objective, or the current schedule never a finite one.
        """
        self.trace = Trace.join([self.trace, result.trace])
        self.instability, self.error = result.instability, result.error
        if self.instability is None and self.error is None:
            ended = self.end == self.schedule.horizon and self.spec.role != "probe"
            self.objective.check(self.trace, ended=ended, current=self.spec.role == "baseline")

    def evidence(self, config: TuneConfig) -> Evidence:
        """The trial as evidence for the surrogate: its scores from the first rung on. Earlier losses say little about
        the end of a run, so they are used only where there is no later one."""
        found = scores(self.trace, config.horizon, config.eval_every, config.trivial_loss, self.objective)
        if self.final_loss is not None and found[-1][0] < config.horizon:  # a loop that doesn't validate at its end
            found = (*found, (config.horizon, self.final_loss))
        late = tuple((step, score) for step, score in found if step >= config.rungs[0])
        if self.outcome == "unstable":
            return Evidence(self.schedule, late, broke=True)
        return Evidence(self.schedule, late or found[-1:])

    @property
    def final_loss(self) -> float | None:
        """The objective at the horizon, lower being better (see :meth:`autowarmup.training.objective.Objective.final`);
        None where the trial didn't get there, or the value is not finite."""
        final = self.objective.final(self.trace) if self.outcome == "completed" else math.inf
        return final if math.isfinite(final) else None


def cause_of(error: str | None) -> tuple[str, str]:
    """The last line of code in a traceback and the type of its exception. Two trials that fail alike have the same
    cause, even if the message differs."""
    where, _, last = (error or "").rpartition("\n  File ")
    raised = re.search(r"^[\w.]+", last, re.MULTILINE)
    return last.split("\n")[0] if where else "", raised[0] if raised else ""
