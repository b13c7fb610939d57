"""What the service tells browsers about its answers."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""The page loads its own script, style sheet and pictures, and nothing else; nothing written into it is run."""

REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""A study's report has its styles and pictures inside it, and no script."""

HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Sent with every answer that doesn't set them itself."""

HTTPS_ONLY = {"Strict-Transport-Security": "max-age=31536000"}


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


OVER_HTTP = _encoded(HEADERS)
OVER_HTTPS = _encoded(HEADERS | HTTPS_ONLY)


class SecurityHeaders:
    """Adds :data:`HEADERS` to every answer, and over HTTPS that browsers are to stay with it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [*message.get("headers", [])]
                names = {name.lower() for name, _ in own}
                added = OVER_HTTPS if scope["scheme"] == "https" else OVER_HTTP
                message["headers"] = [*own, *(header for header in added if header[0] not in names)]
            await send(message)

        await self._app(scope, receive, sending)
