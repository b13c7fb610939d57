"""The study: carries out a search's decisions, keeps everything in its folder, and concludes.

The driver below is the only writer. A study that was killed takes its decisions again, is answered from the store, and
goes on where it stopped; see :mod:`autowarmup.study.execution`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from autowarmup.engines.base import Engine
from autowarmup.errors import StudyError, StudyMismatchError, TaskFailedError
from autowarmup.search.config import TuneConfig
from autowarmup.search.one_run import OneRun
from autowarmup.search.search import Search
from autowarmup.study.exchanges import gain_of
from autowarmup.study.execution import carry_out
from autowarmup.study.folder import check_folder, write_file
from autowarmup.study.lock import locked
from autowarmup.study.progress import Progress, warning_of_failure
from autowarmup.study.result import TrialRecord, TuneResult
from autowarmup.study.store import StudyStore


@contextmanager
def opened_study(
    folder: Path, config: TuneConfig, mlflow: str | None, service: str | None = None
) -> Iterator[StudyStore]:
    """The store of the study in ``folder``, to write to. The study's status says how it ended.

    Args:
        folder: where the study is; made if missing.
        config: what the study does.
        mlflow: where it is mirrored, without passwords; None for nowhere.
        service: the address of the service that conducts it; None where it is conducted here.

    Raises:
        StudyMismatchError: the folder holds a study of another configuration, or one that is conducted elsewhere.
        StudyLockedError: another process is working on it.
        StudyError: the folder can't be written, or holds other things.
    """
    check_folder(folder)
    with locked(folder), closing(StudyStore(folder, write=True)) as store:
        _check_place(store, service)
        _enter(store, config, mlflow)
        store.set_meta("service", service)
        store.set_meta("status", "running")
        store.set_meta("failure", None)
        status = "failed"
        try:
            yield store
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except TaskFailedError as error:
            store.set_meta("failure", str(error))
            raise
        finally:
            with suppress(StudyError):  # a full disk: that has been told, and must not hide the verdict or the error
                store.set_meta("status", status)


def conduct(store: StudyStore, config: TuneConfig, engine: Engine, progress: Progress) -> TuneResult:
    """Runs the study, from its start or from where it was left, to its verdict.

    Args:
        store: the study's store, open for writing.
        config: what the study does.
        engine: where its trials run.
        progress: told what happens.

    Raises:
        TaskFailedError: trials failed in a way that no schedule explains. Their last segments are not kept: the next
            call runs them again.
    """
    search = OneRun(config) if config.mode == "one-run" else Search(config, slots=_slots_at_start(store, engine))
    store.set_meta("budget", search.budget)
    progress.started(config, store.folder, search.budget)
    finished_at, stored = store.meta("finished_at"), store.segment_count()
    conclusion = carry_out(search.decisions(), store, engine, progress)
    trials = list(store.trials())
    result = TuneResult(
        verdict=conclusion.verdict,
        records=tuple(TrialRecord.of(trial) for trial in trials),
        peak_range=conclusion.peak_range,
        config=config,
        budget=search.budget,
        study=str(store.folder.absolute()),
    )
    gain = gain_of(result, {trial.spec.number: trial.trace for trial in trials})
    result = result.model_copy(update={"gain": gain})
    if finished_at is not None and store.segment_count() == stored:
        progress.nothing_trained(store.folder, finished_at)
    else:
        finished_at = time.time()
    progress.concluded(result)
    keep(result, store, finished_at, progress)
    return result


def _slots_at_start(store: StudyStore, engine: Engine) -> int:
    """How many trials could run at once when the study began; the engine is asked only then."""
    if store.meta("slots") is None:
        store.set_meta("slots", engine.slots())
    return int(store.meta("slots"))


def keep(result: TuneResult, store: StudyStore, finished_at: float, progress: Progress) -> None:
    """Writes the result to the study's folder. The verdict is known by now: what can't be written is a warning.

    Args:
        result: what the study found.
        store: the study's store, open for writing.
        finished_at: when, in seconds since the Unix epoch.
        progress: gets the warnings.
    """
    schedule, extrapolation = result.schedule, result.extrapolation
    with warning_of_failure(f"the verdict, to {store.path},", progress):
        store.set_meta("schedule", None if schedule is None else schedule.model_dump(mode="json"))
        store.set_meta("extrapolation", extrapolation and extrapolation.describe())
        store.set_meta("finished_at", finished_at)
        store.set_meta("verdict", result.verdict.model_dump(mode="json"))
    path = store.folder / "result.json"
    with warning_of_failure(str(path), progress):
        result.save(path)
    path = store.folder / "schedule.json"
    if schedule is not None:
        with warning_of_failure(str(path), progress):
            write_file(path, schedule.model_dump_json(indent=1))


def _enter(store: StudyStore, config: TuneConfig, mlflow: str | None) -> None:
    """Makes the folder this configuration's study, or checks that it is. A study that stopped because the task's code
    failed may go on with other code: that is how it is mended."""
    wanted = json.loads(config.model_dump_json())
    known = store.meta("config")
    if known is None:
        store.set_meta("id", uuid.uuid4().hex)
        store.set_meta("name", store.folder.absolute().name)
        store.set_meta("created_at", time.time())
    elif known != wanted and not (store.meta("failure") and _without_code(known) == _without_code(wanted)):
        raise StudyMismatchError(
            f"{store.folder} holds a study of another configuration: {_difference(known, wanted)}. "
            f"Choose another folder, or call with the same arguments to go on with it"
        )
    store.set_meta("config", wanted)
    store.set_meta("mlflow", mlflow)


def _check_place(store: StudyStore, service: str | None) -> None:
    """Checks that a study goes on where it was begun: here, or on a service."""
    known = store.meta("service")
    if known != service and store.meta("config") is not None:
        there, here = (f"by the service at {one}" if one else "without a service" for one in (known, service))
        raise StudyMismatchError(
            f"{store.folder} holds a study that is conducted {there}, and can't go on {here}: choose another folder"
        )


def _without_code(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"task": {key: value for key, value in config["task"].items() if key != "code"}}


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
