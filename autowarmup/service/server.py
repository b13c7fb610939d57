"""Runs the service until it is told to stop."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from autowarmup.errors import InputError, StudyLockedError
from autowarmup.service.app import make_app
from autowarmup.service.settings import ServiceSettings
from autowarmup.study.lock import locked

GRACE_S = 5
"""Seconds that open requests get when the service is told to stop."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(settings: ServiceSettings) -> None:
    """Runs the service until SIGINT or SIGTERM. What runs then goes on when it is started again.

    Args:
        settings: the service's.

    Raises:
        InputError: it would listen to others than this machine without tokens, or can't listen there.
        StudyError: its folder can't be used.
        StudyLockedError: another service has it.
    """
    if settings.token_file is None and settings.host not in LOOPBACK:
        raise InputError(
            f"host={settings.host!r}: without a token file anybody who reaches the service could use it; pass one, or "
            f"listen on 127.0.0.1"
        )
    app = make_app(settings)
    with _owned(settings.folder):
        listening = _listening(settings)
        config = uvicorn.Config(
            app,
            root_path=settings.root_path,
            log_level="warning",
            access_log=False,
            ws="none",
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            server_header=False,
            limit_concurrency=2 * settings.most_connections,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=GRACE_S,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
        print(_where(settings, listening), file=sys.stderr, flush=True)  # noqa: T201 - what an operator waits for
        uvicorn.Server(config).run([listening])


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Holds the lock of the service's folder: one service at a time has it."""
    try:
        with locked(folder):
            yield
    except StudyLockedError as error:
        raise StudyLockedError(f"another service has the folder {folder}") from error


def _listening(settings: ServiceSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise InputError(f"can't listen on {settings.host}:{settings.port}: {error.strerror}") from error
    return listening


def _where(settings: ServiceSettings, listening: socket.socket) -> str:
    scheme = "https" if settings.tls_cert else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    tokens = "" if settings.token_file else " (no token needed: only this machine can reach it)"
    port = listening.getsockname()[1]
    return f"autowarmup service on {scheme}://{host}:{port}{settings.root_path}, studies in {settings.folder}{tokens}"
