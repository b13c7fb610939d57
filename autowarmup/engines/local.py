"""The local engine: trials run in this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from autowarmup.engines.base import Observe, RunningTrial, Segment, Task, Watch
from autowarmup.engines.checkpoints import Checkpoints
from autowarmup.engines.segment import SegmentRun
from autowarmup.store import Report
from autowarmup.trial import Trial


class LocalEngine:
    """Runs segments in this process.

    A model's trial is written to ``folder`` when it pauses and read from there when it goes on, whether or not the
    process is still the same. A loop of the user's own waits in memory; in a new process it starts again and catches
    up first.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        self._task, self._checkpoints = task, Checkpoints(folder)
        self._waiting: dict[int, RunningTrial] = {}

    def run(self, segments: Sequence[Segment], watch: Watch, observe: Observe) -> Iterator[Report]:
        """Runs the segments in their order."""
        for segment in segments:
            run = SegmentRun(segment, watch, partial(self._begun, segment, watch))
            with closing(run.blocks()) as blocks:
                for block in blocks:
                    if len(block):
                        observe(segment.spec, block)
            self._put_away(run)
            yield run.report

    def release(self, number: int) -> None:
        """Forgets trial ``number``: its checkpoints, and its loop where one waits."""
        self._checkpoints.forget(number)
        if waiting := self._waiting.pop(number, None):
            waiting.close()

    def close(self) -> None:
        """Ends the loops that wait."""
        for trial in self._waiting.values():
            trial.close()
        self._waiting.clear()

    def _begun(self, segment: Segment, watch: Watch) -> RunningTrial:
        """The segment's trial, from where it waits."""
        spec = segment.spec
        if waiting := self._waiting.pop(spec.number, None):
            return waiting
        with self._checkpoints.reading(spec.number, segment.past.end) as file:
            return self._task.trial(spec.schedule, spec.seed, watch.eval_every, file)

    def _put_away(self, run: SegmentRun) -> None:
        """Has a trial that can go on wait."""
        number, trial = run.segment.spec.number, run.trial
        if isinstance(trial, Trial):
            with self._checkpoints.writing(number, run.segment.until) as file:
                trial.pause(file)
        elif trial is not None:
            self._waiting[number] = trial
