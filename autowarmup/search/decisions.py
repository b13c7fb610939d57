"""The decisions of a search.

A search is a generator. It yields decisions and is sent, for each of them::

    Advance(...)   the results of its segments, in their order: list[SegmentResult]
    Finish(...)    an empty list

Its return value is a :class:`Conclusion`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from autowarmup.schedule.ranges import PeakRange
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.search.verdict import Verdict
from autowarmup.training.trace import Outcome


@dataclass(frozen=True)
class Advance:
    """Train each of these trials up to the step that stands beside it. The trials are independent of one another."""

    segments: tuple[tuple[TrialSpec, int], ...]


@dataclass(frozen=True)
class Finish:
    """Trial ``number`` has ended, with this outcome."""

    number: int
    outcome: Outcome


@dataclass(frozen=True)
class Conclusion:
    """What a search concludes: the verdict, and the range of peaks that was searched."""

    verdict: Verdict
    peak_range: PeakRange


Decision = Advance | Finish
Decisions = Generator[Decision, list[SegmentResult], Conclusion]
