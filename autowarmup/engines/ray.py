"""The Ray engine: trials run on a cluster, many at a time, and survive its accidents.

Workers are actors that stay: a task is unpacked once in each, and a trial costs a call. Paused trials travel as bytes
to the driver, which alone writes them to the study's folder, so that any worker can go on with any of them. What a
worker had not handed over when it died is done again from there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from autowarmup.engines.base import Observe, Segment, Task, Watch
from autowarmup.engines.checkpoints import Checkpoints
from autowarmup.engines.cluster import Cluster, check_versions, packed
from autowarmup.engines.settings import RaySettings
from autowarmup.engines.watchdog import Watchdog
from autowarmup.engines.worker import INTERVAL_S, Bytes, Home, Parcel
from autowarmup.errors import ClusterError
from autowarmup.store import Report
from autowarmup.trace import Trace

TICK_S = 0.5
"""Seconds between two looks at what else may have happened."""
IDLE_S = 60.0
"""Seconds after which a worker without work gives its place back."""
FAILED_STARTS = 5
"""Workers that may die one after the other before any has started."""


@dataclass(eq=False)
class _Job:
    """A segment to run, and what became of the workers that tried."""

    segment: Segment
    losses: list[tuple[str, str]] = field(default_factory=list)


@dataclass(eq=False)
class _Hand:
    """A worker as the driver knows it: ``call`` is what it was last asked for, None where it is idle."""

    actor: Any
    call: Any
    home: Home | None = None
    ready: bool = False
    warm: bool = False
    job: _Job | None = None
    silent_s: float = 0.0


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
        self._hands: list[_Hand] = []
        self._loops: dict[int, _Hand] = {}  # where paused loops of the user's own wait
        self._jobs: deque[_Job] = deque()
        self._failed_starts = 0
        self._homeless_s = 0.0

    def run(self, segments: Sequence[Segment], watch: Watch, observe: Observe) -> Iterator[Report]:
        """Runs the segments on as many workers as there are; reports come as they are ready.

        Raises:
            ClusterError: the cluster can't be used, or was lost; the study can go on later.
        """
        if not segments:
            return
        if self._cluster is None:
            self._enter()
        self._jobs = deque(_Job(segment) for segment in segments)
        left, ticked_at = len(segments), time.monotonic()
        self._hire()
        while left:
            self._assign(watch)
            for hand in self._called():
                if report := self._answered(hand, observe):
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
        if hand := self._loops.pop(number, None):
            hand.actor.forget.remote(number)

    def close(self) -> None:
        """Ends the workers and leaves the cluster."""
        if self._cluster is not None and ray.is_initialized():
            for hand in self._hands:
                ray.kill(hand.actor)
            self._cluster.close()
        self._hands, self._cluster = [], None

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
        busy = sum(hand.job is not None for hand in self._hands)
        wanted = busy + len(self._jobs)
        if wanted <= len(self._hands) or not self._cluster.answers:
            return
        most = self._settings.workers or max(1, self._cluster.places())
        for _ in range(min(wanted, most) - len(self._hands)):
            actor = self._cluster.hire()
            self._hands.append(_Hand(actor, actor.hello.remote()))

    def _assign(self, watch: Watch) -> None:
        """Gives idle workers something to do. A loop that waits goes on where it is."""
        idle = deque(hand for hand in self._hands if hand.call is None)
        for job in [*self._jobs] if idle else []:
            hand = self._loops.get(job.segment.spec.number) or next(iter(idle), None)
            if hand in idle:
                assert hand is not None
                idle.remove(hand)
                self._jobs.remove(job)
                hand.job, hand.silent_s = job, 0.0
                hand.call = hand.actor.begin.remote(job.segment, watch, self._state(job.segment))

    def _state(self, segment: Segment) -> Bytes | None:
        with self._checkpoints.reading(segment.spec.number, segment.past.end) as file:
            return None if file is None else np.frombuffer(file.read(), np.uint8)

    def _called(self) -> list[_Hand]:
        """The workers whose answers are there, after a moment's wait at most."""
        calls = {hand.call: hand for hand in self._hands if hand.call is not None}
        if not calls:
            time.sleep(TICK_S)
            return []
        ready, _ = ray.wait([*calls], num_returns=1, timeout=TICK_S)
        if ready and len(calls) > 1:
            ready, _ = ray.wait([*calls], num_returns=len(calls), timeout=0)
        return [calls[call] for call in ready]

    def _answered(self, hand: _Hand, observe: Observe) -> Report | None:
        """Deals with a worker's answer; a report where a job is over."""
        try:
            answer = ray.get(hand.call)
        except RayActorError as error:
            return self._lost(hand, error)
        except RayTaskError as error:
            raise ClusterError(f"a worker failed:\n{error}") from error
        except RayError as error:
            return self._lost(hand, error)
        hand.call, hand.silent_s = None, 0.0
        if isinstance(answer, Home):
            check_versions(answer)
            hand.home = answer
            hand.call = hand.actor.take.remote(self._packed)
        elif isinstance(answer, Parcel):
            return self._received(hand, answer, observe)
        else:
            hand.ready = True
            self._failed_starts = 0
        return None

    def _received(self, hand: _Hand, parcel: Parcel, observe: Observe) -> Report | None:
        job, report = hand.job, parcel.report
        assert job is not None
        spec = job.segment.spec
        self._watchdog.seen(parcel.slowest_s)
        hand.warm = True
        if report is None:
            hand.call = hand.actor.go_on.remote()
        else:
            hand.job = None
            self._loops.pop(spec.number, None)
            if parcel.state is not None:
                with self._checkpoints.writing(spec.number, report.until) as file:
                    file.write(parcel.state.data)
            if parcel.waits:
                self._loops[spec.number] = hand
        if parcel.blocks:
            observe(spec, Trace.join(parcel.blocks))
        return report

    # -- accidents --

    def _tick(self, seconds: float) -> Iterator[Report]:
        """What time brings: a lost head, hung workers, idle ones. ``seconds`` never exceed a moment, so that a driver
        that was suspended blames nobody."""
        assert self._cluster is not None
        self._cluster.check()
        self._hire()
        self._homeless_s = 0.0 if any(hand.ready for hand in self._hands) else self._homeless_s + seconds
        if self._homeless_s > self._settings.start_s and self._cluster.answers:
            raise ClusterError(
                f"no worker got its place in {self._settings.start_s:g} seconds: {self._cluster.describe()}"
            )
        for hand in [*self._hands]:
            hand.silent_s += seconds if hand.home else 0.0
            patience_s = INTERVAL_S + self._watchdog.patience_s(warm=hand.warm)
            if hand.call is not None and hand.silent_s > patience_s:
                if report := self._lost(hand, f"it made no progress for {patience_s:.0f} seconds"):
                    yield report
            elif hand.call is None and hand.silent_s > IDLE_S and hand not in self._loops.values():
                self._dismiss(hand)

    def _lost(self, hand: _Hand, why: RayError | str) -> Report | None:
        """A worker is gone, or goes. Its job is done again, unless it has cost too many workers."""
        assert self._cluster is not None
        self._dismiss(hand)
        job, home = hand.job, hand.home
        if job is None:
            self._failed_starts += not hand.ready
            if self._failed_starts == FAILED_STARTS:
                raise ClusterError(f"{FAILED_STARTS} workers died before they could start. The last: {why}")
            return None
        assert home is not None
        if not isinstance(why, ActorUnavailableError) and not getattr(why, "preempted", False):
            job.losses.append((home.node, f"on {home.host}: {why}"))
        counted = [reason for node, reason in job.losses if self._cluster.answers and self._cluster.lives(node)]
        if len(counted) <= self._settings.retries:
            self._jobs.appendleft(job)
            return None
        segment = job.segment
        return Report(
            number=segment.spec.number,
            until=segment.until,
            trace=Trace.empty(segment.past.end),
            error=f"{len(counted)} workers died or hung with this trial. The last one {counted[-1]}",
        )

    def _dismiss(self, hand: _Hand) -> None:
        """Ends a worker, with its children; loops that waited in it will start again elsewhere."""
        ray.kill(hand.actor)
        self._hands.remove(hand)
        self._loops = {number: other for number, other in self._loops.items() if other is not hand}
