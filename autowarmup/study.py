"""The study: carries out a search's decisions, keeps everything in its folder, and concludes.

The driver below is the only writer. Each decision is looked up in the store before it is carried out, so a study that
was killed takes its decisions again, finds most of them done, and goes on where it stopped.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from autowarmup.config import TuneConfig
from autowarmup.engines.base import Engine, Segment, Watch
from autowarmup.errors import StudyError, StudyLockedError, StudyMismatchError
from autowarmup.progress import Progress
from autowarmup.report import write_report
from autowarmup.result import TrialRecord, TuneResult
from autowarmup.search import Conclusion, Finish, Run, Search
from autowarmup.store import Report, StudyStore, TrialSpec
from autowarmup.trace import Trace
from autowarmup.tracking import Mirror


def conduct(config: TuneConfig, folder: Path, engine: Engine, progress: Progress, mlflow: str | None) -> TuneResult:
    """Runs the study in ``folder``, from its start or from where it was left, to its end.

    Args:
        config: what the study does.
        folder: where it lives; made if missing.
        engine: where its trials run.
        progress: told what happens.
        mlflow: tracking URI of the MLflow that mirrors it; None for none.

    Raises:
        StudyMismatchError: the folder holds a study of another configuration.
        StudyLockedError: another process is working on it.
        StudyError: the folder can't be written.
        TaskFailedError: the first trials all failed in the same way.
    """
    with _locked(folder):
        store = StudyStore(folder, write=True)
        try:
            _enter(store, config, mlflow)
            progress.started(config, folder)
            with _mirrored(store, mlflow, progress):
                conclusion = _carry_out(Search(config), store, engine, progress)
                progress.doing("writing the report")
                return _conclude(store, config, conclusion)
        finally:
            engine.close()
            store.close()
            progress.close()


def _carry_out(search: Search, store: StudyStore, engine: Engine, progress: Progress) -> Conclusion:
    """Takes the search's decisions one by one; what the store has already is not done again."""
    config = search.config
    watch = Watch(config.detectors, config.eval_every, config.trivial_loss)
    traces: dict[int, Trace] = {}
    decisions = search.decisions()
    try:
        decision = next(decisions)
        while True:
            answer: list[Report] = []
            match decision:
                case Finish(number, outcome):
                    store.finish(number, outcome)
                    engine.release(number)
                    traces.pop(number, None)
                    progress.finished(number, outcome)
                case Run(segments):
                    answer = _run(segments, traces, store, engine, watch, progress)
            decision = decisions.send(answer)
    except StopIteration as stop:
        conclusion: Conclusion = stop.value
        return conclusion


def _run(
    segments: tuple[tuple[TrialSpec, int], ...],
    traces: dict[int, Trace],
    store: StudyStore,
    engine: Engine,
    watch: Watch,
    progress: Progress,
) -> list[Report]:
    """The segments' reports, in their order: from the store, or else from the engine."""
    reports: dict[int, Report] = {}
    missing = []
    for spec, until in segments:
        store.add_trial(spec)
        known = store.report(spec.number, until)
        if known is not None:
            reports[spec.number] = known
            progress.replayed(spec, known)
        else:
            missing.append(Segment(spec, until, traces.get(spec.number, Trace.empty())))
    for report in engine.run(missing, watch, progress.observe):
        progress.reported(report)
        store.add_report(report)
        reports[report.number] = report
    for number, report in reports.items():
        traces[number] = Trace.join([traces.get(number, Trace.empty()), report.trace])
    return [reports[spec.number] for spec, _ in segments]


def _conclude(store: StudyStore, config: TuneConfig, conclusion: Conclusion) -> TuneResult:
    """The result, and its files in the study's folder."""
    trials = store.trials()
    result = TuneResult(
        verdict=conclusion.verdict,
        records=tuple(TrialRecord.of(trial) for trial in trials),
        peak_range=conclusion.peak_range,
        config=config,
        study=str(store.folder.absolute()),
    )
    result.save(store.folder / "result.json")
    if result.schedule is not None:
        (store.folder / "schedule.json").write_text(result.schedule.model_dump_json(indent=1), encoding="utf-8")
    store.set_meta("verdict", conclusion.verdict.model_dump(mode="json"))
    write_report(result, {trial.spec.number: trial.trace for trial in trials}, store.folder)
    return result


def _enter(store: StudyStore, config: TuneConfig, mlflow: str | None) -> None:
    """Makes the folder this configuration's study, or checks that it is."""
    wanted = json.loads(config.model_dump_json())
    known = store.meta("config")
    if known is None:
        store.set_meta("id", uuid.uuid4().hex)
        store.set_meta("name", store.folder.absolute().name)
        store.set_meta("created_at", time.time())
        store.set_meta("config", wanted)
    elif known != wanted:
        raise StudyMismatchError(
            f"{store.folder} holds a study of another configuration: {_difference(known, wanted)}. "
            f"Choose another folder, or call with the same arguments to go on with it"
        )
    store.set_meta("mlflow", mlflow)


def _difference(known: dict[str, object], wanted: dict[str, object], prefix: str = "") -> str:
    """The settings that differ, as ``name: there X, here Y``."""
    parts = []
    for key in sorted({*known, *wanted}):
        old, new = known.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            parts.append(_difference(old, new, f"{prefix}{key}."))
        elif old != new:
            parts.append(f"{prefix}{key}: there {_short(old)}, here {_short(new)}")
    return "; ".join(parts)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer: the lock goes with the process that holds it, however that ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "study.lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise StudyLockedError(f"another process is working on the study in {folder}") from error
    except OSError as error:
        raise StudyError(f"can't write the study folder {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _mirrored(store: StudyStore, mlflow: str | None, progress: Progress) -> Iterator[None]:
    """MLflow follows while the study runs; the study's status says how it ended."""
    store.set_meta("status", "running")
    mirror = Mirror(store.folder, mlflow) if mlflow else None
    status = "failed"
    try:
        yield
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        store.set_meta("status", status)
        if mirror is not None:
            progress.doing("waiting for MLflow")
            progress.delivered(mirror.close())
