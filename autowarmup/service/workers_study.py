"""A study whose trials are trained by workers: its search runs in a thread of the service."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from autowarmup.engines.checkpoints import Checkpoints
from autowarmup.errors import AutowarmupError
from autowarmup.service.hosted import HostedStudy, Kept
from autowarmup.service.journal import Journal
from autowarmup.service.workers import WorkersEngine
from autowarmup.study.driver import conduct, opened_study
from autowarmup.study.progress import Silent
from autowarmup.study.store import store_if_begun
from autowarmup.tracking import remembered_uri

LOG = logging.getLogger("autowarmup.service")


class WorkersStudy(HostedStudy):
    """A study whose trials are trained by workers.

    Args:
        folder: the study's.
        kept: what the service keeps of it.
        mlflow: the tracking URI; None for none.
    """

    def __init__(self, folder: Path, kept: Kept, mlflow: str | None) -> None:
        super().__init__(folder, kept)
        self.config = kept.request.config()
        self._mlflow = mlflow
        self.finished = has_verdict(folder) and (folder / "report.html").exists()

    def start(self) -> None:
        request = self.kept.request
        assert self.config is not None
        self.engine = WorkersEngine(
            self.config,
            Journal(self.folder),
            Checkpoints(self.folder / "checkpoints"),
            slots=request.workers,
            lease_s=request.lease_s,
            bell=self.bell,
        )
        super().start()

    def _work(self) -> None:
        assert self.engine is not None
        assert self.config is not None
        try:
            with (
                closing(self.engine),
                opened_study(self.folder, self.config, remembered_uri(self.folder, self._mlflow)) as store,
            ):
                conduct(store, self.config, self.engine, Silent())
            self.finished = True
            self.bell.ring()
            write_report(self.folder)
        except KeyboardInterrupt:
            pass
        except AutowarmupError as error:
            self.failure = str(error)
            LOG.warning("study %s failed", self.id)
        except Exception:
            self.failure = "the service failed; its log says more"
            LOG.exception("study %s failed", self.id)
        self.bell.ring()

    def interrupt(self) -> None:
        if self.engine is not None:
            self.engine.stop()


def has_verdict(folder: Path) -> bool:
    """Whether the study in a folder has come to its end."""
    with store_if_begun(folder) as store:
        return store is not None and store.meta("verdict") is not None


def write_report(folder: Path) -> None:
    """Writes the study's report, in a process of its own: drawing takes seconds, in which the service would answer
    nobody."""
    command = [sys.executable, "-m", "autowarmup", "report", str(folder)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        LOG.warning("the report of %s can't be written: %s", folder.name, done.stderr.strip()[-1_000:])
