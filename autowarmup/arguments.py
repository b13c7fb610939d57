"""The check of :func:`autowarmup.autotune`'s arguments by type and range, before anything is made.

Model, data, loss, optimizer, metrics and training loop are checked by their task, which tries them out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, InstanceOf

from autowarmup.engines.settings import RaySettings
from autowarmup.errors import SpaceError
from autowarmup.instability.monitor import Detectors
from autowarmup.schedule.duration import Duration, parse_duration
from autowarmup.schedule.ranges import Rate
from autowarmup.schedule.shapes import Beta2
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.config import MAX_STEPS, MIN_STEPS, Budget, Cohort, ConfirmSeeds, Seed
from autowarmup.study.folder import check_folder
from autowarmup.study.progress import Progress
from autowarmup.tracking import check_uri
from autowarmup.training.settings import TrainSettings
from autowarmup.values import Whole, short


def _length(value: Any) -> Any:
    """The length of a run: optimizer steps, epochs, or for ``tune_steps`` a share of ``total_steps``."""
    amount, unit = parse_duration(value)
    if unit == "step" and not MIN_STEPS <= amount <= MAX_STEPS:
        raise ValueError(f"must be {MIN_STEPS} to {MAX_STEPS:,} optimizer steps")
    if amount == 0:
        raise ValueError("must be above 0")
    return value


def _no_share(value: Any) -> Any:
    if parse_duration(value)[1] == "%":
        raise ValueError("must be steps, or epochs such as '5 epochs', not a share")
    return value


def _text(value: str) -> str:
    """Text that a file system, a database and JSON can hold."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds bytes that are not UTF-8") from None
    if "\0" in value:
        raise ValueError("holds a NUL")
    return value


def _folder(value: Any) -> Path | None:
    """The study's folder."""
    if value is None:
        return None
    if not isinstance(value, str | Path):
        raise ValueError("must be the path of a folder")
    text = _text(str(value))
    if not text:
        raise ValueError("must name a folder")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise ValueError("must be a folder on this machine, not a URL")
    check_folder(Path(text))
    return Path(text)


def _tracking(value: Any) -> Any:
    """A tracking URI, ``False`` or ``None``. The messages begin with "tracking URI": they never show a password."""
    if value is None or value is False:
        return value
    if not isinstance(value, str) or not value:
        raise ValueError("must be a tracking URI such as 'http://host:5000', or False for none")
    try:
        _text(value)
    except ValueError as error:
        raise ValueError(f"tracking URI {error}") from None
    check_uri(value)
    return value


def _progress(value: Any) -> Any:
    if value is None or isinstance(value, bool) or (isinstance(value, Progress) and not isinstance(value, type)):
        return value
    raise ValueError("must be True, False or an autowarmup.study.progress.Progress")


def _engine(value: Any) -> Any:
    if isinstance(value, RaySettings) or (isinstance(value, str) and value in ("local", "ray")):
        return value
    raise ValueError('must be "local", "ray" or a RaySettings')


class Arguments(TrainSettings):
    """The arguments of :func:`autowarmup.autotune` that are settings, checked.

    Raises:
        InputError: one is of the wrong type or out of its range; the message names it, its value and what is allowed.
        StudyError: the study's folder holds other things.
    """

    total_steps: Annotated[Duration, BeforeValidator(_length), BeforeValidator(_no_share)]
    tune_steps: Annotated[Duration, BeforeValidator(_length)] | None = None
    space: SearchSpace
    budget: Budget | None = None
    seed: Seed = 0
    current_peak: Rate | None = None
    beta2: Beta2 | None = None
    steps_per_epoch: Annotated[Whole, Field(ge=1, le=MAX_STEPS)] | None = None
    confirm_seeds: ConfirmSeeds = 3
    cohort: Cohort = 1
    detectors: InstanceOf[Detectors] | None = None
    study: Annotated[Path | None, BeforeValidator(_folder)] = None
    mlflow: Annotated[str | Literal[False] | None, BeforeValidator(_tracking)] = None
    progress: Annotated[Any, BeforeValidator(_progress)] = None
    engine: Annotated[Literal["local", "ray"] | RaySettings, BeforeValidator(_engine)] = Field(default="local")

    @property
    def training(self) -> TrainSettings:
        """The settings of the training alone."""
        return TrainSettings(**{name: getattr(self, name) for name in TrainSettings.model_fields})


def loaded_space(space: Any) -> Any:
    """A search space from what :func:`autowarmup.autotune` takes for one; a mapping comes back as it is.

    Raises:
        SpaceError: it is none of these, or can't be loaded.
    """
    if isinstance(space, str | Path):
        return SearchSpace.load(space)
    if isinstance(space, SearchSpace | dict):
        return space
    raise SpaceError(
        f"space: must be a preset's name, the path of a .yaml file, a SearchSpace or a dict of its settings, "
        f"got {short(space)}"
    )
