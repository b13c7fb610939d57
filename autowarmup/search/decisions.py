"""The decisions of a search.

A search is a generator. It yields decisions and is sent, for each of them::

    Start(...)     None: the segment runs from now on, beside the others
    Finish(...)    None
    Wait()         an Arrival: the next segment that has ended

Its return value is a :class:`Conclusion`. What it decides depends on its configuration, on how many trials could run at
once when it began, and on the arrivals in their order; so a study that is replayed takes the same decisions.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from autowarmup.schedule.ranges import PeakRange
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.search.verdict import Verdict
from autowarmup.training.trace import Outcome


@dataclass(frozen=True)
class Start:
    """Train this trial up to step ``until``, as soon as there is room for it. A trial has one segment at a time."""

    spec: TrialSpec
    until: int


@dataclass(frozen=True)
class Finish:
    """Trial ``number`` has ended, with this outcome."""

    number: int
    outcome: Outcome


@dataclass(frozen=True)
class Wait:
    """Wait until one of the segments that were started has ended."""


@dataclass(frozen=True)
class Arrival:
    """A segment that has ended.

    Args:
        result: what came of it.
        slots: how many trials can run at once now, >= 1.
    """

    result: SegmentResult
    slots: int


@dataclass(frozen=True)
class Conclusion:
    """What a search concludes: the verdict, and the range of peaks that was searched."""

    verdict: Verdict
    peak_range: PeakRange


Decision = Start | Finish | Wait
Decisions = Generator[Decision, Arrival | None, Conclusion]
