"""The page's routes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute

from autowarmup.errors import StudyError
from autowarmup.service.page import login
from autowarmup.service.page.charts import loss_curves, stability_map
from autowarmup.service.page.pages import CONTENTS, STATIC, page
from autowarmup.service.page.views import settings_of, view
from autowarmup.service.problems import ServiceError
from autowarmup.service.routes.common import AllStudies, StudyName
from autowarmup.service.studies import Studies

KEPT_S = 7 * 24 * 3600
"""Seconds that browsers keep the page's own files: their addresses change with them."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError:
                return page(request, "error.html", 404, title="Not found", detail="There is nothing at this address.")
            except ServiceError as error:
                return page(request, "error.html", error.status, title=error.title, detail=error.detail)
            except StudyError as error:
                return page(request, "error.html", 503, title="The study can't be read or written", detail=str(error))

        return answered


router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/")
def studies_page(request: Request, studies: AllStudies) -> Response:
    """All studies, the latest first."""
    found = sorted(map(studies.summary, studies.ids()), key=lambda summary: -summary.created_at)
    return page(request, "studies.html", studies=found)


@router.get("/studies/{study}")
def study_page(request: Request, study: StudyName, studies: AllStudies) -> Response:
    """A study."""
    return _study(request, "study.html", studies, study)


@router.get("/studies/{study}/live")
def live(request: Request, study: StudyName, studies: AllStudies) -> Response:
    """The parts of a study's page that change while it runs."""
    return _study(request, "live.html", studies, study)


@router.post("/studies/{study}/cancel")
def cancel(request: Request, study: StudyName, studies: AllStudies) -> Response:
    """Stops a study until it is resumed."""
    studies.cancel(study)
    return _to(request, f"/studies/{study}")


@router.post("/studies/{study}/resume")
def resume(request: Request, study: StudyName, studies: AllStudies) -> Response:
    """Goes on with a study."""
    studies.resume(study)
    return _to(request, f"/studies/{study}")


@router.post("/studies/{study}/delete")
def delete(request: Request, study: StudyName, studies: AllStudies) -> Response:
    """Deletes a study."""
    studies.delete(study)
    return _to(request, "/")


@router.get("/static/{path:path}")
async def static(path: str) -> Response:
    """The page's style sheet, its script, its icon."""
    if path not in STATIC:
        raise ServiceError(404, "Not found", "There is nothing at this address.")
    return Response(CONTENTS[path], media_type=STATIC[path], headers={"Cache-Control": f"max-age={KEPT_S}"})


def _study(request: Request, template: str, studies: Studies, name: str) -> Response:
    shown = view(studies, name)
    return page(
        request,
        template,
        study=shown,
        details=shown.details,
        settings=settings_of(shown.details),
        stability_map=stability_map(shown),
        loss_curves=loss_curves(shown),
    )


def _to(request: Request, path: str) -> Response:
    return RedirectResponse(request.scope.get("root_path", "") + path, status_code=303)


router.include_router(login.router)
