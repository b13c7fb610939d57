"""MLflow's side: stores, the experiment, its runs. Importing this imports MLflow."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from autowarmup.errors import TrackingError
from autowarmup.tracking.contents import DELIVERED, NOTE, STUDY, TRIAL
from autowarmup.tracking.metrics import milliseconds
from autowarmup.tracking.uri import sqlite_path, sqlite_uri
from autowarmup.tracking.view import pack, unpack

EXPERIMENT = "autowarmup"
KIND = {"mlflow.experimentKind": "custom_model_development"}
WRITTEN = "autowarmup.note"
"""The digest of the experiment's description as this package wrote it: one that a person wrote stays."""

BATCH = 900
"""Metric values a call. MLflow takes 1,000 entities, tags and parameters included."""


# --- Stores -----------------------------------------------------------------------------------------------


def connect(uri: str, own: Path) -> MlflowClient:
    """A client of the MLflow at ``uri``.

    Args:
        uri: the tracking URI; an SQLite file that doesn't exist is made.
        own: the file of the study's embedded store. Where that was moved or copied with its folder, the artifacts that
            it speaks of are the ones beside it.
    """
    path = sqlite_path(uri)
    if path and not path.exists():
        _create_sqlite(path)
    if path == own:
        _relocate(path)
    return MlflowClient(uri)


def _create_sqlite(path: Path) -> None:
    """A new SQLite store, complete or not there at all: MLflow can't use one whose creation was cut short."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    SqlAlchemyStore(sqlite_uri(unfinished), _artifacts(path)).engine.dispose()  # type: ignore[no-untyped-call]
    try:
        os.link(unfinished, path)
    except FileExistsError:
        pass
    finally:
        unfinished.unlink()


def _relocate(path: Path) -> None:
    """MLflow stores where artifacts are as absolute addresses: they follow the file."""
    query = "SELECT artifact_location FROM experiments WHERE name = ?"
    with closing(sqlite3.connect(path, timeout=30.0)) as db, db:
        (known,) = db.execute(query, (EXPERIMENT,)).fetchone() or (None,)
        if known in (None, _artifacts(path)):
            return
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            db.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                (_artifacts(path), len(known) + 1, len(known), known),
            )


def _artifacts(path: Path) -> str:
    return (path.parent / "mlartifacts").as_uri()


# --- The experiment ---------------------------------------------------------------------------------------


def find_experiment(client: MlflowClient, uri: str) -> Experiment:
    """The experiment of all studies. A server says itself where artifacts go; with SQLite they go beside its file.

    Raises:
        TrackingError: it was deleted, or can't be made.
    """
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        path = sqlite_path(uri)
        found = _create_experiment(client, _artifacts(path) if path else None)
    if found.lifecycle_stage != "active":
        raise TrackingError(f"the experiment {EXPERIMENT!r} was deleted: restore it, or remove it for good")
    return found


def _create_experiment(client: MlflowClient, artifacts: str | None) -> Experiment:
    try:
        created = client.create_experiment(EXPERIMENT, artifacts, KIND)
    except MlflowException as error:
        raise TrackingError(f"the experiment {EXPERIMENT!r} can't be created: {error}") from error
    return client.get_experiment(created)


def describe_experiment(client: MlflowClient, experiment: Experiment, note: str) -> None:
    """Sets its description, unless a person wrote one."""
    known = experiment.tags.get(NOTE, "")
    if known == note or (known and experiment.tags.get(WRITTEN) != _digest(known)):
        return
    client.set_experiment_tag(experiment.experiment_id, WRITTEN, _digest(note))
    client.set_experiment_tag(experiment.experiment_id, NOTE, note)


def save_view(
    client: MlflowClient, experiment: Experiment, tag: str, name: str, state: dict[str, Any], times: tuple[int, int]
) -> None:
    """Sets a shared view of the experiment, unless a person saved another one in its place."""
    known = experiment.tags.get(tag)
    if known is None or unpack(known) not in (None, (name, state)):
        client.set_experiment_tag(experiment.experiment_id, tag, pack(name, state, *times))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- Runs -------------------------------------------------------------------------------------------------


def study_runs(client: MlflowClient, experiment: str, study: str) -> dict[str, Run]:
    """The study's runs by trial number, its own under "". Of two for the same, the fuller one stays."""
    runs: dict[str, Run] = {}
    for run in sorted(_search(client, experiment, f"tags.`{STUDY}` = '{study}'"), key=_fullness, reverse=True):
        kept = runs.setdefault(run.data.tags.get(TRIAL, ""), run)
        if kept is not run:
            client.delete_run(run.info.run_id)
    return runs


def latest_studies(client: MlflowClient, experiment: str, count: int) -> list[Run]:
    """The runs of the studies that began last, the last one first."""
    newest = ["attributes.start_time DESC"]
    return list(client.search_runs([experiment], "tags.role = 'study'", max_results=count, order_by=newest))


def _search(client: MlflowClient, experiment: str, query: str) -> list[Run]:
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment], query, max_results=1000, page_token=token)
        found += page
        if not (token := page.token):
            return found


def _fullness(run: Run) -> tuple[int, int, str]:
    return int(run.data.tags.get(DELIVERED, 0)), len(run.data.tags), run.info.run_id


def missing(run: Run, params: Mapping[str, Any]) -> list[Param]:
    """Parameters that the run lacks, 90 at most. MLflow lets nobody change one."""
    first = islice(params.items(), 90)
    return [Param(name, str(value)[:500]) for name, value in first if name not in run.data.params]


def changed(run: Run, tags: Mapping[str, str]) -> list[RunTag]:
    """Tags that the run lacks or has otherwise."""
    return [RunTag(name, value) for name, value in tags.items() if run.data.tags.get(name) != value]


def set_status(client: MlflowClient, run: Run, status: str, ended: float) -> None:
    """Sets a run's status, and when it ended, in seconds since the epoch."""
    if status == "RUNNING":
        if run.info.status != status:
            client.update_run(run.info.run_id, status)
    elif (run.info.status, run.info.end_time) != (status, milliseconds(ended)):
        client.set_terminated(run.info.run_id, status, milliseconds(ended))


def batches(points: Iterable[Metric]) -> Iterator[list[Metric]]:
    remaining = iter(points)
    while batch := list(islice(remaining, BATCH)):
        yield batch
