"""A worker: runs segments, one after the other, in a process of a Ray cluster."""

from __future__ import annotations

import gc
import io
import os
import platform
import time
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import ray

from autowarmup.engines.base import RunningTrial, Segment, Task, Watch
from autowarmup.engines.segment import SegmentRun
from autowarmup.engines.settings import SECRET
from autowarmup.store import Report
from autowarmup.trace import Trace

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
"""Travels through Ray's object store without copies."""

INTERVAL_S = 1.0
"""Seconds of training between two parcels."""


@dataclass(frozen=True)
class Home:
    """Where a worker lives, and with which versions."""

    node: str
    host: str
    pid: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Parcel:
    """What a worker hands over at a time.

    Args:
        blocks: what the trial recorded since the last parcel.
        slowest_s: the longest wait between two blocks, in seconds, but for the first in the worker's life.
        report: how the segment went; None while it is under way.
        state: the paused trial, where there is one.
        waits: whether the paused trial, a loop of the user's own, waits in the worker.
    """

    blocks: tuple[Trace, ...]
    slowest_s: float
    report: Report | None = None
    state: Bytes | None = None
    waits: bool = False


class Worker:
    """Lives as an actor. It is pulled: each call trains for about a second, or to the end of the segment."""

    def __init__(self) -> None:
        for name in [name for name in os.environ if name.startswith(SECRET)]:
            del os.environ[name]
        self._waiting: dict[int, RunningTrial] = {}
        self._warm = False

    def hello(self) -> Home:
        """Says where it is."""
        return Home(ray.get_runtime_context().get_node_id(), platform.node(), os.getpid(), versions())

    def take(self, packed: Bytes) -> None:
        """Takes the task, once."""
        self._task: Task = ray.cloudpickle.loads(packed)

    def begin(self, segment: Segment, watch: Watch, state: Bytes | None) -> Parcel:
        """Begins a segment, from ``state`` where its trial was paused."""
        self._run = SegmentRun(segment, watch, partial(self._begun, segment, watch, state))
        self._blocks = self._run.blocks()
        return self.go_on()

    def go_on(self) -> Parcel:
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
                return Parcel(tuple(blocks), slowest)
        return self._end(tuple(blocks), slowest)

    def forget(self, number: int) -> None:
        """Trial ``number`` is over: its loop has nothing to wait for."""
        self._waiting.pop(number).close()

    def _begun(self, segment: Segment, watch: Watch, state: Bytes | None) -> RunningTrial:
        spec = segment.spec
        if waiting := self._waiting.pop(spec.number, None):
            return waiting
        file = None if state is None else io.BytesIO(state.data)
        return self._task.trial(spec.schedule, spec.seed, watch.eval_every, file)

    def _end(self, blocks: tuple[Trace, ...], slowest: float) -> Parcel:
        from autowarmup.trial import Trial

        run = self._run
        del self._run, self._blocks
        state, waits = None, False
        if isinstance(run.trial, Trial):
            file = io.BytesIO()
            run.trial.pause(file)
            state = np.frombuffer(file.getbuffer(), np.uint8)
        elif run.trial is not None:
            self._waiting[run.segment.spec.number] = run.trial
            waits = True
        report = run.report
        del run
        _free_device()
        return Parcel(blocks, slowest, report, state, waits)


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
