"""The Ray engine: it runs trials on a Ray cluster, many at a time, and tolerates the loss of workers and nodes."""

from __future__ import annotations

from pathlib import Path

import ray

from autowarmup.engines.base import MonitorSettings, Observe, Segment
from autowarmup.engines.checkpoints import Checkpoints
from autowarmup.engines.cluster import Cluster, serialize_task
from autowarmup.engines.session import ClusterSession
from autowarmup.engines.settings import RaySettings
from autowarmup.search.trials import SegmentResult
from autowarmup.training.base import Task


class RayEngine:
    """Runs segments on a Ray cluster.

    It connects to the cluster when there is something to run or to ask, so a finished study can be read without one.

    Args:
        task: what is trained.
        folder: where checkpoints are stored, on the driver's machine.
        monitoring: how often trials are validated, and their detectors.
        settings: which cluster, and the resources of each trial there.
    """

    def __init__(self, task: Task, folder: Path, monitoring: MonitorSettings, settings: RaySettings) -> None:
        self._task, self._monitoring, self._settings = task, monitoring, settings
        self._checkpoints = Checkpoints(folder)
        self._session: ClusterSession | None = None

    def slots(self) -> int:
        """As many as were asked for, or else as many workers as fit into the cluster now; at least 1.

        Raises:
            ClusterError: the cluster can't be used.
            InputError: the task can't be sent to workers.
        """
        return self._settings.workers or self._connected().slots()

    def start(self, segment: Segment) -> None:
        """Queues a segment. Where a worker is idle, it begins at once.

        Raises:
            ClusterError: the cluster can't be used.
            InputError: the task can't be sent to workers.
        """
        self._connected().start(segment)

    def wait(self, observe: Observe) -> SegmentResult:
        """The result of the next segment that ends.

        Raises:
            ClusterError: the cluster was lost; the study can go on later.
            InputError: the task's batches can't be divided among processes.
            StudyError: a checkpoint can't be written.
        """
        return self._connected().wait(observe)

    def release(self, number: int) -> None:
        """Deletes the checkpoints of trial ``number``, and ends its training loop where a worker keeps it in memory."""
        self._checkpoints.forget(number)
        if self._session is not None:
            self._session.release(number)

    def close(self) -> None:
        """Stops the workers and disconnects."""
        if self._session is not None and ray.is_initialized():
            self._session.close()
        self._session = None

    def _connected(self) -> ClusterSession:
        """The session with the cluster; it is opened at the first call."""
        if self._session is None:
            task = serialize_task(self._task)
            gpus = self._settings.gpus
            cluster = Cluster(self._settings, float(self._task.uses_cuda) if gpus is None else gpus)
            try:
                self._session = ClusterSession(cluster, task, self._checkpoints, self._monitoring, self._settings)
            except BaseException:
                cluster.close()
                raise
        return self._session
