"""Trials: to take them, to report their steps, and to look at them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Annotated, TypeVar

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from autowarmup.engines.checkpoints import Checkpoints
from autowarmup.search.config import MAX_STEPS
from autowarmup.service.bell import Bell
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
from autowarmup.service.summary import trial_summary
from autowarmup.service.traces import validation_of
from autowarmup.service.workers import WorkersEngine
from autowarmup.study.store import StoredTrial, StudyStore, is_begun
from autowarmup.training.trace import Trace

router = APIRouter(prefix="/v1/studies/{study}", tags=["trials"])

DECISION_S = 30.0
"""Seconds that the end of a segment waits for the search's decision; after that the worker asks again."""

T = TypeVar("T")


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

    return await _when(hosted.bell, leased, body.wait_s) or Suggestion(trials=(), state=hosted.state)


@router.post("/trials/{number}/reports")
async def report(study: StudyName, number: TrialNumber, body: Report, studies: AllStudies) -> Instruction:
    """Takes the steps since the last report, and says what to do next. Without steps it is a sign of life."""
    engine = await _ready(studies, study)
    instruction = engine.report(number, body)
    if instruction is not None:
        return instruction
    decided = await _when(engine.bell, lambda: engine.decision(number, body.lease), DECISION_S)
    return decided or engine.paused(number, body.lease)


@router.post("/trials/{number}:complete", status_code=204)
async def complete(study: StudyName, number: TrialNumber, body: Completion, studies: AllStudies) -> None:
    """Says that a trial has failed, or gives it back for another worker."""
    (await _ready(studies, study)).complete(number, body)


@router.get("/trials")
def listed(study: StudyName, studies: AllStudies, page_size: PageSize = 100, page_token: PageToken = None) -> Trials:
    """The study's trials, in order of their numbers."""
    start, folder = position(page_token), studies.folder(study)
    if not is_begun(folder):
        return Trials(trials=())
    with closing(StudyStore(folder)) as store:
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
    start: Annotated[int, Query(ge=0, le=MAX_STEPS)] = 0,
    count: Annotated[int, Query(ge=1, le=MOST_STEPS)] = MOST_STEPS,
) -> RecordedTrace:
    """What a trial has recorded, from step ``start`` on, at most ``count`` steps."""
    whole = Trace.join([_stored(studies, study, number).trace, *_live(studies, study, number)])
    part = slice(start, start + count)
    return RecordedTrace(
        start=start,
        lrs=tuple(whole.lr[part].tolist()),
        losses=tuple(whole.loss[part].tolist()),
        grad_norms=tuple(whole.grad_norm[part].tolist()),
        validation=tuple(validation_of(one) for one in whole.evaluations if start < one.step <= start + count),
    )


@router.get("/trials/{number}/learning-rates")
def learning_rates(
    study: StudyName,
    number: TrialNumber,
    studies: AllStudies,
    start: Annotated[int, Query(ge=0, le=MAX_STEPS)] = 0,
    count: Annotated[int, Query(ge=1, le=MOST_STEPS)] = MOST_STEPS,
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
    digest, size, most = hashlib.sha256(), 0, studies.settings.most_checkpoint
    with Checkpoints(folder).writing(number, steps) as file:
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise ServiceError(413, "Too large", f"a checkpoint may have {most:,} bytes")
            digest.update(part)
            await asyncio.to_thread(file.write, part)
        if digest.hexdigest() != checksum:
            raise ServiceError(422, "Can't be used", "the checkpoint is not what its checksum says: send it again")


@router.get("/trials/{number}/checkpoint", response_class=StreamingResponse)
def checkpoint(
    study: StudyName, number: TrialNumber, steps: Annotated[int, Query(ge=1, le=MAX_STEPS)], studies: AllStudies
) -> StreamingResponse:
    """The checkpoint of a paused trial, as a worker has handed it in."""
    opened = Checkpoints(studies.folder(study) / "checkpoints").reading(number, steps)
    file = opened.__enter__()
    if file is None:
        opened.__exit__(None, None, None)
        raise ServiceError(404, "No such checkpoint", f"there is no checkpoint of trial {number} at step {steps}")

    async def parts() -> AsyncIterator[bytes]:
        left = size
        try:
            while left and (part := await asyncio.to_thread(file.read, min(left, 2**20))):
                left -= len(part)
                yield part
        finally:
            opened.__exit__(None, None, None)

    size = Checkpoints.size(file)
    return StreamingResponse(parts(), media_type="application/octet-stream", headers={"Content-Length": str(size)})


async def _ready(studies: Studies, study: str) -> WorkersEngine:
    """The study's engine, once it knows its trials: after a restart that takes a moment."""
    engine = studies.engine(study)
    if not engine.ready:
        await _when(engine.bell, lambda: engine.ready or studies.study(study).state != "running" or None, DECISION_S)
    if not engine.ready:
        raise NotReadyError(study)
    return engine


async def _when(bell: Bell, found: Callable[[], T | None], seconds: float) -> T | None:
    """What ``found`` returns, as soon as that is not None; None where that takes too long."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    with bell.listening() as rung:
        while True:
            rung.clear()
            if (value := found()) is not None or loop.time() >= end:
                return value
            try:
                await asyncio.wait_for(rung.wait(), end - loop.time())
            except TimeoutError:
                return found()


def _stored(studies: Studies, study: str, number: int) -> StoredTrial:
    folder = studies.folder(study)
    if not is_begun(folder):
        raise UnknownTrialError(number)
    with closing(StudyStore(folder)) as store:
        if number not in store.numbers():
            raise UnknownTrialError(number)
        return store.trial(number)


def _live(studies: Studies, study: str, number: int) -> list[Trace]:
    return [trace for known, trace in studies.live(study).items() if known == number]


def _summaries(studies: Studies, study: str, trials: list[StoredTrial]) -> list[TrialSummary]:
    live, engine = studies.live(study), studies.study(study).engine
    return [
        trial_summary(trial, live.get(trial.spec.number), engine.worker_of(trial.spec.number) if engine else None)
        for trial in trials
    ]
