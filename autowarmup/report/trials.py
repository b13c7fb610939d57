"""Which trials the figures show, what they call them, and their final losses."""

from __future__ import annotations

from collections.abc import Iterable

from autowarmup.search.verdict import CURRENT, Comparison
from autowarmup.study.result import TrialRecord, TuneResult


def final_losses(result: TuneResult) -> dict[int, float]:
    """The final losses of the trials that ran to their end, by number, where they are finite; the final values of
    another objective."""
    return {r.number: r.final_loss for r in result.records if r.role != "probe" and r.final_loss is not None}


def is_chosen(result: TuneResult, record: TrialRecord) -> bool:
    """Whether a trial ran the schedule that the study hands out."""
    return record.candidate == result.verdict.candidate


def name_of(result: TuneResult, record: TrialRecord) -> str:
    """What the figures call a trial: the current schedule and the tuned one have a name, the others an empty one."""
    names = {comparison.candidate: comparison.name for comparison in result.verdict.comparisons}
    name = CURRENT if record.role == "baseline" else names.get(record.candidate, "")
    if is_chosen(result, record):
        return f"{name} (chosen)" if name else "chosen"
    return name


def peaks(records: Iterable[TrialRecord]) -> list[float]:
    return [record.schedule.peak for record in records]


def share(record: TrialRecord | Comparison) -> float:
    """The warm-up's share of the run, in percent."""
    return 100.0 * record.schedule.duration / record.schedule.horizon


def shares(records: Iterable[TrialRecord]) -> list[float]:
    return [share(record) for record in records]


def several(count: int, noun: str) -> str:
    """A count with its noun: ``1 trial``, ``2 trials``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
