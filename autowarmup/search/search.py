"""The search: which trials to run, how far, and what to conclude. Decisions only: nothing here trains or writes.

A search depends on its configuration, on how many trials can run at once, and on what its trials came to in their
order, so replaying the segments of a study that was killed leads to the very decision where it stopped.

Whenever there is room for a trial, something is started: first a ramp of the rate, which tells where good peaks are to
be expected, and the current schedule; then what :mod:`autowarmup.search.exploration` chooses; then the best schedule
that was found meets the current one on fresh seeds, as :mod:`autowarmup.search.confirmation` says. docs/search.md has
the measurements behind it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator
from typing import ClassVar, TypeVar

from autowarmup.errors import TaskFailedError
from autowarmup.schedule import Schedule
from autowarmup.schedule.ranges import PeakRange
from autowarmup.search.candidates import Candidate, Candidates
from autowarmup.search.conclusion import concluded, with_warning
from autowarmup.search.config import TuneConfig
from autowarmup.search.confirmation import Challenger, Confirmation
from autowarmup.search.decisions import Arrival, Conclusion, Decision, Decisions, Finish, Start, Wait
from autowarmup.search.exploration import Exploration
from autowarmup.search.pairs import expected_noise
from autowarmup.search.prior import Prior
from autowarmup.search.probe import ramp
from autowarmup.search.trial_state import TrialState, cause_of
from autowarmup.search.trials import COMPARED, Role, SegmentResult, TrialSpec
from autowarmup.training.trace import Outcome

PEAK_MARGIN = 15.0
"""Peaks are searched up to this factor beyond the expected one and today's."""

MOST_SLOTS = 32
"""More trials than these don't run at once: they would find nothing better, and not sooner."""

AHEAD = 1.0
"""A schedule is worth its pairs where it is ahead of the current one on the search's seed, which favours it, by more
than this many times the noise of a pair."""

FAILED_ALIKE = 2
"""Proposals that may fail in the same way, before the study stops: then it is not the schedule's doing."""

T = TypeVar("T")
Steps = Generator[Decision, Arrival | None, T]
"""A part of a search: yields its decisions and returns what it found."""
Stage = tuple[TrialState, int]
"""A trial, and the step to train it to."""


class Search:
    """The decisions of one study.

    Args:
        config: what the study does.
        candidates: where schedules come from; left out, the configuration's space.
        slots: how many trials can run at once when it begins, >= 1.
        prior: what is expected of schedules; left out, what was learned from other tasks.
    """

    _pauses: ClassVar[bool] = True
    """Whether a trial can be paused, and go on later where it stopped."""

    def __init__(
        self, config: TuneConfig, candidates: Candidates | None = None, slots: int = 1, prior: Prior | None = None
    ) -> None:
        self.config, self._prior = config, prior or Prior.learned()
        self.slots = config.cohort or min(slots, MOST_SLOTS)
        self.budget = config.budget_with(self.slots)
        self._search_budgets = config.search_budgets_with(self.slots)
        self._source = candidates or Candidates(config)
        self._trials: list[TrialState] = []
        self._running: dict[int, Stage] = {}
        self._candidates = 0
        self._probe: TrialState | None = None
        self._current: TrialState | None = None
        self._exploration: Exploration | None = None
        self._explored = False
        self._confirmation: Confirmation | None = None
        self._gentler: Challenger | None = None

    @property
    def spent(self) -> int:
        """Optimizer steps of all trials so far."""
        return sum(trial.end for trial in self._trials)

    def decisions(self) -> Decisions:
        """The whole search, from the first probe to the verdict.

        Raises:
            TaskFailedError: trials failed in a way that no schedule explains.
        """
        while True:
            yield from self._fill()
            if not self._running:
                break
            for result in (yield from self._arrivals()):
                yield from self._take(result)
        for trial in self._trials:
            if trial.outcome is None:
                yield from self._finish(trial, "pruned")
        return self._conclusion()

    # -- what runs next --

    def _fill(self) -> Steps[None]:
        """Starts as much as there is room for."""
        while len(self._running) < self.slots and (stage := self._next_stage()) is not None:
            trial, until = stage
            self._running[trial.spec.number] = stage
            yield Start(trial.spec, until)

    def _next_stage(self) -> Stage | None:
        config = self.config
        if self._probe is None and config.probe_steps:
            schedule = ramp(config.current_peak, config.probe_steps)
            self._probe = self._new(schedule, "probe", config.seed)
            return self._probe, config.probe_steps
        if self._current is None:
            self._current = self._new(config.current_schedule, "baseline", config.seed, stop_only_on_nonfinite=True)
            return self._current, config.rungs[0]
        if self._probe is not None and self._probe.outcome is None:
            return None
        return self._exploring_stage() or self._confirming_stage()

    def _exploring_stage(self) -> Stage | None:
        if self._explored:
            return None
        if self._exploration is None:
            self._exploration = self._begin_exploration()
        trials = self._on_search_seed
        running = [trial for trial in trials if trial.spec.number in self._running]
        left, left_at_most = (budget - self._committed for budget in self._search_budgets)
        choice = self._exploration.choose(trials, running, left, left_at_most)
        if choice is None:
            self._explored = not running
            return None
        until = self.config.rung_after(choice.end)
        if isinstance(choice, Candidate):
            choice = self._new(choice.schedule, "proposal", self.config.seed, params=choice.params)
        return choice, until

    def _begin_exploration(self) -> Exploration:
        expected = self._expected_peak()
        self.peaks = self._peak_range(expected)
        return Exploration(self.config, self._source, expected, self.peaks, looks=self._looks, prior=self._prior)

    def _expected_peak(self) -> float:
        """The best peak to expect, as the probe tells."""
        return self._source.expected_peak(None if self._probe is None else self._probe.trace, self._prior)

    @property
    def _looks(self) -> int:
        """How many schedules to start with beside the current one: as there is room for, if one can then go on to its
        end."""
        config = self.config
        first = config.rungs[0]
        affordable = (self._search_budgets[1] - config.probe_steps - config.horizon) // first
        return max(2, min(self.slots - 1, affordable))

    def _confirming_stage(self) -> Stage | None:
        """The next run of the pairs. Where nothing was found that could beat the current schedule, this goes on."""
        challenger, current = self._next_challenger(), self._current
        assert current is not None
        if challenger is not None and self.config.confirm_seeds:
            running = [trial for trial, _ in self._running.values()]
            return self._pairs.next_stage(challenger, running, self.budget - self._committed)
        if not self._explored or current.outcome is not None or current.spec.number in self._running:
            return None
        if challenger is not None and self._far_ahead(challenger):
            return None
        until = self.config.rung_after(current.end)
        return (current, until) if until - current.end <= self.budget - self._committed else None

    def _next_challenger(self) -> Challenger | None:
        """The schedule that is to meet the current one: the best on the search's seed, without those that became
        unstable on a fresh one; at last that at half its peak. Where it turns out no better than the current one, one
        that was shown to be better takes its place."""
        found = [self._as_challenger(trial) for trial in self._best_first if self._is_ahead(trial)]
        usable = [item for item in found if self._pairs.standing(item) != "broken"]
        if found and not usable:
            self._gentler = self._gentler or self._at_half_its_peak(found[0])
            usable = [item for item in [self._gentler] if item and self._pairs.standing(item) != "broken"]
        best = usable[0] if usable else None
        if best is None or self._pairs.standing(best) != "no better":
            return best
        return next((item for item in usable if self._pairs.standing(item) == "better"), best)

    def _as_challenger(self, trial: TrialState) -> Challenger:
        others = [other for other in self._on_search_seed if other is not trial and other.end]
        nearest = max(others, key=lambda other: (other.end, -_final(other)), default=trial)
        noise = expected_noise(trial.trace, nearest.trace, self.config.eval_every, self.config.objective)
        return Challenger(trial.spec.candidate, trial.schedule, _final(trial), noise)

    def _at_half_its_peak(self, challenger: Challenger) -> Challenger | None:
        gentler = self._source.within(challenger.schedule.peak / 2.0)
        if gentler >= challenger.schedule.peak:
            return None
        schedule = challenger.schedule.model_copy(update={"peak": gentler})
        return Challenger(self._next_candidate(schedule), schedule, math.inf, challenger.noise)

    def _is_ahead(self, trial: TrialState) -> bool:
        """Whether a schedule is ahead of the current one by enough to be worth its pairs, as far as that is known."""
        current = self._current
        if current is None or current.final_loss is None:
            return True
        noise = expected_noise(trial.trace, current.trace, self.config.eval_every, self.config.objective)
        worth = max(AHEAD * noise, self.config.margin * abs(current.final_loss))
        return _final(trial) < current.final_loss - worth

    def _far_ahead(self, challenger: Challenger) -> bool:
        """Whether the current schedule was too far behind it halfway, on the search's seed, to catch up."""
        trial = next(t for t in self._on_search_seed if t.spec.candidate == challenger.candidate)
        return self._pairs.pair_of(trial, self._current).far_ahead

    @property
    def _pairs(self) -> Confirmation:
        if self._confirmation is None:
            assert self._current is not None

            def new(schedule: Schedule, candidate: int, seed: int, stop_only_on_nonfinite: bool) -> TrialState:
                return self._new(
                    schedule, "confirmation", seed, candidate, stop_only_on_nonfinite=stop_only_on_nonfinite
                )

            self._confirmation = Confirmation(self.config, self._current, new, pauses=self._pauses)
        return self._confirmation

    # -- what is known --

    def _peak_range(self, expected: float) -> PeakRange:
        """The peaks to search: around the expected one and today's, within the space."""
        if self.config.space.peak is not None:
            return self.config.space.peak
        ends = expected, self.config.current_peak
        return PeakRange(low=min(ends) / PEAK_MARGIN, high=max(ends) * PEAK_MARGIN)

    @property
    def _on_search_seed(self) -> list[TrialState]:
        """The trials that compare: those of the schedules, on the search's seed."""
        return [trial for trial in self._trials if trial.spec.role in COMPARED]

    @property
    def _best_first(self) -> list[TrialState]:
        """The proposals that got to their horizon, by their final loss."""
        completed = [t for t in self._trials if t.spec.role == "proposal" and t.final_loss is not None]
        return sorted(completed, key=_final)

    @property
    def _committed(self) -> int:
        """Optimizer steps of all trials, with those of what is running to its end."""
        return self.spent + sum(until - trial.end for trial, until in self._running.values())

    def _conclusion(self) -> Conclusion:
        assert self._current is not None
        best = next(iter(self._best_first), None)
        verdict = concluded(self.config, self._current, self._next_challenger(), best, self._pairs)
        return Conclusion(with_warning(verdict, self.config, (self._current, best)), self.peaks)

    # -- trials --

    def _new(
        self,
        schedule: Schedule,
        role: Role,
        seed: int,
        candidate: int | None = None,
        *,
        stop_only_on_nonfinite: bool = False,
        params: dict[str, float | str] | None = None,
    ) -> TrialState:
        spec = TrialSpec(
            number=len(self._trials),
            candidate=self._next_candidate(schedule) if candidate is None else candidate,
            role=role,
            seed=seed,
            schedule=schedule,
            stop_only_on_nonfinite=stop_only_on_nonfinite,
            params=params or {},
        )
        trial = TrialState(spec, objective=self.config.objective)
        self._trials.append(trial)
        return trial

    def _next_candidate(self, schedule: Schedule) -> int:
        """The number of a schedule that is tried for the first time."""
        self._candidates += 1
        return self._candidates - 1

    def _arrivals(self) -> Steps[list[SegmentResult]]:
        """The next segment that has ended; with a fixed cohort all that are running, by the numbers of their trials."""
        results = []
        for _ in range(len(self._running) if self.config.cohort else 1):
            arrival = yield Wait()
            assert arrival is not None
            results.append(arrival.result)
            if not self.config.cohort:
                self.slots = min(arrival.slots, MOST_SLOTS)
        return sorted(results, key=lambda result: result.number)

    def _take(self, result: SegmentResult) -> Steps[None]:
        """Takes what came of a segment, and ends its trial where that is over."""
        trial, until = self._running.pop(result.number)
        trial.take(result)
        self._check_failures()
        if result.error is not None:
            yield from self._finish(trial, "failed")
        elif result.instability is not None:
            yield from self._finish(trial, "unstable")
        elif until == trial.spec.schedule.horizon:
            yield from self._finish(trial, "completed")

    def _finish(self, trial: TrialState, outcome: Outcome) -> Steps[None]:
        trial.outcome = outcome
        yield Finish(trial.spec.number, outcome)

    def _check_failures(self) -> None:
        """A failure is no evidence about a schedule. The probe or a proposal may fail once in a way of its own; the
        search goes on without it. Where they fail alike, or where the current schedule or a fresh seed fails, the study
        stops."""
        failed = [trial for trial in self._trials if trial.error is not None]
        causes = Counter(cause_of(trial.error) for trial in failed)
        for trial in failed:
            if trial.spec.role in ("baseline", "confirmation") or causes[cause_of(trial.error)] >= FAILED_ALIKE:
                alike = f", as {causes[cause_of(trial.error)]} trials did" if causes[cause_of(trial.error)] > 1 else ""
                raise TaskFailedError(
                    f"trial {trial.spec.number} ({trial.spec.role}) failed{alike}, so the study stops here. Nothing "
                    f"that was finished is lost: mend the cause and make the same call again, and it goes on with "
                    f"this trial.\n{trial.error}"
                )


def _final(trial: TrialState) -> float:
    return math.inf if trial.final_loss is None else trial.final_loss
