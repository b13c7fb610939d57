"""A worker as the driver knows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ray

from autowarmup.engines.base import MonitorSettings, Segment
from autowarmup.engines.worker import Bytes, WorkerInfo


@dataclass(eq=False)
class Job:
    """A segment to run, and what became of the workers that tried: of those that died or hung the nodes, and why."""

    segment: Segment
    begun: int = 0
    losses: list[tuple[frozenset[str], str]] = field(default_factory=list)


@dataclass(eq=False)
class WorkerGroup:
    """One process, or several that train together and of which the first answers for all.

    Attributes:
        actors: the processes, by rank.
        place: the placement group that holds the places of several.
        calls: what has been asked and not been answered yet, with the rank of who was.
        workers: where they live, by rank, as far as they have said.
        ready: whether they have the task.
        warm: whether they have trained before.
        job: what they do now.
        silent_s: seconds since the last answer.
    """

    actors: list[Any]
    placement_group: Any = None
    calls: dict[Any, int] = field(default_factory=dict)
    workers: dict[int, WorkerInfo] = field(default_factory=dict)
    ready: bool = False
    warm: bool = False
    job: Job | None = None
    silent_s: float = 0.0

    @property
    def several(self) -> bool:
        return len(self.actors) > 1

    @property
    def registered(self) -> bool:
        """Whether all of them have said where they live."""
        return len(self.workers) == len(self.actors)

    @property
    def nodes(self) -> frozenset[str]:
        """Where they live."""
        return frozenset(worker.node for worker in self.workers.values())

    @property
    def idle(self) -> bool:
        return self.ready and self.job is None

    def handshake(self) -> None:
        """Asks where they are; they answer when they have a place."""
        self.calls = {actor.info.remote(): rank for rank, actor in enumerate(self.actors)}

    def send_task(self, task: Any) -> None:
        """Gives them the task."""
        rendezvous = self.workers[0].rendezvous
        self.calls = {actor.receive_task.remote(task, rendezvous): rank for rank, actor in enumerate(self.actors)}

    def begin(self, job: Job, monitoring: MonitorSettings, state: Bytes | None) -> None:
        """Has them begin a segment."""
        self.job, self.silent_s = job, 0.0
        job.begun += 1
        first, *others = self.actors
        start = ray.put(state) if self.several and state is not None else state
        self.calls = {first.begin.remote(job.segment, monitoring, start): 0}
        self.calls |= {
            actor.follow.remote(job.segment, monitoring, start): rank for rank, actor in enumerate(others, 1)
        }

    def advance(self) -> None:
        """Has the first one go on; the others keep in step with it."""
        self.calls[self.actors[0].advance.remote()] = 0

    def finish(self) -> None:
        """The segment is over."""
        self.job = None
        self.calls.clear()

    def forget(self, number: int) -> None:
        """Trial ``number`` is over: its loop has nothing to wait for."""
        for actor in self.actors:
            actor.forget.remote(number)

    def end(self) -> None:
        """Ends the processes, with their children."""
        self.calls.clear()
        for actor in self.actors:
            ray.kill(actor)
