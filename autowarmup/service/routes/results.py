"""What a study found: the verdict, the schedule in any form, the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from autowarmup.export.exporting import export
from autowarmup.service.messages import VerdictAnswer
from autowarmup.service.problems import ServiceError
from autowarmup.service.routes.common import AllStudies, StudyName
from autowarmup.service.security.headers import REPORT_POLICY
from autowarmup.service.studies import Studies
from autowarmup.study.found import found
from autowarmup.study.store import store_if_begun

router = APIRouter(prefix="/v1/studies/{study}", tags=["results"])

JSON = "json"
"""The format of a schedule as autowarmup reads it; the others are the frameworks'."""


@router.get("/verdict")
def verdict(study: StudyName, studies: AllStudies) -> VerdictAnswer:
    """The verdict with the evidence behind it, and the schedule to use."""
    return _answer(studies, study)


@router.get("/schedule", response_class=Response)
def schedule(
    study: StudyName,
    studies: AllStudies,
    format: Annotated[str, Query(max_length=40)] = JSON,
    kind: Annotated[str, Query(pattern="^(code|config)$")] = "code",
) -> Response:
    """The schedule to use, as JSON or written down for a framework: as code, or as one of its own configurations."""
    chosen = _answer(studies, study).schedule
    if chosen is None:
        raise ServiceError(404, "No schedule", "the study found nothing stable: there is no schedule")
    if format == JSON:
        return JSONResponse(chosen.model_dump(mode="json"))
    exported = export(chosen, format, "code" if kind == "code" else "config")
    text = exported.code if kind == "code" else exported.config
    return PlainTextResponse((text or "").rstrip() + "\n")


@router.get("/result", response_class=Response)
def result(study: StudyName, studies: AllStudies) -> Response:
    """The study's result.json: everything but the traces."""
    return _file(studies.folder(study) / "result.json", "application/json")


@router.get("/report", response_class=Response)
def report(study: StudyName, studies: AllStudies) -> Response:
    """The study's report, a page that stands alone."""
    answer = _file(studies.folder(study) / "report.html", "text/html")
    answer.headers["Content-Security-Policy"] = REPORT_POLICY
    return answer


def _answer(studies: Studies, study: str) -> VerdictAnswer:
    """What a study found.

    Raises:
        ServiceError: it has no verdict yet.
    """
    with store_if_begun(studies.folder(study)) as store:
        if store is not None and (result := found(store)) is not None:
            return VerdictAnswer(**vars(result))
    state = studies.study(study).state
    raise ServiceError(409, "No verdict yet", f"study {study!r} has no verdict yet: it is {state}", kind="no-verdict")


def _file(path: Path, media_type: str) -> Response:
    if not path.is_file():
        raise ServiceError(409, "Not there yet", f"{path.name} is written at the end of the study", kind="no-verdict")
    return FileResponse(path, media_type=media_type)
