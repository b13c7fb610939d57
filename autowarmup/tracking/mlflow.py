"""Brings MLflow up to date with a study's store. Runs in a process of its own: importing this imports MLflow.

One experiment, ``autowarmup``; one parent run a study; one child run a trial. A pass looks at what the server
has and sends what differs, so passes can be repeated, killed and run against another server. Nothing arrives
twice:

- a run is found by its tags before it is created, and where a slow server made two of them, one is deleted;
- a metric value's timestamp comes from the store, so sending it again writes the same row;
- one process at a time delivers a study, under a file lock.

A long trial's step metrics are thinned to about 2,000 evenly spaced points each; the store keeps all. Every
step around an instability stays, and so do all validations.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import re
import select
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from autowarmup.errors import StudyError, TrackingError
from autowarmup.schedule.schedule import Schedule
from autowarmup.search.trials import SegmentResult
from autowarmup.search.verdict import Verdict
from autowarmup.study.delivery import Delivery
from autowarmup.study.lock import is_locked
from autowarmup.study.store import StoredTrial, StudyStore
from autowarmup.tracking.uri import redact, scrub, sqlite_path, sqlite_uri
from autowarmup.training.trace import Outcome

EXPERIMENT = "autowarmup"
STUDY, TRIAL, DELIVERED = "autowarmup.study", "autowarmup.trial", "autowarmup.delivered"
ARTIFACTS = "autowarmup.artifacts"
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
SOURCE = {"mlflow.source.name": "autowarmup", "mlflow.source.type": "LOCAL"}
KIND = {"mlflow.experimentKind": "custom_model_development"}
FILES = ("schedule.json", "result.json", "report.html")

TRIAL_STATUS = {"completed": "FINISHED", "pruned": "KILLED", "unstable": "KILLED", "failed": "FAILED"}
STUDY_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}

MOST_POINTS = 2_000
"""A step metric's points a trial, apart from those around instabilities."""
AROUND = 50
"""Steps kept on either side of where an instability began and of where it was detected."""
BATCH = 900
"""Metric values a call. MLflow takes 1,000 entities, tags and parameters included."""
NOTE_LENGTH = 5_000

POLL_S = 0.5
LONGEST_RETRY_S = 30.0
REST = 4.0
LONGEST_REST_S = 5.0
"""After a pass, rest for a multiple of its duration, up to this: a large study costs its machine little."""


class State(NamedTuple):
    """What tells whether a trial's run is up to date."""

    until: int
    outcome: str
    status: str
    parent: str


class Syncer:
    """Brings the MLflow at ``uri`` up to date with the study in ``folder``, pass by pass."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder = folder
        self.uri = uri
        self.store = StudyStore(folder)
        self.progress = _Progress(self.store.path)
        self.delivered: dict[int, tuple[int, str]] = {}
        self.points = 0

    def attempt(self, driven: bool) -> Delivery:
        """One pass; what goes wrong in it comes back as the delivery's error. Where no driver is at work, nothing
        is running any more."""
        error = None
        try:
            with _locked(self.folder / "mlflow.lock"):
                self._deliver(live=driven and self.store.meta("status") == "running")
        except Exception as cause:  # noqa: BLE001 - whatever a server does must not end the process
            error = scrub(f"{type(cause).__name__}: {cause}".split("\n")[0], self.uri)[:500]
        wanted = {number: (until, outcome or "") for number, outcome, until in self.progress.trials()}
        return Delivery(
            folder=str(self.folder),
            uri=redact(self.uri),
            trials=len(wanted),
            delivered=sum(self.delivered.get(number) == state for number, state in wanted.items()),
            points=self.points,
            error=error,
        )

    def _deliver(self, live: bool) -> None:
        study = self.store.meta("id")
        if study is None:
            raise StudyError(f"the study in {self.folder} has no id yet")
        client = _connect(self.uri)
        experiment = _experiment(client, self.uri)
        runs = _runs(client, experiment, study)
        self.delivered.clear()
        parent = runs.get("") or self._create_study(client, experiment, study)
        for number, outcome, until in self.progress.trials():
            run = runs.get(str(number)) or self._create_trial(client, parent, number)
            status = _trial_status(outcome, live)
            if _state(run) != State(until, outcome or "", status, parent.info.run_id):
                self._send_trial(client, run, parent, self.store.trial(number), live)
            self.delivered[number] = (until, outcome or "")
        self._send_study(client, parent, live)

    def _create_study(self, client: MlflowClient, experiment: str, study: str) -> Run:
        started = _milliseconds(self.store.meta("created_at"))
        return client.create_run(experiment, started, SOURCE | {STUDY: study}, run_name=self.store.meta("name"))

    def _create_trial(self, client: MlflowClient, parent: Run, number: int) -> Run:
        reports = self.store.trial(number).segments
        started = _milliseconds(reports[0].started_at if reports else time.time())
        tags = {STUDY: parent.data.tags[STUDY], TRIAL: str(number), PARENT: parent.info.run_id}
        return client.create_run(parent.info.experiment_id, started, SOURCE | tags, run_name=f"trial {number}")

    def _send_trial(self, client: MlflowClient, run: Run, parent: Run, trial: StoredTrial, live: bool) -> None:
        delivered = int(run.data.tags.get(DELIVERED, 0))
        points = [*trial_points(trial, delivered), *_trial_summary(trial)]
        *batches, last = list(_batches(points)) or [[]]
        for batch in batches:
            client.log_batch(run.info.run_id, batch)
            self.points += len(batch)
        tags = _trial_tags(trial) | {PARENT: parent.info.run_id}
        client.log_batch(run.info.run_id, last, _missing(run, trial_params(trial)), _changed(run, tags))
        self.points += len(last)
        ended = _end(trial.segments[-1]) if trial.segments else run.info.start_time / 1000.0
        _set_status(client, run, _trial_status(trial.outcome, live), ended)

    def _send_study(self, client: MlflowClient, run: Run, live: bool) -> None:
        status = "RUNNING" if live else STUDY_STATUS.get(self.store.meta("status"), "KILLED")
        tags = self._study_tags()
        metrics, ended = ([], 0.0) if live else self._study_summary()
        fresh = [metric for metric in metrics if run.data.metrics.get(metric.key) != metric.value]
        params, changed = _missing(run, self._study_params()), _changed(run, tags)
        if fresh or params or changed:
            client.log_batch(run.info.run_id, fresh, params, changed)
            self.points += len(fresh)
        if not live:
            self._send_artifacts(client, run)
        _set_status(client, run, status, ended)

    def _study_params(self) -> dict[str, Any]:
        """The configuration; of its parts (search space, detectors, task) each as ``part.setting``."""
        params: dict[str, Any] = {}
        for key, value in self.store.meta("config").items():
            parts = value if isinstance(value, dict) else None
            params |= {key: value} if parts is None else {f"{key}.{part}": parts[part] for part in parts}
        return {_key(key): value for key, value in params.items() if value not in (None, "")}

    def _study_tags(self) -> dict[str, str]:
        outcomes = Counter(outcome or "open" for _, outcome, _ in self.progress.trials())
        tags = {
            "folder": str(self.folder),
            "trials": ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()),
        }
        if stored := self.store.meta("verdict"):
            verdict = Verdict.model_validate(stored)
            lines = [f"**{verdict.kind}**: {verdict.message}"]
            tags["verdict"] = verdict.kind
            if verdict.schedule:
                lines.append(verdict.schedule.describe())
                tags |= {f"best.{key}": str(value) for key, value in schedule_params(verdict.schedule).items()}
            tags[NOTE] = "\n\n".join(lines)[:NOTE_LENGTH]
        return tags

    def _study_summary(self) -> tuple[list[Metric], float]:
        """The study's totals, and when its last trial ended. Logged at the steps spent: those only grow."""
        trials = self.store.trials()
        ended = max((_end(report) for trial in trials for report in trial.segments), default=0.0)
        ended = ended or float(self.store.meta("created_at"))
        steps = sum(len(trial.trace) for trial in trials)
        finals = [loss for t in trials if t.spec.role != "probe" and (loss := _final_loss(t)) is not None]
        values: dict[str, float] = {"steps_spent": steps, "seconds": sum(trial.seconds for trial in trials)}
        values |= {f"trials_{name}": sum(t.outcome == name for t in trials) for name in TRIAL_STATUS}
        if finals:
            values["best_final_val_loss"] = min(finals)
        return [Metric(key, value, _milliseconds(ended), steps) for key, value in values.items()], ended

    def _send_artifacts(self, client: MlflowClient, run: Run) -> None:
        files = [path for name in FILES if (path := self.folder / name).exists()]
        figures = sorted((self.folder / "figures").glob("*.png"))
        contents = hashlib.sha256()
        for path in files + figures:
            contents.update(path.name.encode() + path.read_bytes())
        if not files + figures or run.data.tags.get(ARTIFACTS) == contents.hexdigest():
            return
        for path in files:
            client.log_artifact(run.info.run_id, str(path))
        for path in figures:
            client.log_artifact(run.info.run_id, str(path), "figures")
        client.set_tag(run.info.run_id, ARTIFACTS, contents.hexdigest())


# --- What a trial is in MLflow ----------------------------------------------------------------------------


def trial_params(trial: StoredTrial) -> dict[str, Any]:
    """A trial's parameters: why it ran, and its schedule."""
    spec = trial.spec
    return {"role": spec.role, "candidate": spec.candidate, "seed": spec.seed} | schedule_params(spec.schedule)


def schedule_params(schedule: Schedule) -> dict[str, Any]:
    """A schedule's parameters under the names it gives them, those of its shape and decay in the same line.

    >>> schedule_params(Schedule(peak=0.1, horizon=10, warmup_steps=2, shape="polynomial", decay="wsd"))
    {'peak': 0.1, 'horizon': 10, 'warmup_steps': 2, 'shape': 'polynomial', 'power': 2.0, 'decay': 'wsd', \
'cooldown': 0.2, 'final_factor': 0.0}
    """
    params = {
        "peak": schedule.peak,
        "horizon": schedule.horizon,
        "warmup_steps": schedule.duration,
        "shape": schedule.shape.kind,
        **schedule.shape.model_dump(exclude={"kind"}),
        "start_factor": schedule.start_factor,
        "decay": schedule.decay.kind,
        **schedule.decay.model_dump(exclude={"kind"}),
        "final_factor": schedule.final_factor,
    }
    return {key: value for key, value in params.items() if value is not None}


def trial_points(trial: StoredTrial, delivered: int) -> list[Metric]:
    """The metric values of a trial that are finite and not yet delivered.

    Args:
        trial: as the store has it.
        delivered: the last ``until`` whose report was sent. Of earlier reports, only the steps around
            instabilities come again: they may have been thinned out before the instability was known.
    """
    stride = math.ceil(trial.spec.schedule.horizon / MOST_POINTS)
    around = _around_instabilities(trial)
    points: list[Metric] = []
    for report in trial.segments:
        fresh = report.until > delivered
        if fresh or around:
            points += _step_points(report, stride if fresh else 0, around)
        if fresh:
            points += _evaluation_points(report)
    return points


def _around_instabilities(trial: StoredTrial) -> set[int]:
    found = [*trial.events, *([trial.instability] if trial.instability else [])]
    centres = {step for instability in found for step in (instability.step, instability.detected)}
    return {step for centre in centres for step in range(centre - AROUND, centre + AROUND + 1)}


def _step_points(report: SegmentResult, stride: int, around: set[int]) -> Iterator[Metric]:
    """Every ``stride``-th step (none for 0) and the last one, and those of ``around``."""
    trace = report.trace
    for index, step in enumerate(trace.steps.tolist()):
        regular = stride and (step % stride == 0 or step == trace.end - 1)
        if not regular and step not in around:
            continue
        when = _when(report, step + 1)
        for key, column in (
            ("learning_rate", trace.lr),
            ("loss", trace.loss),
            ("grad_norm", trace.grad_norm),
        ):
            if math.isfinite(column[index]):
                yield Metric(key, float(column[index]), when, step)


def _evaluation_points(report: SegmentResult) -> Iterator[Metric]:
    for evaluation in report.trace.evaluations:
        values = {"val_loss": evaluation.val_loss, "val_loss_ema": evaluation.val_loss_ema}
        values |= {metric_name(name): value for name, value in evaluation.metrics.items()}
        for key, value in values.items():
            if math.isfinite(value):
                yield Metric(key, value, _when(report, evaluation.step), evaluation.step)


def metric_name(name: str) -> str:
    """A validation metric's name in MLflow, which allows few characters.

    >>> metric_name("accuracy"), metric_name("top@5"), metric_name("val_f1")
    ('val_accuracy', 'val_top_5', 'val_f1')
    """
    return _key(name if name.startswith("val_") else f"val_{name}")


def _trial_summary(trial: StoredTrial) -> list[Metric]:
    values: dict[str, tuple[float, int]] = {}
    if trial.instability:
        found = trial.instability
        values["instability_step"] = found.step, found.step
        values["instability_lr"] = found.lr, found.step
        values["instability_severity"] = found.severity, found.step
    if (loss := _final_loss(trial)) is not None:
        values["final_val_loss"] = loss, trial.trace.end
    return [Metric(key, value, _milliseconds(_end(trial.segments[-1])), step) for key, (value, step) in values.items()]


def _trial_tags(trial: StoredTrial) -> dict[str, str]:
    tags: dict[str, str] = {"role": trial.spec.role}
    notes = [trial.spec.schedule.describe()]
    if trial.segments:
        tags[DELIVERED] = str(trial.segments[-1].until)
    if trial.outcome:
        tags["outcome"] = trial.outcome
    if spikes := sum(event.kind == "spike" for event in trial.events):
        tags["spikes"] = str(spikes)
    if trial.instability:
        tags["instability"] = trial.instability.kind
        notes.append(f"**{trial.instability.kind}**: {trial.instability.message[:NOTE_LENGTH]}")
    if trial.error:
        notes.append(f"```\n{trial.error[-NOTE_LENGTH:]}\n```")
    return tags | {NOTE: "\n\n".join(notes)}


def _final_loss(trial: StoredTrial) -> float | None:
    evaluations = trial.trace.evaluations
    if trial.outcome != "completed" or not evaluations or not math.isfinite(evaluations[-1].val_loss):
        return None
    return evaluations[-1].val_loss


def _trial_status(outcome: str | None, live: bool) -> str:
    return TRIAL_STATUS[outcome] if outcome else "RUNNING" if live else "KILLED"


# --- MLflow -----------------------------------------------------------------------------------------------


def _connect(uri: str) -> MlflowClient:
    path = sqlite_path(uri)
    if path and not path.exists():
        _create_sqlite(path)
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


def _artifacts(path: Path) -> str:
    return (path.parent / "mlartifacts").as_uri()


def _experiment(client: MlflowClient, uri: str) -> str:
    """The experiment's id. A server says itself where artifacts go; with SQLite they go beside its file."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        path = sqlite_path(uri)
        found = _create_experiment(client, _artifacts(path) if path else None)
    if found.lifecycle_stage != "active":
        raise TrackingError(f"the experiment {EXPERIMENT!r} was deleted: restore it, or remove it for good")
    return str(found.experiment_id)


def _create_experiment(client: MlflowClient, artifacts: str | None) -> Experiment:
    try:
        created = client.create_experiment(EXPERIMENT, artifacts, KIND)
    except MlflowException as error:
        raise TrackingError(f"the experiment {EXPERIMENT!r} can't be created: {error}") from error
    return client.get_experiment(created)


def _runs(client: MlflowClient, experiment: str, study: str) -> dict[str, Run]:
    """The study's runs by trial number, its own under "". Of two for the same, the fuller one stays."""
    runs: dict[str, Run] = {}
    for run in sorted(_search(client, experiment, study), key=_fullness, reverse=True):
        kept = runs.setdefault(run.data.tags.get(TRIAL, ""), run)
        if kept is not run:
            client.delete_run(run.info.run_id)
    return runs


def _search(client: MlflowClient, experiment: str, study: str) -> list[Run]:
    query, token = f"tags.`{STUDY}` = '{study}'", None
    found: list[Run] = []
    while True:
        page = client.search_runs([experiment], query, max_results=1000, page_token=token)
        found += page
        if not (token := page.token):
            return found


def _fullness(run: Run) -> tuple[int, int, str]:
    return int(run.data.tags.get(DELIVERED, 0)), len(run.data.tags), run.info.run_id


def _state(run: Run) -> State:
    tags = run.data.tags
    return State(int(tags.get(DELIVERED, 0)), tags.get("outcome", ""), run.info.status, tags.get(PARENT, ""))


def _key(name: str) -> str:
    return re.sub(r"[^\w. -]", "_", name, flags=re.ASCII)[:250]


def _missing(run: Run, params: dict[str, Any]) -> list[Param]:
    """Parameters that the run lacks, 90 at most. MLflow lets nobody change one."""
    first = islice(params.items(), 90)
    return [Param(key, str(value)[:500]) for key, value in first if key not in run.data.params]


def _changed(run: Run, tags: dict[str, str]) -> list[RunTag]:
    return [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]


def _set_status(client: MlflowClient, run: Run, status: str, ended: float) -> None:
    if status == "RUNNING":
        if run.info.status != status:
            client.update_run(run.info.run_id, status)
    elif (run.info.status, run.info.end_time) != (status, _milliseconds(ended)):
        client.set_terminated(run.info.run_id, status, _milliseconds(ended))


def _batches(points: Iterable[Metric]) -> Iterator[list[Metric]]:
    remaining = iter(points)
    while batch := list(islice(remaining, BATCH)):
        yield batch


# --- Time -------------------------------------------------------------------------------------------------


def _when(report: SegmentResult, steps_made: int) -> int:
    """When a step ended, in milliseconds, as if all steps of its segment took equally long."""
    share = (steps_made - report.trace.start) / len(report.trace) if len(report.trace) else 1.0
    return _milliseconds(report.started_at + share * report.seconds)


def _end(report: SegmentResult) -> float:
    return report.started_at + report.seconds


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000.0)


# --- The process ------------------------------------------------------------------------------------------


class _Progress:
    """How far the study is, without its traces; and whether that changed."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30.0, isolation_level=None)

    def version(self) -> int:
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def trials(self) -> list[tuple[int, Outcome | None, int]]:
        """Each trial's number, outcome (None while open) and last step reported (0 before the first)."""
        query = (
            "SELECT number, outcome, (SELECT coalesce(max(until), 0) FROM segments "
            "WHERE number = trials.number) FROM trials ORDER BY number"
        )
        return self._db.execute(query).fetchall()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _follow(syncer: Syncer, driver: int, report: Callable[[Delivery], None]) -> None:
    """Passes while the driver lives, then a last one."""
    seen, due, pause = -1, 0.0, 1.0
    driven, failed = True, False
    while driven:
        driven = not _stopped(driver)
        version = syncer.progress.version()
        if driven and (time.monotonic() < due or not (failed or version != seen)):
            continue
        began = time.monotonic()
        delivery = syncer.attempt(driven)
        report(delivery)
        seen, failed = version, delivery.error is not None
        ended = time.monotonic()
        pause = min(2.0 * pause, LONGEST_RETRY_S) if failed else 1.0
        due = ended + (pause if failed else min(REST * (ended - began), LONGEST_REST_S))


def _stopped(driver: int) -> bool:
    """Waits a moment for a word on standard input, its end or the driver's."""
    told, _, _ = select.select([sys.stdin], [], [], POLL_S)
    return bool(told) or os.getppid() != driver


def main() -> None:
    """``FOLDER [DRIVER]``: one pass, or passes for as long as the process DRIVER lives. The URI comes in
    ``MLFLOW_TRACKING_URI``; each pass's delivery goes to standard output as a line of JSON."""
    folder, uri = Path(sys.argv[1]), os.environ["MLFLOW_TRACKING_URI"]
    reports = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def report(delivery: Delivery) -> None:
        if delivery.error:
            sys.stderr.write(f"{time.strftime('%F %T')} {delivery.error}\n")
        with suppress(BrokenPipeError):
            os.write(reports, delivery.model_dump_json().encode() + b"\n")

    syncer = Syncer(folder, uri)
    if len(sys.argv) == 2:
        report(syncer.attempt(driven=is_locked(folder)))
    else:
        os.nice(10)
        _follow(syncer, int(sys.argv[2]), report)
