"""The driver's side: starts the process that speaks to MLflow, and never waits for it before the end.

MLflow is imported in that process only. A server that is dead, slow or failing delays nobody else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Self

from autowarmup.errors import TrackingError
from autowarmup.study.delivery import Delivery
from autowarmup.study.progress import Progress
from autowarmup.study.store import StudyStore
from autowarmup.tracking.uri import recalled_uri, redact, tracking_uri

LOG = "mlflow.log"
"""Where the process's warnings and errors go, in the study's folder."""

SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Set for the process unless the user set them. It retries by itself, and looks before it creates again."""

PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from autowarmup.tracking.process import main; main()"


class Mirror:
    """Keeps MLflow up to date with the study in ``folder``, from a process of its own, until it is closed.

    The process notices by itself that this one is gone, delivers what is left and marks what ran as KILLED.

    Args:
        folder: the study's, with a store whose "id" is set.
        uri: the tracking URI; left out, ``MLFLOW_TRACKING_URI``, else the study's embedded store.

    Raises:
        InputError: the URI can't work. A server that is down is no error.
    """

    def __init__(self, folder: str | Path, uri: str | None = None) -> None:
        self.folder = Path(folder).absolute()
        self.uri = tracking_uri(self.folder, uri)
        self._last = Delivery(folder=str(folder), uri=redact(self.uri), error="MLflow didn't start in time")
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = _launch(self.folder, self.uri, str(os.getpid()))
        except OSError as error:
            self._last = self._last.model_copy(update={"error": f"its process can't start: {error}"})
            return
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    @property
    def last(self) -> Delivery:
        """How far MLflow was after the latest pass. Costs nothing."""
        return self._last

    def close(self, timeout_s: float = 30.0) -> Delivery:
        """Waits for one last pass, at most ``timeout_s`` seconds, and says how far MLflow is.

        Call it when the study and its artifacts are written. What isn't delivered by then stays in the study:
        ``Delivery.message`` says how to deliver it. A second call returns the same.
        """
        if self._process is None:
            return self._last
        process, self._process = self._process, None
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.write(b"stop\n")
        with suppress(OSError):
            process.stdin.close()
        ended = self._wait(process, timeout_s)
        self._reader.join(5.0)
        if not ended:
            self._fail(f"it took longer than {timeout_s:g} s; {self._last.error}")
        elif process.returncode:
            self._fail(f"its process died with status {process.returncode}, see {self.folder / LOG}")
        return self._last

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, process: subprocess.Popen[bytes], timeout_s: float) -> bool:
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
        return True

    def _read(self, reports: IO[bytes]) -> None:
        with reports:
            for line in reports:
                self._last = Delivery.model_validate_json(line)

    def _fail(self, error: str) -> None:
        self._last = self._last.model_copy(update={"error": error})


@contextmanager
def mirrored(store: StudyStore, uri: str | None, progress: Progress) -> Iterator[None]:
    """MLflow follows the study while it runs, and gets what is left when it ends. No URI: nothing is mirrored."""
    mirror = Mirror(store.folder, uri) if uri else None
    try:
        yield
    finally:
        if mirror is not None:
            progress.doing("waiting for MLflow")
            progress.delivered(mirror.close())


def stored_uri(folder: str | Path, uri: str | None = None) -> str:
    """Where the study in ``folder`` goes: ``uri``, else where it was mirrored to, else ``MLFLOW_TRACKING_URI``, else
    its embedded store. A password, which no study keeps, comes from ``MLFLOW_TRACKING_URI``.

    Raises:
        StudyError: the folder holds no study.
        InputError: the URI can't work.
    """
    with closing(StudyStore(Path(folder))) as store:
        return tracking_uri(folder, uri or recalled_uri(folder, store.meta("mlflow")))


def sync(folder: str | Path, uri: str | None = None) -> Delivery:
    """Brings MLflow up to date with the study in ``folder``; what it already has isn't sent again.

    Args:
        folder: the study's.
        uri: the tracking URI; left out, see :func:`stored_uri`. A study can go to several, one after the other.

    Raises:
        StudyError: the folder holds no study.
        InputError: the URI can't work.
        TrackingError: MLflow can't be reached or refuses; what was delivered before stays.
    """
    path = Path(folder).absolute()
    process = _launch(path, stored_uri(path, uri))
    try:
        output, _ = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode or not output:
        raise TrackingError(f"MLflow's process died with status {process.returncode}, see {path / LOG}")
    delivery = Delivery.model_validate_json(output)
    if delivery.error:
        raise TrackingError(delivery.message)
    return delivery


def _launch(folder: Path, uri: str, *driver: str) -> subprocess.Popen[bytes]:
    """The process, out of reach of the terminal's Ctrl-C. The URI may hold a password: never an argument."""
    package_root = str(Path(__file__).parents[2])
    with open(folder / LOG, "ab", opener=private) as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-c", PROGRAM, package_root, str(folder), *driver],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
            cwd=folder,
            env=SETTINGS | os.environ | {"MLFLOW_TRACKING_URI": uri},
            start_new_session=True,
        )


def private(path: str, flags: int) -> int:
    """Opens a file that, where it is new, is its owner's alone."""
    return os.open(path, flags, mode=0o600)
