"""A study's metric values as MLflow takes them. Importing this imports MLflow.

A long trial's step metrics are thinned to about 2,000 evenly spaced points each; the store keeps all. Every step around
an instability stays, and so do all validations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mlflow.entities import Metric

from autowarmup.search.trials import SegmentResult
from autowarmup.study.store import StoredTrial
from autowarmup.tracking.contents import key

OUTCOMES = ("completed", "pruned", "unstable", "failed")
OWN = ("val_loss", "val_loss_ema")
"""What the validation's metrics may not be called: the loss has these names."""

MOST_POINTS = 2_000
"""A step metric's points a trial, apart from those around instabilities."""
AROUND = 50
"""Steps kept on either side of where an instability began and of where it was detected."""


def trial_points(trial: StoredTrial, delivered: int) -> list[Metric]:
    """The metric values of a trial that are finite and not yet delivered.

    Args:
        trial: as the store has it.
        delivered: the last ``until`` whose segment was sent. Of earlier segments, only the steps around
            instabilities come again: they may have been thinned out before the instability was known.
    """
    stride = math.ceil(trial.spec.schedule.horizon / MOST_POINTS)
    around = _around_instabilities(trial)
    points: list[Metric] = []
    for segment in trial.segments:
        fresh = segment.until > delivered
        if fresh or around:
            points += _step_points(segment, stride if fresh else 0, around)
        if fresh:
            points += _evaluation_points(segment)
    return points


def trial_summary(trial: StoredTrial) -> list[Metric]:
    """A trial's final loss, or the final value of another metric that is the objective, and where it became unstable.
    In studies whose loops don't validate at the end it is ``final_loss``, the training loss of the last tenth, and not
    ``final_val_loss``."""
    values: dict[str, tuple[float, int]] = {}
    if found := trial.instability:
        values["instability_step"] = found.step, found.step
        values["instability_lr"] = found.lr, found.step
        values["instability_severity"] = found.severity, found.step
    if (final := final_loss(trial)) is not None:
        name, value = final
        values[name] = value, trial.trace.end
    return [Metric(name, value, milliseconds(end(trial)), step) for name, (value, step) in values.items()]


def final_loss(trial: StoredTrial) -> tuple[str, float] | None:
    """The metric that ranks a trial, and its value in its own sign; None for the probe and where the trial didn't get
    to its horizon."""
    if trial.spec.role == "probe" or trial.final_loss is None or not math.isfinite(trial.final_loss):
        return None
    value = trial.objective.shown(trial.final_loss)
    if not trial.objective.is_loss:
        return f"final_{metric_names([trial.objective.name])[trial.objective.name]}", value
    return "final_loss" if trial.trace.final_evaluation is None else "final_val_loss", value


def study_summary(trials: Sequence[StoredTrial], ended: float) -> list[Metric]:
    """A study's totals. They are logged at the steps spent: those only grow."""
    steps = sum(len(trial.trace) for trial in trials)
    values: dict[str, float] = {"steps_spent": steps, "seconds": sum(trial.seconds for trial in trials)}
    values |= {f"trials_{name}": sum(trial.outcome == name for trial in trials) for name in OUTCOMES}
    finals = [final for trial in trials if (final := final_loss(trial)) is not None]
    for name in {name for name, _ in finals}:
        best = min if trials[0].objective.direction == "minimize" else max
        values[f"best_{name}"] = best(value for kind, value in finals if kind == name)
    return [Metric(name, value, milliseconds(ended), steps) for name, value in values.items()]


def metric_names(names: Iterable[str]) -> dict[str, str]:
    """Validation metrics' names in MLflow, which allows few characters. No two are the same, and none is the loss's.

    >>> metric_names(["accuracy", "top@5", "top_5", "val_f1", "val_loss"])
    {'accuracy': 'val_accuracy', 'top@5': 'val_top_5', 'top_5': 'val_top_5_2', 'val_f1': 'val_f1', \
'val_loss': 'metric_val_loss'}
    """
    names = sorted(names)
    wanted = [key(name if name.startswith("val_") else f"val_{name}") for name in names]
    wanted = [f"metric_{metric}" if metric in OWN else metric for metric in wanted]
    return dict(zip(names, distinct(wanted), strict=True))


def distinct(names: Iterable[str]) -> list[str]:
    """Names for MLflow in their order, all different: one that is there already gets a number.

    >>> distinct(["a", "b", "a"])
    ['a', 'b', 'a_2']
    """
    chosen: list[str] = []
    for name in names:
        unique, count = name, 1
        while unique in chosen:
            count += 1
            unique = f"{name[:240]}_{count}"
        chosen.append(unique)
    return chosen


def end(trial: StoredTrial) -> float:
    """When a trial's last segment ended, in seconds since the epoch; 0 before the first has."""
    return trial.segments[-1].started_at + trial.segments[-1].seconds if trial.segments else 0.0


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000.0)


def _around_instabilities(trial: StoredTrial) -> set[int]:
    found = [*trial.events, *([trial.instability] if trial.instability else [])]
    centres = {step for instability in found for step in (instability.step, instability.detected)}
    return {step for centre in centres for step in range(centre - AROUND, centre + AROUND + 1)}


def _step_points(segment: SegmentResult, stride: int, around: set[int]) -> Iterator[Metric]:
    """Every ``stride``-th step (none for 0) and the last one, and those of ``around``."""
    trace = segment.trace
    columns: dict[str, Any] = {"learning_rate": trace.lr, "loss": trace.loss, "grad_norm": trace.grad_norm}
    for index, step in enumerate(trace.steps.tolist()):
        regular = stride and (step % stride == 0 or step == trace.end - 1)
        if not regular and step not in around:
            continue
        when = _when(segment, step + 1)
        for name, column in columns.items():
            if math.isfinite(column[index]):
                yield Metric(name, float(column[index]), when, step)


def _evaluation_points(segment: SegmentResult) -> Iterator[Metric]:
    names = metric_names({name for evaluation in segment.trace.evaluations for name in evaluation.metrics})
    for evaluation in segment.trace.evaluations:
        values = {names[name]: value for name, value in evaluation.metrics.items()}
        values |= {"val_loss": evaluation.val_loss, "val_loss_ema": evaluation.val_loss_ema}
        for name, value in values.items():
            if math.isfinite(value):
                yield Metric(name, value, _when(segment, evaluation.step), evaluation.step)


def _when(segment: SegmentResult, steps_made: int) -> int:
    """When a step ended, in milliseconds, as if all steps of its segment took equally long."""
    share = (steps_made - segment.trace.start) / len(segment.trace) if len(segment.trace) else 1.0
    return milliseconds(segment.started_at + share * segment.seconds)
