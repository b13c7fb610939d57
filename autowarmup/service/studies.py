"""All studies of a service."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autowarmup.errors import StudyError
from autowarmup.service.hosted import FILE, HostedStudy, Kept
from autowarmup.service.messages import StudyDetails, StudyRequest, StudySummary
from autowarmup.service.mlflow import MlflowDelivery
from autowarmup.service.names import is_name
from autowarmup.service.problems import NotRunningError, ServiceError, UnknownStudyError
from autowarmup.service.settings import ServiceSettings
from autowarmup.service.summary import Summaries
from autowarmup.service.task_study import TaskStudy
from autowarmup.service.workers import WorkersEngine
from autowarmup.service.workers_study import WorkersStudy
from autowarmup.study.folder import STORE
from autowarmup.tracking import tracking_uri
from autowarmup.training.trace import Trace


class Studies:
    """The studies in a service's folder, each in a folder of its name. All that are not finished or cancelled run.

    Args:
        settings: the service's.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self._studies: dict[str, HostedStudy] = {}
        self._lock = threading.Lock()
        self._turn = threading.BoundedSemaphore(settings.most_running_tasks)
        self._summaries = Summaries()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Runs what is in the folder, until the end of the block.

        Raises:
            StudyError: the folder can't be used.
        """
        for path in sorted(self.settings.folder.iterdir()):
            if is_name(path.name) and (path / FILE).is_file():
                self._studies[path.name] = self._hosted(path, Kept.load(path))
        for study in self._studies.values():
            if study.state == "running":
                study.start()
        delivery = self._delivery()
        if delivery is not None:
            delivery.start()
        try:
            yield
        finally:
            for study in self._studies.values():
                study.interrupt()
            for study in self._studies.values():
                study.stop()
            if delivery is not None:
                delivery.stop()

    def put(self, name: str, request: StudyRequest) -> bool:
        """Begins a study. Returns whether it is new: the same request again changes nothing.

        Raises:
            ServiceError: another study has that name, or there are too many.
            InputError: the request can't be used.
            StudyError: the folder can't be written.
        """
        with self._lock:
            if name in self._studies:
                if self._studies[name].kept.request != request:
                    raise ServiceError(
                        409,
                        "Another study has that name",
                        f"study {name!r} was begun with other settings: choose another name, or ask with the same ones",
                        kind="other-study",
                    )
                return False
            if len(self._studies) >= self.settings.most_studies:
                raise ServiceError(
                    429,
                    "Too many studies",
                    f"the service holds {len(self._studies)} studies, which is as many as it may: delete one",
                    kind="too-many-studies",
                )
            folder = self.settings.folder / name
            if folder.exists():
                raise ServiceError(
                    409,
                    "The name is taken",
                    f"the service's folder holds something else named {name!r}",
                    kind="taken",
                )
            kept = Kept(request=request, created_at=time.time())
            study = self._hosted(folder, kept)
            kept.save(folder)
            self._studies[name] = study
            study.start()
            return True

    def ids(self) -> list[str]:
        """The names of all studies, in order."""
        return sorted(self._studies)

    def study(self, name: str) -> HostedStudy:
        """A study.

        Raises:
            UnknownStudyError: there is none of that name.
        """
        try:
            return self._studies[name]
        except KeyError:
            raise UnknownStudyError(name) from None

    def folder(self, name: str) -> Path:
        """Its folder."""
        return self.study(name).folder

    def engine(self, name: str) -> WorkersEngine:
        """What leases its trials.

        Raises:
            ServiceError: the service trains it itself.
            NotRunningError: it isn't running.
        """
        study = self.study(name)
        if study.kept.request.run is not None:
            raise ServiceError(
                409,
                "The service trains it",
                f"study {name!r} is trained by the service itself",
                kind="no-workers",
            )
        if study.engine is None or study.state != "running":
            raise NotRunningError(name, study.state)
        return study.engine

    def summary(self, name: str) -> StudySummary:
        """How a study stands."""
        return self._summaries.of(self.study(name))

    def details(self, name: str) -> StudyDetails:
        """The same with its request and its configuration."""
        study = self.study(name)
        summary = dict(self._summaries.of(study))
        return StudyDetails(**summary, request=study.kept.request, config=study.config)

    def live(self, name: str) -> dict[int, Trace]:
        """What trials under way have recorded beyond what is stored, by number."""
        engine = self.study(name).engine
        return engine.live() if engine is not None else {}

    def worker_of(self, name: str, number: int) -> str | None:
        """Who trains a trial now."""
        engine = self.study(name).engine
        return engine.worker_of(number) if engine is not None else None

    def cancel(self, name: str) -> None:
        """Stops a study until it is resumed. Nothing that was stored is lost."""
        study = self.study(name)
        with self._lock:
            if not study.finished and not study.kept.cancelled:
                study.update(cancelled=True)
                study.stop()

    def resume(self, name: str) -> None:
        """Goes on with a study that was cancelled or has failed."""
        study = self.study(name)
        with self._lock:
            if study.state in ("cancelled", "failed"):
                study.stop()
                study.update(cancelled=False)
                study.start()

    def delete(self, name: str) -> None:
        """Ends a study and deletes its folder. What MLflow has of it stays there."""
        study = self.study(name)
        with self._lock:
            study.delete()
            self._studies.pop(name, None)

    def _delivery(self) -> MlflowDelivery | None:
        """What brings the studies of workers to MLflow, and what those of task files, which do that themselves, have
        left at their end: they don't wait for a slow server."""
        if self.settings.mlflow is False:
            return None
        return MlflowDelivery(self._to_deliver, self.settings.mlflow)

    def _to_deliver(self) -> list[HostedStudy]:
        studies = [*self._studies.values()]
        return [one for one in studies if isinstance(one, WorkersStudy) or (one.finished and one.idle)]

    def _hosted(self, folder: Path, kept: Kept) -> HostedStudy:
        if kept.request.run is not None:
            return TaskStudy(folder, kept, self.settings, self._turn)
        wanted = self.settings.mlflow
        uri = None if wanted is False else tracking_uri(folder, wanted)
        return WorkersStudy(folder, kept, uri)


def check_folder(folder: Path) -> None:
    """Checks that a folder can be a service's: it is made if missing.

    Raises:
        StudyError: it is a study's own, or can't be made.
    """
    if (folder / STORE).exists():
        raise StudyError(f"{folder} is a study's own folder: give the folder above it, or a new one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"can't make the folder {folder}: {error.strerror}") from error
