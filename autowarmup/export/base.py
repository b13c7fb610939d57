"""What an export is made of: the schedule as exports see it, a form of it for one framework, and the framework."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from autowarmup.values import Frozen

Kind = Literal["code", "config"]
"""``code`` is Python that applies any schedule; ``config`` is a schedule of the framework's own, with its settings."""


class Plan(Protocol):
    """The schedule that is exported: a ``Schedule``."""

    @property
    def peak(self) -> float: ...

    @property
    def horizon(self) -> int: ...

    @property
    def warmup_steps(self) -> int: ...

    @property
    def start_factor(self) -> float | None: ...

    @property
    def final_factor(self) -> float: ...

    @property
    def duration(self) -> int: ...

    @property
    def shape(self) -> Any: ...

    @property
    def decay(self) -> Any: ...

    @property
    def groups(self) -> tuple[Any, ...]: ...

    def __hash__(self) -> int: ...

    def lr_at(self, step: int) -> float: ...

    def rates_at(self, step: int) -> dict[str, float]: ...

    def describe(self) -> str: ...


class Climb(Protocol):
    """What the curve of a warm-up is written from: a plan, or a group's warm-up."""

    @property
    def warmup_steps(self) -> int: ...

    @property
    def start_factor(self) -> float | None: ...

    @property
    def shape(self) -> Any: ...


class Group(Protocol):
    """A parameter group of a schedule."""

    @property
    def name(self) -> str: ...

    @property
    def ratio(self) -> float: ...

    @property
    def frozen_steps(self) -> int: ...

    @property
    def is_plain(self) -> bool: ...

    def warmup(self, plan: Any) -> Climb: ...

    def describe(self) -> str: ...


class Export(Frozen):
    """A schedule written down for a framework.

    Args:
        framework: the framework's name, such as ``"transformers"``.
        code: Python to paste, which needs no autowarmup. None where the configuration is all.
        config: the framework's configuration. None where the code is all.
        exact: whether every learning rate agrees with the schedule to 1e-6 of the peak.
        max_deviation: the largest difference from the schedule over all steps, as a share of the peak, 0 to 1.
        notes: what to know when it is used, a sentence each.
    """

    framework: str
    code: str | None
    config: str | None
    exact: bool
    max_deviation: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Form:
    """A schedule written down, with the arithmetic of what was written.

    Args:
        share: the learning rate that is applied at an optimizer step, counted from 0, as a share of the peak.
        code: Python to paste.
        config: the framework's configuration.
        by_group: of a schedule with groups, the same as ``share`` for each group, by its name.
    """

    share: Callable[[int], float]
    code: str | None = None
    config: str | None = None
    by_group: dict[str, Callable[[int], float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Framework:
    """A framework that schedules can be exported to.

    Args:
        name: as it is written in a call or a command.
        title: as its users write it.
        tested: the release that the export was tested with.
        code: writes any schedule as code.
        notes: what to know when the code is used.
        own: the settings of the framework's own schedules that come near, of which the nearest is taken. None where the
            framework has no schedules of its own.
        own_notes: what to know when these settings are used.
        groups: writes a schedule with groups as code; None where that isn't possible.
    """

    name: str
    title: str
    tested: str
    code: Callable[[Plan], Form]
    notes: tuple[str, ...] = ()
    own: Callable[[Plan], Iterable[Form]] | None = None
    own_notes: tuple[str, ...] = ()
    groups: Callable[[Plan], Form] | None = None


def first_share(plan: Plan) -> float | None:
    """The first step's share of the peak where the warm-up is a straight line or there is none; None elsewhere.

    Example:
        >>> from autowarmup import Schedule
        >>> first_share(Schedule(peak=1.0, horizon=10, warmup_steps=3, shape="linear"))
        0.25
    """
    if plan.shape.kind == "none":
        return 1.0
    if plan.shape.kind != "linear":
        return None
    return 1.0 / (plan.warmup_steps + 1) if plan.start_factor is None else plan.start_factor


def rise(step: int, steps: int, start: float) -> float:
    """A straight line from ``start`` at step 0 to 1 at ``steps``."""
    return start + (1.0 - start) * step / steps


def half_cosine(done: float) -> float:
    """Half a cosine wave from 1 at 0 to 0 at 1, computed as the frameworks do."""
    return 0.5 * (1.0 + math.cos(math.pi * done))
