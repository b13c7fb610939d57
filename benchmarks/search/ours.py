"""autowarmup's own search on an objective: the decisions of :class:`autowarmup.search.search.Search`, over the grid."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from autowarmup.engines.segment import first_fatal
from autowarmup.instability.instability import Instability
from autowarmup.instability.monitor import Detectors, Monitor
from autowarmup.schedule.ranges import PeakRange
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.candidates import Candidate, Candidates
from autowarmup.search.config import TuneConfig, verdict_runs
from autowarmup.search.decisions import Arrival, Conclusion, Decisions, Start, Wait
from autowarmup.search.search import Search
from autowarmup.search.surrogate import LENGTHS, features
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.seeds import derive_seed
from autowarmup.training.trace import Trace
from benchmarks.search.objective import BudgetSpent, Objective, TableObjective, between, cut
from benchmarks.search.tables import Table

POOL = 0.6
"""Share of the grid that a search may choose from, drawn by its seed, as the search draws its pool from a space."""


class GridCandidates(Candidates):
    """A search's candidates, snapped to a part of the grid."""

    def __init__(self, config: TuneConfig, grid: Sequence[Schedule]) -> None:
        super().__init__(config)
        chosen = np.random.default_rng(config.seed).permutation(len(grid))[: round(POOL * len(grid))]
        self._grid = [Candidate(grid[i], {}) for i in sorted(chosen.tolist())]

    def pool(self, peaks: PeakRange) -> list[Candidate]:
        return list(self._grid)

    def starts(self, expected: float, peaks: PeakRange, count: int) -> list[Candidate]:
        wanted = super().starts(expected, peaks, count)
        snapped = [min(self._grid, key=lambda c: _distance(c.schedule, start.schedule)) for start in wanted]
        return list(dict.fromkeys(snapped))


class Exploration(Search):
    """The search alone, without the verdict."""

    def decisions(self) -> Decisions:
        expected = yield from self._expected_peak()
        yield from self._exploration(expected, self._peak_range(expected))
        return None  # type: ignore[return-value]


def _distance(first: Schedule, second: Schedule) -> float:
    near = np.subtract(features(first), features(second)) / LENGTHS[:4]
    return float((near**2).sum())


def configured(objective: Objective, seed: int, confirm_seeds: int = 3) -> TuneConfig:
    """What ``autotune`` would make of the task, with the objective's budget for the search alone."""
    horizon = objective.horizon
    return TuneConfig(
        total_steps=horizon,
        budget=objective.budget + (verdict_runs(confirm_seeds) + 1) * horizon,
        space=SearchSpace(
            shapes=objective.shapes,
            warmup={"low": 0, "high": max(objective.durations)},
            decay=objective.decays,
        ),
        seed=seed,
        current_peak=objective.current_peak,
        beta2=objective.beta2,
        confirm_seeds=confirm_seeds,
        trivial_loss=objective.trivial_loss,
    )


def autowarmup(objective: Objective, seed: int) -> None:
    """Searches until the search settles or the budget is spent."""
    config = configured(objective, seed)
    search = Exploration(config, GridCandidates(config, objective.grid))
    with suppress(BudgetSpent):
        carry_out(search.decisions(), Watched(objective))


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
            trace = self.objective.ramp(until)
            found = stop(trace)
            trace = trace if found is None else cut(trace, found.detected + 1)
            self.objective.charge(len(trace))
        else:
            trace = self.objective.train(spec.schedule, until, stop)
        part = between(trace, start, trace.end)
        return SegmentResult(spec.number, until, part, fatal[0] if fatal else None)


def carry_out(decisions: Decisions, answer: Callable[[TrialSpec, int, int], SegmentResult]) -> Conclusion:
    """Answers a search's decisions to its end: one slot, one segment after the other."""
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
                    segment = started.popleft()
                    result = answer(segment.spec, ends.get(segment.spec.number, 0), segment.until)
                    ends[segment.spec.number] = result.trace.end
                    arrival = Arrival(result, 1)
    except StopIteration as stop:
        conclusion: Conclusion = stop.value
        return conclusion


def verdict(table: Table, number: int) -> tuple[str, Schedule | None, float]:
    """A whole study on a table, with the default budget: its verdict, its schedule, and the full runs spent.

    One of the table's seeds, in turn, is the search's; the others are the fresh seeds of the confirmation.
    """
    own = table.seeds[number % len(table.seeds)]
    others = [seed for seed in table.seeds if seed != own]
    objective = TableObjective(table, own, 100 * table.horizon)
    config = configured(objective, number, confirm_seeds=len(others))
    config = config.model_copy(update={"budget": TuneConfig.default_budget(table.horizon, len(others))})
    search = Search(config, GridCandidates(config, table.grid))
    fresh = {derive_seed(config.seed, "confirmation", i): seed for i, seed in enumerate(others)}
    objectives = {seed: TableObjective(table, seed, 100 * table.horizon) for seed in others}
    answers = {seed: Watched(objectives[seed]) for seed in others} | {own: Watched(objective)}

    def answer(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        return answers[fresh.get(spec.seed, own)](spec, start, until)

    conclusion = carry_out(search.decisions(), answer)
    found = conclusion.verdict
    return found.kind, found.schedule, search.spent / table.horizon
