"""The driver's view of the processes that train one trial at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ray

from autowarmup.engines.base import MonitorSettings, Segment
from autowarmup.engines.worker import Bytes, WorkerInfo


class Failure(NamedTuple):
    """A worker group that died or hung while it ran a job: the IDs of the nodes that it ran on, and what happened."""

    nodes: frozenset[str]
    reason: str


@dataclass(eq=False)
class Job:
    """A segment to run.

    Attributes:
        segment: the segment.
        attempts: how often it has been begun.
        failures: the worker groups that died or hung with it; preemptions are left out.
    """

    segment: Segment
    attempts: int = 0
    failures: list[Failure] = field(default_factory=list)


@dataclass(eq=False)
class WorkerGroup:
    """A worker: one process, or several that train each trial together.

    It is *started* by :meth:`handshake`, *registered* when all of its processes have answered that, and *ready* when
    all of them have the task.

    Attributes:
        actors: the actors, one a process, by rank.
        placement_group: Ray's reservation of the resources of several processes; None for a single one.
        calls: the calls that haven't returned yet, as Ray's object references, with the rank of the actor called.
        workers: where the processes run, by rank, as far as they have answered the handshake.
        ready: whether all processes have the task.
        warm: whether the group has trained before.
        job: what it runs now.
        silent_s: seconds since a call last returned.
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
    def distributed(self) -> bool:
        """Whether several processes train each trial together."""
        return len(self.actors) > 1

    @property
    def registered(self) -> bool:
        """Whether all processes have answered the handshake."""
        return len(self.workers) == len(self.actors)

    @property
    def nodes(self) -> frozenset[str]:
        """The IDs of the nodes that the registered processes run on."""
        return frozenset(worker.node for worker in self.workers.values())

    @property
    def idle(self) -> bool:
        """Whether it can be given a job."""
        return self.ready and self.job is None

    def handshake(self) -> None:
        """Asks every process for its :class:`WorkerInfo`; the calls return once the processes have started."""
        self.calls = {actor.info.remote(): rank for rank, actor in enumerate(self.actors)}

    def send_task(self, task: Any) -> None:
        """Sends every process the task, a reference to the serialized task in Ray's object store."""
        rendezvous = self.workers[0].rendezvous
        self.calls = {actor.receive_task.remote(task, rendezvous): rank for rank, actor in enumerate(self.actors)}

    def begin(self, job: Job, monitoring: MonitorSettings, state: Bytes | None) -> None:
        """Begins a job, from the checkpoint ``state`` where its trial has one."""
        self.job, self.silent_s = job, 0.0
        job.attempts += 1
        first, *others = self.actors
        start = ray.put(state) if self.distributed and state is not None else state
        self.calls = {first.begin.remote(job.segment, monitoring, start): 0}
        self.calls |= {
            actor.follow.remote(job.segment, monitoring, start): rank for rank, actor in enumerate(others, 1)
        }

    def advance(self) -> None:
        """Lets the process of rank 0 train on. The others run the whole segment in one call."""
        self.calls[self.actors[0].advance.remote()] = 0

    def finish(self) -> None:
        """Marks the job as done."""
        self.job = None
        self.calls.clear()

    def forget(self, number: int) -> None:
        """Ends the training loop of trial ``number`` that the processes keep in memory."""
        for actor in self.actors:
            actor.forget.remote(number)

    def kill(self) -> None:
        """Kills the processes and their child processes."""
        self.calls.clear()
        for actor in self.actors:
            ray.kill(actor)
