"""What the routes share: where the studies are, names in paths, and pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

from fastapi import Depends, Path, Query, Request

from autowarmup.service.names import NAME
from autowarmup.service.problems import ServiceError
from autowarmup.service.studies import Studies

T = TypeVar("T")


async def studies_of(request: Request) -> Studies:
    """The service's studies. It is a coroutine, since FastAPI has a thread for each call of a plain function."""
    studies: Studies = request.app.state.studies
    return studies


AllStudies = Annotated[Studies, Depends(studies_of)]
StudyName = Annotated[str, Path(alias="study", pattern=NAME)]
TrialNumber = Annotated[int, Path(alias="number", ge=0, lt=2**31)]
PageSize = Annotated[int, Query(ge=1, le=1_000)]
PageToken = Annotated[str | None, Query(max_length=63)]


def paged(items: Sequence[T], size: int, start: int) -> tuple[Sequence[T], str | None]:
    """A page of the items from position ``start`` on, and the token of the next page.

    >>> paged("abcde", 2, 2)
    ('cd', '4')
    """
    end = start + size
    return items[start:end], str(end) if end < len(items) else None


def position(token: str | None) -> int:
    """Where a page begins.

    Raises:
        ServiceError: it is no page's token.
    """
    if token is None:
        return 0
    if not token.isdecimal() or len(token) > 9:
        raise ServiceError(422, "Can't be used", f"page_token={token!r} is not one that a page has given")
    return int(token)
