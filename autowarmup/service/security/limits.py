"""How much a client may ask of the service."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autowarmup.service.problems import problem

MOST_HEADERS = 100
MOST_HEADER_BYTES = 16 * 1024
MOST_TARGET_BYTES = 4 * 1024
"""Of a request's path and query."""

BURST_S = 2.0
"""A client that was quiet may send the requests of so many seconds at once."""

MOST_CLIENTS = 10_000
"""Clients whose pace is remembered."""


class Pace:
    """How many requests each client may send: a token bucket each.

    Args:
        per_s: requests a second, on average.
        clock: seconds.

    Example:
        >>> pace = Pace(1.0, clock=lambda: 0.0)
        >>> [pace.wait_s("alice") for _ in range(3)], pace.wait_s("bob")
        ([0.0, 0.0, 1.0], 0.0)
    """

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._clock = per_s, clock
        self._most = max(1.0, per_s * BURST_S)
        self._left: dict[str, tuple[float, float]] = {}

    def wait_s(self, client: str) -> float:
        """Counts a request of a client. Returns 0, or for how many seconds it has to wait before the next one."""
        now = self._clock()
        left, at = self._left.pop(client, (self._most, now))
        left = min(self._most, left + (now - at) * self._per_s)
        allowed = left >= 1.0
        self._left[client] = (left - 1.0 if allowed else left, now)
        if len(self._left) > MOST_CLIENTS:
            del self._left[next(iter(self._left))]  # the one that was quiet for longest
        return 0.0 if allowed else (1.0 - left) / self._per_s


class RequestSize:
    """Refuses requests with a long target or many headers (414, 431), and bodies that are too long (413), whether
    they say so or not.

    Args:
        app: what answers the others.
        most_body: bytes.
        most_checkpoint: bytes of a checkpoint that is handed in.
    """

    def __init__(self, app: ASGIApp, most_body: int, most_checkpoint: int) -> None:
        self._app, self._most_body, self._most_checkpoint = app, most_body, most_checkpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = scope["headers"]
        if len(scope["raw_path"]) + len(scope["query_string"]) > MOST_TARGET_BYTES:
            refused = problem(414, "The address is too long", f"path and query may have {MOST_TARGET_BYTES:,} bytes")
        elif len(headers) > MOST_HEADERS or sum(map(_length, headers)) > MOST_HEADER_BYTES:
            detail = f"a request may have {MOST_HEADERS} headers and {MOST_HEADER_BYTES:,} bytes of them"
            refused = problem(431, "Too many headers", detail)
        elif _announced(headers) > (most := self._most(scope)):
            refused = problem(413, "Too large", _too_large(most))
        else:
            await self._app(scope, _limited(receive, most), send)
            return
        await refused(scope, receive, send)

    def _most(self, scope: Scope) -> int:
        is_checkpoint = scope["method"] == "PUT" and scope["path"].endswith("/checkpoint")
        return self._most_checkpoint if is_checkpoint else self._most_body


class RequestRate:
    """Refuses clients that send too many requests, and all when too many are open (429 with ``Retry-After``). Stands
    behind the authentication: those who have a token are told apart by it, the others by their address.

    Args:
        app: what answers the others.
        per_s: requests of a client a second, on average.
        most_open: requests that are open at once.
    """

    def __init__(self, app: ASGIApp, per_s: float, most_open: int) -> None:
        self._app, self._most_open = app, most_open
        self._pace = Pace(per_s)
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        wait_s = self._pace.wait_s(client_of(scope))
        if wait_s or self._open >= self._most_open:
            what = "this client sends too many" if wait_s else f"{self._open:,} are open"
            refused = problem(429, "Too many requests", f"{what}: wait, then send it again")
            refused.headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
            await refused(scope, receive, send)
            return
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1


def client_of(scope: Scope) -> str:
    """Who sends a request: the client's name, or ``@`` and its address where no token is needed."""
    name = scope.get("state", {}).get("client")
    return name or f"@{scope['client'][0] if scope.get('client') else ''}"


def _length(header: tuple[bytes, bytes]) -> int:
    return len(header[0]) + len(header[1])


def _announced(headers: list[tuple[bytes, bytes]]) -> int:
    """The body's length as the request gives it; the server has checked that it is a number."""
    return max((int(value) for name, value in headers if name == b"content-length"), default=0)


def _limited(receive: Receive, most: int) -> Receive:
    """What raises where a body that didn't say its length gets too long."""
    received = 0

    async def receiving() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most:
            raise HTTPException(413, _too_large(most))
        return message

    return receiving


def _too_large(most: int) -> str:
    return f"the body may have {most:,} bytes"
