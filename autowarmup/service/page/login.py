"""To log in with a token, and to log out."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from autowarmup.errors import InputError
from autowarmup.service.page.pages import page
from autowarmup.service.security.sessions import COOKIE, LASTS_S, Sessions
from autowarmup.service.security.tokens import Tokens

router = APIRouter(include_in_schema=False)


@router.get("/login")
async def login_page(request: Request) -> Response:
    """The form, where tokens are needed."""
    return page(request, "login.html", problem=None) if request.app.state.tokens else _to(request, "/")


@router.post("/login")
async def login(request: Request) -> Response:
    """Exchanges a token for a session. Takes as long for a wrong token as for a right one."""
    tokens: Tokens | None = request.app.state.tokens
    sessions: Sessions | None = request.app.state.sessions
    if tokens is None or sessions is None:
        return _to(request, "/")
    given = parse_qs((await request.body()).decode(errors="replace")).get("token", [""])[0]
    try:
        client = tokens.client_of(given.strip())
        cookie = None if client is None else sessions.cookie(client)
    except InputError:
        return page(request, "login.html", 503, problem="The operator's token file can't be used: nobody is let in.")
    if cookie is None:
        return page(request, "login.html", 401, problem="That is no valid token.")
    answer = _to(request, "/")
    _remember(request, answer, cookie, LASTS_S)
    return answer


@router.post("/logout")
async def logout(request: Request) -> Response:
    """Ends the session in this browser."""
    answer = _to(request, "/login")
    _remember(request, answer, "", 0)
    return answer


def _remember(request: Request, answer: Response, cookie: str, seconds: int) -> None:
    """Has the browser keep the cookie for this service alone: no script reads it, no other site sends it, and over
    HTTPS it stays there."""
    answer.set_cookie(
        COOKIE,
        cookie,
        max_age=seconds,
        path=request.scope.get("root_path", "") or "/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )


def _to(request: Request, path: str) -> Response:
    return RedirectResponse(request.scope.get("root_path", "") + path, status_code=303)
