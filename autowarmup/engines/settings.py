"""How a study uses a Ray cluster."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from autowarmup.values import Frozen

SECRET = "MLFLOW_"
"""Environment variables of this prefix never reach a worker: only the driver's side speaks to MLflow."""


class RaySettings(Frozen):
    """Where a study's trials run, and what each of them gets.

    Args:
        address: the cluster: ``"auto"`` (the one this machine belongs to), ``"HOST:PORT"`` of its head, or
            ``"ray://HOST:10001"`` through its client server. Left out: the Ray that this process is connected to, else
            one started for the study on this machine.
        workers: trials at the same time, >= 1; a cluster that scales by itself grows for them. Left out: as many as
            fit into the cluster as it is, more when it grows.
        processes: those that train a trial together, >= 1: each takes its part of every batch, with PyTorch's
            DistributedDataParallel. What follows is for each of them.
        cpus: CPU cores, >= 0; the training threads follow.
        gpus: GPUs, >= 0; below 1 a share of one. Left out: one where the task trains on CUDA, else none. Who gets none
            sees none.
        resources: further resources, by the names that the cluster's nodes declare.
        runtime_env: Ray's runtime environment for the workers: ``working_dir``, ``pip``, ``env_vars`` and so on.
        retries: how often a part of a trial is started again after its worker died or hung, >= 0. Lost nodes and
            preemptions don't count.
        patience_s: seconds without progress after which a worker is taken for hung, > 0; or ten times the longest
            wait between two blocks of steps seen so far, where that is longer. Ten times as long for its first block.
        start_s: seconds that a worker may take to get its place and start, > 0; a node may have to boot. Then another
            one is tried.

    Example:
        >>> RaySettings(address="auto", gpus=0.5).gpus
        0.5
        >>> RaySettings(gpus=1.5)
        Traceback (most recent call last):
        ...
        pydantic_core._pydantic_core.ValidationError: ...
    """

    address: str | None = Field(default=None, pattern=r"^(auto|local|ray://.+|.+:[0-9]+)$")
    workers: int | None = Field(default=None, ge=1)
    processes: int = Field(default=1, ge=1)
    cpus: float = Field(default=1.0, ge=0.0)
    gpus: float | None = Field(default=None, ge=0.0)
    resources: dict[str, float] = Field(default_factory=dict)
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    retries: int = Field(default=3, ge=0)
    patience_s: float = Field(default=60.0, gt=0.0)
    start_s: float = Field(default=600.0, gt=0.0)

    @model_validator(mode="after")
    def _usable(self) -> Self:
        for name, amount in {"cpus": self.cpus, "gpus": self.gpus or 0.0, **self.resources}.items():
            if amount < 0.0 or (amount > 1.0 and amount != int(amount)):
                raise ValueError(f"{name}={amount:g}: Ray gives out shares of one, or whole numbers")
        if self.processes > 1 and 0.0 < (self.gpus or 0.0) < 1.0:
            raise ValueError(f"gpus={self.gpus:g}: {self.processes} processes that train together can't share a GPU")
        secrets = [name for name in self.runtime_env.get("env_vars", {}) if name.startswith(SECRET)]
        if secrets:
            raise ValueError(
                f"runtime_env would give {', '.join(secrets)} to the workers, which don't speak to MLflow: leave it out"
            )
        return self
