"""MLflow follows the studies whose trials are trained by workers, and gets what others have left at their end: one
process at a time brings one study after another up to date, so that fifty studies need no fifty processes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from autowarmup.errors import AutowarmupError
from autowarmup.service.hosted import HostedStudy
from autowarmup.service.summary import store_state
from autowarmup.tracking import page_address, sync

LOG = logging.getLogger("autowarmup.service")

PAUSE_S = 10.0
"""Seconds between two passes over a study."""
AGAIN_S = 60.0
"""Seconds after which a pass that failed is made again."""


class MlflowDelivery:
    """Delivers studies to MLflow, in a thread of its own.

    Args:
        studies: the studies to deliver.
        uri: the tracking URI; None: each study's own store.
    """

    def __init__(self, studies: Callable[[], Iterable[HostedStudy]], uri: str | None) -> None:
        self._studies, self._uri = studies, uri
        self._stopping = threading.Event()
        self._delivered: dict[Path, object] = {}  # what was delivered of a study
        self._due: dict[Path, float] = {}
        self._thread = threading.Thread(target=self._work, name="MLflow", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the pass that is under way."""
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stopping.wait(0.5):
            for study in self._studies():
                if not self._stopping.is_set() and not study.kept.delivered:
                    self._deliver(study)

    def _deliver(self, study: HostedStudy) -> None:
        folder, over = study.folder, study.finished and study.idle
        state = (store_state(folder), over)
        if state[0] is None or self._delivered.get(folder) == state or time.monotonic() < self._due.get(folder, 0.0):
            return
        try:
            page = page_address(sync(folder, self._uri))
            self._delivered[folder] = state
            self._due[folder] = time.monotonic() + PAUSE_S
            if over or page != study.kept.mlflow:
                study.update(delivered=over, mlflow=page)
        except (AutowarmupError, OSError) as error:
            LOG.warning("MLflow hasn't got all of study %s: %s", study.id, error)
            self._due[folder] = time.monotonic() + AGAIN_S
