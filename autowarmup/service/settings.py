"""The settings of a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from autowarmup.values import Frozen, Number, Whole


class ServiceSettings(Frozen):
    """How a service runs: what ``autowarmup serve`` takes.

    Args:
        folder: holds its studies, each in a folder of its name.
        host, port: where it listens; port 0: a free one.
        token_file: the clients' tokens, a line ``name token`` each; None: no token is needed, on loopback only.
        tasks: the folder of the operator's task files; None: there are none.
        task_engine: where studies of task files train: on this machine, or on the operator's Ray cluster.
        ray_address: that cluster's address.
        mlflow: the tracking URI of all studies; None: each has an embedded store in its folder. False: none.
        allowed_hosts: names under which clients reach it, beside those of loopback and ``host``.
        root_path: the path under which a proxy serves it.
        trusted_proxies: addresses whose ``X-Forwarded-*`` headers are believed.
        tls_cert, tls_key: files of the certificate and its key.
        most_studies: studies that it holds at most.
        most_running_tasks: studies of task files that run at once.
        most_body: bytes of a request at most; checkpoints are limited by ``most_checkpoint``.
        most_checkpoint: bytes of a checkpoint at most.
        requests_per_s: requests of a client a second, on average.
        most_connections: connections that are open at once.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: Annotated[Whole, Field(ge=0, le=65_535)] = 8700
    token_file: Path | None = None
    tasks: Path | None = None
    task_engine: str = Field(default="local", pattern="^(local|ray)$")
    ray_address: str | None = None
    mlflow: str | Literal[False] | None = None
    allowed_hosts: tuple[str, ...] = ()
    root_path: str = ""
    trusted_proxies: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    most_studies: Annotated[Whole, Field(ge=1)] = 1_000
    most_running_tasks: Annotated[Whole, Field(ge=1)] = 1
    most_body: Annotated[Whole, Field(ge=1_024)] = 4 * 2**20
    most_checkpoint: Annotated[Whole, Field(ge=1_024)] = 2**30
    requests_per_s: Annotated[Number, Field(gt=0.0)] = 1_000.0
    most_connections: Annotated[Whole, Field(ge=1)] = 2_000
