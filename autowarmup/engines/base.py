"""What a study asks of an engine, and what an engine asks of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol

from autowarmup.instability import Detectors
from autowarmup.schedule import Schedule
from autowarmup.store import Report, TrialSpec
from autowarmup.trace import Trace

if TYPE_CHECKING:
    from autowarmup.distributed import Group


@dataclass(frozen=True)
class Segment:
    """A part of a trial: from where its ``past`` ends (empty at its start) to step ``until``."""

    spec: TrialSpec
    until: int
    past: Trace


@dataclass(frozen=True)
class Watch:
    """How trials are watched: detectors' settings, validation interval in steps, trivial loss where known."""

    detectors: Detectors
    eval_every: int
    trivial_loss: float | None


Observe = Callable[[TrialSpec, Trace], None]
"""Told of each block of steps as it is seen, for progress; must be quick."""


class RunningTrial(Protocol):
    """A trial under way, at optimizer step ``step``."""

    step: int

    def run(self, until: int) -> Iterator[Trace]: ...

    def close(self) -> None: ...


class Task(Protocol):
    """What is trained: a model on data, or a loop of the user's own."""

    current_peak: float
    beta2: float
    trivial_loss: float | None

    @property
    def steps_per_epoch(self) -> int | None: ...

    def describe(self) -> dict[str, Any]: ...

    def join(self, group: Group) -> None: ...

    def trial(self, schedule: Schedule, seed: int, eval_every: int, state: IO[bytes] | None) -> RunningTrial: ...


class Engine(Protocol):
    """Where trials run."""

    def run(self, segments: Sequence[Segment], watch: Watch, observe: Observe) -> Iterator[Report]:
        """Runs the segments, in any order, and yields each one's report as soon as it has ended."""

    def release(self, number: int) -> None:
        """Trial ``number`` has ended: what was kept for it can go."""

    def close(self) -> None:
        """Ends everything that still runs."""
