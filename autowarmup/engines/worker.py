"""A worker: runs segments, one after the other, in a process of a Ray cluster."""

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
from autowarmup.engines.settings import SECRET
from autowarmup.search.trials import SegmentResult
from autowarmup.training.base import RunningTrial, Task
from autowarmup.training.trace import Trace

if TYPE_CHECKING:
    from autowarmup.training.distributed import Group

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
"""Travels through Ray's object store without copies."""

INTERVAL_S = 1.0
"""Seconds of training between two updates."""


@dataclass(frozen=True)
class WorkerInfo:
    """Where a worker's process lives, and with which versions. Where several train together, they meet at the first
    one's ``rendezvous``, an address and a port."""

    node: str
    host: str
    pid: int
    versions: dict[str, str]
    rendezvous: tuple[str, int] | None


@dataclass(frozen=True)
class WorkerUpdate:
    """What a worker hands over at a time.

    Args:
        blocks: what the trial recorded since the last update.
        slowest_s: the longest wait between two blocks, in seconds, but for the first in the worker's life.
        result: how the segment went; None while it is under way.
        state: the paused trial, where there is one.
        waits: whether the paused trial, a loop of the user's own, waits in the worker.
    """

    blocks: tuple[Trace, ...]
    slowest_s: float
    result: SegmentResult | None = None
    state: Bytes | None = None
    waits: bool = False


class Worker:
    """Lives as an actor. It is pulled: each call trains for about a second, or to the end of the segment. Where several
    train together, the first is pulled, and the others keep in step with it: all see the same losses, so they decide
    the same.

    Args:
        rank: its number among those that train together.
        size: how many they are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        for name in [name for name in os.environ if name.startswith(SECRET)]:
            del os.environ[name]
        if not ray.get_runtime_context().get_accelerator_ids().get("GPU"):
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._rank, self._size = rank, size
        self._warm = False

    def info(self) -> WorkerInfo:
        """Says where it is."""
        rendezvous = self._open() if self._size > 1 and self._rank == 0 else None
        return WorkerInfo(ray.get_runtime_context().get_node_id(), platform.node(), os.getpid(), versions(), rendezvous)

    def receive_task(self, packed: Bytes, rendezvous: tuple[str, int] | None) -> None:
        """Takes the task, once, and meets the others."""
        task: Task = ray.cloudpickle.loads(packed)
        if rendezvous is not None:
            task.join(self._met(*rendezvous))
        self._trials = PausedTrials(task)

    def begin(self, segment: Segment, monitoring: MonitorSettings, state: Bytes | None) -> WorkerUpdate:
        """Begins a segment, from ``state`` where its trial was paused."""
        self._active = ActiveSegment(segment, monitoring, partial(self._begun, segment, monitoring, state))
        self._blocks = self._active.blocks()
        return self.advance()

    def advance(self) -> WorkerUpdate:
        """Goes on with the segment."""
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
        return self._end(tuple(blocks), slowest)

    def follow(self, segment: Segment, monitoring: MonitorSettings, state: Bytes | None) -> SegmentResult | None:
        """Runs a whole segment beside the first process; a result where it failed here."""
        active = ActiveSegment(segment, monitoring, partial(self._begun, segment, monitoring, state))
        for _ in active.blocks():
            pass
        self._pause(active)
        return active.result if active.result.error else None

    def forget(self, number: int) -> None:
        """Trial ``number`` is over: its loop has nothing to wait for."""
        self._trials.forget(number)

    def _open(self) -> tuple[str, int]:
        from autowarmup.training.distributed import opened_store

        host: str = ray.util.get_node_ip_address()
        self._store = opened_store(host, self._size)
        return host, self._store.port

    def _met(self, host: str, port: int) -> Group:
        from autowarmup.training.distributed import Group, found_store, use_interface

        use_interface(ray.util.get_node_ip_address())
        if self._rank > 0:
            self._store = found_store(host, port, self._size)
        return Group.joined(self._rank, self._size, self._store)

    def _end(self, blocks: tuple[Trace, ...], slowest: float) -> WorkerUpdate:
        active = self._active
        del self._active, self._blocks
        state = self._pause(active)
        return WorkerUpdate(blocks, slowest, active.result, state, self._trials.waits(active.segment.spec.number))

    def _begun(self, segment: Segment, monitoring: MonitorSettings, state: Bytes | None) -> RunningTrial:
        return self._trials.begun(segment, monitoring, None if state is None else io.BytesIO(state.data))

    def _pause(self, active: ActiveSegment) -> Bytes | None:
        """Keeps a trial that can go on; returns its state, where it could be written."""
        file = io.BytesIO()
        self._trials.pause(active, lambda: nullcontext(file))
        _free_device()
        return np.frombuffer(file.getbuffer(), np.uint8) if file.tell() else None


def versions() -> dict[str, str]:
    """Those that driver and workers must share. Builds of torch for other devices are the same version."""
    python = ".".join(platform.python_version_tuple()[:2])
    torch = version("torch").split("+")[0]
    return {"Python": python, "torch": torch, "autowarmup": version("autowarmup")}


def _free_device() -> None:
    """Gives the device's memory back to those who share it: a paused trial holds none."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()
        torch.cuda.empty_cache()
