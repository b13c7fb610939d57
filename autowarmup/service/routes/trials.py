"""Trials: to take them, to report their steps, and to look at them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from autowarmup import checked_file
from autowarmup.engines.checkpoints import Checkpoints
from autowarmup.search.config import MAX_STEPS
from autowarmup.service.messages import (
    MOST_STEPS,
    Completion,
    Instruction,
    LearningRates,
    RecordedTrace,
    Report,
    Suggestion,
    SuggestRequest,
    Trials,
    TrialSummary,
)
from autowarmup.service.names import Lease
from autowarmup.service.problems import NotReadyError, ServiceError, UnknownTrialError
from autowarmup.service.routes.common import AllStudies, PageSize, PageToken, StudyName, TrialNumber, paged, position
from autowarmup.service.studies import Studies
from autowarmup.service.summary import recorded, trial_summary
from autowarmup.service.traces import part_of, recorded_of
from autowarmup.service.workers import WorkersEngine
from autowarmup.study.store import StoredTrial, store_if_begun

router = APIRouter(prefix="/v1/studies/{study}", tags=["trials"])

FirstStep = Annotated[int, Query(ge=0, le=MAX_STEPS)]
StepCount = Annotated[int, Query(ge=1, le=MOST_STEPS)]

DECISION_S = 30.0
"""Seconds that the end of a segment waits for the search's decision; after that the worker asks again."""

LAPSED_S = 1.0
"""Seconds after which a worker that waits for a trial gets one whose lease has lapsed."""


@router.post("/trials:suggest")
async def suggest(study: StudyName, body: SuggestRequest, studies: AllStudies) -> Suggestion:
    """Leases trials to a worker: first those that it has not finished. Waits up to ``wait_s`` seconds for some."""
    hosted = studies.study(study)

    def leased() -> Suggestion | None:
        if hosted.state != "running":
            return Suggestion(trials=(), state=hosted.state)
        engine = studies.engine(study)
        found = engine.suggest(body.client_id, body.count) if engine.ready else []
        return Suggestion(trials=tuple(found), state="running") if found else None

    return await hosted.bell.when(leased, body.wait_s, LAPSED_S) or Suggestion(trials=(), state=hosted.state)


@router.post("/trials/{number}/reports")
async def report(study: StudyName, number: TrialNumber, body: Report, studies: AllStudies) -> Instruction:
    """Takes the steps since the last report, and says what to do next. Without steps it is a sign of life."""
    engine = await _ready(studies, study)
    instruction = engine.report(number, body)
    if instruction is not None:
        return instruction
    decided = await engine.bell.when(lambda: engine.decision(number, body.lease), DECISION_S)
    return decided or engine.paused(number, body.lease)


@router.post("/trials/{number}:complete", status_code=204)
async def complete(study: StudyName, number: TrialNumber, body: Completion, studies: AllStudies) -> None:
    """Says that a trial has failed, or gives it back for another worker."""
    (await _ready(studies, study)).complete(number, body)


@router.get("/trials")
def listed(study: StudyName, studies: AllStudies, page_size: PageSize = 100, page_token: PageToken = None) -> Trials:
    """The study's trials, in order of their numbers."""
    start = position(page_token)
    with store_if_begun(studies.folder(study)) as store:
        if store is None:
            return Trials(trials=())
        numbers, following = paged(store.numbers(), page_size, start)
        trials = [store.trial(number) for number in numbers]
    return Trials(trials=tuple(_summaries(studies, study, trials)), next_page_token=following)


@router.get("/trials/{number}")
def get(study: StudyName, number: TrialNumber, studies: AllStudies) -> TrialSummary:
    """A trial in summary."""
    return _summaries(studies, study, [_stored(studies, study, number)])[0]


@router.get("/trials/{number}/trace")
def trace(
    study: StudyName,
    number: TrialNumber,
    studies: AllStudies,
    start: FirstStep = 0,
    count: StepCount = MOST_STEPS,
) -> RecordedTrace:
    """What a trial has recorded, from step ``start`` on, at most ``count`` steps."""
    whole = recorded(_stored(studies, study, number), studies.live(study).get(number))
    return recorded_of(part_of(whole, start, count))


@router.get("/trials/{number}/learning-rates")
def learning_rates(
    study: StudyName,
    number: TrialNumber,
    studies: AllStudies,
    start: FirstStep = 0,
    count: StepCount = MOST_STEPS,
) -> LearningRates:
    """The learning rates that a trial is to apply, from step ``start`` on, at most ``count`` of them."""
    schedule = _stored(studies, study, number).spec.schedule
    end = min(schedule.horizon, start + count)
    return LearningRates(start=start, rates=tuple(schedule.lr_at(step) for step in range(start, end)))


@router.put("/trials/{number}/checkpoint", status_code=204)
async def put_checkpoint(
    study: StudyName,
    number: TrialNumber,
    lease: Annotated[Lease, Query()],
    steps: Annotated[int, Query(ge=1, le=MAX_STEPS)],
    checksum: Annotated[str, Header(alias="X-Checksum-SHA256", pattern="^[0-9a-f]{64}$")],
    request: Request,
    studies: AllStudies,
) -> None:
    """Takes the checkpoint of a paused trial, so that another worker may go on with it. The service doesn't read it."""
    engine, folder = studies.engine(study), studies.folder(study) / "checkpoints"
    if not engine.checkpoint_wanted(number, lease, steps):
        return
    with Checkpoints(folder).writing(number, steps) as file:
        async for part in request.stream():
            await asyncio.to_thread(file.write, part)
        if file.digest.hexdigest() != checksum:
            raise ServiceError(422, "Can't be used", "the checkpoint is not what its checksum says: send it again")


@router.get("/trials/{number}/checkpoint", response_class=StreamingResponse)
def checkpoint(
    study: StudyName, number: TrialNumber, steps: Annotated[int, Query(ge=1, le=MAX_STEPS)], studies: AllStudies
) -> StreamingResponse:
    """The checkpoint of a paused trial, as a worker has handed it in."""
    with ExitStack() as stack:
        file = stack.enter_context(Checkpoints(studies.folder(study) / "checkpoints").reading(number, steps))
        if file is None:
            raise ServiceError(404, "No such checkpoint", f"there is no checkpoint of trial {number} at step {steps}")
        size, opened = checked_file.size(file), stack.pop_all()

    async def parts() -> AsyncIterator[bytes]:
        left = size
        with opened:
            while left and (part := await asyncio.to_thread(file.read, min(left, checked_file.CHUNK))):
                left -= len(part)
                yield part

    return StreamingResponse(parts(), media_type="application/octet-stream", headers={"Content-Length": str(size)})


async def _ready(studies: Studies, study: str) -> WorkersEngine:
    """The study's engine, once it knows its trials: after a restart that takes a moment."""
    engine = studies.engine(study)
    if not engine.ready:
        await engine.bell.when(lambda: engine.ready or studies.study(study).state != "running" or None, DECISION_S)
    if not engine.ready:
        raise NotReadyError(study)
    return engine


def _stored(studies: Studies, study: str, number: int) -> StoredTrial:
    with store_if_begun(studies.folder(study)) as store:
        if store is None or number not in store.numbers():
            raise UnknownTrialError(number)
        return store.trial(number)


def _summaries(studies: Studies, study: str, trials: list[StoredTrial]) -> list[TrialSummary]:
    live = studies.live(study)
    return [
        trial_summary(trial, recorded(trial, live.get(trial.spec.number)), studies.worker_of(study, trial.spec.number))
        for trial in trials
    ]
