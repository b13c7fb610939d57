"""The local engine: trials run in this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from autowarmup.engines.base import MonitorSettings, Observe, Segment
from autowarmup.engines.checkpoints import Checkpoints
from autowarmup.engines.segment import ActiveSegment, PausedTrials
from autowarmup.search.trials import SegmentResult
from autowarmup.training.base import RunningTrial, Task


class LocalEngine:
    """Runs segments in this process.

    A model's trial is written to ``folder`` when it pauses and read from there when it goes on, whether or not the
    process is still the same. A loop of the user's own waits in memory; in a new process it starts again and catches
    up first.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        self._trials, self._checkpoints = PausedTrials(task), Checkpoints(folder)

    def run(
        self, segments: Sequence[Segment], monitoring: MonitorSettings, observe: Observe
    ) -> Iterator[SegmentResult]:
        """Runs the segments in their order."""
        for segment in segments:
            active = ActiveSegment(segment, monitoring, partial(self._begun, segment, monitoring))
            with closing(active.blocks()) as blocks:
                for block in blocks:
                    if len(block):
                        observe(segment.spec, block)
            self._trials.pause(active, partial(self._checkpoints.writing, segment.spec.number, segment.until))
            yield active.result

    def release(self, number: int) -> None:
        """Forgets trial ``number``: its checkpoints, and its loop where one waits."""
        self._checkpoints.forget(number)
        self._trials.forget(number)

    def close(self) -> None:
        """Ends the loops that wait."""
        self._trials.close()

    def _begun(self, segment: Segment, monitoring: MonitorSettings) -> RunningTrial:
        with self._checkpoints.reading(segment.spec.number, segment.past.end) as file:
            return self._trials.begun(segment, monitoring, file)
