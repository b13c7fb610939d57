"""The service as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

import autowarmup
from autowarmup.service.messages import Problem
from autowarmup.service.page import routes as page
from autowarmup.service.problems import MEDIA_TYPE, add_handlers
from autowarmup.service.routes import events, health, results, runs, studies, trials
from autowarmup.service.security.guard import secure
from autowarmup.service.settings import ServiceSettings
from autowarmup.service.studies import Studies, check_folder

ABOUT = (
    "Finds the learning-rate warm-up for a model and its data. Workers ask for trials, report their losses, and are "
    "told to go on or to stop."
)
PROBLEM = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}


def make_app(settings: ServiceSettings) -> FastAPI:
    """The application. Its studies run from its start to its shutdown.

    Args:
        settings: the service's.

    Raises:
        StudyError: its folder can't be used.
    """
    check_folder(settings.folder)
    hosted = Studies(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with hosted.running():
            yield

    app = FastAPI(
        title="autowarmup",
        description=ABOUT,
        version=autowarmup.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
        responses={"default": {"description": "An error", "content": PROBLEM}},
    )
    app.state.studies = hosted
    for part in (trials, studies, results, runs, events, health, page):  # in the order in which routes are tried
        app.include_router(part.router)
    add_handlers(app)
    secure(app, settings)
    return app
