"""A recording as metrics of an MLflow run. It is sent after the training or beside it, so MLflow can't hold it up."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from autowarmup.audit.recording import Part, every_step, first_finding, thinned
from autowarmup.errors import TrackingError
from autowarmup.tracking.client import batches
from autowarmup.tracking.contents import key
from autowarmup.tracking.metrics import distinct, milliseconds


def send(parts: Sequence[Part], uri: str | None, run: str) -> int:
    """Logs the applied and the planned learning rates of every parameter group, and the finding as the run's tag
    ``autowarmup.audit``.

    Args:
        parts: of a recording.
        uri: the tracking URI; None for MLflow's own setting.
        run: the id of an MLflow run that exists.

    Returns:
        How many values were sent.

    Raises:
        TrackingError: the run or the server can't be used.
    """
    finding = first_finding(parts)
    metrics = list(_metrics(parts))
    try:
        client = MlflowClient(uri)
        for batch in batches(metrics):
            client.log_batch(run, batch)
        client.set_tag(run, "autowarmup.audit", finding.describe() if finding else "applied as planned")
    except MlflowException as error:
        raise TrackingError(f"the recording can't be sent to the MLflow run {run!r}: {error}") from error
    return len(metrics)


def _metrics(parts: Sequence[Part]) -> Iterator[Metric]:
    now = milliseconds(time.time())
    for part, step, rates in thinned(list(every_step(parts))):
        for name, planned, rate in zip(distinct(map(key, part.names)), part.planned(step), rates, strict=True):
            suffix = "" if len(part.names) == 1 else f".{name}"
            for metric, value in (("lr_applied", rate), ("lr_planned", planned)):
                if math.isfinite(value):
                    yield Metric(metric + suffix, value, now, step)
