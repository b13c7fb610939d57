"""The page's HTML, from the templates."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from autowarmup.report.page import HEADLINES
from autowarmup.study.standing import in_words

STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
"""The page's own files, and what they are."""

CONTENTS = {name: (files(__package__) / "static" / name).read_bytes() for name in STATIC}
VERSION = hashlib.sha256(b"".join(CONTENTS.values())).hexdigest()[:12]
"""Part of the files' addresses, so that browsers may keep them."""

MARKS = {"completed": "●", "pruned": "■", "unstable": "✕", "failed": "▲", "open": "○"}
"""The outcomes' markers in the table; those in the charts have the same shapes."""


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page as an answer.

    Args:
        request: the request that it answers.
        template: the template's file name.
        status: the HTTP status.
        values: what the template shows.
    """
    client = getattr(request.state, "client", None)
    text = ENVIRONMENT.get_template(template).render(
        root=request.scope.get("root_path", ""), client=client, version=VERSION, **values
    )
    return HTMLResponse(text, status)


def number(value: float) -> str:
    """
    >>> number(0.123456), number(2.5e-7)
    ('0.1235', '2.5e-07')
    """
    return f"{value:.4g}"


def span(seconds: float) -> str:
    """About how long something takes.

    >>> span(40), span(400), span(40_000), span(400_000)
    ('40 s', '7 min', '11.1 h', '4.6 days')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36 * 3600 else f"{seconds / 86400:.1f} days"


def moment(seconds: float) -> str:
    """
    >>> moment(0)
    '1970-01-01 00:00 UTC'
    """
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def iso(seconds: float) -> str:
    """
    >>> iso(0)
    '1970-01-01T00:00:00Z'
    """
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__ or ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"number": number, "span": span, "moment": moment, "iso": iso, "in_words": in_words}
    environment.globals |= {"HEADLINES": HEADLINES, "MARKS": MARKS}
    return environment


ENVIRONMENT = _environment()
