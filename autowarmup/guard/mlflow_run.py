"""MLflow runs: one that is watched, and one that a record is sent to. Both beside the training: MLflow can't hold it
up."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from autowarmup.errors import TrackingError
from autowarmup.guard.reading import LOSS, NORM, RATE, Entry, entry, unknown
from autowarmup.guard.watching import Watch
from autowarmup.tracking.client import batches
from autowarmup.tracking.metrics import milliseconds

POINTS = 2000
"""Most values of a metric that are sent; all those around an event are."""
AROUND = 50
TOTALS = ("max_steps", "total_steps", "num_training_steps")
"""What a run's parameter may be called that says how long it is."""


class MlflowRun:
    """A run in MLflow, whose metrics have optimizer steps.

    Args:
        uri: the tracking URI; None for MLflow's own setting.
        run: the id of the run.
        loss: the metric that is the training loss; left out, one of the usual names.

    Raises:
        TrackingError: the run or the server can't be used.
        InputError: the run has no such metric.
    """

    def __init__(self, uri: str | None, run: str, loss: str | None) -> None:
        self.name, self._run, self._loss = f"MLflow's run {run}", run, loss
        self.ended: bool | None = False
        self._last = -1
        try:
            self._client = MlflowClient(uri)
            parameters = self._client.get_run(run).data.params
        except MlflowException as error:
            raise _refused(self._run, "read", error) from error
        known = [parameters[name] for name in TOTALS if name in parameters]
        self.total = next((int(value) for value in known if value.isdigit() and int(value) > 0), None)

    def fresh(self) -> list[Entry]:
        """The steps that were logged since. While the run goes on, its last step is left for the next time: another
        metric of it may be on the way."""
        try:
            found = self._client.get_run(self._run)
            self.ended = found.info.status not in ("RUNNING", "SCHEDULED")
            steps = self._steps(found.data.metrics)
        except MlflowException as error:
            raise _refused(self._run, "read", error) from error
        complete = sorted(steps)[: None if self.ended else -1]
        new = [number for number in complete if number > self._last]
        self._last = max(new, default=self._last)
        entries = (entry({"step": number} | steps[number], "loss") for number in new)
        return [one for one in entries if one is not None]

    def _steps(self, metrics: dict[str, float]) -> dict[int, dict[str, float]]:
        """The values of each step that has a loss."""
        loss = next((name for name in ([self._loss] if self._loss else LOSS) if name in metrics), None)
        if loss is None:
            if metrics or self.ended:
                raise unknown(self.name, metrics, self._loss)
            return {}
        steps = {point.step: {"loss": point.value} for point in self._client.get_metric_history(self._run, loss)}
        for part, names in (("lr", RATE), ("grad_norm", NORM)):
            name = next((name for name in names if name in metrics), None)
            for point in self._client.get_metric_history(self._run, name) if name else ():
                if point.step in steps:
                    steps[point.step][part] = point.value
        return steps


def send(watched: Watch, figure: Path, uri: str | None, run: str) -> int:
    """Logs the run's loss, learning rate and gradient norm, the verdict as the tag ``autowarmup.watch``, each event as
    the tag ``autowarmup.event.NUMBER``, and the figure as an artifact in ``autowarmup``.

    Args:
        watched: the run.
        figure: the file of its figure.
        uri: the tracking URI; None for MLflow's own setting.
        run: the id of an MLflow run that exists.

    Returns:
        How many values were sent.

    Raises:
        TrackingError: the run or the server can't be used.
    """
    metrics = list(_metrics(watched))
    try:
        client = MlflowClient(uri)
        for batch in batches(metrics):
            client.log_batch(run, batch)
        client.set_tag(run, "autowarmup.watch", watched.verdict())
        for number, event in enumerate(watched.events):
            client.set_tag(run, f"autowarmup.event.{number}", event.describe())
        client.log_artifact(run, str(figure), "autowarmup")
    except MlflowException as error:
        raise _refused(run, "sent to", error) from error
    return len(metrics)


def _metrics(watched: Watch) -> Iterator[Metric]:
    now, stride = milliseconds(time.time()), math.ceil(len(watched.steps) / POINTS)
    around = [(event.began - AROUND, event.step + AROUND) for event in watched.events]
    for place, step in enumerate(watched.steps):
        if place % stride and not any(low <= step.number <= high for low, high in around):
            continue
        rate = {"lr": step.lr} if watched.knows_lr else {}
        for name, value in {"loss": step.loss, "grad_norm": step.grad_norm, **rate}.items():
            if math.isfinite(value):
                yield Metric(f"guard_{name}", value, now, step.number)


def _refused(run: str, done: str, error: MlflowException) -> TrackingError:
    return TrackingError(f"the MLflow run {run!r} can't be {done}: {error}")
