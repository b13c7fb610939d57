"""A Ray cluster as the engine sees it: how to get in and out, what fits, which nodes live, whether the head answers."""

from __future__ import annotations

import os
import socket
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from autowarmup.engines.settings import SECRET, RaySettings
from autowarmup.engines.worker import Bytes, Worker, WorkerInfo, versions
from autowarmup.engines.worker_group import WorkerGroup
from autowarmup.errors import ClusterError, InputError

LOOK_S = 2.0
"""Seconds between two looks at the head."""
HEAD_S = 30.0
"""Seconds that the head may be away: it may be restarting. After 60 Ray itself would end the driver's process without
an exception."""


class Cluster:
    """The connection to a cluster.

    Args:
        settings: which cluster, and what each worker gets there.
        gpus: GPUs of a worker.

    Raises:
        ClusterError: there is no way in.
        InputError: several processes that ask for nothing.
    """

    def __init__(self, settings: RaySettings, gpus: float) -> None:
        self._processes = settings.processes
        asked = {"CPU": settings.cpus, "GPU": gpus, **settings.resources}
        self._wanted = {name: amount for name, amount in asked.items() if amount}
        if self._processes > 1 and not self._wanted:
            raise InputError(
                f"processes={self._processes} are placed together, by what they ask for: cpus, gpus or resources must "
                f"be above 0"
            )
        self._owned = not ray.is_initialized()
        if self._owned:
            _connect(settings)
        self._remote = ray.util.client.ray.is_connected()
        self._head = None if self._remote else _parted(ray.get_runtime_context().gcs_address)
        runtime_env = {} if self._owned else {"runtime_env": settings.runtime_env}
        self._options = {"num_cpus": settings.cpus, "num_gpus": gpus, "resources": settings.resources, **runtime_env}
        self._looked_at = time.monotonic()
        self._misses = 0

    @property
    def answers(self) -> bool:
        """Whether the head answers: if not, whatever asks it would wait for it."""
        if self._head is None:
            return bool(ray.util.client.ray.is_connected())
        return _listens(*self._head)

    def check(self) -> None:
        """Looks at the head now and then.

        Raises:
            ClusterError: it has been away for too long.
        """
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        self._misses = 0 if self.answers else self._misses + 1
        if self._misses * LOOK_S >= HEAD_S:
            ray.shutdown()
            raise ClusterError(
                f"the head of the Ray cluster has not answered for {HEAD_S:g} seconds. When it is back, make the same "
                f"call again: the study goes on where it stopped"
            )

    def start_workers(self) -> WorkerGroup:
        """A new worker, at once; it starts as soon as it has a place."""
        worker = ray.remote(Worker)
        if self._processes == 1:
            group = WorkerGroup([worker.options(**self._options).remote()])
        else:
            place = ray.util.placement_group([self._wanted] * self._processes, strategy="PACK")
            bundles = [PlacementGroupSchedulingStrategy(place, rank) for rank in range(self._processes)]
            options = [self._options | {"scheduling_strategy": bundle} for bundle in bundles]
            group = WorkerGroup(
                [worker.options(**o).remote(rank, self._processes) for rank, o in enumerate(options)], place
            )
        group.handshake()
        return group

    def stop_workers(self, group: WorkerGroup) -> None:
        """Ends a worker. To give back the place of several processes needs the head, which would be waited for; without
        it, the place goes with the driver."""
        group.end()
        if group.placement_group is not None and self.answers:
            ray.util.remove_placement_group(group.placement_group)

    def capacity(self) -> int:
        """Workers that fit into the cluster as it is."""
        processes = sum(_fitting(node["Resources"], self._wanted) for node in ray.nodes() if node["Alive"])
        return processes // self._processes

    def living(self) -> frozenset[str]:
        """The nodes that are in the cluster; none while the head doesn't answer."""
        return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"]) if self.answers else frozenset()

    def describe(self) -> str:
        """What a worker asks for and what there is, for people."""
        wanted = ", ".join(f"{name} {amount:g}" for name, amount in self._wanted.items())
        nodes = [
            ", ".join(
                f"{name} {amount:g}"
                for name, amount in sorted(node["Resources"].items())
                if name in {"CPU", "GPU", *self._wanted}
            )
            for node in ray.nodes()
            if node["Alive"]
        ]
        times = f"{self._processes} times " if self._processes > 1 else ""
        return f"a trial asks for {times}{wanted or 'nothing'}; the nodes have: {'; '.join(nodes)}"

    def close(self) -> None:
        """Leaves the cluster; ends the one that was started for this study."""
        if self._owned:
            ray.shutdown()


def packed(task: Any) -> Bytes:
    """The task as bytes that any worker can read.

    Modules of the user's that are neither installed nor part of a package, such as the file that ``autowarmup tune``
    is given, go along; packages must be there (``runtime_env`` brings them).

    Raises:
        InputError: something in it can't be sent to another process.
    """
    along = [module for module in [*sys.modules.values()] if _goes_along(module)]
    for module in along:
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        return np.frombuffer(ray.cloudpickle.dumps(task), np.uint8)
    except Exception as error:
        raise InputError(
            f"the task can't be sent to workers: {type(error).__name__}: {error}. What can't be copied to another "
            f"process, such as an open file or a lock, must be made inside model_fn, train_fn or a data function"
        ) from error
    finally:
        for module in along:
            ray.cloudpickle.unregister_pickle_by_value(module)


def check_versions(worker: WorkerInfo) -> None:
    """Raises:
    ClusterError: a worker's versions aren't the driver's.
    """
    odd = {name: (there, versions()[name]) for name, there in worker.versions.items() if there != versions()[name]}
    if odd:
        differences = ", ".join(f"{name} {there} (here {here})" for name, (there, here) in odd.items())
        raise ClusterError(f"the worker on {worker.host} has {differences}: driver and workers must have the same")


def _connect(settings: RaySettings) -> None:
    address = settings.address or "local"
    if ":" in address and "//" not in address and not _listens(*_parted(address)):
        raise ClusterError(f"can't connect to the Ray cluster at {address!r}: nobody answers there")
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        with _without_secrets():
            _init(
                address=address,
                runtime_env=settings.runtime_env or None,
                log_to_driver=False,
                logging_level="ERROR",
                **own,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"can't connect to the Ray cluster at {address!r}: {error}") from error


def _init(**arguments: Any) -> None:
    """Connects. Ray's client server now and then starts a process for a client that ends at once: then once more."""
    try:
        ray.init(**arguments)
    except ConnectionAbortedError:
        ray.init(**arguments)


@contextmanager
def _without_secrets() -> Iterator[None]:
    """What Ray starts on this machine inherits the environment: MLflow's part of it is none of its business."""
    secrets = {name: os.environ.pop(name) for name in [*os.environ] if name.startswith(SECRET)}
    try:
        yield
    finally:
        os.environ.update(secrets)


def _fitting(has: dict[str, float], wanted: dict[str, float]) -> int:
    """How many workers fit into a node; one a CPU where they ask for nothing."""
    asked = wanted or {"CPU": 1.0}
    return min(int(has.get(name, 0.0) / amount + 1e-6) for name, amount in asked.items())


def _goes_along(module: ModuleType) -> bool:
    path = getattr(module, "__file__", None)
    if not path or "." in module.__name__ or hasattr(module, "__path__") or module.__name__ == "__main__":
        return False
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return not any(parent in installed for parent in Path(path).resolve().parents)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=LOOK_S).close()
    except OSError:
        return False
    return True


def _parted(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
