"""A segment under way, watched block by block: the same wherever it runs."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from typing import IO, TYPE_CHECKING

import numpy as np

from autowarmup.engines.base import RunningTrial, Segment, Task, Watch
from autowarmup.instability import Instability, Monitor
from autowarmup.store import Report
from autowarmup.trace import Trace

if TYPE_CHECKING:
    from autowarmup.trial import Writable


class SegmentRun:
    """Runs one segment.

    Args:
        segment: which.
        watch: how it is watched.
        begin: makes its trial, or takes it from where it waits.

    Attributes:
        trial: after :meth:`blocks`, the trial that can go on; None where it is over.
    """

    def __init__(self, segment: Segment, watch: Watch, begin: Callable[[], RunningTrial]) -> None:
        self.segment = segment
        self.trial: RunningTrial | None = None
        self._begin = begin
        self._patient = segment.spec.patient
        self._monitor = watch.detectors.monitor(segment.spec.schedule.horizon, watch.trivial_loss)
        self._parts: list[Trace] = []
        self._verdict: Instability | None = None
        self._error: str | None = None
        self._started_at, self._clock = time.time(), time.perf_counter()

    def blocks(self) -> Generator[Trace, None, None]:
        """Trains and yields block by block, up to the segment's end, a fatal instability or an exception of the user's
        code. While a trial catches up to where the segment starts, the blocks are empty. Close the iterator where it
        isn't exhausted."""
        segment = self.segment
        watched(self._monitor, segment.past, patient=self._patient)
        self._seen = len(self._monitor.events)
        try:
            self.trial = self._begin()
            for _ in self.trial.run(segment.past.end):
                yield Trace.empty(segment.past.end)
            for block in self.trial.run(segment.until):
                self._verdict = watched(self._monitor, block, patient=self._patient)
                self._parts.append(block)
                yield block
                if self._verdict is not None:
                    break
        except Exception:  # noqa: BLE001 - whatever the user's code raises is this trial's outcome
            self._error = traceback.format_exc()
        except BaseException:
            self._end()
            raise
        if self._verdict or self._error or segment.until == segment.spec.schedule.horizon:
            self._end()

    @property
    def report(self) -> Report:
        """How it went, after :meth:`blocks`."""
        segment = self.segment
        return Report(
            number=segment.spec.number,
            until=segment.until,
            trace=Trace.join(self._parts, start=segment.past.end),
            verdict=self._verdict,
            events=_recorded(self._monitor.events, self._seen),
            error=self._error,
            started_at=self._started_at,
            seconds=time.perf_counter() - self._clock,
        )

    def _end(self) -> None:
        if self.trial is not None:
            self.trial.close()
            self.trial = None


class Trials:
    """A task's trials in one process. Between segments a model's trial is written to a file; a loop of the user's own
    waits here."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._waiting: dict[int, RunningTrial] = {}

    def begun(self, segment: Segment, watch: Watch, state: IO[bytes] | None) -> RunningTrial:
        """The segment's trial: the one that waits, or else a new one, from ``state`` where there is one."""
        spec = segment.spec
        if waiting := self._waiting.pop(spec.number, None):
            return waiting
        return self._task.trial(spec.schedule, spec.seed, watch.eval_every, state)

    def put_away(self, run: SegmentRun, writing: Callable[[], AbstractContextManager[Writable]]) -> None:
        """Has a trial that can go on wait. The run lets go of it."""
        from autowarmup.trial import Trial

        trial, run.trial = run.trial, None
        if isinstance(trial, Trial):
            with writing() as file:
                trial.pause(file)
        elif trial is not None:
            self._waiting[run.segment.spec.number] = trial

    def waits(self, number: int) -> bool:
        """Whether trial ``number`` is a loop that waits here."""
        return number in self._waiting

    def forget(self, number: int) -> None:
        """Trial ``number`` is over: its loop, where one waits, is told to stop."""
        if waiting := self._waiting.pop(number, None):
            waiting.close()

    def close(self) -> None:
        """Tells all loops that wait to stop."""
        for number in [*self._waiting]:
            self.forget(number)


def watched(monitor: Monitor, trace: Trace, *, patient: bool = False) -> Instability | None:
    """Shows a trace to the monitor; the first fatal verdict, if any. A validation loss that is not finite is one too:
    the monitor sees it as the loss of its step. With ``patient``, only what is not finite is fatal."""
    broken = {c.step - 1: c.val_loss for c in trace.checkpoints if not np.isfinite(c.val_loss)}
    for step, rate, loss, norm in zip(trace.steps, trace.rate, trace.loss, trace.grad_norm, strict=True):
        value = broken.get(int(step), float(loss))
        found = monitor.observe(int(step), float(rate), value, float(norm))
        if found is not None and found.fatal and (not patient or found.kind == "non-finite"):
            return found
    return None


def _recorded(events: Sequence[Instability], seen: int) -> tuple[Instability, ...]:
    """What is new after the first ``seen`` verdicts and ended nothing: of those that a patient trial survived, each
    fatal kind once."""
    survived = {event.kind for event in events[:seen] if event.fatal}
    recorded = []
    for event in events[seen:]:
        if event.kind != "non-finite" and event.kind not in survived:
            recorded.append(event)
        if event.fatal:
            survived.add(event.kind)
    return tuple(recorded)
