"""Brings MLflow up to date with a study's store. Importing this imports MLflow.

One experiment, ``autowarmup``; one parent run a study; one child run a trial; one shared view a study. A pass looks at
what the server has and sends what differs, so passes can be repeated, killed and run against another server. Nothing
arrives twice:

- a run is found by its tags before it is created, and where a slow server made two of them, one is deleted;
- a metric value's timestamp comes from the store, so sending it again writes the same row;
- one process at a time delivers a study, under a file lock.

What a person writes on MLflow's page stays: a run's name, the experiment's description, a view saved in place of ours.
"""

from __future__ import annotations

import fcntl
import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from PIL import Image

from autowarmup.errors import StudyError
from autowarmup.schedule import Schedule
from autowarmup.search.verdict import Verdict
from autowarmup.study.delivery import Delivery
from autowarmup.study.store import StoredTrial, StudyStore
from autowarmup.tracking import contents, metrics
from autowarmup.tracking.client import (
    batches,
    changed,
    connect,
    describe_experiment,
    find_experiment,
    latest_studies,
    missing,
    save_view,
    set_status,
    study_runs,
)
from autowarmup.tracking.contents import DELIVERED, NOTE, PARENT, STUDY, TRIAL
from autowarmup.tracking.metrics import milliseconds
from autowarmup.tracking.naming import STUDY_COLOUR, Lineup, run_colour, run_name
from autowarmup.tracking.overview import Overview, TrialOverview
from autowarmup.tracking.uri import default_store, redact, scrub
from autowarmup.tracking.view import Range, view_page, view_state, view_tag

ARTIFACTS, NAMED = "autowarmup.artifacts", "autowarmup.name"
"""Tags that say what was sent: the artifacts' digest, and the name that a trial's run was given last."""
NAME, COLOUR = "mlflow.runName", "mlflow.runColor"
SOURCE = {"mlflow.source.name": "autowarmup", "mlflow.source.type": "LOCAL"}
FILES = ("schedule.json", "result.json", "report.html")

TRIAL_STATUS = {"completed": "FINISHED", "pruned": "FINISHED", "unstable": "FAILED", "failed": "FAILED"}
STUDY_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}

LISTED = 20
"""Studies that the experiment's description names."""
PICTURE_SIZE = 900, 700
"""Of the picture in descriptions, at most: width and height in pixels."""


class State(NamedTuple):
    """What tells whether a trial's run is up to date."""

    until: int
    outcome: str
    status: str
    parent: str
    name: str


class Syncer:
    """Brings the MLflow at ``uri`` up to date with the study in ``folder``, pass by pass."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder = folder
        self.uri = uri
        self.store = StudyStore(folder)
        self.overview = Overview(self.store.path)
        self.delivered: dict[int, tuple[int, str]] = {}
        self.points = 0
        self.page: str | None = None

    def attempt(self, driven: bool) -> Delivery:
        """One pass; what goes wrong in it comes back as the delivery's error. Where no driver is at work, nothing
        is running any more."""
        error = None
        try:
            with _locked(self.folder / "mlflow.lock"):
                self._deliver(live=driven and self.store.meta("status") == "running")
        except Exception as cause:  # noqa: BLE001 - whatever a server does must not end the process
            error = scrub(f"{type(cause).__name__}: {cause}".split("\n")[0], self.uri)[:500]
        wanted = {trial.spec.number: (trial.until, trial.outcome or "") for trial in self.overview.trials()}
        return Delivery(
            folder=str(self.folder),
            uri=redact(self.uri),
            page=self.page,
            trials=len(wanted),
            delivered=sum(self.delivered.get(number) == state for number, state in wanted.items()),
            points=self.points,
            error=error,
        )

    def _deliver(self, live: bool) -> None:
        study = self.store.meta("id")
        if study is None:
            raise StudyError(f"the study in {self.folder} has no id yet")
        client = connect(self.uri, default_store(self.folder))
        experiment = find_experiment(client, self.uri)
        runs = study_runs(client, experiment.experiment_id, study)
        self.page = view_page(experiment.experiment_id, study)
        self.delivered.clear()
        parent = runs.get("") or self._create_study(client, experiment, study)
        trials = self.overview.trials()
        lineup = Lineup.of(trial.spec for trial in trials)
        for trial in trials:
            run = self._current(client, runs.get(str(trial.spec.number)), trial)
            self._send_trial(client, run or self._create_trial(client, parent, trial), parent, trial, lineup, live)
            self.delivered[trial.spec.number] = (trial.until, trial.outcome or "")
        self._send_study(client, experiment, parent, trials, live)

    # -- trials --

    def _current(self, client: MlflowClient, run: Run | None, trial: TrialOverview) -> Run | None:
        """The trial's run; None where that is of an earlier try, which failed: it is deleted."""
        if run is None or run.data.tags.get("outcome") != "failed" or trial.outcome == "failed":
            return run
        client.delete_run(run.info.run_id)
        return None

    def _create_trial(self, client: MlflowClient, parent: Run, trial: TrialOverview) -> Run:
        segments = self.store.trial(trial.spec.number).segments
        started = milliseconds(segments[0].started_at if segments else time.time())
        tags = {STUDY: parent.data.tags[STUDY], TRIAL: str(trial.spec.number), PARENT: parent.info.run_id}
        return client.create_run(
            parent.info.experiment_id, started, SOURCE | tags, run_name=f"trial {trial.spec.number}"
        )

    def _send_trial(
        self, client: MlflowClient, run: Run, parent: Run, seen: TrialOverview, lineup: Lineup, live: bool
    ) -> None:
        name, status = run_name(seen, lineup), _trial_status(seen, live)
        if _state(run) == State(seen.until, seen.outcome or "", status, parent.info.run_id, name):
            return
        trial = self.store.trial(seen.spec.number)
        points = [*metrics.trial_points(trial, int(run.data.tags.get(DELIVERED, 0))), *metrics.trial_summary(trial)]
        *full, last = list(batches(points)) or [[]]
        for batch in full:
            client.log_batch(run.info.run_id, batch)
            self.points += len(batch)
        tags = contents.trial_tags(trial) | {PARENT: parent.info.run_id}
        if run.data.tags.get(NAMED) != name:
            tags |= {NAME: name, NAMED: name, COLOUR: run_colour(seen, lineup)}
        params = missing(run, contents.trial_params(trial))
        client.log_batch(run.info.run_id, last, params, changed(run, tags))
        self.points += len(last)
        set_status(client, run, status, metrics.end(trial) or run.info.start_time / 1000.0)

    # -- the study --

    def _create_study(self, client: MlflowClient, experiment: Experiment, study: str) -> Run:
        started, tags = milliseconds(self.store.meta("created_at")), SOURCE | {STUDY: study, COLOUR: STUDY_COLOUR}
        return client.create_run(experiment.experiment_id, started, tags, run_name=self.store.meta("name"))

    def _send_study(
        self, client: MlflowClient, experiment: Experiment, run: Run, seen: Sequence[TrialOverview], live: bool
    ) -> None:
        trials = [] if live else self.store.trials()
        if not live:
            self._send_artifacts(client, run)
        ended = max(map(metrics.end, trials), default=0.0) or float(self.store.meta("created_at"))
        totals = [] if live else metrics.study_summary(trials, ended)
        fresh = [metric for metric in totals if run.data.metrics.get(metric.key) != metric.value]
        params = missing(run, contents.study_params(self.store.meta("config")))
        tags = changed(run, self._study_tags(run, seen, live))
        if fresh or params or tags:
            client.log_batch(run.info.run_id, fresh, params, tags)
            self.points += len(fresh)
        self._send_view(client, experiment, seen, trials)
        if tags:
            _describe(client, experiment)
        status = "RUNNING" if live else STUDY_STATUS.get(self.store.meta("status"), "KILLED")
        set_status(client, run, status, ended)

    def _study_tags(self, run: Run, seen: Sequence[TrialOverview], live: bool) -> dict[str, str]:
        tags = contents.study_tags(str(self.folder), (trial.outcome for trial in seen))
        if findings := self._findings():
            page = view_page(run.info.experiment_id, run.data.tags[STUDY])
            picture = run.info.run_id if not live and (self.folder / contents.MAP).exists() else None
            tags |= contents.verdict_tags(findings) | {NOTE: contents.study_note(findings, page, picture)}
        return tags

    def _findings(self) -> contents.Findings | None:
        verdict, schedule, extrapolation = (self.store.meta(key) for key in ("verdict", "schedule", "extrapolation"))
        if verdict is None:
            return None
        found = None if schedule is None else Schedule.model_validate(schedule)
        return contents.Findings(Verdict.model_validate(verdict), found, extrapolation, self.store.objective)

    def _send_view(
        self, client: MlflowClient, experiment: Experiment, seen: Sequence[TrialOverview], trials: Sequence[StoredTrial]
    ) -> None:
        study, name, created = (self.store.meta(key) for key in ("id", "name", "created_at"))
        peaks = [trial.spec.schedule.peak for trial in trials or seen if trial.spec.role != "probe"]
        finals = {final[0] for trial in trials if (final := metrics.final_loss(trial))}
        ranking = finals.pop() if len(finals) == 1 else "final_val_loss"
        ascending = all(trial.objective.direction == "minimize" for trial in trials)
        state = view_state(study, ranking, ascending, (0.0, 1.05 * max(peaks)) if peaks else None, _losses(trials))
        times = milliseconds(created), milliseconds(time.time())
        save_view(client, experiment, view_tag(study), name, state, times)

    def _send_artifacts(self, client: MlflowClient, run: Run) -> None:
        files = [path for name in FILES if (path := self.folder / name).exists()]
        figures = sorted((self.folder / "figures").glob("*.png"))
        digest = hashlib.sha256()
        for path in files + figures:
            digest.update(path.name.encode() + path.read_bytes())
        if not files + figures or run.data.tags.get(ARTIFACTS) == digest.hexdigest():
            return
        for path in files:
            client.log_artifact(run.info.run_id, str(path))
        for path in figures:
            client.log_artifact(run.info.run_id, str(path), "figures")
        if (picture := self.folder / contents.MAP) in figures:
            _send_picture(client, run, picture)
        client.set_tag(run.info.run_id, ARTIFACTS, digest.hexdigest())


def _send_picture(client: MlflowClient, run: Run, picture: Path) -> None:
    """The picture of the descriptions: they show it as large as it is."""
    with tempfile.TemporaryDirectory() as folder, Image.open(picture) as image:
        image.thumbnail(PICTURE_SIZE)
        image.save(Path(folder) / contents.PICTURE)
        client.log_artifact(run.info.run_id, str(Path(folder) / contents.PICTURE))


def _describe(client: MlflowClient, experiment: Experiment) -> None:
    """The experiment's description, from what its studies' runs say."""
    number = experiment.experiment_id
    studies = latest_studies(client, number, LISTED)
    lines = [(run.info.run_name, view_page(number, run.data.tags[STUDY]), run.data.tags) for run in studies]
    picture = next((run.info.run_id for run in studies if ARTIFACTS in run.data.tags), None)
    describe_experiment(client, experiment, contents.experiment_note(lines, picture))


def _losses(trials: Sequence[StoredTrial]) -> Range | None:
    """From the lowest training loss to what the trials began with: what diverged doesn't flatten the others."""
    recorded = (trial.trace.loss for trial in trials if trial.spec.role != "probe")
    finite = [loss for trace in recorded if len(loss := trace[np.isfinite(trace)])]
    low, high = min((loss.min() for loss in finite), default=0.0), max((loss[0] for loss in finite), default=0.0)
    return (float(low - 0.05 * (high - low)), float(high + 0.1 * (high - low))) if high > low else None


def _state(run: Run) -> State:
    tags = run.data.tags
    until, outcome = int(tags.get(DELIVERED, 0)), tags.get("outcome", "")
    return State(until, outcome, run.info.status, tags.get(PARENT, ""), tags.get(NAMED, ""))


def _trial_status(trial: TrialOverview, live: bool) -> str:
    """A probe that became unstable has done what it is for."""
    if trial.outcome is None:
        return "RUNNING" if live else "KILLED"
    return "FINISHED" if (trial.spec.role, trial.outcome) == ("probe", "unstable") else TRIAL_STATUS[trial.outcome]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
