"""The settings of the Ray engine."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from autowarmup.values import Frozen, Number, Whole, short

SECRET_PREFIX = "MLFLOW_"
"""Environment variables with this prefix, such as MLflow's password, are kept from the workers. They don't need them:
only the driver's machine talks to MLflow."""


class RaySettings(Frozen):
    """Which Ray cluster a study uses, and the resources of each trial there.

    A *worker* is what trains one trial at a time: one process, or ``processes`` of them together.

    Args:
        address: the cluster: ``"auto"`` (the one that this machine belongs to), ``"HOST:PORT"`` of its head node, or
            ``"ray://HOST:10001"`` through its Ray Client server. Left out: the cluster that this process is connected
            to; if there is none, Ray is started on this machine for the study.
        workers: trials at the same time, 1 to 10,000. An autoscaling cluster grows for them. Left out: as many as
            fit into the cluster at its current size, and more when nodes join.
        processes: those that train one trial together, 1 to 10,000, with PyTorch's DistributedDataParallel: each takes
            a part of every batch. ``cpus``, ``gpus`` and ``resources`` are those of one process.
        cpus: CPU cores, >= 0. Ray sets the number of training threads to it.
        gpus: GPUs, >= 0; a fraction below 1 shares a GPU. Left out: 1 where the task trains on CUDA, else 0. With 0,
            no GPU is visible.
        resources: amounts of custom resources, by the names that the cluster's nodes declare.
        runtime_env: Ray's runtime environment for the workers: ``working_dir``, ``pip``, ``env_vars`` and so on.
        retries: how often a segment is started again after its worker died or hung, 0 to 10,000. Losing a node,
            or a preemption, doesn't count.
        patience_s: seconds without progress after which a worker counts as hung, > 0, or ten times the longest wait
            between two blocks of steps so far where that is longer. Ten times as long before its first block.
        start_s: seconds within which a worker must have got its resources and started, > 0; a node may have to boot
            first. After that it is replaced.

    Raises:
        InputError: a value out of its range, an amount above 1 that isn't a whole number, or
            ``runtime_env`` with variables that are kept from the workers.

    Example:
        >>> RaySettings(address="auto", gpus=0.5).gpus
        0.5
        >>> RaySettings(gpus=1.5)
        Traceback (most recent call last):
        ...
        autowarmup.errors.InputError: gpus=1.5: allowed are fractions from 0 to 1 and whole numbers
    """

    address: str | None = Field(default=None, pattern=r"^(auto|local|ray://.+|.+:[0-9]+)$")
    workers: Whole | None = Field(default=None, ge=1, le=10_000)
    processes: Whole = Field(default=1, ge=1, le=10_000)
    cpus: Number = Field(default=1.0, ge=0.0, le=10_000.0)
    gpus: Number | None = Field(default=None, ge=0.0, le=10_000.0)
    resources: dict[str, Number] = Field(default_factory=dict)
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    retries: Whole = Field(default=3, ge=0, le=10_000)
    patience_s: Number = Field(default=60.0, gt=0.0, le=1e6)
    start_s: Number = Field(default=600.0, gt=0.0, le=1e6)

    @model_validator(mode="after")
    def _usable(self) -> Self:
        for name, amount in {"cpus": self.cpus, "gpus": self.gpus or 0.0, **self.resources}.items():
            if amount < 0.0 or (amount > 1.0 and amount != int(amount)):
                raise ValueError(f"{name}={amount:g}: allowed are fractions from 0 to 1 and whole numbers")
        if self.processes > 1 and 0.0 < (self.gpus or 0.0) < 1.0:
            raise ValueError(f"gpus={self.gpus:g}: {self.processes} processes that train together can't share a GPU")
        variables = self.runtime_env.get("env_vars", {})
        if not (
            isinstance(variables, dict) and all(isinstance(part, str) for item in variables.items() for part in item)
        ):
            raise ValueError(f"runtime_env: env_vars must be texts by name, got {short(variables)}")
        secrets = [name for name in variables if name.startswith(SECRET_PREFIX)]
        if secrets:
            raise ValueError(
                f"runtime_env would give {', '.join(secrets)} to the workers, which don't talk to MLflow: leave it out"
            )
        return self
