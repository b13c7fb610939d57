"""What happens in a study, as server-sent events.

The events are what the store has, in the order of arrival, and what guards have told of real runs. So they have the
same numbers whenever they are read, also after the service was restarted, and a client goes on where its connection
broke off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent

from autowarmup.errors import StudyError
from autowarmup.service.bell import rung_within
from autowarmup.service.routes.common import AllStudies, StudyName
from autowarmup.study.store import StudyStore, store_if_begun

router = APIRouter(prefix="/v1/studies/{study}", tags=["events"])

LOOK_S = 2.0
"""Seconds after which the store is looked at, also where no bell rang: another process may write it."""


@router.get("/events", response_class=EventSourceResponse)
async def events(
    study: StudyName,
    studies: AllStudies,
    last_event_id: Annotated[str, Header(pattern=r"^[0-9]{1,15}(-[0-9]{1,15})?$")] = "0",
) -> AsyncIterator[ServerSentEvent]:
    """``segment``: a part of a trial has ended. ``state``: the study's state has changed, without a number. ``end``:
    the study is over and its report is written; no segment follows. ``run``: the guard of a real run has found
    something, during the study or after it: so the stream goes on until the study is deleted. Events after
    ``Last-Event-ID`` are sent, without it all."""
    hosted, state, ended = studies.study(study), None, False
    segments, told = _counts(last_event_id)
    with hosted.bell.listening() as rung:
        while not hosted.deleted:
            rung.clear()
            over, now = hosted.finished and hosted.idle, hosted.state
            try:
                arrived = [] if ended else await asyncio.to_thread(_segments_after, hosted.folder, segments)
            except StudyError:
                if hosted.deleted:  # while its store was opened
                    return
                raise
            for segments, data in arrived:
                yield ServerSentEvent(id=_id(segments, told), event="segment", data=data)
            for entry in hosted.runs.entries[told:]:
                told += 1
                yield ServerSentEvent(id=_id(segments, told), event="run", data=entry.model_dump(mode="json"))
            if now != state:
                state = now
                yield ServerSentEvent(event="state", data={"state": state})
            if over and not ended:
                ended = True
                yield ServerSentEvent(event="end", data={"state": state})
            await rung_within(rung, LOOK_S)


def _id(segments: int, told: int) -> str:
    """How many segments, and events of runs, were sent.

    >>> _id(12, 0), _id(12, 3), _counts("12-3")
    ('12', '12-3', (12, 3))
    """
    return f"{segments}-{told}" if told else str(segments)


def _counts(number: str) -> tuple[int, int]:
    segments, _, told = number.partition("-")
    return int(segments), int(told or 0)


def _segments_after(folder: Path, last: int) -> list[tuple[int, dict[str, Any]]]:
    """The segments that arrived after number ``last``; the first one of a study has number 1."""
    with store_if_begun(folder) as store:
        return [] if store is None else list(_read(store, last))


def _read(store: StudyStore, last: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for position, number, until, _ in store.arrivals():
        if position + 1 <= last or (result := store.segment(number, until)) is None:
            continue
        found = result.instability
        yield (
            position + 1,
            {
                "trial": number,
                "until": until,
                "steps": result.trace.end,
                "instability": found and {"kind": found.kind, "step": found.step, "lr": found.lr},
                "failed": result.error is not None,
            },
        )
