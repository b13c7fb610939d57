"""Whether the service works, which it is, and its figures. The first three need no token."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

import autowarmup
from autowarmup.service.metrics import registry_of
from autowarmup.service.problems import ServiceError
from autowarmup.service.routes.common import AllStudies

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(studies: AllStudies) -> dict[str, str]:
    """The service's folder can be written."""
    draft = studies.settings.folder / ".ready"
    try:
        draft.write_bytes(b"")
    except OSError as error:
        raise ServiceError(503, "Not ready", f"the service's folder can't be written: {error.strerror}") from error
    return {"status": "ok"}


@router.get("/version")
async def version() -> dict[str, str]:
    """The version of autowarmup."""
    return {"version": autowarmup.__version__}


@router.get("/metrics", response_class=Response)
def metrics(studies: AllStudies) -> Response:
    """Figures for Prometheus."""
    return Response(generate_latest(registry_of(studies)), media_type=CONTENT_TYPE_LATEST)
