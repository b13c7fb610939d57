"""A trial that workers train, as the engine knows it, and what their reports say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from autowarmup.reported import ReportedTrial
from autowarmup.search.trials import TrialSpec
from autowarmup.service.messages import Report, Validation
from autowarmup.training.trace import Evaluation, Trace

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


def block_of(spec: TrialSpec, report: Report, known: int) -> Trace:
    """A report's steps from step ``known`` on, with the validations after it."""
    start = report.steps - len(report.losses)
    new = slice(known - start, None)
    steps = range(known, report.steps)
    lr = [spec.schedule.lr_at(step) for step in steps] if report.lrs is None else report.lrs[new]
    norms = (float("nan"),) * len(steps) if report.grad_norms is None else report.grad_norms[new]
    if not steps:
        return Trace.empty(known)
    evaluations = tuple(evaluation_of(one) for one in report.validations if one.step > known)
    return Trace(np.array(lr), np.array(report.losses[new]), np.array(norms), evaluations, known)


def evaluation_of(validation: Validation) -> Evaluation:
    """A validation as traces have it."""
    return Evaluation(validation.step, validation.val_loss, validation.val_loss_ema, dict(validation.metrics))
