"""Parameter groups of a schedule: what each has of its own, as pure arithmetic, and which parameters are in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Protocol, Self

from pydantic import BeforeValidator, Field, field_validator

from autowarmup.errors import InputError
from autowarmup.schedule import shapes
from autowarmup.schedule.decays import Decay
from autowarmup.schedule.shapes import Exponential, NoWarmup, Rule, Shape
from autowarmup.values import Frozen, Number, Whole, nearest, short

Patterns = Mapping[str, Sequence[str]]
"""The patterns of each group's parameter names, by the group's name, from the model's input to its output."""

Name = Annotated[str, Field(min_length=1, max_length=100)]


def _patterns(value: Any) -> Any:
    """A single pattern is a list of one."""
    return [value] if isinstance(value, str) else value


class Plan(shapes.Plan, Protocol):
    """The schedule that groups belong to."""

    @property
    def peak(self) -> float: ...

    @property
    def shape(self) -> Shape: ...

    @property
    def decay(self) -> Decay: ...

    def lr_at(self, step: int) -> float: ...


@dataclass(frozen=True)
class Warmup:
    """A group's warm-up: what its shape is computed from."""

    shape: Shape
    warmup_steps: int
    start_factor: float | None
    horizon: int
    final_factor: float = 0.0
    duration: int = 0

    def share(self, step: int) -> float:
        """The share of the peak at a step, counted from the step where the group starts."""
        return self.shape.share(step, self)


class ParameterGroup(Frozen):
    """What a group of parameters has of its own in a schedule: the peak's ratio, the warm-up, and how long it stays
    frozen. What is left out is the schedule's.

    Args:
        name: the group's name, that of the optimizer's parameter groups.
        parameters: patterns of its parameters' names, such as ``"encoder.*"``, one or a list; they are needed where the
            group is looked for in a model.
        ratio: its learning rate as a share of the schedule's, above 0 to 1.
        warmup_steps: its own warm-up's duration, >= 1.
        shape: its own warm-up's curve, by name or with its settings; ``"none"`` for no warm-up.
        frozen_steps: steps before it starts, 0 to the horizon. Its warm-up begins then.

    Raises:
        InputError: a value of the wrong type or out of its range.

    Example:
        >>> ParameterGroup(name="backbone", parameters="encoder.*", ratio=0.1).parameters
        ('encoder.*',)
    """

    name: Name
    parameters: Annotated[tuple[Name, ...], BeforeValidator(_patterns)] = ()
    ratio: Number = Field(default=1.0, gt=0.0, le=1.0)
    warmup_steps: Whole | None = Field(default=None, ge=1)
    shape: Shape | None = None
    frozen_steps: Whole = Field(default=0, ge=0)

    @field_validator("shape", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @property
    def is_plain(self) -> bool:
        """Whether it differs from the schedule in its ratio at most."""
        return self.warmup_steps is None and self.shape is None and not self.frozen_steps

    def warmup(self, plan: Plan) -> Warmup:
        """Its warm-up in a schedule: its own where it has one, or else the schedule's."""
        shape = plan.shape if self.shape is None else self.shape
        steps = plan.warmup_steps if self.warmup_steps is None else self.warmup_steps
        return Warmup(shape, 0 if isinstance(shape, NoWarmup | Rule) else steps, plan.start_factor, plan.horizon)

    def scaled(self, steps: float, horizon: int) -> Self:
        """With numbers of steps that are so many times as large, within another horizon."""
        frozen = min(round(self.frozen_steps * steps), horizon)
        return self.model_copy(update={"frozen_steps": frozen})._within(horizon, steps)

    def _within(self, horizon: int, factor: float) -> Self:
        """With an own warm-up so many times as long, as far as the horizon goes."""
        if self.warmup_steps is None:
            return self
        steps = min(max(1, round(self.warmup_steps * factor)), horizon - self.frozen_steps)
        return self.model_copy(update={"warmup_steps": steps or None})

    def rewarmed(self, old: int, new: int, horizon: int) -> Self:
        """With a warm-up of its own that changes as the schedule's does, from ``old`` to ``new`` steps."""
        if new == 0:
            return self.model_copy(update={"warmup_steps": None, "shape": None})
        return self._within(horizon, new / (old or new))

    def describe(self) -> str:
        """In a few words.

        >>> ParameterGroup(name="backbone", ratio=0.1, frozen_steps=30).describe()
        'backbone x 0.1, frozen for 30 steps'
        """
        told = [f"{self.name} x {self.ratio:.3g}"]
        told += [f"frozen for {self.frozen_steps:,} steps"] if self.frozen_steps else []
        told += [f"{self.shape.kind} warm-up"] if self.shape is not None else []
        told += [f"warm-up over {self.warmup_steps:,} steps"] if self.warmup_steps is not None else []
        return ", ".join(told)


def rate_of(group: ParameterGroup, plan: Plan, step: int, whole: float) -> float:
    """A group's learning rate at a step: 0 while it is frozen, then its own warm-up, below the schedule's decay.
    ``whole`` is the schedule's learning rate."""
    if group.is_plain:
        return group.ratio * whole
    step = min(step, plan.horizon)
    if step < group.frozen_steps:
        return 0.0
    rate = group.ratio * plan.peak * group.warmup(plan).share(step - group.frozen_steps)
    return rate if step < plan.warmup_steps else rate * plan.decay.share(step, plan)


def check_groups(groups: Sequence[ParameterGroup], plan: Plan) -> None:
    """Checks the groups of a schedule.

    Raises:
        ValueError: one contradicts the schedule, or another group.
    """
    names = [group.name for group in groups]
    if len(groups) == 1 or len(set(names)) < len(names):
        raise ValueError(f"groups must be two or more with names of their own, got {names}")
    for group in groups:
        if problem := _problem(group, plan):
            raise ValueError(f"group {group.name!r}: {problem}")
    top = groups[-1]
    if not top.is_plain or top.ratio != 1.0:
        raise ValueError(
            f"group {top.name!r} is the last one, the model's top: it gets the schedule itself, so it has no settings "
            f"of its own"
        )


def _problem(group: ParameterGroup, plan: Plan) -> str | None:
    warmup = group.warmup(plan)
    if group.frozen_steps + (group.warmup_steps or 0) > plan.horizon:
        return f"it is to be frozen and to warm up for longer than the horizon of {plan.horizon:,} steps"
    if isinstance(warmup.shape, NoWarmup | Rule):
        if group.warmup_steps is not None:
            return f"shape {warmup.shape.kind!r} takes no warmup_steps; for a warm-up give a shape, such as 'linear'"
    elif warmup.warmup_steps == 0:
        return f"shape {warmup.shape.kind!r} needs warmup_steps >= 1"
    if isinstance(warmup.shape, Exponential) and plan.start_factor == 0.0:
        return "an exponential warm-up can't start at 0: start_factor must be above 0"
    return None


def assigned(groups: Patterns, trained: Sequence[str], frozen: Sequence[str] = ()) -> dict[str, str]:
    """The group of each parameter that is trained, by the parameter's name.

    Args:
        groups: patterns as of the shell: ``*`` stands for any text, dots included, and ``?`` for one character.
        trained: the names of a model's parameters that are trained.
        frozen: those of its other parameters, which are in no group but may be matched.

    Raises:
        InputError: a pattern matches nothing, a parameter is in no group or in two, or a group has none.

    Example:
        >>> assigned({"backbone": ["encoder.*"], "head": ["head.*"]}, ["encoder.0.weight", "head.bias"])
        {'encoder.0.weight': 'backbone', 'head.bias': 'head'}
    """
    found: dict[str, list[str]] = {name: [] for name in trained}
    for group, patterns in groups.items():
        for pattern in patterns:
            matched = [name for name in trained if fnmatchcase(name, pattern)]
            if not matched and not any(fnmatchcase(name, pattern) for name in frozen):
                raise InputError(
                    f"groups: the pattern {pattern!r} of group {group!r} matches no parameter"
                    f"{nearest(pattern, trained)}; the model has {listed(trained)}"
                )
            for name in matched:
                found[name] += [group] if group not in found[name] else []
        if not any(group in theirs for theirs in found.values()):
            raise InputError(
                f"groups: group {group!r} has no parameter that is trained; the model trains {listed(trained)}"
            )
    for name, theirs in found.items():
        if len(theirs) > 1:
            raise InputError(f"groups: parameter {name!r} is in {' and '.join(map(repr, theirs))}; it must be in one")
    left = [name for name, theirs in found.items() if not theirs]
    if left:
        raise InputError(f"groups: {listed(left)} {'is' if len(left) == 1 else 'are'} in no group: add a pattern")
    return {name: theirs[0] for name, theirs in found.items()}


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    known = list(names)
    return ", ".join(known[:5]) + (f" and {len(known) - 5} more" if len(known) > 5 else "")


def checked_name(group: Mapping[str, Any], names: Sequence[str]) -> str:
    """The name of an optimizer's parameter group, which must be one of ``names``.

    Raises:
        InputError: it has none, or another.
    """
    name = group.get("name")
    if name not in names:
        got = "has no name" if name is None else f"is named {short(name)}{nearest(str(name), names)}"
        raise InputError(
            f"a parameter group of the optimizer {got}; the schedule's groups are {', '.join(map(repr, names))}. Make "
            f'the optimizer with schedule.parameter_groups(model), or give each group its "name"'
        )
    return str(name)
