"""Real runs with a study's schedule: what their guards have found and done."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from autowarmup.service.names import NAME
from autowarmup.service.routes.common import AllStudies, PageSize, PageToken, StudyName, paged, position
from autowarmup.service.run_messages import RecordedEvents, RunEvents, Runs

router = APIRouter(prefix="/v1/studies/{study}/runs", tags=["runs"])

Run = Annotated[str, Path(pattern=NAME)]


@router.post("/{run}/events", status_code=204)
def add(study: StudyName, run: Run, body: RunEvents, studies: AllStudies) -> None:
    """Takes events of a run's guard. The same events again change nothing; without any, the run has begun."""
    hosted = studies.study(study)
    if hosted.runs.add(run, body.events):
        hosted.bell.ring()


@router.get("")
def listed(study: StudyName, studies: AllStudies, page_size: PageSize = 100, page_token: PageToken = None) -> Runs:
    """The guarded runs, in the order in which they began."""
    found, following = paged(studies.study(study).runs.summaries(), page_size, position(page_token))
    return Runs(runs=tuple(found), next_page_token=following)


@router.get("/{run}/events")
def events(
    study: StudyName, run: Run, studies: AllStudies, page_size: PageSize = 100, page_token: PageToken = None
) -> RecordedEvents:
    """What the guard of a run has found and done, in order."""
    found, following = paged(studies.study(study).runs.events(run), page_size, position(page_token))
    return RecordedEvents(events=tuple(found), next_page_token=following)
