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

from autowarmup.engines.base import Observe, Segment, Task, Watch
from autowarmup.engines.checkpoints import Checkpoints
from autowarmup.engines.cluster import Cluster, check_versions, packed
from autowarmup.engines.crew import Crew, Job
from autowarmup.engines.settings import RaySettings
from autowarmup.engines.watchdog import Watchdog
from autowarmup.engines.worker import INTERVAL_S, Bytes, Home, Parcel
from autowarmup.errors import ClusterError, InputError
from autowarmup.store import Report
from autowarmup.trace import Trace

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
        self._crews: list[Crew] = []
        self._loops: dict[int, Crew] = {}  # where paused loops of the user's own wait
        self._jobs: deque[Job] = deque()
        self._failed_starts = 0
        self._homeless_s = 0.0

    def run(self, segments: Sequence[Segment], watch: Watch, observe: Observe) -> Iterator[Report]:
        """Runs the segments on as many workers as there are; reports come as they are ready.

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
        self._hire()
        while left:
            self._assign(watch)
            for crew, call in self._answers():
                if call in crew.calls and (report := self._answered(crew, call, observe)):
                    left -= 1
                    yield report
            now = time.monotonic()
            if now - ticked_at >= TICK_S:
                for report in self._tick(min(now - ticked_at, 2 * TICK_S)):
                    left -= 1
                    yield report
                ticked_at = now

    def release(self, number: int) -> None:
        """Forgets trial ``number``: its checkpoints, and its loop where one waits."""
        self._checkpoints.forget(number)
        if crew := self._loops.pop(number, None):
            crew.forget(number)

    def close(self) -> None:
        """Ends the workers and leaves the cluster."""
        if self._cluster is not None and ray.is_initialized():
            for crew in self._crews:
                self._cluster.dismiss(crew)
            self._cluster.close()
        self._crews, self._cluster = [], None

    def _enter(self) -> None:
        gpus = self._settings.gpus
        if gpus is None:
            device = getattr(self._task, "device", None)
            gpus = float(device is not None and device.type == "cuda")
        self._cluster = Cluster(self._settings, gpus)
        self._packed = ray.put(packed(self._task))

    # -- workers --

    def _hire(self) -> None:
        """A worker for every job, as far as there are places."""
        assert self._cluster is not None
        busy = sum(crew.job is not None for crew in self._crews)
        wanted = busy + len(self._jobs)
        if wanted <= len(self._crews) or not self._cluster.answers:
            return
        most = self._settings.workers or max(1, self._cluster.places())
        for _ in range(min(wanted, most) - len(self._crews)):
            self._crews.append(self._cluster.hire())

    def _assign(self, watch: Watch) -> None:
        """Gives idle workers something to do. A loop that waits goes on where it is."""
        idle = deque(crew for crew in self._crews if crew.idle)
        for job in [*self._jobs] if idle else []:
            crew = self._loops.get(job.segment.spec.number) or next(iter(idle), None)
            if crew in idle:
                assert crew is not None
                idle.remove(crew)
                self._jobs.remove(job)
                crew.begin(job, watch, self._state(job.segment))

    def _state(self, segment: Segment) -> Bytes | None:
        with self._checkpoints.reading(segment.spec.number, segment.past.end) as file:
            return None if file is None else np.frombuffer(file.read(), np.uint8)

    def _answers(self) -> list[tuple[Crew, Any]]:
        """The calls that have been answered, after a moment's wait at most."""
        calls = {call: crew for crew in self._crews for call in crew.calls}
        if not calls:
            time.sleep(TICK_S)
            return []
        ready, _ = ray.wait([*calls], num_returns=1, timeout=TICK_S)
        if ready and len(calls) > 1:
            ready, _ = ray.wait([*calls], num_returns=len(calls), timeout=0)
        return [(calls[call], call) for call in ready]

    def _answered(self, crew: Crew, call: Any, observe: Observe) -> Report | None:
        """Deals with a worker's answer; a report where a job is over."""
        rank = crew.calls.pop(call)
        try:
            answer = ray.get(call)
        except RayActorError as error:
            return self._lost(crew, error, rank)
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from error
            if dead := self._dead(crew):
                return self._lost(crew, *dead)
            raise ClusterError(f"a worker failed:\n{error}") from error
        except RayError as error:
            return self._lost(crew, error, rank)
        crew.silent_s = 0.0
        if isinstance(answer, Home):
            check_versions(answer)
            crew.homes[rank] = answer
            if crew.housed:
                crew.hand_over(self._packed)
        elif isinstance(answer, Parcel):
            return self._received(crew, answer, observe)
        elif isinstance(answer, Report):
            return self._failed(crew, answer)
        elif crew.job is None:
            crew.ready = not crew.calls
            self._failed_starts = 0
        return None

    def _received(self, crew: Crew, parcel: Parcel, observe: Observe) -> Report | None:
        job, report = crew.job, parcel.report
        assert job is not None
        spec = job.segment.spec
        self._watchdog.seen(parcel.slowest_s)
        crew.warm = True
        if parcel.blocks:
            observe(spec, Trace.join(parcel.blocks))
        if report is None:
            crew.go_on()
            return None
        if report.error is not None and crew.several:
            return self._failed(crew, report)
        crew.finish()
        self._loops.pop(spec.number, None)
        if parcel.state is not None:
            with self._checkpoints.writing(spec.number, report.until) as file:
                file.write(parcel.state.data)
        if parcel.waits:
            self._loops[spec.number] = crew
        return report

    # -- accidents --

    def _tick(self, seconds: float) -> Iterator[Report]:
        """What time brings: a lost head, hung workers, idle ones. ``seconds`` never exceed a moment, so that a driver
        that was suspended blames nobody."""
        assert self._cluster is not None
        self._cluster.check()
        self._hire()
        self._homeless_s = 0.0 if any(crew.ready for crew in self._crews) else self._homeless_s + seconds
        if self._homeless_s > STARTS * self._settings.start_s and self._cluster.answers:
            raise ClusterError(
                f"no worker got its place and started in {STARTS} times {self._settings.start_s:g} seconds: "
                f"{self._cluster.describe()}"
            )
        for crew in [*self._crews]:
            crew.silent_s += seconds
            if crew.housed and not crew.idle:
                patience_s = INTERVAL_S + self._watchdog.patience_s(warm=crew.warm)
                why = f"it made no progress for {patience_s:.0f} seconds"
                if crew.silent_s > patience_s and (report := self._lost(crew, why)):
                    yield report
            elif crew.silent_s > (IDLE_S if crew.idle else self._settings.start_s) and crew not in self._loops.values():
                self._dismiss(crew)

    def _failed(self, crew: Crew, report: Report) -> Report | None:
        """One process of several failed, and the others may wait for it in vain: all of them end. It may have failed
        because another one died, which is not the trial's fault."""
        if dead := self._dead(crew):
            return self._lost(crew, *dead)
        self._dismiss(crew)
        return report

    def _dead(self, crew: Crew) -> tuple[RayError, int] | None:
        """Of those that haven't answered, one that never will, and its rank, where that turns out in a few seconds."""
        calls = [*crew.calls]
        answered = ray.wait(calls, num_returns=len(calls), timeout=GRACE_S)[0] if calls else []
        for call in answered:
            try:
                ray.get(call)
            except RayTaskError:
                continue
            except RayError as error:
                return error, crew.calls[call]
        return None

    def _lost(self, crew: Crew, why: RayError | str, rank: int = 0) -> Report | None:
        """A worker is gone, or goes. Its job is done again, unless it has cost too many workers.

        Raises:
            ClusterError: it has cost too many nodes.
        """
        assert self._cluster is not None
        self._dismiss(crew)
        job = crew.job
        if job is None:
            self._failed_starts += not crew.ready
            if self._failed_starts == FAILED_STARTS:
                raise ClusterError(f"{FAILED_STARTS} workers died before they could start. The last: {why}")
            return None
        home = crew.homes[rank]
        if not isinstance(why, ActorUnavailableError) and not getattr(why, "preempted", False):
            job.losses.append((crew.nodes, f"on {home.host}: {why}"))
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
        return Report(
            number=segment.spec.number,
            until=segment.until,
            trace=Trace.empty(segment.past.end),
            error=f"{len(counted)} workers died or hung with this trial. The last one {counted[-1]}",
        )

    def _dismiss(self, crew: Crew) -> None:
        """Ends a worker; loops that waited in it will start again elsewhere."""
        assert self._cluster is not None
        self._cluster.dismiss(crew)
        self._crews.remove(crew)
        self._loops = {number: other for number, other in self._loops.items() if other is not crew}
