"""MLflow's page for a store that no server serves: one of its own on this machine, for as long as somebody looks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.request import urlopen

from autowarmup.errors import TrackingError
from autowarmup.tracking.mirror import LOG, private

PORT = 5000
"""MLflow's own; taken where it is free, so that a browser keeps what it knows of the page."""

START_S = 120.0
STOP_S = 5.0

SETTINGS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}

PROGRAM = """
import os, signal, sys, threading
from mlflow.cli import cli
def end_with_parent():
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGTERM)
threading.Thread(target=end_with_parent, daemon=True).start()
cli()
"""
"""MLflow's command line; its process group ends when standard input does, however the process at its other end died."""


class PageServer:
    """``mlflow server`` on 127.0.0.1, with one worker, until it is closed.

    Args:
        folder: the study's.
        uri: tracking URI of the database that holds its runs.
        port: where to listen; left out, 5000 or another free one.

    Raises:
        TrackingError: the port is taken, or the server doesn't start.

    Example:
        ::

            with PageServer(folder, default_uri(folder)) as server:
                print(server.address)
                server.wait()
    """

    def __init__(self, folder: str | Path, uri: str, port: int | None = None) -> None:
        self.folder = Path(folder).absolute()
        self.port = _free_port() if port is None else _checked_port(port)
        self._process = self._launch(uri)
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """Where the page is, without a final slash."""
        return f"http://127.0.0.1:{self.port}"

    def wait(self) -> None:
        """Returns when the server has ended by itself.

        Raises:
            TrackingError: always then: it was to run until it is closed.
        """
        self._process.wait()
        raise TrackingError(f"MLflow's server ended with status {self._process.returncode}, see {self.folder / LOG}")

    def close(self) -> None:
        """Ends the server and all that it started."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        deadline = time.monotonic() + STOP_S
        while _group_lives(self._process) and time.monotonic() < deadline:
            time.sleep(0.05)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _launch(self, uri: str) -> subprocess.Popen[bytes]:
        """The server, out of reach of the terminal's Ctrl-C and of the user's MLflow settings. The URI may hold a
        password: never an argument."""
        command = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command += ["--uvicorn-opts", "--log-level warning"]
        others = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        stores = {
            "MLFLOW_BACKEND_STORE_URI": uri,
            "MLFLOW_ARTIFACTS_DESTINATION": str(self.folder / "mlartifacts"),
        }
        with open(self.folder / LOG, "ab", opener=private) as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-c", PROGRAM, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=others | SETTINGS | stores,
                start_new_session=True,
            )

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with suppress(OSError), urlopen(f"{self.address}/health", timeout=2.0) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.1)
        raise TrackingError(f"MLflow's server doesn't start on port {self.port}, see {self.folder / LOG}")


def _free_port() -> int:
    for port in (PORT, 0):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as listener:
            return int(listener.getsockname()[1])
    raise TrackingError("no port of 127.0.0.1 is free")


def _checked_port(port: int) -> int:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return port
    except OSError as error:
        raise TrackingError(f"port {port} of 127.0.0.1 can't be used: {error.strerror}") from error


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process of the group is left. The leader is reaped here."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
