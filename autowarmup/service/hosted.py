"""What a service keeps of each of its studies: what was asked for, and whether it is to run."""

from __future__ import annotations

import os
import shutil
import threading
from abc import ABC, abstractmethod
from pathlib import Path

from pydantic import ValidationError

from autowarmup.errors import StudyError
from autowarmup.search.config import TuneConfig
from autowarmup.service.bell import Bell
from autowarmup.service.messages import StudyRequest, StudyState
from autowarmup.service.runs import GuardedRuns
from autowarmup.service.workers import WorkersEngine
from autowarmup.study.folder import make_folder, write_file
from autowarmup.values import Frozen, explain

FILE = "request.json"
"""Its name in the study's folder."""


class Kept(Frozen):
    """A study as the service keeps it.

    Args:
        request: what was asked for.
        created_at: when, in seconds since the Unix epoch.
        cancelled: whether it is not to run now.
        delivered: whether MLflow has all of it.
        mlflow: where an MLflow server shows it.
    """

    request: StudyRequest
    created_at: float
    cancelled: bool = False
    delivered: bool = False
    mlflow: str | None = None

    def save(self, folder: Path) -> None:
        """Writes it into the study's folder, which is made if missing.

        Raises:
            StudyError: it can't be written.
        """
        make_folder(folder)
        write_file(folder / FILE, self.model_dump_json(indent=1, exclude_unset=True))

    @classmethod
    def load(cls, folder: Path) -> Kept:
        """What is kept of the study in a folder.

        Raises:
            StudyError: it can't be read.
        """
        path = folder / FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise StudyError(f"{path} can't be read: {error.strerror}") from error
        except ValidationError as error:
            raise StudyError(f"{path} can't be used: {explain(error, cls.model_fields)}") from error


class HostedStudy(ABC):
    """A study of a service, while it runs and after that.

    Args:
        folder: the study's.
        kept: what the service keeps of it.

    Attributes:
        bell: rings when something has changed.
        runs: what guards have told of real runs with its schedule.
        deleted: whether it is deleted.
        engine: leases its trials to workers; None where the service trains them, or where it doesn't run.
        config: its configuration; None where only the task file knows it.
        failure: why it failed; None where it didn't.
    """

    engine: WorkersEngine | None = None
    config: TuneConfig | None = None

    def __init__(self, folder: Path, kept: Kept) -> None:
        self.folder, self.kept = folder, kept
        self.bell = Bell()
        self.runs = GuardedRuns(folder)
        self.failure: str | None = None
        self.finished = False
        self._thread: threading.Thread | None = None
        self._keeping = threading.Lock()
        self.deleted = False

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def state(self) -> StudyState:
        """How it stands."""
        if self.finished:
            return "finished"
        if self.kept.cancelled:
            return "cancelled"
        return "failed" if self.failure else "running"

    @property
    def idle(self) -> bool:
        """Whether nothing is done for it now."""
        return self._thread is None or not self._thread.is_alive()

    def start(self) -> None:
        """Begins, or goes on where it stopped."""
        self.failure = None
        self._thread = threading.Thread(target=self._work, name=f"study {self.id}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends what runs, so that :meth:`start` goes on with it. Waits for that."""
        self.interrupt()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.bell.ring()

    def update(self, **changes: bool | str | None) -> None:
        """Changes what is kept of it; nothing once it is deleted.

        Raises:
            StudyError: it can't be written.
        """
        with self._keeping:
            if not self.deleted:
                self.kept = self.kept.model_copy(update=changes)
                self.kept.save(self.folder)

    def delete(self) -> None:
        """Ends it, and deletes its folder."""
        self.stop()
        doomed = self.folder.with_name(f".{self.id}.{os.getpid()}.deleted")
        try:
            with self._keeping:
                self.folder.rename(doomed)
                self.deleted = True
            self.bell.ring()
            shutil.rmtree(doomed)
        except OSError as error:
            raise StudyError(f"can't delete {self.folder}: {error.strerror}") from error

    @abstractmethod
    def _work(self) -> None:
        """Runs the study to its end; in a thread of its own."""

    @abstractmethod
    def interrupt(self) -> None:
        """Has what runs end soon."""
