"""A study that a service conducts, from the side of the process that began it and works on it."""

from __future__ import annotations

import re
import time
from contextlib import closing
from pathlib import Path

from autowarmup.errors import RemoteServiceError, TaskFailedError
from autowarmup.search.config import TuneConfig
from autowarmup.search.trials import SegmentResult
from autowarmup.service.client import ServiceClient
from autowarmup.service.messages import StudyDetails, StudyRequest
from autowarmup.service.worker import Worker, default_name
from autowarmup.study.driver import keep
from autowarmup.study.progress import Progress
from autowarmup.study.result import TuneResult
from autowarmup.study.store import StudyStore
from autowarmup.training.base import Task

POLL_S = 0.1
"""Seconds between two looks at a study that has just begun."""


def conduct_by(
    client: ServiceClient, store: StudyStore, config: TuneConfig, task: Task, progress: Progress
) -> TuneResult:
    """Begins a study on a service, or goes on with it, works on it to its end, and copies what it has found.

    Args:
        client: the service's.
        store: the study's store here, open for writing. It gets the trials when all of them have ended.
        config: what the study does.
        task: what is trained.
        progress: told of the trials that are trained here.

    Raises:
        RemoteServiceError: the service can't be reached, or refuses; or the study was cancelled there.
        TaskFailedError: trials failed in a way that no schedule explains.
    """
    client.check_version()
    name = name_of(store.folder)
    details = _begun(client, name, config)
    progress.started(config, store.folder, details.budget or 0)
    if details.state == "running":
        folder = store.folder / "checkpoints"
        with closing(Worker(client, name, config, task, default_name(), folder, progress)) as worker:
            worker.work()
        details = client.details(name)
    _check_finished(details)
    result = client.result(name).model_copy(update={"study": str(store.folder.absolute())})
    finished_at = store.meta("finished_at")
    if finished_at is not None:
        progress.nothing_trained(store.folder, finished_at)
    progress.concluded(result)
    progress.doing("copying the trials")
    _copy(client, name, result, store)
    keep(result, store, finished_at or time.time(), progress)
    return result


def name_of(folder: Path) -> str:
    """A study's name on a service: that of its folder, with dashes for what a name may not have.

    >>> name_of(Path("studies/gpt 1.5")), name_of(Path("x" * 60 + "-1a2b3c4d"))[-12:]
    ('gpt-1-5', 'xxx-1a2b3c4d')
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "-", folder.absolute().name)[-63:].strip("-_") or "study"


def request_of(config: TuneConfig) -> StudyRequest:
    """What asks a service for a study of this configuration; a service has no other mode."""
    return StudyRequest(**{name: value for name, value in config if name != "mode"})


def _begun(client: ServiceClient, name: str, config: TuneConfig) -> StudyDetails:
    """How the study stands, once the service has decided what it may spend."""
    details = client.put(name, request_of(config))
    if details.state == "failed":
        details = client.resume(name)
    while details.budget is None and details.state == "running":
        time.sleep(POLL_S)
        details = client.details(name)
    return details


def _check_finished(details: StudyDetails) -> None:
    if details.state == "failed":
        raise TaskFailedError(details.failure or "the study has failed")
    if details.state != "finished":
        raise RemoteServiceError(
            f"study {details.id!r} is {details.state} on the service: resume it there, and make the same call again"
        )


def _copy(client: ServiceClient, name: str, result: TuneResult, store: StudyStore) -> None:
    """Stores the trials here, each in one piece."""
    store.set_meta("budget", result.budget)
    for spec, record in zip(client.specs(name), result.records, strict=True):
        store.add_trial(spec)
        if store.segment(spec.number, record.steps) is None:
            segment = SegmentResult(
                number=spec.number,
                until=record.steps,
                trace=client.trace(name, spec.number, record.steps),
                instability=record.instability,
                events=record.events,
                error=record.error,
                seconds=record.seconds,
            )
            store.add_segment(segment, position=spec.number, slots=1)
        store.finish(spec.number, record.outcome)
