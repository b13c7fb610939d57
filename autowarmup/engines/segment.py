"""A segment under way, watched block by block: the same wherever it runs."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Generator, Sequence

import numpy as np

from autowarmup.engines.base import RunningTrial, Segment, Watch
from autowarmup.instability import Instability, Monitor
from autowarmup.store import Report
from autowarmup.trace import Trace


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
            trace=Trace.join(self._parts) if self._parts else Trace.empty(segment.past.end),
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
