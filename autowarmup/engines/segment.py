"""A segment under way, monitored block by block: the same on every engine."""

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
    """Runs one segment.

    Args:
        segment: which.
        monitoring: the detectors and how often to validate.
        begin: makes the trial, or takes up the one that is paused.

    Attributes:
        trial: after :meth:`blocks`, the trial that can go on; None where it is over.
    """

    def __init__(self, segment: Segment, monitoring: MonitorSettings, begin: Callable[[], RunningTrial]) -> None:
        self.segment = segment
        self.trial: RunningTrial | None = None
        self._begin = begin
        self._stop_only_on_nonfinite = segment.spec.stop_only_on_nonfinite
        self._monitor = monitoring.detectors.monitor(segment.spec.schedule.horizon, monitoring.trivial_loss)
        self._parts: list[Trace] = []
        self._instability: Instability | None = None
        self._error: str | None = None
        self._started_at, self._clock = time.time(), time.perf_counter()

    def blocks(self) -> Generator[Trace, None, None]:
        """Trains and yields block by block, up to the segment's end, a fatal instability or an exception of the user's
        code. While a trial catches up to where the segment starts, the blocks are empty. Close the iterator where it
        isn't exhausted."""
        segment = self.segment
        first_fatal(self._monitor, segment.past, stop_only_on_nonfinite=self._stop_only_on_nonfinite)
        self._seen = len(self._monitor.events)
        try:
            self.trial = self._begin()
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
        if self._instability or self._error or segment.until == segment.spec.schedule.horizon:
            self._end()

    @property
    def result(self) -> SegmentResult:
        """What it came to, after :meth:`blocks`."""
        segment = self.segment
        return SegmentResult(
            number=segment.spec.number,
            until=segment.until,
            trace=Trace.join(self._parts, start=segment.past.end),
            instability=self._instability,
            events=_recorded(self._monitor.events, self._seen),
            error=self._error,
            started_at=self._started_at,
            seconds=time.perf_counter() - self._clock,
        )

    def _end(self) -> None:
        if self.trial is not None:
            self.trial.close()
            self.trial = None


class PausedTrials:
    """The paused trials of a task in one process.

    Between segments a model's trial is written to a file; a training loop of the user's own waits in memory.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._in_memory: dict[int, RunningTrial] = {}

    def begun(self, segment: Segment, monitoring: MonitorSettings, state: IO[bytes] | None) -> RunningTrial:
        """The segment's trial: the one that waits in memory, or else a new one, from ``state`` where there is one."""
        spec = segment.spec
        if waiting := self._in_memory.pop(spec.number, None):
            return waiting
        return self._task.trial(spec.schedule, spec.seed, monitoring.eval_every, state)

    def pause(self, active: ActiveSegment, open_state: OpenState) -> None:
        """Keeps the segment's trial, where it can go on: written to a file, or else in memory."""
        trial, active.trial = active.trial, None
        if trial is not None and not trial.save(open_state):
            self._in_memory[active.segment.spec.number] = trial

    def waits(self, number: int) -> bool:
        """Whether trial ``number`` is a loop that waits here."""
        return number in self._in_memory

    def forget(self, number: int) -> None:
        """Trial ``number`` is over: its loop, where one waits, is told to stop."""
        if waiting := self._in_memory.pop(number, None):
            waiting.close()

    def close(self) -> None:
        """Tells all loops that wait to stop."""
        for number in [*self._in_memory]:
            self.forget(number)


def first_fatal(monitor: Monitor, trace: Trace, *, stop_only_on_nonfinite: bool = False) -> Instability | None:
    """Shows a trace to the monitor, up to the first fatal instability, which is returned.

    A validation loss that is not finite is one: the monitor sees it as the loss of its step. With
    ``stop_only_on_nonfinite``, only what is not finite is fatal.
    """
    broken = {e.step - 1: e.val_loss for e in trace.evaluations if not np.isfinite(e.val_loss)}
    for step, lr, loss, norm in zip(trace.steps, trace.lr, trace.loss, trace.grad_norm, strict=True):
        value = broken.get(int(step), float(loss))
        found = monitor.observe(int(step), float(lr), value, float(norm))
        if found is not None and found.fatal and (not stop_only_on_nonfinite or found.kind == "non-finite"):
            return found
    return None


def _recorded(events: Sequence[Instability], seen: int) -> tuple[Instability, ...]:
    """The instabilities after the first ``seen`` ones that did not end the trial. A fatal kind that a
    ``stop_only_on_nonfinite`` trial survives is recorded once."""
    survived = {event.kind for event in events[:seen] if event.fatal}
    recorded = []
    for event in events[seen:]:
        if event.kind != "non-finite" and event.kind not in survived:
            recorded.append(event)
        if event.fatal:
            survived.add(event.kind)
    return tuple(recorded)
