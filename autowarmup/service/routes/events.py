"""What happens in a study, as server-sent events.

The events are what the store has, in the order of arrival. So they have the same numbers whenever they are read, also
after the service was restarted, and a client goes on where its connection broke off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent

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
    last_event_id: Annotated[int | None, Header(ge=0, lt=2**53)] = None,
) -> AsyncIterator[ServerSentEvent]:
    """``segment``: a part of a trial has ended. ``state``: the study's state has changed, without a number. ``end``:
    the study is over and its report is written; the stream ends. Events after ``Last-Event-ID`` are sent, without it
    all."""
    hosted, sent, state = studies.study(study), last_event_id or 0, None
    with hosted.bell.listening() as rung:
        while True:
            rung.clear()
            over, now = hosted.finished and hosted.idle, hosted.state
            for number, data in await asyncio.to_thread(_segments_after, hosted.folder, sent):
                sent = number
                yield ServerSentEvent(id=str(number), event="segment", data=data)
            if now != state:
                state = now
                yield ServerSentEvent(event="state", data={"state": state})
            if over:
                yield ServerSentEvent(event="end", data={"state": state})
                return
            await rung_within(rung, LOOK_S)


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
