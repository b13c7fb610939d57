"""A real Ray cluster on this machine, and ways to disturb it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from autowarmup.search.trials import SegmentResult
from autowarmup.study.progress import Silent

STORE = 80 * 2**20


class LocalCluster:
    """A Ray cluster of simulated nodes: a head without CPUs, and nodes with one CPU each, every one with processes and
    ports of its own. The nodes also declare a GPU and a licence, which don't exist. With a ``client_port`` the head
    runs a Ray Client server there."""

    def __init__(self, nodes: int, client_port: int | None = None) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
        with warnings.catch_warnings(action="ignore"):
            self._cluster = Cluster(initialize_head=True, head_node_args=head | {"ray_client_server_port": client_port})
        self.address = str(self._cluster.address)
        self._client_port = client_port
        self.nodes: list[Any] = []
        for _ in range(nodes):
            self.add()

    @property
    def client_address(self) -> str:
        return f"ray://127.0.0.1:{self._client_port}"

    def add(self) -> None:
        """Adds a node."""
        has = {"num_cpus": 1, "num_gpus": 1, "resources": {"licence": 1.0}}
        self.nodes.append(self._cluster.add_node(**has, object_store_memory=STORE))

    def kill_node(self) -> None:
        """Kills the oldest node."""
        self._cluster.remove_node(self.nodes.pop(0), allow_graceful=False)

    def kill_head(self) -> None:
        """Kills the head's control service; the nodes are left."""
        self._cluster.head_node.kill_gcs_server()

    def workers(self) -> list[int]:
        """The process IDs of the workers."""
        raylets = {info.process.pid for node in self.nodes for info in node.all_processes["raylet"]}
        return [pid for pid in processes("ray::Worker") if parent(pid) in raylets]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        if ray.is_initialized() and ray.get_runtime_context().gcs_address == self.address:
            ray.shutdown()
        self._cluster.shutdown()


class MaxWorkers(Silent):
    """Records the largest number of workers that exist at the same time."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.most, self._cluster = 0, cluster

    def segment_ended(self, result: SegmentResult) -> None:
        self.most = max(self.most, len(self._cluster.workers()))


class Accidents(Silent):
    """Calls ``happen`` each time that ``after`` more segments have ended, ``times`` times in all."""

    def __init__(self, happen: Callable[[], Any], after: int, times: int) -> None:
        self.left, self._happen, self._every = times, happen, after
        self._reports = 0

    def segment_ended(self, result: SegmentResult) -> None:
        self._reports += 1
        if self.left and self._reports % self._every == 0:
            self._happen()
            self.left -= 1


def processes(name: str) -> list[int]:
    """The IDs of the processes whose command line begins with ``name``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes().decode(errors="replace").startswith(name):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def parent(pid: int) -> int:
    """The ID of a process's parent; 0 where the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def gone(pids: list[int], within_s: float = 60.0) -> bool:
    """Whether all of the processes end within ``within_s`` seconds."""
    until = time.monotonic() + within_s
    while any(parent(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, signal.SIGKILL)


def group(leader: int) -> list[int]:
    """The IDs of the processes of a process group: a worker and its child processes."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int((entry / "stat").read_text().rpartition(")")[2].split()[2]) == leader:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
