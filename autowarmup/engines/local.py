"""The local engine: trials run in this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from autowarmup.engines.base import Observe, RunningTrial, Segment, Task, Watch
from autowarmup.engines.checkpoints import Checkpoints
from autowarmup.engines.segment import SegmentRun, Trials
from autowarmup.store import Report


class LocalEngine:
    """Runs segments in this process.

    A model's trial is written to ``folder`` when it pauses and read from there when it goes on, whether or not the
    process is still the same. A loop of the user's own waits in memory; in a new process it starts again and catches
    up first.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        self._trials, self._checkpoints = Trials(task), Checkpoints(folder)

    def run(self, segments: Sequence[Segment], watch: Watch, observe: Observe) -> Iterator[Report]:
        """Runs the segments in their order."""
        for segment in segments:
            run = SegmentRun(segment, watch, partial(self._begun, segment, watch))
            with closing(run.blocks()) as blocks:
                for block in blocks:
                    if len(block):
                        observe(segment.spec, block)
            self._trials.put_away(run, partial(self._checkpoints.writing, segment.spec.number, segment.until))
            yield run.report

    def release(self, number: int) -> None:
        """Forgets trial ``number``: its checkpoints, and its loop where one waits."""
        self._checkpoints.forget(number)
        self._trials.forget(number)

    def close(self) -> None:
        """Ends the loops that wait."""
        self._trials.close()

    def _begun(self, segment: Segment, watch: Watch) -> RunningTrial:
        with self._checkpoints.reading(segment.spec.number, segment.past.end) as file:
            return self._trials.begun(segment, watch, file)
