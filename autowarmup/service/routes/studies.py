"""Studies: to begin, look at, cancel, resume and delete them."""

from __future__ import annotations

from fastapi import APIRouter, Response

from autowarmup.service.messages import Studies, StudyDetails, StudyRequest
from autowarmup.service.routes.common import AllStudies, PageSize, PageToken, StudyName, paged, position

router = APIRouter(prefix="/v1/studies", tags=["studies"])


@router.put("/{study}", responses={201: {"model": StudyDetails}})
def put(study: StudyName, body: StudyRequest, studies: AllStudies, response: Response) -> StudyDetails:
    """Begins a study. The same request again changes nothing; another one under the same name is refused (409)."""
    response.status_code = 201 if studies.put(study, body) else 200
    return studies.details(study)


@router.get("")
def listed(studies: AllStudies, page_size: PageSize = 100, page_token: PageToken = None) -> Studies:
    """All studies, in the order of their names."""
    names, following = paged(studies.ids(), page_size, position(page_token))
    return Studies(studies=tuple(studies.summary(name) for name in names), next_page_token=following)


@router.get("/{study}")
def get(study: StudyName, studies: AllStudies) -> StudyDetails:
    """How a study stands."""
    return studies.details(study)


@router.delete("/{study}", status_code=204)
def delete(study: StudyName, studies: AllStudies) -> None:
    """Ends a study and deletes all of it. What MLflow has of it stays there."""
    studies.delete(study)


@router.post("/{study}:cancel")
def cancel(study: StudyName, studies: AllStudies) -> StudyDetails:
    """Stops a study until it is resumed. Nothing that has ended is lost."""
    studies.cancel(study)
    return studies.details(study)


@router.post("/{study}:resume")
def resume(study: StudyName, studies: AllStudies) -> StudyDetails:
    """Goes on with a study that was cancelled or has failed."""
    studies.resume(study)
    return studies.details(study)
