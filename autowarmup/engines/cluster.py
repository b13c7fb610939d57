"""The connection to a Ray cluster: connecting, starting and stopping workers, and what is known of its nodes.

The *driver* is the process that runs the study; the *head* is the node that runs Ray's control service.
"""

from __future__ import annotations

import os
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from autowarmup.engines.settings import SECRET_PREFIX, RaySettings
from autowarmup.engines.worker import Bytes, Worker, WorkerInfo, versions
from autowarmup.engines.worker_group import WorkerGroup
from autowarmup.errors import ClusterError, InputError

CHECK_INTERVAL_S = 2.0
"""Seconds between two checks of the head; also the timeout of a check."""
HEAD_TIMEOUT_S = 30.0
"""Seconds that the head may fail to respond, as while it restarts; then the study stops. It must be below 60, since Ray
then ends the driver's process without an exception."""


class Cluster:
    """A connection to a cluster. Making one connects, unless this process is connected to Ray already.

    Args:
        settings: which cluster, and the resources of each worker process.
        gpus: GPUs of each worker process, >= 0.

    Raises:
        ClusterError: the cluster can't be reached.
        InputError: a worker has several processes, which ask for no resources at all.
    """

    def __init__(self, settings: RaySettings, gpus: float) -> None:
        self._processes = settings.processes
        asked = {"CPU": settings.cpus, "GPU": gpus, **settings.resources}
        self._requested = {name: amount for name, amount in asked.items() if amount}
        if self._processes > 1 and not self._requested:
            raise InputError(
                f"processes={self._processes} are placed together by the resources that each requests: cpus, gpus or "
                f"resources must be above 0"
            )
        self._owned = not ray.is_initialized()
        if self._owned:
            _connect(settings)
        self._remote = ray.util.client.ray.is_connected()  # through Ray Client
        self._head = None if self._remote else _split_address(ray.get_runtime_context().gcs_address)
        runtime_env = {} if self._owned else {"runtime_env": settings.runtime_env}
        self._options = {"num_cpus": settings.cpus, "num_gpus": gpus, "resources": settings.resources, **runtime_env}
        self._checked_at = time.monotonic()
        self._misses = 0

    @property
    def head_responds(self) -> bool:
        """Whether the head responds. While it doesn't, calls of Ray that need it block; see :meth:`_ask_head`."""
        if self._head is None:
            return bool(ray.util.client.ray.is_connected())
        return _is_listening(*self._head)

    def check_head(self) -> None:
        """Checks, every ``CHECK_INTERVAL_S`` seconds at most, whether the head responds.

        Raises:
            ClusterError: it has not responded for ``HEAD_TIMEOUT_S`` seconds.
        """
        now = time.monotonic()
        if now - self._checked_at < CHECK_INTERVAL_S:
            return
        self._checked_at = now
        self._misses = 0 if self.head_responds else self._misses + 1
        if self._misses * CHECK_INTERVAL_S >= HEAD_TIMEOUT_S:
            ray.shutdown()
            raise ClusterError(
                f"the head of the Ray cluster has not answered for {HEAD_TIMEOUT_S:g} seconds. When it is back, make "
                f"the same call again: the study goes on where it stopped"
            )

    def start_workers(self) -> WorkerGroup:
        """Asks Ray for a new worker and returns at once. Its processes start when the cluster has the resources."""
        worker = ray.remote(Worker)
        if self._processes == 1:
            group = WorkerGroup([worker.options(**self._options).remote()])
        else:
            shares = [self._requested] * self._processes
            placement = self._ask_head(lambda: ray.util.placement_group(shares, strategy="PACK"))
            bundles = [PlacementGroupSchedulingStrategy(placement, rank) for rank in range(self._processes)]
            options = [self._options | {"scheduling_strategy": bundle} for bundle in bundles]
            group = WorkerGroup(
                [worker.options(**o).remote(rank, self._processes) for rank, o in enumerate(options)], placement
            )
        group.handshake()
        return group

    def stop_workers(self, group: WorkerGroup) -> None:
        """Stops a worker and frees its resources. A placement group can only be removed while the head responds;
        otherwise it is removed when the driver disconnects."""
        group.kill()
        if group.placement_group is not None and self.head_responds:
            self._ask_head(lambda: ray.util.remove_placement_group(group.placement_group))

    def capacity(self) -> int:
        """How many workers fit into the cluster at its current size, those that run already included."""
        processes = sum(_fitting(node["Resources"], self._requested) for node in self._nodes())
        return processes // self._processes

    def alive_nodes(self) -> frozenset[str]:
        """The IDs of the nodes that are alive; none while the head doesn't respond."""
        if not self.head_responds:
            return frozenset()
        return frozenset(node["NodeID"] for node in self._nodes())

    def describe(self) -> str:
        """The resources that a trial requests and those that the nodes have, as a line for people."""
        requested = ", ".join(f"{name} {amount:g}" for name, amount in self._requested.items())
        nodes = [
            ", ".join(
                f"{name} {amount:g}"
                for name, amount in sorted(node["Resources"].items())
                if name in {"CPU", "GPU", *self._requested}
            )
            for node in self._nodes()
        ]
        times = f"{self._processes} times " if self._processes > 1 else ""
        return f"a trial requests {times}{requested or 'nothing'}; the nodes have: {'; '.join(nodes)}"

    def _nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive, as Ray describes them."""
        nodes: list[dict[str, Any]] = self._ask_head(ray.nodes)
        return [node for node in nodes if node["Alive"]]

    def _ask_head(self, call: Callable[[], Any]) -> Any:
        """What a call that needs the head returns.

        Where the head is lost while it is asked, the call doesn't return, and Ray ends the process after 60 seconds.
        So the call runs in a thread of its own, and the head is checked meanwhile.

        Raises:
            ClusterError: the head has not responded for ``HEAD_TIMEOUT_S`` seconds.
        """
        answer: Future[Any] = Future()

        def ask() -> None:
            try:
                answer.set_result(call())
            except BaseException as error:  # noqa: BLE001 - raised below, in the thread that asks
                answer.set_exception(error)

        threading.Thread(target=ask, daemon=True).start()
        while not wait([answer], timeout=CHECK_INTERVAL_S / 4).done:
            self.check_head()
        return answer.result()

    def close(self) -> None:
        """Disconnects, and ends the Ray that was started on this machine for the study. A connection that was there
        before is left open."""
        if self._owned:
            ray.shutdown()


def serialize_task(task: Any) -> Bytes:
    """The task as bytes, which any worker can turn back into the task.

    The code of the user's top-level modules that aren't installed, such as the file given to ``autowarmup tune``, is
    included. Packages aren't: they must be on the workers' machines, or come with ``runtime_env``.

    Raises:
        InputError: the task holds something that can't be sent to another process.
    """
    included = [module for module in [*sys.modules.values()] if _is_user_module(module)]
    for module in included:
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        return np.frombuffer(ray.cloudpickle.dumps(task), np.uint8)
    except Exception as error:
        raise InputError(
            f"the task can't be sent to workers: {type(error).__name__}: {error}. What can't be copied to another "
            f"process, such as an open file or a lock, must be made inside model_fn, train_fn or a data function"
        ) from error
    finally:
        for module in included:
            ray.cloudpickle.unregister_pickle_by_value(module)


def check_versions(worker: WorkerInfo) -> None:
    """Checks that a worker has the driver's versions of Python, torch and autowarmup.

    Raises:
        ClusterError: it has others.
    """
    different = {
        name: (there, versions()[name]) for name, there in worker.versions.items() if there != versions()[name]
    }
    if different:
        differences = ", ".join(f"{name} {there} (here {here})" for name, (there, here) in different.items())
        raise ClusterError(f"the worker on {worker.host} has {differences}: driver and workers must have the same")


def _connect(settings: RaySettings) -> None:
    address = settings.address or "local"
    if ":" in address and "//" not in address and not _is_listening(*_split_address(address)):
        raise ClusterError(f"can't connect to the Ray cluster at {address!r}: nobody answers there")
    if_started: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        with _without_secrets():
            _init(
                address=address,
                runtime_env=settings.runtime_env or None,
                log_to_driver=False,
                logging_level="ERROR",
                **if_started,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"can't connect to the Ray cluster at {address!r}: {error}") from error


def _init(**arguments: Any) -> None:
    """Connects, with a second attempt where the first connection is aborted: the process that Ray's client server
    starts for a client sometimes ends at once."""
    try:
        ray.init(**arguments)
    except ConnectionAbortedError:
        ray.init(**arguments)


@contextmanager
def _without_secrets() -> Iterator[None]:
    """Removes MLflow's variables, passwords among them, from the environment for a while, so that processes that Ray
    starts on this machine don't inherit them."""
    secrets = {name: os.environ.pop(name) for name in [*os.environ] if name.startswith(SECRET_PREFIX)}
    try:
        yield
    finally:
        os.environ.update(secrets)


def _fitting(available: dict[str, float], requested: dict[str, float]) -> int:
    """How many processes fit into a node by its resources. One that requests nothing counts as one CPU."""
    amounts = requested or {"CPU": 1.0}
    return min(int(available.get(name, 0.0) / amount + 1e-6) for name, amount in amounts.items())


def _is_user_module(module: ModuleType) -> bool:
    """Whether a module is a single file of the user's own: not installed, not part of a package, not the main
    script."""
    path = getattr(module, "__file__", None)
    if not path or "." in module.__name__ or hasattr(module, "__path__") or module.__name__ == "__main__":
        return False
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return not any(parent in installed for parent in Path(path).resolve().parents)


def _is_listening(host: str, port: int) -> bool:
    """Whether a server accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=CHECK_INTERVAL_S).close()
    except OSError:
        return False
    return True


def _split_address(address: str) -> tuple[str, int]:
    """The host and the port of ``HOST:PORT``; an IPv6 host may stand in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
