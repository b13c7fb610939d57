"""How the schedule is used: its code for every framework, and the framework's own configuration where one is near."""

from __future__ import annotations

from typing import NamedTuple

from autowarmup.errors import InputError
from autowarmup.export.base import Export
from autowarmup.export.exporting import export
from autowarmup.export.frameworks import FRAMEWORKS
from autowarmup.schedule.schedule import Schedule


class Use(NamedTuple):
    """A tab of the report: the framework, its code, and its own configuration, None where none is near."""

    name: str
    title: str
    code: Export
    own: Export | None


def uses(schedule: Schedule) -> list[Use]:
    """The schedule for every framework; for those that can apply its groups where it has any.

    Example:
        >>> schedule = Schedule(peak=3e-3, horizon=300, warmup_steps=60, shape="sqrt")
        >>> [use.name for use in uses(schedule)][:3]
        ['pytorch', 'transformers', 'lightning']
    """
    return [
        Use(name, framework.title, export(schedule, name), _own(schedule, name))
        for name, framework in FRAMEWORKS.items()
        if framework.groups or not schedule.groups
    ]


def _own(schedule: Schedule, name: str) -> Export | None:
    try:
        return export(schedule, name, "config")
    except InputError:
        return None
