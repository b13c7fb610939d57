"""What a search decides, and what it is answered.

A search is a generator of decisions::

    Advance(...) -> list[SegmentResult]
    Finish(...)  -> nothing

and returns its conclusion.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from autowarmup.schedule.space import PeakRange
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.search.verdict import Verdict
from autowarmup.training.trace import Outcome


@dataclass(frozen=True)
class Advance:
    """Train each trial up to a step."""

    segments: tuple[tuple[TrialSpec, int], ...]


@dataclass(frozen=True)
class Finish:
    """Trial ``number`` is over."""

    number: int
    outcome: Outcome


@dataclass(frozen=True)
class Conclusion:
    """What the search ends with."""

    verdict: Verdict
    peak_range: PeakRange


Decision = Advance | Finish
Decisions = Generator[Decision, list[SegmentResult], Conclusion]
