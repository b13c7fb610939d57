"""Searches on losses that a formula gives, carried out by an engine whose segments end in any order."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from autowarmup import Instability, SearchSpace
from autowarmup.search.config import TuneConfig
from autowarmup.search.decisions import Arrival, Conclusion, Decision, Finish, Start, Wait
from autowarmup.search.search import Search
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.training.trace import Evaluation, Outcome, Trace

Answer = Callable[[TrialSpec, int, int], SegmentResult]
"""What comes of a trial's segment, given the step where it starts and the one that it is to reach."""
Order = Callable[[list[int]], int]
"""Which of the segments that run, by their trials' numbers in the order of their starts, ends next."""

SPACE = SearchSpace(peak={"low": 1e-3, "high": 1.0})  # type: ignore[arg-type]


def config(**changes: object) -> TuneConfig:
    settings = {"total_steps": 100, "space": SPACE, "current_peak": 0.01}
    return TuneConfig(**settings | changes)  # type: ignore[arg-type]


def trace(start: int, steps: int, loss: float) -> Trace:
    column = np.full(steps, loss)
    return Trace(column, column, column, (Evaluation(start + steps, loss, loss),), start)


def answered(spec: TrialSpec, start: int, until: int, loss: float) -> SegmentResult:
    """The segment ends with this loss."""
    return SegmentResult(spec.number, until, trace(start, until - start, loss))


def unstable(spec: TrialSpec, start: int, until: int) -> SegmentResult:
    """The trial breaks after three steps."""
    peak = spec.schedule.peak
    verdict = Instability(
        kind="divergence", severity=min(peak, 1.0), step=start + 1, lr=peak, detected=start + 3, fatal=True, message=""
    )
    return SegmentResult(spec.number, until, trace(start, 3, 9.0), verdict)


def smooth(spec: TrialSpec, start: int, until: int) -> SegmentResult:
    """The best peak is 0.1 and the best duration 16 steps; above 0.3 a run breaks after three steps."""
    schedule = spec.schedule
    if schedule.peak > 0.3:
        return unstable(spec, start, until)
    loss = np.log10(schedule.peak / 0.1) ** 2 + 0.01 * (np.sqrt(schedule.duration) - 4) ** 2 + 1.0
    return answered(spec, start, until, float(loss) + spec.seed % 7 * 1e-3)


def failing(spec: TrialSpec, start: int, until: int, message: str = "no disk") -> SegmentResult:
    """The code raises an exception."""
    frame = f'  File "train.py", line {len(message)}, in load'
    return SegmentResult(
        spec.number, until, Trace.empty(start), error=f"Traceback ...\n{frame}\n    open()\nOSError: {message}"
    )


@dataclass
class Played:
    """What a search did.

    Args:
        search: the search, at its end.
        conclusion: what it returned.
        decisions: all of them.
        arrivals: what it was told, in order.
        segments: trial, first step and step to reach of each segment, in the order of their starts.
        outcomes: how each trial ended.
        idle: for each wait, how many slots were idle, and what had been committed by then.
    """

    search: Search
    conclusion: Conclusion | None = None
    decisions: list[Decision] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    segments: list[tuple[TrialSpec, int, int]] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    idle: list[tuple[int, int]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        assert self.conclusion is not None
        return self.conclusion.verdict.kind

    def fresh(self) -> list[tuple[TrialSpec, int, int]]:
        """The segments on fresh seeds."""
        return [segment for segment in self.segments if segment[0].role == "confirmation"]


def first(running: list[int]) -> int:
    return running[0]


def at_random(seed: int) -> Order:
    """Segments end in an order drawn at random."""
    generator = random.Random(seed)
    return lambda running: generator.choice(running)


def play(search: Search, answer: Answer, order: Order = first, slots: Callable[[], int] | None = None) -> Played:
    """Carries out a search and checks what holds for every search: a trial has one segment at a time, which goes on
    where the last one ended; no more run than there are slots; every trial is finished exactly once; the budget
    is kept.

    Args:
        search: what decides.
        answer: what comes of a segment.
        order: which segment ends next; left out, the one that started first.
        slots: how many can run at once, asked when a segment ends; left out, as many as at the start.
    """
    played = Played(search)
    ends: dict[int, int] = {}
    running: dict[int, Start] = {}
    arrival: Arrival | None = None
    room = search.slots
    decisions = search.decisions()
    try:
        while True:
            decision = decisions.send(arrival)
            arrival = None
            played.decisions.append(decision)
            match decision:
                case Start(spec, until):
                    assert spec.number not in running
                    assert spec.number not in played.outcomes
                    assert ends.get(spec.number, 0) < until <= spec.schedule.horizon
                    assert len(running) < room
                    played.segments.append((spec, ends.get(spec.number, 0), until))
                    running[spec.number] = decision
                case Finish(number, outcome):
                    assert number not in played.outcomes
                    assert number not in running
                    played.outcomes[number] = outcome
                case Wait():
                    assert running
                    ahead = sum(item.until - ends.get(number, 0) for number, item in running.items())
                    played.idle.append((room - len(running), sum(ends.values()) + ahead))
                    segment = running.pop(order([*running]))
                    spec, until = segment.spec, segment.until
                    result = answer(spec, ends.get(spec.number, 0), until)
                    ends[spec.number] = result.trace.end
                    now = slots() if slots else room
                    room = room if search.config.cohort else now
                    arrival = Arrival(result, now)
                    played.arrivals.append(arrival)
    except StopIteration as stop:
        played.conclusion = stop.value
    assert not running
    assert set(played.outcomes) == {spec.number for spec, _, _ in played.segments}
    assert sum(ends.values()) == search.spent <= search.budget
    return played


def conducted(
    search: Search, answer: Answer
) -> tuple[Conclusion, list[tuple[TrialSpec, int, int]], dict[int, Outcome]]:
    """A search with segments that end in the order of their starts: its conclusion, its segments, and how each trial
    ended."""
    played = play(search, answer)
    assert played.conclusion is not None
    return played.conclusion, played.segments, played.outcomes


def proposals(segments: list[tuple[TrialSpec, int, int]]) -> list[TrialSpec]:
    """The proposals in the order in which they started."""
    return [spec for spec, start, _ in segments if spec.role == "proposal" and start == 0]
