"""What guards of real runs send to a service, and what it tells of them, as JSON."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from autowarmup.guard.events import Event
from autowarmup.search.config import MAX_STEPS
from autowarmup.service.names import RunName
from autowarmup.values import Frozen, Number, Whole

MOST_AT_ONCE = 1_000
"""Events of one request."""

Step = Annotated[Whole, Field(ge=0, le=MAX_STEPS)]


class RunEvent(Event):
    """An event of a guard, within what a service takes: a message of at most 2,000 characters, and at most 100 numbers
    as evidence."""

    step: Step
    began: Step
    message: Annotated[str, Field(max_length=2_000)]
    evidence: Annotated[dict[Annotated[str, Field(max_length=200)], Number], Field(max_length=100)]
    snapshot: Step | None = None


class RunEvents(Frozen):
    """What ``POST .../runs/{run}/events`` takes: events of a guarded run, in their order.

    Args:
        events: at most 1,000; those that are known already change nothing. None: the run has begun.
    """

    events: Annotated[tuple[RunEvent, ...], Field(max_length=MOST_AT_ONCE)]


class RunEntry(Frozen):
    """What was received of a guarded run; the data of the stream's ``run`` events.

    Args:
        run: its name.
        received_at: when, in seconds since the Unix epoch.
        event: what its guard has found and done; None: the run has begun.
    """

    run: RunName
    received_at: float
    event: RunEvent | None


class RunSummary(Frozen):
    """A guarded run in summary.

    Args:
        run: its name.
        events: how many events there are.
        received_at: when something was received last, in seconds since the Unix epoch.
        last: the last event; None where nothing was found.
    """

    run: RunName
    events: int
    received_at: float
    last: RunEvent | None


class Runs(Frozen):
    """A page of ``GET .../runs``."""

    runs: tuple[RunSummary, ...]
    next_page_token: str | None = None


class RecordedEvents(Frozen):
    """A page of ``GET .../runs/{run}/events``."""

    events: tuple[RunEvent, ...]
    next_page_token: str | None = None
