"""What a study asks of an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from autowarmup.instability.monitor import Detectors
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.training.trace import Trace


@dataclass(frozen=True)
class Segment:
    """A part of a trial: from where its ``past`` ends (empty at its start) to step ``until``."""

    spec: TrialSpec
    until: int
    past: Trace


@dataclass(frozen=True)
class MonitorSettings:
    """How trials are monitored.

    Args:
        detectors: the detectors' settings.
        eval_every: optimizer steps between two validations.
        trivial_loss: the loss of the best prediction that ignores its input; None where it is not known.
    """

    detectors: Detectors
    eval_every: int
    trivial_loss: float | None


Observe = Callable[[TrialSpec, Trace], None]
"""Told of each block of steps as it is seen, for progress; must be quick."""


class Engine(Protocol):
    """Where trials run."""

    def run(
        self, segments: Sequence[Segment], monitoring: MonitorSettings, observe: Observe
    ) -> Iterator[SegmentResult]:
        """Runs the segments, in any order, and yields each one's result as soon as it has ended."""

    def release(self, number: int) -> None:
        """Trial ``number`` has ended: what was kept for it can go."""

    def close(self) -> None:
        """Ends everything that still runs."""
