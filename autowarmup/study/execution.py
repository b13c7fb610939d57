"""Carrying out the decisions of a search: from the store as far as it reaches, then by the engine."""

from __future__ import annotations

from collections import deque

from autowarmup.engines.base import Engine, Segment
from autowarmup.errors import StudyError
from autowarmup.search.decisions import Arrival, Conclusion, Decisions, Finish, Start, Wait
from autowarmup.search.trials import TrialSpec
from autowarmup.study.progress import Progress
from autowarmup.study.store import StudyStore
from autowarmup.study.weights import keep_weights
from autowarmup.training.trace import Outcome, Trace


def carry_out(decisions: Decisions, store: StudyStore, engine: Engine, progress: Progress) -> Conclusion:
    """Takes a search's decisions one by one. What is in the store is not done again: its segments are replayed in the
    order in which they arrived. Those that had been started and had not arrived are then begun once more.

    Args:
        decisions: the search, from its start.
        store: the study's store, open for writing.
        engine: where trials run. It is not asked for anything where the store has it all.
        progress: told what happens.

    Raises:
        StudyError: the store holds other decisions than are taken now.
    """
    execution = _Execution(store, engine, progress)
    arrival: Arrival | None = None
    while True:
        try:
            decision = decisions.send(arrival)
        except StopIteration as stop:
            execution.store_failures()
            conclusion: Conclusion = stop.value
            return conclusion
        arrival = None
        match decision:
            case Start():
                execution.start(decision)
            case Finish(number, outcome):
                execution.finish(number, outcome)
            case Wait():
                arrival = execution.wait()


class _Execution:
    """What is under way in a study.

    A segment that failed is stored once the search has gone on from it, that is, with its next decision other than to
    wait. So a failure that stops the study is not stored, and is run again when its cause is mended.
    """

    def __init__(self, store: StudyStore, engine: Engine, progress: Progress) -> None:
        self._store, self._engine, self._progress = store, engine, progress
        self._past = deque(store.arrivals())
        self._next_position = self._past[-1].position + 1 if self._past else 0
        self._live = False  # whether it has gone beyond what the store had
        self._started: dict[int, Start] = {}  # by trial: the segments that haven't arrived
        self._traces: dict[int, Trace] = {}  # by trial: what it has recorded
        self._kept: dict[int, TrialSpec] = {}  # by trial: those whose weights are kept
        self._failures: list[tuple[Arrival, int]] = []  # with their positions: those that are not stored yet

    def start(self, decision: Start) -> None:
        """Begins a segment; while the store is replayed, only notes that it was begun."""
        self.store_failures()
        self._store.add_trial(decision.spec)
        if decision.spec.keeps_weights:
            self._kept[decision.spec.number] = decision.spec
        self._started[decision.spec.number] = decision
        if self._live:
            self._begin(decision)

    def finish(self, number: int, outcome: Outcome) -> None:
        """Ends a trial."""
        self.store_failures()
        self._store.finish(number, outcome)
        if outcome == "completed" and number in self._kept:
            keep_weights(self._store.folder, self._kept[number])
        self._engine.release(number)
        self._traces.pop(number, None)
        self._progress.finished(number, outcome)

    def wait(self) -> Arrival:
        """The next segment that ended: from the store, or else from the engine."""
        arrival = self._replay() if self._past else self._train()
        result = arrival.result
        del self._started[result.number]
        self._traces[result.number] = Trace.join([self._trace(result.number), result.trace])
        return arrival

    def store_failures(self) -> None:
        """Stores the segments that failed: the search has gone on from them."""
        for arrival, position in self._failures:
            self._store.add_segment(arrival.result, position, arrival.slots)
        self._failures.clear()

    def _replay(self) -> Arrival:
        _, number, until, slots = self._past.popleft()
        decision = self._started.get(number)
        result = self._store.segment(number, until)
        if decision is None or decision.until != until or result is None:
            raise StudyError(
                f"the segment of trial {number} up to step {until} that the study in {self._store.folder} has next is "
                f"not one that is decided now: the study was begun with other versions of autowarmup or its "
                f"libraries. Go on with those, or choose another folder"
            )
        self._progress.replayed(decision.spec, result)
        return Arrival(result, slots)

    def _train(self) -> Arrival:
        if not self._live:
            self._live = True
            for decision in self._started.values():
                self._begin(decision)
        result = self._engine.wait(self._progress.observe)
        self._progress.segment_ended(result)
        arrival, position = Arrival(result, self._engine.slots()), self._next_position
        self._next_position += 1
        if result.error is None:
            self._store.add_segment(result, position, arrival.slots)
        else:
            self._failures.append((arrival, position))
        return arrival

    def _begin(self, decision: Start) -> None:
        number = decision.spec.number
        self._engine.start(Segment(decision.spec, decision.until, self._trace(number)))

    def _trace(self, number: int) -> Trace:
        return self._traces.get(number, Trace.empty())
