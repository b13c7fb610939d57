"""The interface between a study and its engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from autowarmup.instability.monitor import Detectors
from autowarmup.search.config import TuneConfig
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.training.trace import Trace


@dataclass(frozen=True)
class Segment:
    """A part of a trial that an engine is asked to train.

    Args:
        spec: the trial.
        until: the optimizer step to train up to, at most the trial's horizon.
        past: what the trial has recorded before; the segment starts where it ends. Empty for a new trial.
    """

    spec: TrialSpec
    until: int
    past: Trace


@dataclass(frozen=True)
class MonitorSettings:
    """How often trials are validated, and what their detectors of instability need.

    Args:
        detectors: the detectors' settings.
        eval_every: optimizer steps between two evaluations, >= 1.
        trivial_loss: the loss of the best predictor that ignores its input; None where it is not known.
    """

    detectors: Detectors
    eval_every: int
    trivial_loss: float | None

    @classmethod
    def of(cls, config: TuneConfig) -> Self:
        """Those of a study."""
        return cls(config.detectors, config.eval_every, config.trivial_loss)


Observe = Callable[[TrialSpec, Trace], None]
"""Called with each block of steps as it is recorded, to show progress. It runs in the process that trains or drives the
trials, so it must return quickly."""


class Engine(Protocol):
    """Where trials run: it is given segments whenever there are some, and asked for each one's result."""

    def slots(self) -> int:
        """How many trials can run at once now, >= 1. More segments may be started; they wait for their turn."""

    def start(self, segment: Segment) -> None:
        """Queues a segment and returns at once. A trial has one segment at a time."""

    def wait(self, observe: Observe) -> SegmentResult:
        """The result of the next segment that ends. At least one must have been started and not returned yet."""

    def release(self, number: int) -> None:
        """Deletes what is kept of trial ``number``, which has ended for good."""

    def close(self) -> None:
        """Stops everything that still runs."""
