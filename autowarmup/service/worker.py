"""A worker: it trains the trials of a service's study, one at a time."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
from contextlib import suppress
from functools import partial
from pathlib import Path

from autowarmup.engines.base import MonitorSettings, Segment
from autowarmup.engines.checkpoints import Checkpoints
from autowarmup.engines.local import LocalEngine
from autowarmup.errors import InputError, RemoteServiceError, StudyMismatchError
from autowarmup.search.config import TuneConfig
from autowarmup.search.trials import TrialSpec
from autowarmup.service.client import RefusedError, ServiceClient
from autowarmup.service.messages import LeasedTrial, StudyState, SuggestRequest
from autowarmup.service.reporter import DroppedError, Reporter
from autowarmup.study.progress import Progress
from autowarmup.training.base import Task
from autowarmup.training.trace import Trace

LOG = logging.getLogger("autowarmup")

WAIT_S = 10.0
"""Seconds that a request for trials waits for one."""


class Worker:
    """Trains leased trials as the local engine trains its own, and reports what they record.

    Trials that are paused are kept here. The service gets the checkpoints of those of models, so that other workers can
    go on with them.

    Args:
        client: the service's.
        study: the study's name there.
        config: the study's configuration, as the service has it.
        task: what is trained; see :func:`check_task`.
        name: the worker's own. One of the same name is given the trials that this one has not finished.
        folder: where checkpoints are kept.
        progress: told of the trials that are trained here.
    """

    def __init__(
        self,
        client: ServiceClient,
        study: str,
        config: TuneConfig,
        task: Task,
        name: str,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._client, self._study, self._name, self._progress = client, study, name, progress
        self._checkpoints = Checkpoints(folder)
        self._engine = LocalEngine(task, folder, MonitorSettings.of(config))
        self._paused: dict[int, int] = {}  # by trial that was trained here: the step where it can go on, 0 for none

    def work(self) -> StudyState:
        """Trains trials until the study has none any more.

        Returns:
            How the study stands then.

        Raises:
            RemoteServiceError: the service can't be reached, or refuses.
            StudyError: a checkpoint can't be written.
        """
        while True:
            suggestion = self._client.suggest(self._study, SuggestRequest(client_id=self._name, wait_s=WAIT_S))
            self._release_ended()
            for leased in suggestion.trials:
                self._train(leased)
            if suggestion.state != "running":
                return suggestion.state

    def close(self) -> None:
        """Ends the trials that are kept here."""
        for number in [*self._paused]:
            self._release(number)
        self._engine.close()

    def _train(self, leased: LeasedTrial) -> None:
        reporter = Reporter(self._client, self._study, leased)
        try:
            with reporter.alive():
                paused_at = self._trained(leased, reporter)
        except DroppedError:
            self._release(leased.spec.number)
        except BaseException:
            with suppress(RemoteServiceError):
                reporter.give_back()
            raise
        else:
            if paused_at is not None:
                self._upload(leased, paused_at)

    def _trained(self, leased: LeasedTrial, reporter: Reporter) -> int | None:
        """Trains a trial until it is paused or over. Returns the step where it is paused."""
        spec, until = leased.spec, leased.until
        past = self._client.trace(self._study, spec.number, self._start(leased))
        while True:
            self._engine.start(Segment(spec, until, past))
            result = self._engine.wait(partial(self._observe, reporter))
            instruction = reporter.end(result)
            self._progress.segment_ended(result)
            if instruction.action == "stop":
                self._engine.release(spec.number)
                self._paused[spec.number] = 0
                return None
            self._paused[spec.number] = until
            if instruction.action == "pause":
                return until
            past, until = Trace.join([past, result.trace]), instruction.until

    def _observe(self, reporter: Reporter, spec: TrialSpec, block: Trace) -> None:
        reporter.observe(block)
        self._progress.observe(spec, block)

    def _start(self, leased: LeasedTrial) -> int:
        """The last step from which the trial can be trained on: where it is paused here, where the service has a
        checkpoint, or its start."""
        number = leased.spec.number
        here = self._paused.pop(number, 0)
        if 0 < here <= leased.steps and here >= (leased.checkpoint or 0):
            return here
        self._engine.release(number)
        if leased.checkpoint is None:
            return 0
        try:
            self._client.download_checkpoint(self._study, number, leased.checkpoint, self._checkpoints)
        except RefusedError:  # gone or damaged
            return 0
        return leased.checkpoint

    def _upload(self, leased: LeasedTrial, step: int) -> None:
        number = leased.spec.number
        with self._checkpoints.reading(number, step) as file:
            if file is None:  # a training loop of the user's own, which waits in memory
                return
            try:
                self._client.upload_checkpoint(self._study, number, leased.lease, step, file)
            except RefusedError as error:
                if error.status == 413:
                    LOG.warning("autowarmup: trial %d: other workers must train it from its start: %s", number, error)

    def _release_ended(self) -> None:
        """Tells of the trials that have ended since, and deletes what is kept of them."""
        for number in [*self._paused]:
            outcome = self._client.trial(self._study, number).outcome
            if outcome is not None:
                self._progress.finished(number, outcome)
                self._release(number)

    def _release(self, number: int) -> None:
        self._paused.pop(number, None)
        self._engine.release(number)


def check_task(config: TuneConfig, task: Task, study: str) -> None:
    """Checks that a task is what a study tunes, and that a learning rate and a seed reach it.

    Raises:
        StudyMismatchError: the study was begun with another model, other data or other settings.
        InputError: the task can't be tuned.
    """
    known, own = config.task, json.loads(json.dumps(task.describe()))
    if known and known != own:
        odd = sorted(key for key in {*known, *own} if known.get(key) != own.get(key))
        raise StudyMismatchError(
            f"study {study!r} tunes another task: it differs in {', '.join(odd)}. Use the same file, data and versions "
            f"as where the study was begun, or begin another study"
        )
    task.check(config.current_schedule, config.seed)


def default_name() -> str:
    """A worker's name: its machine's and the number of its process.

    >>> default_name().endswith(f"-{os.getpid()}")
    True
    """
    host = re.sub(r"[^A-Za-z0-9_-]+", "-", platform.node()).strip("-_")[:50] or "worker"
    return f"{host}-{os.getpid()}"


def config_of(client: ServiceClient, study: str) -> TuneConfig:
    """The configuration of a study that workers train.

    Raises:
        InputError: the service trains it itself, or has another version of autowarmup.
    """
    client.check_version()
    details = client.details(study)
    if details.config is None or details.run is not None:
        raise InputError(f"study {study!r} is trained by the service itself: it takes no workers")
    return details.config
