"""The code that runs on a cluster: an actor that trains segments of trials."""

from __future__ import annotations

import gc
import io
import os
import platform
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from autowarmup.engines.base import MonitorSettings, Segment
from autowarmup.engines.segment import ActiveSegment, PausedTrials
from autowarmup.engines.settings import SECRET_PREFIX
from autowarmup.search.trials import SegmentResult
from autowarmup.training.base import RunningTrial, Task
from autowarmup.training.trace import Trace

if TYPE_CHECKING:
    from autowarmup.training.distributed import Group

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
"""Bytes as an array, which Ray's object store hands over without copying it."""

INTERVAL_S = 1.0
"""Seconds of training between two updates."""


@dataclass(frozen=True)
class WorkerInfo:
    """Where a worker process runs, and which versions it has.

    Args:
        node: the ID of its Ray node.
        host: the name of its machine.
        pid: its process ID.
        versions: those that must be the driver's too; see :func:`versions`.
        rendezvous: the address and the port where the processes of its group connect to each other; given by the
            process of rank 0 of a group of several, None elsewhere.
    """

    node: str
    host: str
    pid: int
    versions: dict[str, str]
    rendezvous: tuple[str, int] | None


@dataclass(frozen=True)
class WorkerUpdate:
    """What a worker returns from each call that trains.

    Args:
        blocks: what the trial recorded since the last update.
        slowest_s: the longest wait between two of the blocks, in seconds. The wait for the first block of the
            process's life isn't counted, since it includes imports and compilation.
        result: the segment's result; None while it still runs.
        state: the paused trial as a checkpoint, where there is one.
        in_memory: whether the paused trial, a training loop of the user's own, is kept in the worker's memory.
    """

    blocks: tuple[Trace, ...]
    slowest_s: float
    result: SegmentResult | None = None
    state: Bytes | None = None
    in_memory: bool = False


class Worker:
    """A Ray actor that runs segments of trials, one at a time.

    The driver polls it: each call of :meth:`begin` or :meth:`advance` trains for about a second, or to the end of the
    segment, and returns an update. Where several processes train a trial together, the driver polls the one of rank 0,
    and the others run the whole segment in one call of :meth:`follow`. They stay in step, since all of them see the
    same averaged losses and gradient norms and so stop at the same step.

    Args:
        rank: the number of this process in its group, 0 to ``size - 1``.
        size: the number of processes that train a trial together.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        for name in [name for name in os.environ if name.startswith(SECRET_PREFIX)]:
            del os.environ[name]
        if not ray.get_runtime_context().get_accelerator_ids().get("GPU"):
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._rank, self._size = rank, size
        self._warm = False

    def info(self) -> WorkerInfo:
        """Registers the process: says where it runs, and opens the rendezvous of its group where it has rank 0."""
        rendezvous = self._open_rendezvous() if self._size > 1 and self._rank == 0 else None
        return WorkerInfo(ray.get_runtime_context().get_node_id(), platform.node(), os.getpid(), versions(), rendezvous)

    def receive_task(self, serialized: Bytes, rendezvous: tuple[str, int] | None) -> None:
        """Unpacks the task; called once. With a ``rendezvous`` it also connects to the other processes of the group,
        and returns when all of them are connected."""
        task: Task = ray.cloudpickle.loads(serialized)
        if rendezvous is not None:
            task.join(self._join_group(*rendezvous))
        self._trials = PausedTrials(task)

    def begin(self, segment: Segment, monitoring: MonitorSettings, state: Bytes | None) -> WorkerUpdate:
        """Begins a segment, from the checkpoint ``state`` where its trial has one."""
        self._active = self._activate(segment, monitoring, state)
        self._blocks = self._active.blocks()
        return self.advance()

    def advance(self) -> WorkerUpdate:
        """Goes on with the segment that was begun."""
        start = last = time.monotonic()
        slowest = 0.0
        blocks = []
        for block in self._blocks:
            now = time.monotonic()
            if self._warm:
                slowest = max(slowest, now - last)
            self._warm, last = True, now
            if len(block):
                blocks.append(block)
            if now - start > INTERVAL_S:
                return WorkerUpdate(tuple(blocks), slowest)
        return self._finish(tuple(blocks), slowest)

    def follow(self, segment: Segment, monitoring: MonitorSettings, state: Bytes | None) -> SegmentResult | None:
        """Runs a whole segment together with the process of rank 0. Returns a result only where it failed here."""
        active = self._activate(segment, monitoring, state)
        for _ in active.blocks():
            pass
        self._pause(active)
        return active.result if active.result.error else None

    def forget(self, number: int) -> None:
        """Ends the training loop of trial ``number``, where one is kept in memory."""
        self._trials.forget(number)

    def _open_rendezvous(self) -> tuple[str, int]:
        from autowarmup.training.distributed import opened_store

        host: str = ray.util.get_node_ip_address()
        self._store = opened_store(host, self._size)
        return host, self._store.port

    def _join_group(self, host: str, port: int) -> Group:
        from autowarmup.training.distributed import Group, found_store, use_interface

        use_interface(ray.util.get_node_ip_address())
        if self._rank > 0:
            self._store = found_store(host, port, self._size)
        return Group.joined(self._rank, self._size, self._store)

    def _activate(self, segment: Segment, monitoring: MonitorSettings, state: Bytes | None) -> ActiveSegment:
        return ActiveSegment(segment, monitoring, partial(self._start_or_resume, segment, monitoring, state))

    def _start_or_resume(self, segment: Segment, monitoring: MonitorSettings, state: Bytes | None) -> RunningTrial:
        return self._trials.start_or_resume(segment, monitoring, None if state is None else io.BytesIO(state.data))

    def _finish(self, blocks: tuple[Trace, ...], slowest: float) -> WorkerUpdate:
        active = self._active
        del self._active, self._blocks
        state = self._pause(active)
        return WorkerUpdate(blocks, slowest, active.result, state, self._trials.in_memory(active.segment.spec.number))

    def _pause(self, active: ActiveSegment) -> Bytes | None:
        """Pauses the trial, unless it has ended; returns its checkpoint, where it could be written."""
        file = io.BytesIO()
        self._trials.pause(active, lambda: nullcontext(file))
        _free_device_memory()
        return np.frombuffer(file.getbuffer(), np.uint8) if file.tell() else None


def versions() -> dict[str, str]:
    """The versions that must be the same on driver and workers. Builds of torch for other devices count as the same
    version."""
    python = ".".join(platform.python_version_tuple()[:2])
    torch = version("torch").split("+")[0]
    return {"Python": python, "torch": torch, "autowarmup": version("autowarmup")}


def _free_device_memory() -> None:
    """Returns cached memory to the GPU, which other workers may share. A paused trial needs none."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()
        torch.cuda.empty_cache()
