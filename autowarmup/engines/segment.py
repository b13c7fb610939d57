"""Running one segment of a trial under the detectors. Every engine does it with the classes here."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Generator, Sequence
from typing import IO

import numpy as np

from autowarmup.engines.base import MonitorSettings, Segment
from autowarmup.instability.instability import Instability
from autowarmup.instability.monitor import Monitor
from autowarmup.search.trials import SegmentResult
from autowarmup.training.base import OpenState, RunningTrial, Task
from autowarmup.training.trace import Trace


class ActiveSegment:
    """A segment while it runs.

    Iterate over :meth:`blocks` to train; then read :attr:`result`.

    Args:
        segment: the segment to run.
        monitoring: the detectors, and how often to validate.
        start_or_resume: makes the trial, or resumes the paused one. Called once, when training begins.

    Attributes:
        trial: after :meth:`blocks`, the trial where it can go on later; None where it has ended.
    """

    def __init__(
        self, segment: Segment, monitoring: MonitorSettings, start_or_resume: Callable[[], RunningTrial]
    ) -> None:
        self.segment = segment
        self.trial: RunningTrial | None = None
        self._start_or_resume = start_or_resume
        self._stop_only_on_nonfinite = segment.spec.stop_only_on_nonfinite
        self._monitor = monitoring.detectors.monitor(segment.spec.schedule.horizon, monitoring.trivial_loss)
        self._parts: list[Trace] = []
        self._instability: Instability | None = None
        self._error: str | None = None
        self._started_at, self._clock = time.time(), time.perf_counter()

    def blocks(self) -> Generator[Trace, None, None]:
        """Trains and yields what was recorded, block by block. It ends at the end of the segment, at a fatal
        instability, or at an exception in the user's code, which becomes part of the result.

        A trial without a checkpoint is first trained again up to the start of the segment; the blocks are empty
        meanwhile. Close the iterator if you don't exhaust it.
        """
        segment = self.segment
        first_fatal(self._monitor, segment.past, stop_only_on_nonfinite=self._stop_only_on_nonfinite)
        self._seen = len(self._monitor.events)
        try:
            self.trial = self._start_or_resume()
            for _ in self.trial.run(segment.past.end):
                yield Trace.empty(segment.past.end)
            for block in self.trial.run(segment.until):
                self._instability = first_fatal(
                    self._monitor, block, stop_only_on_nonfinite=self._stop_only_on_nonfinite
                )
                self._parts.append(block)
                yield block
                if self._instability is not None:
                    break
        except Exception:  # noqa: BLE001 - whatever the user's code raises is this trial's outcome
            self._error = traceback.format_exc()
        except BaseException:
            self._end()
            raise
        at_end = segment.until == segment.spec.schedule.horizon and not segment.spec.keeps_weights
        if self._instability or self._error or at_end:
            self._end()

    @property
    def result(self) -> SegmentResult:
        """The segment's result; available once :meth:`blocks` has ended."""
        segment = self.segment
        return SegmentResult(
            number=segment.spec.number,
            until=segment.until,
            trace=Trace.join(self._parts, start=segment.past.end),
            instability=self._instability,
            events=recorded_events(self._monitor.events, self._seen),
            error=self._error,
            started_at=self._started_at,
            seconds=time.perf_counter() - self._clock,
        )

    def _end(self) -> None:
        if self.trial is not None:
            self.trial.close()
            self.trial = None


class PausedTrials:
    """Starts, pauses and resumes the trials of one task within one process.

    A paused trial of a model is written to a file. A training loop of the user's own can't be written to a file: it is
    kept in memory, blocked in its own thread.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._in_memory: dict[int, RunningTrial] = {}

    def start_or_resume(self, segment: Segment, monitoring: MonitorSettings, state: IO[bytes] | None) -> RunningTrial:
        """The segment's trial, ready to train: the one kept in memory if there is one, else one made from the
        checkpoint ``state``, else a new one."""
        spec = segment.spec
        if paused := self._in_memory.pop(spec.number, None):
            return paused
        return self._task.trial(spec.schedule, spec.seed, monitoring.eval_every, state, spec.climb)

    def pause(self, active: ActiveSegment, open_state: OpenState) -> None:
        """Saves the segment's trial, unless it has ended: to the file that ``open_state`` opens, or in memory where it
        can't be written."""
        trial, active.trial = active.trial, None
        if trial is not None and not trial.save(open_state):
            self._in_memory[active.segment.spec.number] = trial

    def in_memory(self, number: int) -> bool:
        """Whether trial ``number`` is kept in memory."""
        return number in self._in_memory

    def forget(self, number: int) -> None:
        """Ends the training loop of trial ``number``, where one is kept in memory."""
        if paused := self._in_memory.pop(number, None):
            paused.close()

    def close(self) -> None:
        """Ends all training loops that are kept in memory."""
        for number in [*self._in_memory]:
            self.forget(number)


def first_fatal(monitor: Monitor, trace: Trace, *, stop_only_on_nonfinite: bool = False) -> Instability | None:
    """Feeds a trace to the monitor, up to the first fatal instability, and returns that; None where there is none.

    Args:
        monitor: the trial's monitor, which has seen all earlier steps.
        trace: the steps to feed. A validation loss that is not finite is fed as the training loss of its step.
        stop_only_on_nonfinite: treat only losses and gradients that are not finite as fatal.
    """
    nonfinite = {e.step - 1: e.val_loss for e in trace.evaluations if not np.isfinite(e.val_loss)}
    columns = (trace.steps, trace.lr, trace.loss, trace.grad_norm)
    for step, lr, loss, norm in zip(*(column.tolist() for column in columns), strict=True):
        found = monitor.observe(step, lr, nonfinite.get(step, loss), norm)
        if found is not None and found.fatal and (not stop_only_on_nonfinite or found.kind == "non-finite"):
            return found
    return None


def recorded_events(events: Sequence[Instability], seen: int) -> tuple[Instability, ...]:
    """The instabilities after the first ``seen`` that did not end the trial. Where the trial goes on after a fatal one
    (``stop_only_on_nonfinite``), each kind of fatal instability is recorded once."""
    survived = {event.kind for event in events[:seen] if event.fatal}
    recorded = []
    for event in events[seen:]:
        if event.kind != "non-finite" and event.kind not in survived:
            recorded.append(event)
        if event.fatal:
            survived.add(event.kind)
    return tuple(recorded)
