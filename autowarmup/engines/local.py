"""The local engine: it runs trials in this process, one after the other."""

from __future__ import annotations

from collections import deque
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

    Between segments the trial of a model is stored as a checkpoint in ``folder``. A training loop of the user's own is
    kept in memory instead; after a restart of the process it is trained again from its start.

    Args:
        task: what is trained.
        folder: where checkpoints are stored.
        monitoring: how often trials are validated, and their detectors.
    """

    def __init__(self, task: Task, folder: Path, monitoring: MonitorSettings) -> None:
        self._trials, self._checkpoints = PausedTrials(task), Checkpoints(folder)
        self._monitoring = monitoring
        self._queued: deque[Segment] = deque()

    def slots(self) -> int:
        """One trial at a time."""
        return 1

    def start(self, segment: Segment) -> None:
        """Queues a segment; :meth:`wait` trains it."""
        self._queued.append(segment)

    def wait(self, observe: Observe) -> SegmentResult:
        """Trains the segment that was started first, and gives its result.

        Raises:
            StudyError: a checkpoint can't be written.
        """
        segment = self._queued.popleft()
        active = ActiveSegment(segment, self._monitoring, partial(self._start_or_resume, segment))
        with closing(active.blocks()) as blocks:
            for block in blocks:
                if len(block):
                    observe(segment.spec, block)
        self._trials.pause(active, partial(self._checkpoints.writing, segment.spec.number, segment.until))
        return active.result

    def release(self, number: int) -> None:
        """Deletes the checkpoints of trial ``number``, and ends its training loop where one is kept in memory."""
        self._checkpoints.forget(number)
        self._trials.forget(number)

    def close(self) -> None:
        """Ends the training loops that are kept in memory."""
        self._trials.close()

    def _start_or_resume(self, segment: Segment) -> RunningTrial:
        with self._checkpoints.reading(segment.spec.number, segment.past.end) as file:
            return self._trials.start_or_resume(segment, self._monitoring, file)
