"""Carrying out decisions: whatever order segments arrive in, and whenever the driver dies, the same decisions again."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autowarmup import Schedule
from autowarmup.engines.base import Observe, Segment
from autowarmup.errors import StudyError, TaskFailedError
from autowarmup.schedule.ranges import PeakRange
from autowarmup.search.decisions import Arrival, Conclusion, Decision, Decisions, Finish, Start, Wait
from autowarmup.search.search import Search
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.search.verdict import Verdict
from autowarmup.study.execution import carry_out
from autowarmup.study.progress import Silent
from autowarmup.study.store import StudyStore
from tests.simulation import Answer, config, failing, smooth

RUNGS = (10, 20, 40)
CONCLUSION = Conclusion(
    Verdict(kind="nothing stable", candidate=None, schedule=None, margin=0.005, message="Nothing."),
    PeakRange(low=1e-3, high=1.0),
)
TRIALS = 12


class Unordered:
    """An engine whose segments end in an order drawn at random, and that has more or fewer slots each time it is asked.
    Ctrl-C arrives when ``lives`` segments have ended."""

    def __init__(self, answer: Answer, seed: int = 0, lives: int = 10**9) -> None:
        self.trained: list[tuple[int, int]] = []
        self._answer, self._random, self._lives = answer, random.Random(seed), lives
        self._running: dict[int, Segment] = {}

    def slots(self) -> int:
        return self._random.randint(1, 5)

    def start(self, segment: Segment) -> None:
        assert segment.spec.number not in self._running
        self._running[segment.spec.number] = segment

    def wait(self, observe: Observe) -> SegmentResult:
        if len(self.trained) == self._lives:
            raise KeyboardInterrupt
        segment = self._running.pop(self._random.choice([*self._running]))
        self.trained.append((segment.spec.number, segment.until))
        return self._answer(segment.spec, segment.past.end, segment.until)

    def release(self, number: int) -> None: ...

    def close(self) -> None: ...


class Untouched(Unordered):
    """An engine that must not be asked for anything, as where there is no cluster."""

    def __init__(self) -> None:
        super().__init__(smooth)

    def slots(self) -> int:
        raise AssertionError("asked for its slots")

    def start(self, segment: Segment) -> None:
        raise AssertionError("asked to train")


def greedy(log: list[Decision]) -> Decisions:
    """Fills its slots; what it does next follows from all arrivals so far, in their order. Its decisions are logged."""
    seen = hashlib.sha256()
    reached: dict[int, TrialSpec] = {}
    running = started = 0
    room = 3
    while True:
        while running < room and started < TRIALS:
            schedule = Schedule(peak=0.01 + seen.digest()[0] / 1000, horizon=RUNGS[-1])
            reached[started] = TrialSpec(number=started, candidate=started, role="proposal", seed=0, schedule=schedule)
            log.append(Start(reached[started], RUNGS[0]))
            yield log[-1]
            running, started = running + 1, started + 1
        if not running:
            return CONCLUSION
        log.append(Wait())
        arrival = yield log[-1]
        assert arrival is not None
        result, room, running = arrival.result, arrival.slots, running - 1
        seen.update(repr((result.number, result.until, result.error, room)).encode())
        further = [rung for rung in RUNGS if rung > result.until]
        if result.error is not None or not further or seen.digest()[1] % 3 == 0:
            log.append(Finish(result.number, "failed" if result.error else "completed" if not further else "pruned"))
        else:
            log.append(Start(reached[result.number], further[0]))
            running += 1
        yield log[-1]


def sometimes_failing(spec: TrialSpec, start: int, until: int) -> SegmentResult:
    return failing(spec, start, until) if (spec.number + until) % 50 == 3 else smooth(spec, start, until)


@contextmanager
def opened(folder: Path) -> Iterator[StudyStore]:
    with closing(StudyStore(folder, write=True)) as store:
        yield store


class Replays(Silent):
    """Counts the segments that come from the store."""

    def __init__(self) -> None:
        self.replays: list[tuple[int, int]] = []

    def replayed(self, spec: TrialSpec, result: SegmentResult) -> None:
        self.replays.append((spec.number, result.until))


def order(store: StudyStore) -> list[tuple[int, int]]:
    return [(arrival.number, arrival.until) for arrival in store.arrivals()]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**16), lives=st.lists(st.integers(0, 8), max_size=6))
def test_an_interrupted_study_takes_the_same_decisions_and_trains_nothing_twice(seed: int, lives: list[int]) -> None:
    """Interrupted again and again, each time going on with an engine that has other slots and another order."""
    with tempfile.TemporaryDirectory() as name:
        trained: list[tuple[int, int]] = []
        stored: list[tuple[int, int]] = []
        before: list[Decision] = []
        for turn, left in enumerate([*lives, 10**9]):
            engine, log, told = Unordered(sometimes_failing, seed + turn, left), list[Decision](), Replays()
            with opened(Path(name)) as store:
                try:
                    carry_out(greedy(log), store, engine, told)
                except KeyboardInterrupt:
                    assert left < 10**9
                assert log[: len(before)] == before
                assert told.replays == stored
                assert order(store)[: len(stored)] == stored
                assert set(order(store)) == {*trained, *engine.trained}
                stored, before = order(store), log
            trained += engine.trained
        assert len(trained) == len(set(trained))
        again: list[Decision] = []
        with opened(Path(name)) as store:
            carry_out(greedy(again), store, Untouched(), Silent())
        assert again == before


def test_slots_are_filled_at_once_and_the_number_of_that_time_is_stored(tmp_path: Path) -> None:
    """The search is told of each segment when it ends, with the slots of then, and of the same ones when replayed."""
    told: list[int] = []

    def listening(log: list[Decision]) -> Decisions:
        decisions = greedy(log)
        arrival: Arrival | None = None
        while True:
            try:
                decision = decisions.send(arrival)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            arrival = yield decision
            if arrival is not None:
                told.append(arrival.slots)

    with opened(tmp_path) as store:
        carry_out(listening([]), store, Unordered(smooth), Silent())
        first = [*told]
        assert len(set(first)) > 1
        assert [arrival.slots for arrival in store.arrivals()] == first
        told.clear()
        carry_out(listening([]), store, Untouched(), Silent())
        assert told == first


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_with_a_fixed_cohort_the_order_of_arrival_makes_no_difference(seed: int) -> None:
    chosen = config(cohort=4)

    def concluded(engine: Unordered) -> tuple[Conclusion, list[tuple[TrialSpec, str | None, bytes]]]:
        with tempfile.TemporaryDirectory() as name, opened(Path(name)) as store:
            conclusion = carry_out(Search(chosen).decisions(), store, engine, Silent())
            return conclusion, [(trial.spec, trial.outcome, trial.trace.to_bytes()) for trial in store.trials()]

    assert concluded(Unordered(smooth, seed)) == concluded(Unordered(smooth, seed + 1))


def cautious(judgement: Callable[[list[SegmentResult]], None]) -> Decisions:
    """Starts four segments, waits for all of them, judges them, and ends."""
    schedule = Schedule(peak=0.1, horizon=RUNGS[0])
    for number in range(4):
        yield Start(TrialSpec(number=number, candidate=0, role="proposal", seed=0, schedule=schedule), RUNGS[0])
    results = []
    for _ in range(4):
        arrival = yield Wait()
        assert arrival is not None
        results.append(arrival.result)
    judgement(results)
    for result in results:
        yield Finish(result.number, "failed" if result.error else "completed")
    return CONCLUSION


def test_a_failure_is_stored_in_its_place_once_the_search_has_gone_on_from_it(tmp_path: Path) -> None:
    """One that stops the study is run again; what arrived beside it is not."""

    def refuses(results: list[SegmentResult]) -> None:
        for result in results:
            if result.error is not None:
                raise TaskFailedError(result.error)

    def first_fails(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        return failing(spec, start, until) if spec.number == 1 else smooth(spec, start, until)

    first, second = Unordered(first_fails, 3), Unordered(first_fails, 4)
    with opened(tmp_path / "study") as store:
        with pytest.raises(TaskFailedError, match="no disk"):
            carry_out(cautious(refuses), store, first, Silent())
        assert len(first.trained) == 4
        assert set(order(store)) == {(0, 10), (2, 10), (3, 10)}
        carry_out(cautious(lambda results: None), store, second, Silent())
        assert second.trained == [(1, 10)]
        assert order(store)[-1] == (1, 10)
        assert store.trial(1).outcome == "failed"
    engine = Unordered(first_fails, 3)
    with opened(tmp_path / "accepted") as store:
        carry_out(cautious(lambda results: None), store, engine, Silent())
        assert order(store) == engine.trained
        assert engine.trained.index((1, 10)) < 3


def test_arrivals_of_segments_that_are_not_decided_now_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        carry_out(greedy([]), store, Unordered(smooth), Silent())
        with pytest.raises(StudyError, match=r"trial \d+ .*begun with other versions of autowarmup or its libraries"):
            carry_out(cautious(lambda results: None), store, Untouched(), Silent())
