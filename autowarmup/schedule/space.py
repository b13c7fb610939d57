"""The search space: which schedules may be proposed. YAML in, schedules out."""

from __future__ import annotations

import errno
import math
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from autowarmup.errors import InputError, SpaceError
from autowarmup.schedule import plain_yaml
from autowarmup.schedule.decays import Decay
from autowarmup.schedule.group_ranges import GroupRanges, Suggests, drawn
from autowarmup.schedule.groups import Patterns
from autowarmup.schedule.ranges import (
    HIGHEST_RATE,
    LOWEST_RATE,
    Choices,
    DurationRange,
    Fixed,
    FixedDuration,
    PeakRange,
    Range,
)
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.shapes import Polynomial, Rule, Shape
from autowarmup.values import Frozen, explain, nearest, short

MAX_BYTES = 64 * 1024
"""The largest file that is read as a search space."""


def _kinds(union: Any) -> dict[str, type[Frozen]]:
    """The models of a discriminated union by their ``kind``."""
    return {model.model_fields["kind"].default: model for model in get_args(get_args(union)[0])}


SHAPES = tuple(_kinds(Shape))
"""Warm-up shapes by name."""
RULES = {name: shape for name, shape in _kinds(Shape).items() if issubclass(shape, Rule)}
"""Those whose duration follows from ``beta2``, by name."""
DECAYS = tuple(_kinds(Decay))
"""Decays by name."""

if TYPE_CHECKING:
    ShapeName: TypeAlias = str
    DecayName: TypeAlias = str
else:
    ShapeName, DecayName = Literal[SHAPES], Literal[DECAYS]


class SearchSpace(Frozen):
    """Which schedules may be proposed.

    Every setting is a range (``{low: 0.0, high: 0.1}``), a list of choices or a fixed value, which becomes a
    range from itself to itself. Parameters are conditional: a power is proposed for polynomial warm-ups only,
    a duration only where the shape has one, a final factor only where there is a decay.

    Args:
        description: what the space is for, in a sentence.
        shapes: warm-up shapes by name.
        warmup: range of durations.
        peak: range of peak learning rates, within 1e-12 to 1e6; left out, it is measured on the model.
        power: power of polynomial warm-ups, above 0, at most 10.
        start_factor: the first rate as a fraction of the peak, 0 to 1; left out, the curve starts one step
            in.
        decay: decay shapes by name.
        final_factor: the fraction of the peak that the decay ends at, 0 to 1.
        groups: what may differ between parameter groups; left out, one curve is for all.

    Raises:
        SpaceError: an unknown setting, a value of the wrong type or out of its range, or settings that contradict one
            another.

    Example:
        >>> space = SearchSpace(shapes=["linear", "cosine"], warmup={"low": "1%", "high": "20%"})
        >>> SearchSpace.load("default").decay
        ('cosine',)
    """

    refused_with: ClassVar = SpaceError

    description: str = ""
    shapes: Annotated[tuple[ShapeName, ...], Choices] = ("linear",)
    warmup: Annotated[DurationRange, FixedDuration] = DurationRange(low=0, high="30%")
    peak: Annotated[PeakRange, Fixed] | None = None
    power: Annotated[Range, Fixed] = Range(low=0.5, high=3.0, scale="log")
    start_factor: Annotated[Range, Fixed] | None = None
    decay: Annotated[tuple[DecayName, ...], Choices] = ("cosine",)
    final_factor: Annotated[Range, Fixed] = Range(low=0.0, high=0.0)
    groups: GroupRanges | None = Field(default=None, exclude_if=lambda groups: groups is None)

    @field_validator("start_factor", "final_factor")
    @classmethod
    def _fraction(cls, value: Range | None) -> Range | None:
        if value and not 0.0 <= value.low <= value.high <= 1.0:
            raise ValueError("must be within 0 to 1")
        return value

    @field_validator("peak")
    @classmethod
    def _peak(cls, value: PeakRange | None) -> PeakRange | None:
        if value and not LOWEST_RATE <= value.low <= value.high <= HIGHEST_RATE:
            raise ValueError(f"must be within {LOWEST_RATE:g} to {HIGHEST_RATE:g}")
        return value

    @field_validator("power")
    @classmethod
    def _power(cls, value: Range) -> Range:
        if not 0.0 < value.low <= value.high <= 10.0:
            raise ValueError("must be above 0 and at most 10")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if "exponential" in self.shapes and self.start_factor and self.start_factor.low == 0.0:
            raise ValueError("start_factor: an exponential warm-up can't start at 0; allowed: above 0, to 1")
        if "exponential" in self.decay and self.final_factor.low == 0.0:
            raise ValueError("final_factor: an exponential decay can't end at 0; allowed: above 0, to 1")
        return self

    @classmethod
    def load(cls, name: str | Path) -> Self:
        """A preset by its name, or a YAML file by its path (``.yaml`` or ``.yml``).

        Raises:
            SpaceError: no such preset or file, not a regular file, larger than 64 KiB, not YAML, or not a search space.
        """
        if not isinstance(name, str | Path):
            raise SpaceError(f"a search space is a preset's name or the path of a .yaml file, got {short(name)}")
        path = Path(name)
        if path.suffix not in {".yaml", ".yml"}:
            known = presets()
            if str(name) not in known:
                raise SpaceError(
                    f"no search space {short(str(name))}{nearest(str(name), known)}; allowed: a preset "
                    f"({', '.join(known)}) or the path of a .yaml file"
                )
            path = known[str(name)]
        try:
            with open(path, "rb", opener=_open_regular) as file:
                text = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:  # a ValueError: a path that no file can have
            reason = error.strerror if isinstance(error, OSError) else error
            raise SpaceError(f"can't read the search space {str(path)!r}: {reason}") from error
        return cls.parse(text, source=str(path))

    @classmethod
    def parse(cls, text: str | bytes, source: str = "search space") -> Self:
        """A search space from YAML text.

        Raises:
            SpaceError: larger than 64 KiB, not YAML, or not a search space; the message names the key, its
                value and what is allowed.
        """
        if not isinstance(text, str | bytes):
            raise SpaceError(f"{source} must be YAML text, got {short(text)}")
        if len(text) > MAX_BYTES:
            raise SpaceError(f"{source} is larger than {MAX_BYTES // 1024} KiB: not a search space")
        try:
            data = plain_yaml.load(text)
        except ValueError as error:
            raise SpaceError(f"{source} is not readable YAML: {error}") from error
        if not isinstance(data, dict):
            found = "nothing" if data is None else short(data)
            raise SpaceError(f"{source} must be a mapping such as 'shapes: [linear]', got {found}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise SpaceError(f"{source}: {explain(error, cls.model_fields)}") from error

    def check_fit(self, horizon: int, steps_per_epoch: int | None, beta2: float) -> None:
        """Checks that the space proposes valid schedules for a run.

        Args:
            horizon: optimizer steps of the run.
            steps_per_epoch: needed where durations are in epochs.
            beta2: the optimizer's, for the rules.

        Raises:
            InputError: a duration is in epochs, and ``steps_per_epoch`` is missing.
            SpaceError: the warm-ups don't fit into the horizon, or a rule isn't defined for ``beta2``.
        """
        self.warmup.steps(horizon, steps_per_epoch)
        for name in self.shapes:
            if name in RULES:
                try:
                    RULES[name](beta2=beta2)
                except InputError as error:
                    raise SpaceError(f"shapes: {name!r} can't be used with this optimizer: {error}") from error

    def suggest(
        self,
        trial: Suggests,
        peak: PeakRange,
        horizon: int,
        steps_per_epoch: int | None = None,
        beta2: float = 0.999,
        groups: Patterns | None = None,
    ) -> Schedule:
        """Asks an Optuna trial for each parameter that applies, and makes a schedule of them.

        Args:
            trial: an Optuna trial, or anything that suggests like one.
            peak: the peaks to search, as measured or as given.
            horizon: optimizer steps of the run.
            steps_per_epoch: needed where durations are in epochs.
            beta2: the optimizer's, for the rules.
            groups: the patterns of parameter groups by name, from the model's input to its output. Without them, or
                where the space has no ``groups``, schedules have none.
        """
        plan = self._suggest_plain(trial, peak, horizon, steps_per_epoch, beta2)
        if not groups or self.groups is None:
            return Schedule(**plan)
        return Schedule(**plan, groups=self.groups.suggest(trial, groups, horizon, plan.get("warmup_steps", 0)))

    def _suggest_plain(
        self, trial: Suggests, peak: PeakRange, horizon: int, steps_per_epoch: int | None, beta2: float
    ) -> dict[str, Any]:
        """The settings of a schedule without groups."""
        rate = trial.suggest_float("peak", peak.low, peak.high, log=True)
        plan: dict[str, Any] = {"peak": rate, "horizon": horizon}
        shape = _choose(trial, "shape", self.shapes)
        plan["decay"] = _choose(trial, "decay", self.decay)
        if plan["decay"] != "constant":
            plan["final_factor"] = drawn(trial, "final_factor", self.final_factor)
        if shape in RULES:
            return plan | {"shape": {"kind": shape, "beta2": beta2}}
        steps = 0 if shape == "none" else self._suggest_steps(trial, horizon, steps_per_epoch)
        if steps == 0:
            return plan
        settings = {"power": drawn(trial, "power", self.power)} if shape == "polynomial" else {}
        if self.start_factor:
            plan["start_factor"] = drawn(trial, "start_factor", self.start_factor)
        return plan | {"warmup_steps": steps, "shape": {"kind": shape, **settings}}

    def _suggest_steps(self, trial: Suggests, horizon: int, steps_per_epoch: int | None) -> int:
        low, high = self.warmup.steps(horizon, steps_per_epoch)
        if low == high:
            return low
        root = trial.suggest_float("warmup_steps_sqrt", math.sqrt(low), math.sqrt(high))
        return min(high, max(low, round(root**2)))

    def params_of(
        self, schedule: Schedule, steps_per_epoch: int | None = None, groups: Patterns | None = None
    ) -> dict[str, Any] | None:
        """The parameters that make this space propose ``schedule``; None where it never would.

        Near matches count: no warm-up as a duration of 0, the untuned linear rule as a linear warm-up, a
        start that was left out as the nearest one of the space. The peak's bounds and the rules' ``beta2``
        are not checked. ``groups`` are those of :meth:`suggest`.

        Example:
            >>> SearchSpace.load("default").params_of(Schedule(peak=0.1, horizon=100))
            {'peak': 0.1, 'shape': 'linear', 'warmup_steps_sqrt': 0.0}
        """
        shape = self._shape_for(schedule)
        if shape is None:
            return None
        parts = [self._decay_params(schedule)]
        if shape != "none" and shape not in RULES:
            parts.append(self._duration_params(schedule, steps_per_epoch))
            parts.append(self._ramp_params(schedule) if schedule.duration else {})
        parts.append(self._group_params(schedule, groups))
        params = {"peak": schedule.peak} | ({"shape": shape} if len(self.shapes) > 1 else {})
        for part in parts:
            if part is None:
                return None
            params |= part
        return params

    def _shape_for(self, schedule: Schedule) -> str | None:
        """The shape of this space that ``schedule`` is an instance of."""
        shape = schedule.shape.kind
        if shape in self.shapes:
            return shape
        if shape == "untuned-linear" and "linear" in self.shapes:
            return "linear"
        if shape == "none":
            return next((name for name in self.shapes if name not in RULES), None)
        return None

    def _decay_params(self, schedule: Schedule) -> dict[str, Any] | None:
        decay = schedule.decay
        if decay.kind not in self.decay or decay != type(decay)():
            return None
        params = {"decay": decay.kind} if len(self.decay) > 1 else {}
        if decay.kind == "constant":
            return params
        final = _chosen("final_factor", self.final_factor, schedule.final_factor)
        return None if final is None else params | final

    def _group_params(self, schedule: Schedule, groups: Patterns | None) -> dict[str, Any] | None:
        if not groups or self.groups is None:
            return None if schedule.groups else {}
        return self.groups.params_of(schedule.groups, schedule.horizon, schedule.warmup_steps)

    def _duration_params(self, schedule: Schedule, steps_per_epoch: int | None) -> dict[str, Any] | None:
        low, high = self.warmup.steps(schedule.horizon, steps_per_epoch)
        if not low <= schedule.duration <= high:
            return None
        return {"warmup_steps_sqrt": math.sqrt(schedule.duration)} if low < high else {}

    def _ramp_params(self, schedule: Schedule) -> dict[str, Any] | None:
        shape, start = schedule.shape, schedule.start_factor
        power = _chosen("power", self.power, shape.power) if isinstance(shape, Polynomial) else {}
        if self.start_factor is None:
            return power if start is None else None
        if start is None:
            start = min(self.start_factor.high, max(self.start_factor.low, schedule.lr_at(0) / schedule.peak))
        first = _chosen("start_factor", self.start_factor, start)
        return None if power is None or first is None else power | first


def presets() -> dict[str, Path]:
    """The presets that come with autowarmup, by name."""
    package = Path(__file__).parents[1]
    folder = next(path for path in (package / "search_spaces", package.parent / "search_spaces") if path.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _open_regular(path: str, flags: int) -> int:
    """Opens a file, but no FIFO, which would block, and no device, which may have no end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind):  # open() itself refuses a folder
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file")


def _choose(trial: Suggests, name: str, choices: tuple[str, ...]) -> str:
    return choices[0] if len(choices) == 1 else str(trial.suggest_categorical(name, list(choices)))


def _chosen(name: str, bounds: Range, value: float) -> dict[str, float] | None:
    """The inverse of :func:`drawn`: the parameter behind ``value``, None where it is out of bounds."""
    if not bounds.low <= value <= bounds.high:
        return None
    return {} if bounds.low == bounds.high else {name: value}
