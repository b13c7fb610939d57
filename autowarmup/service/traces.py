"""What trials record, to and from the messages of the service."""

from __future__ import annotations

import numpy as np

from autowarmup.search.trials import TrialSpec
from autowarmup.service.messages import RecordedTrace, Report, Validation
from autowarmup.training.trace import Evaluation, Trace


def report_of(trace: Trace, lease: str, seq: int) -> Report:
    """The report of a trace's steps, at most 10,000.

    Args:
        trace: what was recorded since the last report.
        lease: the trial's.
        seq: the report's number.
    """
    return Report(
        lease=lease,
        seq=seq,
        steps=trace.end,
        losses=tuple(trace.loss.tolist()),
        grad_norms=tuple(trace.grad_norm.tolist()),
        lrs=tuple(trace.lr.tolist()),
        validation=tuple(map(validation_of, trace.evaluations)),
    )


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


def part_of(trace: Trace, start: int, count: int) -> Trace:
    """Steps of a trace, counted from its own first one.

    >>> import numpy as np
    >>> whole = Trace(*[np.arange(5.0)] * 3, start=10)
    >>> part_of(whole, 2, 2).steps.tolist()
    [12, 13]
    """
    part, first = slice(start, start + count), trace.start + start
    evaluations = tuple(one for one in trace.evaluations if first < one.step <= first + count)
    return Trace(trace.lr[part], trace.loss[part], trace.grad_norm[part], evaluations, first)


def recorded_of(trace: Trace) -> RecordedTrace:
    """A trace as messages have it; the inverse of :func:`trace_of`."""
    return RecordedTrace(
        start=trace.start,
        lrs=tuple(trace.lr.tolist()),
        losses=tuple(trace.loss.tolist()),
        grad_norms=tuple(trace.grad_norm.tolist()),
        validation=tuple(map(validation_of, trace.evaluations)),
    )


def trace_of(recorded: RecordedTrace) -> Trace:
    """A trace as the service has it."""
    lr, loss, norm = (np.array(column, np.float64) for column in (recorded.lrs, recorded.losses, recorded.grad_norms))
    return Trace(lr, loss, norm, tuple(map(evaluation_of, recorded.validation)), recorded.start)


def evaluation_of(validation: Validation) -> Evaluation:
    """A validation as traces have it."""
    return Evaluation(validation.step, validation.val_loss, validation.val_loss_ema, dict(validation.metrics))


def validation_of(evaluation: Evaluation) -> Validation:
    """A validation as messages have it."""
    return Validation(
        step=evaluation.step,
        val_loss=evaluation.val_loss,
        val_loss_ema=evaluation.val_loss_ema,
        metrics=evaluation.metrics,
    )
