"""Errors as clients get them: RFC 9457, ``application/problem+json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from autowarmup.errors import AutowarmupError, InputError, StudyError
from autowarmup.service.messages import Problem
from autowarmup.values import short

MEDIA_TYPE = "application/problem+json"

MOST_PROBLEMS = 5
"""Most wrong fields that one answer names."""


class ServiceError(AutowarmupError):
    """What a request can't have.

    Args:
        status: the HTTP status.
        title: the kind of problem, in a few words.
        detail: what was wrong, the value, what is allowed.
        kind: the last part of the problem's type, for those that a client acts on.
        members: further members of the answer.
    """

    def __init__(self, status: int, title: str, detail: str, *, kind: str | None = None, **members: Any) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.kind, self.members = status, title, detail, kind, members


class UnknownStudyError(ServiceError):
    """There is no study of that name."""

    def __init__(self, study: str) -> None:
        super().__init__(404, "No such study", f"there is no study {study!r}", kind="unknown-study")


class UnknownTrialError(ServiceError):
    """The study has no trial of that number."""

    def __init__(self, number: int) -> None:
        super().__init__(404, "No such trial", f"the study has no trial {number}", kind="unknown-trial")


class UnknownRunError(ServiceError):
    """No guard has told the study of a run of that name."""

    def __init__(self, run: str) -> None:
        super().__init__(404, "No such run", f"no guard has told of a run {run!r}", kind="unknown-run")


class LeaseLapsedError(ServiceError):
    """The trial is not leased to this worker any more."""

    def __init__(self, number: int) -> None:
        super().__init__(
            409,
            "The lease has lapsed",
            f"trial {number} is not leased under this lease any more: drop it, and ask for another one",
            kind="lease-lapsed",
        )


class NotRunningError(ServiceError):
    """The study doesn't run."""

    def __init__(self, study: str, state: str) -> None:
        super().__init__(409, "The study doesn't run", f"study {study!r} is {state}", kind="not-running", state=state)


class NotReadyError(ServiceError):
    """The study is being read after a restart."""

    def __init__(self, study: str) -> None:
        super().__init__(503, "Not ready", f"study {study!r} is being read: ask again in a moment", kind="not-ready")


def problem(status: int, title: str, detail: str, *, kind: str | None = None, **members: Any) -> JSONResponse:
    """An error as an answer."""
    body = Problem(
        type=f"urn:autowarmup:{kind}" if kind else "about:blank", title=title, status=status, detail=detail, **members
    )
    return JSONResponse(body.model_dump(mode="json"), status, media_type=MEDIA_TYPE)


def add_handlers(app: FastAPI) -> None:
    """Has an application answer every error as a problem."""
    app.add_exception_handler(ServiceError, _service_problem)
    app.add_exception_handler(InputError, _input_error)
    app.add_exception_handler(StudyError, _study_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


async def _service_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return problem(error.status, error.title, error.detail, kind=error.kind, **error.members)


async def _input_error(request: Request, error: Exception) -> JSONResponse:
    return problem(422, "Can't be used", str(error))


async def _study_error(request: Request, error: Exception) -> JSONResponse:
    return problem(503, "The study can't be read or written", str(error))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    parts = [f"{_place(item['loc'])}: {_message(item)}, got {short(item.get('input'))}" for item in found]
    more = f"; and {len(parts) - MOST_PROBLEMS} more problems" if len(parts) > MOST_PROBLEMS else ""
    return problem(422, "Can't be used", "; ".join(dict.fromkeys(parts[:MOST_PROBLEMS])) + more)


def _place(path: tuple[int | str, ...]) -> str:
    return ".".join(map(str, path))


def _message(item: Mapping[str, Any]) -> str:
    return str(item["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    answer = problem(error.status_code, str(error.detail), f"{request.method} {request.url.path}: {error.detail}")
    answer.headers.update(error.headers or {})
    return answer
