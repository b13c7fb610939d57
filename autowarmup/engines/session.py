"""Running segments on a connected Ray cluster: which worker runs what, and what happens when one is lost.

Workers are actors that stay for the whole study: each unpacks the task once, and beginning a segment costs one call.
Checkpoints travel to the driver as bytes, and the driver alone writes them to the study's folder. So any worker can go
on with any trial. When a worker dies, the segment that it ran is begun again from the last checkpoint.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from autowarmup.engines.base import MonitorSettings, Observe, Segment
from autowarmup.engines.checkpoints import Checkpoints
from autowarmup.engines.cluster import Cluster, check_versions
from autowarmup.engines.settings import RaySettings
from autowarmup.engines.watchdog import Watchdog
from autowarmup.engines.worker import INTERVAL_S, Bytes, WorkerInfo, WorkerUpdate
from autowarmup.engines.worker_group import Failure, Job, WorkerGroup
from autowarmup.errors import ClusterError, InputError
from autowarmup.search.trials import SegmentResult
from autowarmup.training.trace import Trace

TICK_S = 0.5
"""Seconds between two checks of the cluster and of silent workers; also the longest wait for a worker's answer."""
IDLE_TIMEOUT_S = 60.0
"""Seconds without work after which a worker is stopped and its resources are freed."""
MAX_START_TIMEOUTS = 2
"""While no worker is ready, how often ``start_s`` may pass before the study stops. It is more than once, so that one
worker that hangs while it starts can be replaced."""
MAX_FAILED_STARTS = 5
"""Workers that may die in a row before they are ready; then the study stops."""
MAX_LOST_NODES = 10
"""How often the same segment may be begun again because nodes were lost; then the study stops."""
GRACE_S = 5.0
"""Where one process of a group fails, seconds to wait for news that another one has died."""


class ClusterSession:
    """A study's work on one connected cluster.

    Args:
        cluster: the connection.
        task: the serialized task; see :func:`autowarmup.engines.cluster.serialize_task`.
        checkpoints: where paused trials are stored.
        monitoring: how often trials are validated, and their detectors.
        settings: the resources and the timeouts of workers.
    """

    def __init__(
        self,
        cluster: Cluster,
        task: Bytes,
        checkpoints: Checkpoints,
        monitoring: MonitorSettings,
        settings: RaySettings,
    ) -> None:
        self._cluster, self._checkpoints = cluster, checkpoints
        self._monitoring, self._settings = monitoring, settings
        self._task = ray.put(task)
        self._watchdog = Watchdog(settings.patience_s)
        self._groups: list[WorkerGroup] = []
        self._in_memory: dict[int, WorkerGroup] = {}  # by trial: the group that keeps its paused training loop
        self._jobs: deque[Job] = deque()  # those that no group runs yet
        self._ended: deque[SegmentResult] = deque()  # those that nobody has waited for yet
        self._slots = 1
        self._ticked_at = time.monotonic()
        self._failed_starts = 0
        self._without_workers_s = 0.0

    def slots(self) -> int:
        """How many workers it would start for as many jobs, at least 1. While the head doesn't respond, what it was
        before."""
        if self._cluster.head_responds:
            self._slots = self._settings.workers or max(1, self._cluster.capacity())
        return self._slots

    def start(self, segment: Segment) -> None:
        """Queues a segment, starts a worker for it where there is room, and begins it where a worker is idle."""
        self._jobs.append(Job(segment))
        self._start_workers()
        self._assign_jobs()

    def wait(self, observe: Observe) -> SegmentResult:
        """The result of the next segment that ends; see :meth:`autowarmup.engines.ray.RayEngine.wait`."""
        while not self._ended:
            self._assign_jobs()
            for group, call in self._wait():
                if call in group.calls and (result := self._handle_return(group, call, observe)):
                    self._ended.append(result)
            now = time.monotonic()
            if now - self._ticked_at >= TICK_S:
                self._ended.extend(self._tick(min(now - self._ticked_at, 2 * TICK_S)))
                self._ticked_at = now
        return self._ended.popleft()

    def release(self, number: int) -> None:
        """Ends the training loop of trial ``number``, where a worker keeps one in memory."""
        if group := self._in_memory.pop(number, None):
            group.forget(number)

    def close(self) -> None:
        """Stops the workers and disconnects."""
        for group in self._groups:
            self._cluster.stop_workers(group)
        self._cluster.close()

    # -- assigning work --

    def _start_workers(self) -> None:
        """Starts workers until there is one for every job, as far as the cluster has room."""
        busy = sum(group.job is not None for group in self._groups)
        wanted = busy + len(self._jobs)
        if wanted <= len(self._groups) or not self._cluster.head_responds:
            return
        for _ in range(min(wanted, self.slots()) - len(self._groups)):
            self._groups.append(self._cluster.start_workers())

    def _assign_jobs(self) -> None:
        """Gives jobs to idle groups. A training loop that is kept in memory goes on in the group that keeps it."""
        idle = [group for group in self._groups if group.idle]
        for job in [*self._jobs]:
            if not idle:
                return
            group = self._in_memory.get(job.segment.spec.number, idle[0])
            if group in idle:
                idle.remove(group)
                self._jobs.remove(job)
                group.begin(job, self._monitoring, self._read_checkpoint(job.segment))

    def _read_checkpoint(self, segment: Segment) -> Bytes | None:
        with self._checkpoints.reading(segment.spec.number, segment.past.end) as file:
            return None if file is None else np.frombuffer(file.read(), np.uint8)

    # -- answers of workers --

    def _wait(self) -> list[tuple[WorkerGroup, Any]]:
        """Waits for a call to return, ``TICK_S`` seconds at most, and gives all that have returned, with their
        groups."""
        calls = {call: group for group in self._groups for call in group.calls}
        if not calls:
            time.sleep(TICK_S)
            return []
        ready, _ = ray.wait([*calls], num_returns=1, timeout=TICK_S)
        if ready and len(calls) > 1:
            ready, _ = ray.wait([*calls], num_returns=len(calls), timeout=0)
        return [(calls[call], call) for call in ready]

    def _handle_return(self, group: WorkerGroup, call: Any, observe: Observe) -> SegmentResult | None:
        """Handles a call that has returned. Returns the result of the group's segment if that has ended with it."""
        rank = group.calls.pop(call)
        try:
            answer = ray.get(call)
        except RayActorError as error:
            return self._handle_loss(group, error, rank)
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from error
            if dead := self._find_dead_process(group):
                return self._handle_loss(group, *dead)
            raise ClusterError(f"a worker failed:\n{error}") from error
        except RayError as error:
            return self._handle_loss(group, error, rank)
        group.silent_s = 0.0
        if isinstance(answer, WorkerInfo):
            self._register(group, rank, answer)
        elif group.job is None:  # the task has arrived
            group.ready = not group.calls
            self._failed_starts = 0
        elif isinstance(answer, WorkerUpdate):
            return self._handle_update(group, group.job, answer, observe)
        elif isinstance(answer, SegmentResult):
            return self._handle_failure(group, answer)
        return None

    def _register(self, group: WorkerGroup, rank: int, info: WorkerInfo) -> None:
        """Notes where a process runs, and sends the group its task when all processes are registered."""
        check_versions(info)
        group.workers[rank] = info
        if group.registered:
            group.send_task(self._task)

    def _handle_update(
        self, group: WorkerGroup, job: Job, update: WorkerUpdate, observe: Observe
    ) -> SegmentResult | None:
        """Passes on what was recorded. Lets the group go on, or, at the segment's end, keeps its checkpoint and returns
        its result."""
        spec, result = job.segment.spec, update.result
        self._watchdog.record(update.slowest_s)
        group.warm = True
        if update.blocks:
            observe(spec, Trace.join(update.blocks))
        if result is None:
            group.advance()
            return None
        if result.error is not None and group.distributed:
            return self._handle_failure(group, result)
        group.finish()
        self._in_memory.pop(spec.number, None)
        if update.state is not None:
            with self._checkpoints.writing(spec.number, result.until) as file:
                file.write(update.state.data)
        if update.in_memory:
            self._in_memory[spec.number] = group
        return result

    def _handle_failure(self, group: WorkerGroup, result: SegmentResult) -> SegmentResult | None:
        """Handles the failure of one process of a group.

        The whole group is stopped, since the other processes may wait for this one for ever. If another process has
        died, that is taken for the cause: then it is a loss, and not a failure of the trial.
        """
        if dead := self._find_dead_process(group):
            return self._handle_loss(group, *dead)
        self._stop(group)
        return result

    def _find_dead_process(self, group: WorkerGroup) -> tuple[RayError, int] | None:
        """A process of the group that has died, as Ray's error and the process's rank. Waits up to ``GRACE_S`` seconds
        for the calls that haven't returned."""
        calls = [*group.calls]
        returned = ray.wait(calls, num_returns=len(calls), timeout=GRACE_S)[0] if calls else []
        for call in returned:
            try:
                ray.get(call)
            except RayTaskError:
                continue
            except RayError as error:
                return error, group.calls[call]
        return None

    # -- losses and timeouts --

    def _tick(self, seconds: float) -> Iterator[SegmentResult]:
        """Checks what no answer tells: whether the head still responds, whether there is room for more workers, and
        which workers hang or have been idle for long. Yields the results of segments that are given up.

        ``seconds`` is the time since the last check, but at most ``2 * TICK_S``: after a driver was suspended, its
        workers must not seem to have been silent all that time.
        """
        self._cluster.check_head()
        self._start_workers()
        self._check_starts(seconds)
        for group in [*self._groups]:
            group.silent_s += seconds
            if group.registered and not group.idle:
                timeout_s = INTERVAL_S + self._watchdog.timeout_s(warm=group.warm)
                reason = f"it made no progress for {timeout_s:.0f} seconds"
                if group.silent_s > timeout_s and (result := self._handle_loss(group, reason)):
                    yield result
            elif group not in self._in_memory.values():
                timeout_s = IDLE_TIMEOUT_S if group.idle else self._settings.start_s
                if group.silent_s > timeout_s:
                    self._stop(group)

    def _check_starts(self, seconds: float) -> None:
        """Raises an error where no worker has been ready for too long."""
        self._without_workers_s += seconds
        if any(group.ready for group in self._groups):
            self._without_workers_s = 0.0
        if self._without_workers_s > MAX_START_TIMEOUTS * self._settings.start_s and self._cluster.head_responds:
            raise ClusterError(
                f"no worker got its resources and started in {MAX_START_TIMEOUTS} times {self._settings.start_s:g} "
                f"seconds: {self._cluster.describe()}"
            )

    def _handle_loss(self, group: WorkerGroup, reason: RayError | str, rank: int = 0) -> SegmentResult | None:
        """Handles a group whose process of ``rank`` died or hangs: stops the group and queues its job again.

        After too many losses of the same job it returns a result with an error instead. A loss counts where the group's
        nodes are still alive; one that comes with a lost node, or a preemption, is not the trial's fault.

        Raises:
            ClusterError: too many workers died before they were ready, or too many nodes were lost with the same job.
        """
        self._stop(group)
        job = group.job
        if job is None:
            self._count_failed_start(group, reason)
            return None
        if not isinstance(reason, ActorUnavailableError) and not getattr(reason, "preempted", False):
            job.failures.append(Failure(group.nodes, f"on {group.workers[rank].host}: {reason}"))
        alive = self._cluster.alive_nodes()
        counted = [failure for failure in job.failures if failure.nodes <= alive]
        segment = job.segment
        if job.attempts - len(counted) > MAX_LOST_NODES:
            raise ClusterError(
                f"trial {segment.spec.number} was begun {job.attempts} times at step {segment.past.end}, and nodes "
                f"were lost with it. When nodes stay, make the same call again: the study goes on where it stopped"
            )
        if len(counted) <= self._settings.retries:
            self._jobs.appendleft(job)
            return None
        return SegmentResult(
            number=segment.spec.number,
            until=segment.until,
            trace=Trace.empty(segment.past.end),
            error=f"{len(counted)} workers died or hung with this trial. The last one {counted[-1].reason}",
        )

    def _count_failed_start(self, group: WorkerGroup, reason: RayError | str) -> None:
        """Notes that a group was lost without a job: where that was before it was ready, it failed to start."""
        self._failed_starts += not group.ready
        if self._failed_starts == MAX_FAILED_STARTS:
            raise ClusterError(f"{MAX_FAILED_STARTS} workers died before they could start. The last: {reason}")

    def _stop(self, group: WorkerGroup) -> None:
        """Stops a group. Training loops that it kept in memory are trained again from their start in another one."""
        self._cluster.stop_workers(group)
        self._groups.remove(group)
        self._in_memory = {number: other for number, other in self._in_memory.items() if other is not group}
