"""What a guard is given to apply."""

from __future__ import annotations

from autowarmup.errors import InputError
from autowarmup.guard.expected import Band
from autowarmup.schedule.schedule import Schedule
from autowarmup.study.result import TuneResult
from autowarmup.values import short


def planned(schedule: Schedule | TuneResult) -> tuple[Schedule, Band | None]:
    """The schedule, and the loss that is expected with it where it is a study's.

    Raises:
        InputError: it is neither a schedule nor the result of a study that has one.
    """
    if isinstance(schedule, Schedule):
        return schedule, None
    if not isinstance(schedule, TuneResult):
        raise InputError(f"schedule={short(schedule)}: must be a Schedule, or the result of a study")
    if schedule.schedule is None:
        raise InputError(f"the study in {schedule.study} found no stable schedule: there is nothing to apply")
    return schedule.schedule, Band.of(schedule)
