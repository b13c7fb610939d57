"""autowarmup on a table: the decisions of :class:`autowarmup.search.search.Search`, carried out in simulated time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from autowarmup.engines.segment import first_fatal
from autowarmup.instability.instability import Instability
from autowarmup.instability.monitor import Detectors, Monitor
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.config import TuneConfig
from autowarmup.search.decisions import Arrival, Conclusion, Decisions, Start, Wait
from autowarmup.search.search import Search
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.search.verdict import Verdict
from autowarmup.seeds import derive_seed
from autowarmup.training.trace import Trace
from benchmarks.search.objective import BudgetSpent, Objective, TableObjective, between, cut
from benchmarks.search.prior import prior_for
from benchmarks.search.slots import Slots
from benchmarks.search.snapping import GridCandidates
from benchmarks.search.tables import Table

CONFIRM_SEEDS: int = TuneConfig.model_fields["confirm_seeds"].default


def autowarmup(objective: Objective, seed: int) -> None:
    """The search alone: it ends where the first confirming run would start, or where the budget is spent."""
    config = configured(objective, seed, CONFIRM_SEEDS)
    candidates = GridCandidates(config, objective.grid)
    search = Search(config, candidates, objective.slots.number, prior_for(objective.name))
    watched = Watched(objective)

    def answer(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        if spec.role == "confirmation":
            raise BudgetSpent
        return watched(spec, start, until)

    with suppress(BudgetSpent):
        carry_out(search.decisions(), answer, objective.slots)


@dataclass(frozen=True)
class Answer:
    """What a whole study comes to.

    Args:
        verdict: its verdict.
        schedule: what it hands back, as the table has it; None where nothing is stable.
        runs: full runs spent.
        time: how long it took, in lengths of a run.
    """

    verdict: Verdict
    schedule: Schedule | None
    runs: float
    time: float


def study(table: Table, number: int, slots: int = 1) -> Answer:
    """A whole study on a table, with the default budget.

    One of the table's seeds, in turn, is the search's; those after it are the fresh seeds of the confirmation. Where
    there are fewer of these than a study wants pairs, it makes fewer pairs; where there is only one, the search's own
    is the second.
    """
    turn = number % len(table.seeds)
    own = table.seeds[turn]
    fresh = [*table.seeds[turn + 1 :], *table.seeds[:turn]]
    fresh = (fresh if len(fresh) > 1 else [*fresh, own])[:CONFIRM_SEEDS]
    clock: Slots[SegmentResult] = Slots(slots)
    objectives = {seed: TableObjective(table, seed, 1000 * table.horizon, clock) for seed in table.seeds}
    config = configured(objectives[own], number, len(fresh))
    search = Search(config, GridCandidates(config, table.grid), slots, prior_for(table.name))
    seeds = {derive_seed(config.seed, "confirmation", i): seed for i, seed in enumerate(fresh)}
    answers = {seed: Watched(objective) for seed, objective in objectives.items()}

    def answer(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        return answers[seeds.get(spec.seed, own)](spec, start, until)

    verdict = carry_out(search.decisions(), answer, clock).verdict
    schedule = None if verdict.schedule is None else objectives[own].snapped(verdict.schedule)
    spent = sum(objective.spent_by(clock.now) for objective in objectives.values())
    return Answer(verdict, schedule, spent / table.horizon, clock.now / table.horizon)


def configured(objective: Objective, seed: int, confirm_seeds: int) -> TuneConfig:
    """What ``autotune`` would make of the task. The table's first baseline is the current schedule."""
    today = objective.baselines[0].decay.kind
    finals = [schedule.final_factor for schedule in objective.grid]
    return TuneConfig(
        total_steps=objective.horizon,
        space=SearchSpace(
            shapes=objective.shapes,
            warmup={"low": 0, "high": max(objective.durations)},
            decay=sorted(objective.decays, key=lambda kind: kind != today),
            final_factor={"low": min(finals), "high": max(finals)},
        ),
        seed=seed,
        current=objective.baselines[0],
        current_peak=objective.current_peak,
        beta2=objective.beta2,
        confirm_seeds=confirm_seeds,
        trivial_loss=objective.trivial_loss,
    )


class Watched:
    """Carries out segments on an objective, watched for instability as an engine watches them."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._monitors: dict[int, Monitor] = {}

    def __call__(self, spec: TrialSpec, start: int, until: int) -> SegmentResult:
        monitor = self._monitors.setdefault(
            spec.number, Detectors().monitor(spec.schedule.horizon, self.objective.trivial_loss)
        )
        fatal: list[Instability] = []

        def stop(block: Trace) -> Instability | None:
            found = first_fatal(monitor, block, stop_only_on_nonfinite=spec.stop_only_on_nonfinite)
            fatal.extend([found] if found else [])
            return found

        if spec.role == "probe":
            trace = cut(self.objective.ramp(until), until)
            found = stop(trace)
            trace = trace if found is None else cut(trace, found.detected + 1)
            self.objective.charge(len(trace))
        else:
            schedule = self.objective.snapped(spec.schedule)
            trace = self.objective.train(schedule, until, stop, trial=spec.number)
        part = between(trace, start, trace.end)
        return SegmentResult(spec.number, until, part, fatal[0] if fatal else None)


def carry_out(
    decisions: Decisions, answer: Callable[[TrialSpec, int, int], SegmentResult], slots: Slots[SegmentResult]
) -> Conclusion:
    """Answers a search's decisions to its end, in simulated time.

    A segment starts as soon as a slot is free, in the order in which the search started them, and occupies it for as
    long as it has steps. Segments arrive in the order of their ends.

    Args:
        decisions: of the search.
        answer: takes a trial, the step that it has got to, and the step to train it to; what comes of that.
        slots: how many segments run at once, and the time.
    """
    ends: dict[int, int] = {}
    started: deque[Start] = deque()
    arrival: Arrival | None = None
    try:
        while True:
            decision = decisions.send(arrival)
            arrival = None
            match decision:
                case Start():
                    started.append(decision)
                case Wait():
                    while started and slots.free:
                        segment = started.popleft()
                        number = segment.spec.number
                        result = answer(segment.spec, ends.get(number, 0), segment.until)
                        ends[number] = result.trace.end
                        slots.start(result, slots.now + len(result.trace))
                    arrival = Arrival(slots.wait(), slots.number)
    except StopIteration as stop:
        conclusion: Conclusion = stop.value
        return conclusion
