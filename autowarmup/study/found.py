"""What a study found, from its store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autowarmup.schedule.schedule import Schedule

if TYPE_CHECKING:
    from autowarmup.search.verdict import Verdict
    from autowarmup.study.store import StudyStore


@dataclass(frozen=True)
class Found:
    """What a finished study found: the verdict, the schedule to use (None where nothing was stable), and how that was
    extrapolated to a longer run (None where it was tuned as it is)."""

    verdict: Verdict
    schedule: Schedule | None
    extrapolation: str | None


def found(store: StudyStore) -> Found | None:
    """What the study found; None where it has no verdict yet."""
    from autowarmup.search.verdict import Verdict

    stored = store.meta("verdict")
    if stored is None:
        return None
    verdict, schedule = Verdict.model_validate(stored), store.meta("schedule")
    extrapolation = store.meta("extrapolation")
    return Found(
        verdict,
        None if schedule is None else Schedule.model_validate(schedule),
        None if extrapolation is None else str(extrapolation),
    )
