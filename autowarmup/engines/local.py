"""The local engine: trials run in this process, one after the other."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from autowarmup.engines.base import Observe, RunningTrial, Segment, Task, Watch
from autowarmup.instability import Instability, Monitor
from autowarmup.store import Report
from autowarmup.trace import Trace
from autowarmup.trial import Trial


class LocalEngine:
    """Runs segments in this process.

    A model's trial is written to ``folder`` when it pauses and read from there when it goes on, whether or not the
    process is still the same. A loop of the user's own waits in memory; in a new process it starts again and catches
    up first.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        self._task, self._folder = task, folder
        self._waiting: dict[int, RunningTrial] = {}

    def run(self, segments: Sequence[Segment], watch: Watch, observe: Observe) -> Iterator[Report]:
        """Runs the segments in their order."""
        for segment in segments:
            yield self._run(segment, watch, observe)

    def release(self, number: int) -> None:
        """Forgets trial ``number``: its checkpoints, and its loop where one waits."""
        for path in self._folder.glob(f"trial-{number:05d}-*.pt"):
            path.unlink(missing_ok=True)
        if waiting := self._waiting.pop(number, None):
            waiting.close()

    def close(self) -> None:
        """Ends the loops that wait."""
        for trial in self._waiting.values():
            trial.close()
        self._waiting.clear()

    def _run(self, segment: Segment, watch: Watch, observe: Observe) -> Report:
        started_at, clock = time.time(), time.perf_counter()
        spec = segment.spec
        monitor = watch.detectors.monitor(spec.schedule.horizon, watch.trivial_loss)
        watched(monitor, segment.past, patient=spec.patient)
        seen = len(monitor.events)
        parts: list[Trace] = []
        verdict: Instability | None = None
        error: str | None = None
        trial: RunningTrial | None = None
        try:
            trial = self._resumed(segment, watch)
            for block in trial.run(segment.until):
                verdict = watched(monitor, block, patient=spec.patient)
                parts.append(block)
                observe(spec, block)
                if verdict is not None:
                    break
        except Exception:  # noqa: BLE001 - whatever the user's code raises is this trial's outcome
            error = traceback.format_exc()
        except BaseException:
            if trial is not None:
                trial.close()
            raise
        if trial is not None:
            self._put_away(trial, segment, alive=verdict is None and error is None)
        trace = Trace.join(parts) if parts else Trace.empty(segment.past.end)
        events = _recorded(monitor.events, seen)
        seconds = time.perf_counter() - clock
        return Report(spec.number, segment.until, trace, verdict, events, error, started_at, seconds)

    def _resumed(self, segment: Segment, watch: Watch) -> RunningTrial:
        """The segment's trial, at the step where its past ends."""
        spec, start = segment.spec, segment.past.end
        if waiting := self._waiting.pop(spec.number, None):
            return waiting
        checkpoint = self._checkpoint(spec.number, start)
        trial = self._task.trial(
            spec.schedule, spec.seed, watch.eval_every, checkpoint if checkpoint.exists() else None
        )
        for _ in trial.run(start):
            pass
        return trial

    def _put_away(self, trial: RunningTrial, segment: Segment, *, alive: bool) -> None:
        if not alive or segment.until == segment.spec.schedule.horizon:
            trial.close()
        elif isinstance(trial, Trial):
            self._folder.mkdir(parents=True, exist_ok=True)
            trial.pause(self._checkpoint(segment.spec.number, segment.until))
        else:
            self._waiting[segment.spec.number] = trial

    def _checkpoint(self, number: int, step: int) -> Path:
        return self._folder / f"trial-{number:05d}-{step:09d}.pt"


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
