"""Who may ask: every request is checked before it is read."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response
from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from autowarmup.errors import InputError
from autowarmup.service.problems import problem
from autowarmup.service.security.headers import SecurityHeaders
from autowarmup.service.security.limits import RequestRate, RequestSize
from autowarmup.service.security.sessions import COOKIE, Sessions
from autowarmup.service.security.tokens import Tokens
from autowarmup.service.settings import ServiceSettings

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")

HEALTH = ("/healthz", "/readyz", "/version")
"""Anybody may ask for these, under any name: orchestrators do so by address."""

LOGIN = "/login"
STATIC = "/static/"


def secure(app: FastAPI, settings: ServiceSettings) -> None:
    """Puts all checks before an application, in the order in which they are made: size, host, origin, token or
    session, rate. What the login needs is in ``app.state.tokens`` and ``app.state.sessions``, both None where no token
    is needed.

    Args:
        app: the application, before its start.
        settings: the service's.

    Raises:
        InputError: the token file can't be used.
        StudyError: the key of the sessions can't be used.
    """
    tokens = None if settings.token_file is None else Tokens(settings.token_file)
    sessions = None if tokens is None else Sessions(settings.folder, tokens)
    app.state.tokens, app.state.sessions = tokens, sessions
    # The last one that is added is the first one to see a request.
    app.add_middleware(RequestRate, per_s=settings.requests_per_s, most_open=settings.most_connections)
    if tokens is not None and sessions is not None:
        app.add_middleware(Authentication, tokens=tokens, sessions=sessions)
    app.add_middleware(SameOrigin)
    app.add_middleware(KnownHost, allowed=(*LOOPBACK_HOSTS, settings.host, *settings.allowed_hosts))
    app.add_middleware(RequestSize, most_body=settings.most_body, most_checkpoint=settings.most_checkpoint)
    app.add_middleware(SecurityHeaders)


class KnownHost:
    """Refuses requests under a name that isn't the service's (400): a page whose name was made to lead here (DNS
    rebinding) sends such.

    Args:
        app: what answers the others.
        allowed: the service's names and addresses.
    """

    def __init__(self, app: ASGIApp, allowed: Iterable[str]) -> None:
        self._app = app
        self._allowed = {name.lower() for name in allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and get_route_path(scope) not in HEALTH:
            given = Headers(scope=scope).getlist("host")
            if len(given) != 1 or host_of(given[0]) not in self._allowed:
                detail = "the service isn't reached under that name: its operator allows one with --allowed-host"
                await problem(400, "Unknown host", detail)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class SameOrigin:
    """Refuses what pages of other origins send (403). Clients that are no browsers send no ``Origin``.

    Args:
        app: what answers the others.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_own(scope):
            detail = "the request comes from a page of another origin"
            await problem(403, "Another origin", detail)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class Authentication:
    """Lets in who has a token or a session; a browser without one is sent to the login. The client's name is in the
    scope's state from then on.

    Args:
        app: what answers those.
        tokens: the clients'.
        sessions: the page's.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, sessions: Sessions) -> None:
        self._app, self._tokens, self._sessions = app, tokens, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(scope):
            try:
                client = self._client(HTTPConnection(scope))
            except InputError:
                detail = "the token file can't be used: its operator finds out why by starting the service again"
                await problem(503, "Nobody is let in", detail)(scope, receive, send)
                return
            if client is None:
                await _refusal(scope)(scope, receive, send)
                return
            scope.setdefault("state", {})["client"] = client
        await self._app(scope, receive, send)

    def _client(self, request: HTTPConnection) -> str | None:
        given = request.headers.get("authorization")
        if given is not None:
            scheme, _, token = given.partition(" ")
            return self._tokens.client_of(token.strip()) if scheme.lower() == "bearer" else None
        cookie = request.cookies.get(COOKIE)
        return None if cookie is None else self._sessions.client_of(cookie)


def host_of(given: str) -> str:
    """A ``Host`` header without its port.

    >>> host_of("Example.org:8700"), host_of("[::1]:8700"), host_of("evil.org@localhost"), host_of("[")
    ('example.org', '::1', '', '')
    """
    if "@" in given or "/" in given:
        return ""
    try:
        return urlsplit(f"//{given}").hostname or ""
    except ValueError:
        return ""


def _is_own(scope: Scope) -> bool:
    """Whether a request comes from the service's own page, or from no page. The scheme isn't compared: behind a proxy
    the service may not know it."""
    headers = Headers(scope=scope)
    for origin in headers.getlist("origin"):
        scheme, _, host = origin.partition("://")
        if scheme not in ("http", "https") or host.lower() != headers.get("host", "").lower():
            return False
    is_safe = scope["method"] in ("GET", "HEAD")
    return is_safe or headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def _is_open(scope: Scope) -> bool:
    """Whether anybody may ask for this. The path is the one by which the router decides."""
    path = get_route_path(scope)
    return path in HEALTH or path == LOGIN or (path.startswith(STATIC) and scope["method"] in ("GET", "HEAD"))


def _refusal(scope: Scope) -> Response:
    headers = Headers(scope=scope)
    is_page = not get_route_path(scope).startswith("/v1/") and "text/html" in headers.get("accept", "")
    if is_page and scope["method"] == "GET":
        return RedirectResponse(scope.get("root_path", "") + LOGIN, status_code=303)
    refused = problem(401, "No valid token", "send the header 'Authorization: Bearer TOKEN' with a token that is valid")
    refused.headers["WWW-Authenticate"] = "Bearer"
    return refused
