"""Looks at the machine: what is installed, where training would run, whether a study can be written and tracked."""

from __future__ import annotations

import os
import platform
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from autowarmup.errors import InputError
from autowarmup.tracking import check_uri
from autowarmup.tracking.uri import redact
from autowarmup.values import Frozen

NEEDED = ("torch", "optuna", "mlflow", "ray")


class Finding(Frozen):
    """One thing that was looked at.

    Args:
        name: what.
        value: what was found.
        problem: what is wrong with it and what to do; None where it is fine.
    """

    name: str
    value: str
    problem: str | None = None


def examine(folder: Path, uri: str | None) -> Iterator[Finding]:
    """Everything, one after the other.

    Args:
        folder: where studies would be written.
        uri: the MLflow to look at; left out, ``MLFLOW_TRACKING_URI``, else none.
    """
    yield Finding(name="python", value=platform.python_version())
    for name in NEEDED:
        yield _package(name)
    yield from _torch()
    yield _writable(folder)
    yield _tracking(uri or os.environ.get("MLFLOW_TRACKING_URI"))


def _package(name: str) -> Finding:
    try:
        return Finding(name=name, value=version(name))
    except PackageNotFoundError:
        return Finding(name=name, value="-", problem="not installed: pip install autowarmup")


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding(name="device", value="-", problem=f"torch can't be imported: {error}")
        return
    from autowarmup.training.recipe import best_device

    device = best_device()
    try:
        torch.ones(8, 8, device=device).mm(torch.ones(8, 8, device=device)).sum().item()
    except RuntimeError as error:
        yield Finding(name="device", value=str(device), problem=f"it can't compute: {str(error).splitlines()[0]}")
    else:
        name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
        yield Finding(name="device", value=f"{device}{name}")
    yield _threads(torch.get_num_threads(), usable_cpus())


def _threads(threads: int, cpus: int) -> Finding:
    value = f"{threads} on {cpus} usable CPU{'s' if cpus > 1 else ''}"
    if threads <= cpus:
        return Finding(name="threads", value=value)
    return Finding(
        name="threads",
        value=value,
        problem=f"more threads than CPUs slow training down many times over: export OMP_NUM_THREADS={cpus}",
    )


def usable_cpus() -> int:
    """CPUs that this process may use: those it is bound to, within its container's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(bound, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such control group, or no quota ("max")
        return bound


def _writable(folder: Path) -> Finding:
    """Whether an SQLite file with a write-ahead log works in the folder, or in the nearest one above it that exists."""
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    try:
        with (
            tempfile.TemporaryDirectory(dir=above, prefix=".autowarmup-") as trial,
            closing(sqlite3.connect(Path(trial) / "study.db")) as db,
        ):
            (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
            db.execute("CREATE TABLE t (x)")
    except (OSError, sqlite3.Error) as error:
        return Finding(name="study folder", value=str(folder), problem=f"can't be written: {error}")
    if mode != "wal":
        problem = f"{above} does not support SQLite's write-ahead log (a network folder?): choose a local one"
        return Finding(name="study folder", value=str(folder), problem=problem)
    return Finding(name="study folder", value=str(folder.absolute()))


def _tracking(uri: str | None) -> Finding:
    if not uri:
        return Finding(name="MLflow URI", value="none set: each study keeps its own store, mlflow.db in its folder")
    try:
        check_uri(uri)
    except InputError as error:
        return Finding(name="MLflow URI", value=redact(uri), problem=str(error))
    problem = _server_problem(uri) if uri.startswith("http") else None
    return Finding(name="MLflow URI", value=redact(uri), problem=problem)


def _server_problem(uri: str) -> str | None:
    """Why the MLflow server doesn't answer, None where it does."""
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    health = f"{parts.scheme}://{host}{parts.path.rstrip('/')}/health"
    try:
        with urlopen(health, timeout=5.0) as answer:
            return None if answer.status == 200 else f"{health} answers with status {answer.status}"
    except HTTPError as error:
        return f"{health} answers with status {error.code}: {error.reason}"
    except URLError as error:
        return f"no answer from {health}: {error.reason}"
    except OSError as error:
        return f"no answer from {health}: {error}"
