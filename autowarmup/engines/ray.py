"""The Ray engine: trials run on a cluster, many at a time, and survive its accidents.

Workers are actors that stay: a task is unpacked once in each, and a trial costs a call. Paused trials travel as bytes
to the driver, which alone writes them to the study's folder, so that any worker can go on with any of them. What a
worker had not handed over when it died is done again from there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from autowarmup.engines.base import MonitorSettings, Observe, Segment
from autowarmup.engines.checkpoints import Checkpoints
from autowarmup.engines.cluster import Cluster, check_versions, packed
from autowarmup.engines.settings import RaySettings
from autowarmup.engines.watchdog import Watchdog
from autowarmup.engines.worker import INTERVAL_S, Bytes, WorkerInfo, WorkerUpdate
from autowarmup.engines.worker_group import Job, WorkerGroup
from autowarmup.errors import ClusterError, InputError
from autowarmup.search.trials import SegmentResult
from autowarmup.training.base import Task
from autowarmup.training.trace import Trace

TICK_S = 0.5
"""Seconds between two looks at what else may have happened."""
IDLE_S = 60.0
"""Seconds after which a worker without work gives its place back."""
STARTS = 2
"""Workers that may fail to start in time, one after the other, before any has started: one may hang."""
FAILED_STARTS = 5
"""Workers that may die one after the other before any has started."""
LOST_NODES = 10
"""Nodes that may be lost with the same part of a trial."""
GRACE_S = 5.0
"""Where one process of several fails, seconds in which it may turn out that another one has died."""


class RayEngine:
    """Runs segments on a Ray cluster.

    It connects when there is something to run, so a finished study needs no cluster.

    Args:
        task: what is trained.
        folder: where paused trials are kept, on the driver's machine.
        settings: which cluster, and what a trial gets there.
    """

    def __init__(self, task: Task, folder: Path, settings: RaySettings) -> None:
        self._task, self._settings = task, settings
        self._checkpoints = Checkpoints(folder)
        self._watchdog = Watchdog(settings.patience_s)
        self._cluster: Cluster | None = None
        self._groups: list[WorkerGroup] = []
        self._loops: dict[int, WorkerGroup] = {}  # where paused loops of the user's own wait
        self._jobs: deque[Job] = deque()
        self._failed_starts = 0
        self._without_workers_s = 0.0

    def run(
        self, segments: Sequence[Segment], monitoring: MonitorSettings, observe: Observe
    ) -> Iterator[SegmentResult]:
        """Runs the segments on as many workers as there are; results come as they are ready.

        Raises:
            ClusterError: the cluster can't be used, or was lost; the study can go on later.
            InputError: the task can't be sent to workers, or its batches can't be divided among processes.
        """
        if not segments:
            return
        if self._cluster is None:
            self._enter()
        self._jobs = deque(Job(segment) for segment in segments)
        left, ticked_at = len(segments), time.monotonic()
        self._start_workers()
        while left:
            self._assign(monitoring)
            for group, call in self._answers():
                if call in group.calls and (result := self._answered(group, call, observe)):
                    left -= 1
                    yield result
            now = time.monotonic()
            if now - ticked_at >= TICK_S:
                for result in self._tick(min(now - ticked_at, 2 * TICK_S)):
                    left -= 1
                    yield result
                ticked_at = now

    def release(self, number: int) -> None:
        """Forgets trial ``number``: its checkpoints, and its loop where one waits."""
        self._checkpoints.forget(number)
        if group := self._loops.pop(number, None):
            group.forget(number)

    def close(self) -> None:
        """Ends the workers and leaves the cluster."""
        if self._cluster is not None and ray.is_initialized():
            for group in self._groups:
                self._cluster.stop_workers(group)
            self._cluster.close()
        self._groups, self._cluster = [], None

    def _enter(self) -> None:
        gpus = self._settings.gpus
        if gpus is None:
            gpus = float(self._task.uses_cuda)
        self._cluster = Cluster(self._settings, gpus)
        self._packed = ray.put(packed(self._task))

    # -- workers --

    def _start_workers(self) -> None:
        """A worker for every job, as far as there are places."""
        assert self._cluster is not None
        busy = sum(group.job is not None for group in self._groups)
        wanted = busy + len(self._jobs)
        if wanted <= len(self._groups) or not self._cluster.answers:
            return
        most = self._settings.workers or max(1, self._cluster.capacity())
        for _ in range(min(wanted, most) - len(self._groups)):
            self._groups.append(self._cluster.start_workers())

    def _assign(self, monitoring: MonitorSettings) -> None:
        """Gives idle workers something to do. A loop that waits goes on where it is."""
        idle = deque(group for group in self._groups if group.idle)
        for job in [*self._jobs] if idle else []:
            group = self._loops.get(job.segment.spec.number) or next(iter(idle), None)
            if group in idle:
                assert group is not None
                idle.remove(group)
                self._jobs.remove(job)
                group.begin(job, monitoring, self._state(job.segment))

    def _state(self, segment: Segment) -> Bytes | None:
        with self._checkpoints.reading(segment.spec.number, segment.past.end) as file:
            return None if file is None else np.frombuffer(file.read(), np.uint8)

    def _answers(self) -> list[tuple[WorkerGroup, Any]]:
        """The calls that have been answered, after a moment's wait at most."""
        calls = {call: group for group in self._groups for call in group.calls}
        if not calls:
            time.sleep(TICK_S)
            return []
        ready, _ = ray.wait([*calls], num_returns=1, timeout=TICK_S)
        if ready and len(calls) > 1:
            ready, _ = ray.wait([*calls], num_returns=len(calls), timeout=0)
        return [(calls[call], call) for call in ready]

    def _answered(self, group: WorkerGroup, call: Any, observe: Observe) -> SegmentResult | None:
        """Deals with a worker's answer; a result where a job is over."""
        rank = group.calls.pop(call)
        try:
            answer = ray.get(call)
        except RayActorError as error:
            return self._lost(group, error, rank)
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from error
            if dead := self._dead(group):
                return self._lost(group, *dead)
            raise ClusterError(f"a worker failed:\n{error}") from error
        except RayError as error:
            return self._lost(group, error, rank)
        group.silent_s = 0.0
        if isinstance(answer, WorkerInfo):
            check_versions(answer)
            group.workers[rank] = answer
            if group.registered:
                group.send_task(self._packed)
        elif isinstance(answer, WorkerUpdate):
            return self._received(group, answer, observe)
        elif isinstance(answer, SegmentResult):
            return self._failed(group, answer)
        elif group.job is None:
            group.ready = not group.calls
            self._failed_starts = 0
        return None

    def _received(self, group: WorkerGroup, update: WorkerUpdate, observe: Observe) -> SegmentResult | None:
        job, result = group.job, update.result
        assert job is not None
        spec = job.segment.spec
        self._watchdog.seen(update.slowest_s)
        group.warm = True
        if update.blocks:
            observe(spec, Trace.join(update.blocks))
        if result is None:
            group.advance()
            return None
        if result.error is not None and group.several:
            return self._failed(group, result)
        group.finish()
        self._loops.pop(spec.number, None)
        if update.state is not None:
            with self._checkpoints.writing(spec.number, result.until) as file:
                file.write(update.state.data)
        if update.waits:
            self._loops[spec.number] = group
        return result

    # -- accidents --

    def _tick(self, seconds: float) -> Iterator[SegmentResult]:
        """What time brings: a lost head, hung workers, idle ones. ``seconds`` never exceed a moment, so that a driver
        that was suspended blames nobody."""
        assert self._cluster is not None
        self._cluster.check()
        self._start_workers()
        self._without_workers_s = (
            0.0 if any(group.ready for group in self._groups) else self._without_workers_s + seconds
        )
        if self._without_workers_s > STARTS * self._settings.start_s and self._cluster.answers:
            raise ClusterError(
                f"no worker got its place and started in {STARTS} times {self._settings.start_s:g} seconds: "
                f"{self._cluster.describe()}"
            )
        for group in [*self._groups]:
            group.silent_s += seconds
            if group.registered and not group.idle:
                patience_s = INTERVAL_S + self._watchdog.patience_s(warm=group.warm)
                why = f"it made no progress for {patience_s:.0f} seconds"
                if group.silent_s > patience_s and (result := self._lost(group, why)):
                    yield result
            elif (
                group.silent_s > (IDLE_S if group.idle else self._settings.start_s)
                and group not in self._loops.values()
            ):
                self._stop(group)

    def _failed(self, group: WorkerGroup, result: SegmentResult) -> SegmentResult | None:
        """One process of several failed, and the others may wait for it in vain: all of them end. It may have failed
        because another one died, which is not the trial's fault."""
        if dead := self._dead(group):
            return self._lost(group, *dead)
        self._stop(group)
        return result

    def _dead(self, group: WorkerGroup) -> tuple[RayError, int] | None:
        """Of those that haven't answered, one that never will, and its rank, where that turns out in a few seconds."""
        calls = [*group.calls]
        answered = ray.wait(calls, num_returns=len(calls), timeout=GRACE_S)[0] if calls else []
        for call in answered:
            try:
                ray.get(call)
            except RayTaskError:
                continue
            except RayError as error:
                return error, group.calls[call]
        return None

    def _lost(self, group: WorkerGroup, why: RayError | str, rank: int = 0) -> SegmentResult | None:
        """A worker is gone, or goes. Its job is done again, unless it has cost too many workers.

        Raises:
            ClusterError: it has cost too many nodes.
        """
        assert self._cluster is not None
        self._stop(group)
        job = group.job
        if job is None:
            self._failed_starts += not group.ready
            if self._failed_starts == FAILED_STARTS:
                raise ClusterError(f"{FAILED_STARTS} workers died before they could start. The last: {why}")
            return None
        worker = group.workers[rank]
        if not isinstance(why, ActorUnavailableError) and not getattr(why, "preempted", False):
            job.losses.append((group.nodes, f"on {worker.host}: {why}"))
        living = self._cluster.living()
        counted = [reason for nodes, reason in job.losses if nodes <= living]
        segment = job.segment
        if job.begun - len(counted) > LOST_NODES:
            raise ClusterError(
                f"trial {segment.spec.number} was begun {job.begun} times at step {segment.past.end}, and nodes were "
                f"lost with it. When nodes stay, make the same call again: the study goes on where it stopped"
            )
        if len(counted) <= self._settings.retries:
            self._jobs.appendleft(job)
            return None
        return SegmentResult(
            number=segment.spec.number,
            until=segment.until,
            trace=Trace.empty(segment.past.end),
            error=f"{len(counted)} workers died or hung with this trial. The last one {counted[-1]}",
        )

    def _stop(self, group: WorkerGroup) -> None:
        """Ends a worker; loops that waited in it will start again elsewhere."""
        assert self._cluster is not None
        self._cluster.stop_workers(group)
        self._groups.remove(group)
        self._loops = {number: other for number, other in self._loops.items() if other is not group}
