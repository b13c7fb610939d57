"""A study's trials in an Optuna storage, where optuna-dashboard shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from autowarmup.errors import InputError, StudyError
from autowarmup.schedule.ranges import PeakRange
from autowarmup.search.config import TuneConfig
from autowarmup.study.optuna_study import frozen_trials
from autowarmup.study.store import StoredTrial, StudyStore
from autowarmup.values import nearest, short

DATABASES = ("sqlite", "postgresql", "mysql")
"""What a storage may be."""

OWNER = "autowarmup.study"
"""The attribute of an Optuna study that has the id of ours."""


@dataclass(frozen=True)
class Written:
    """What was written.

    Args:
        name: of the Optuna study.
        added: trials that were added.
        known: trials that were there before.
        open: trials that haven't ended, and are left out.
    """

    name: str
    added: int
    known: int
    open: int


def write_optuna(folder: str | Path, storage: str, name: str | None = None) -> Written:
    """Writes a study's trials into an Optuna storage. Those that were written before are left as they are, so it can be
    repeated while the study grows.

    All trials that have ended are written: proposals and the current schedule as
    :func:`autowarmup.study.optuna_study.optuna_study` says, runs on fresh seeds likewise, and the probe without
    parameters. The attributes ``role``, ``seed``, ``outcome``, ``severity`` and ``schedule`` tell them apart.

    Args:
        folder: the study's folder.
        storage: the URL of a database, such as ``sqlite:///optuna.db``.
        name: what the study is called there; left out, the study's own name.

    Raises:
        StudyError: the folder holds no study.
        InputError: the URL or the database can't be used, or holds another study of this name.
    """
    shown = _checked(storage)
    with closing(StudyStore(Path(folder))) as store:
        identity, stored = str(store.meta("id")), store.meta("config")
        if stored is None:
            raise StudyError(f"{folder} holds a study that hasn't begun: there is nothing to write")
        config, trials = TuneConfig.model_validate(stored), store.trials()
        name = name or str(store.meta("name"))
    with _told(shown):
        study = _study(storage, name, identity, config, shown)
        known = {trial.user_attrs.get("number") for trial in study.get_trials(deepcopy=False)}
        ended = frozen_trials(config, _peaks(config, trials), trials)
        new = [trial for trial in ended if trial.user_attrs["number"] not in known]
        study.add_trials(new)
    return Written(name, len(new), len(ended) - len(new), len(trials) - len(ended))


def _study(storage: str, name: str, identity: str, config: TuneConfig, shown: str) -> optuna.Study:
    """The Optuna study of this name, made where there is none."""
    names = optuna.get_all_study_names(storage)
    if name not in names:
        study = optuna.create_study(study_name=name, storage=storage, direction=config.objective.direction)
        study.set_user_attr(OWNER, identity)
        return study
    study = optuna.load_study(study_name=name, storage=storage)
    if study.user_attrs.get(OWNER) != identity:
        raise InputError(f"{shown} has another study of the name {name!r} already: give this one another with --name")
    return study


def _peaks(config: TuneConfig, trials: Sequence[StoredTrial]) -> PeakRange:
    """The range of the peaks: the space's, else that of the trials."""
    if config.space.peak is not None:
        return config.space.peak
    peaks = [trial.spec.schedule.peak for trial in trials if trial.spec.role != "probe"]
    return PeakRange(low=min(peaks, default=config.current_peak), high=max(peaks, default=config.current_peak))


def _checked(storage: str) -> str:
    """The URL without its password."""
    try:
        url = make_url(storage)
        backend = url.get_backend_name()
    except SQLAlchemyError:
        allowed = ", ".join(f"{database}://..." for database in DATABASES)
        raise InputError(
            f"storage={short(storage)} is not a database URL; allowed: {allowed}, such as sqlite:///optuna.db"
        ) from None
    if backend not in DATABASES:
        raise InputError(
            f"storage: {backend}{nearest(backend, DATABASES)} is not a database that Optuna can use; allowed: "
            f"{', '.join(DATABASES)}"
        )
    return url.render_as_string(hide_password=True)


@contextmanager
def _told(shown: str) -> Iterator[None]:
    """What goes wrong with a database as an error for people, and Optuna's own lines left out."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    except (SQLAlchemyError, ImportError, RuntimeError, optuna.exceptions.OptunaError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise InputError(f"the Optuna storage {shown} can't be used: {reason}") from error
    finally:
        optuna.logging.set_verbosity(before)
