"""The check of :func:`autowarmup.autotune`'s arguments by type and range, before anything is made.

Model, data, loss, optimizer, metrics and training loop are checked by their task, which tries them out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, InstanceOf, model_validator

from autowarmup.engines.settings import RaySettings
from autowarmup.errors import InputError, SpaceError
from autowarmup.instability.monitor import Detectors
from autowarmup.schedule.duration import Duration, budget_steps, duration_steps, parse_duration
from autowarmup.schedule.groups import Patterns
from autowarmup.schedule.ranges import HIGHEST_RATE, LOWEST_RATE, Rate
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.shapes import Beta2
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.config import MAX_STEPS, MIN_STEPS, MOST_BUDGET, Cohort, ConfirmSeeds, Margin, Mode, Seed
from autowarmup.study.folder import check_folder
from autowarmup.study.progress import Progress
from autowarmup.tracking import check_uri
from autowarmup.training.settings import TrainSettings
from autowarmup.values import Number, Whole, short

OPTIMIZER = "optimizer"
"""What ``groups`` is for the optimizer's own."""
FEWEST_GROUPS = 2
COMPARING = ("tune_steps", "groups", "confirm_seeds", "margin", "cohort", "service")
"""Arguments of studies that compare schedules."""


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


def _budget(value: Any) -> Any:
    """Optimizer steps, or whole runs."""
    if value is None:
        return None
    steps = budget_steps(value, horizon=MIN_STEPS)
    if not 1 <= steps <= MOST_BUDGET:
        raise ValueError(f"must be 1 to {MOST_BUDGET:,} optimizer steps, or runs such as '6 runs'")
    return value if isinstance(value, str) else steps


def _current(value: Any) -> Any:
    """A schedule, or a dict of a schedule's settings, which may lack some; see :func:`current_schedule`."""
    if value is None or isinstance(value, Schedule):
        return value
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError("must be an autowarmup.Schedule, or a dict of its settings")
    peak = value.get("peak", LOWEST_RATE)
    if isinstance(peak, bool) or not isinstance(peak, Real) or not LOWEST_RATE <= float(peak) <= HIGHEST_RATE:
        raise ValueError(f"its peak must be a learning rate, {LOWEST_RATE:g} to {HIGHEST_RATE:g}")
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


def _groups(value: Any) -> Any:
    """Patterns by name, or ``"optimizer"``."""
    if value is None or value == OPTIMIZER:
        return value
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name for name in value):
        raise ValueError(
            f"must be patterns of parameter names by the group's name, from the model's input to its output, such as "
            f"{{'backbone': 'encoder.*', 'head': 'classifier.*'}}, or {OPTIMIZER!r} for the optimizer's own groups"
        )
    if len(value) < FEWEST_GROUPS:
        raise ValueError("must be two groups at least: one group is all parameters")
    found = {name: [given] if isinstance(given, str) else given for name, given in value.items()}
    for name, patterns in found.items():
        if not isinstance(patterns, list | tuple) or not patterns or not all(isinstance(one, str) for one in patterns):
            raise ValueError(f"group {name!r} must have a pattern such as 'encoder.*', or a list of them")
    return {name: list(patterns) for name, patterns in found.items()}


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

    mode: Mode = "study"
    total_steps: Annotated[Duration, BeforeValidator(_length), BeforeValidator(_no_share)]
    tune_steps: Annotated[Duration, BeforeValidator(_length)] | None = None
    space: SearchSpace
    budget: Annotated[int | str | None, BeforeValidator(_budget)] = None
    seed: Seed = 0
    current: Annotated[Any, BeforeValidator(_current)] = None
    groups: Annotated[Any, BeforeValidator(_groups)] = None
    current_peak: Rate | None = None
    beta2: Beta2 | None = None
    steps_per_epoch: Annotated[Whole, Field(ge=1, le=MAX_STEPS)] | None = None
    confirm_seeds: ConfirmSeeds = 4
    margin: Margin = 0.005
    cohort: Cohort | None = None
    trivial_loss: Number | None = None
    objective: Annotated[str, Field(min_length=1, max_length=200)] = "loss"
    direction: Literal["minimize", "maximize"] | None = None
    detectors: InstanceOf[Detectors] | None = None
    study: Annotated[Path | None, BeforeValidator(_folder)] = None
    mlflow: Annotated[str | Literal[False] | None, BeforeValidator(_tracking)] = None
    progress: Annotated[Any, BeforeValidator(_progress)] = None
    engine: Annotated[Literal["local", "ray"] | RaySettings, BeforeValidator(_engine)] = Field(default="local")
    service: str | None = None
    service_token: Any = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.service is None:
            if self.service_token is not None:
                raise ValueError("service_token is given without service, the address that it is for")
        elif self.engine != "local":
            raise ValueError("engine can't be given with service: trials run where the service's workers are")
        elif self.mlflow:
            raise ValueError("mlflow can't be given with service: the service tracks its studies")
        return self

    @model_validator(mode="after")
    def _one_run(self) -> Self:
        odd = [name for name in COMPARING if getattr(self, name) != type(self).model_fields[name].default]
        if self.mode == "one-run" and odd:
            raise ValueError(
                f"{', '.join(odd)} can't be given with mode='one-run', which trains one run and compares nothing"
            )
        return self

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


def patterns_of(given: Arguments) -> dict[str, list[str]] | None:
    """The groups of a study with a training loop of the user's own.

    Raises:
        InputError: they are said to be the optimizer's, which only the loop knows.
    """
    if given.groups == OPTIMIZER:
        raise InputError(
            "groups='optimizer' can't be given with train_fn, whose optimizer isn't known: name the groups, with "
            "patterns of their parameters' names"
        )
    patterns: dict[str, list[str]] | None = given.groups
    return patterns


def current_schedule(
    given: Schedule | dict[str, Any] | None,
    total_steps: int,
    peak: float,
    space: SearchSpace,
    epoch: int | None,
    groups: Patterns | None = None,
) -> Schedule | None:
    """The schedule that is used today, from what :func:`autowarmup.autotune` takes for one.

    Args:
        given: the schedule; or a dict of its settings, ``warmup_steps`` also as ``"10%"`` or ``"2 epochs"``; None where
            it wasn't given.
        total_steps: optimizer steps of the run; the horizon of a dict that has none.
        peak: the learning rate that is used today; the peak of a dict that has none.
        space: its first decay is that of a dict that has none.
        epoch: optimizer steps of an epoch, None where that is unknown.
        groups: the study's groups; a schedule's groups get their patterns from here.

    Raises:
        InputError: the dict doesn't make a schedule.

    Example:
        >>> space = SearchSpace.load("default")
        >>> current_schedule({"warmup_steps": "10%", "shape": "linear"}, 1_000, 3e-4, space, None).describe()
        'peak 0.0003, linear warm-up over 100 steps (10%), cosine decay to 0 at step 1,000'
    """
    if given is None or isinstance(given, Schedule):
        return given and _with_patterns(given, groups or {})
    usual: dict[str, Any] = {"peak": peak, "horizon": total_steps}
    if "decay" not in given:
        usual |= {"decay": space.decay[0], "final_factor": space.final_factor.low}
    settings = usual | given
    try:
        if "warmup_steps" in given:
            settings["warmup_steps"] = duration_steps(given["warmup_steps"], total_steps, epoch)
        return _with_patterns(Schedule(**settings), groups or {})
    except InputError as error:
        raise InputError(f"current: {error}") from error


def _with_patterns(schedule: Schedule, groups: Patterns) -> Schedule:
    """The schedule whose groups have the study's patterns."""
    named = [
        group.model_copy(update={"parameters": tuple(groups.get(group.name, group.parameters))})
        for group in schedule.groups
    ]
    return schedule.model_copy(update={"groups": tuple(named)})
