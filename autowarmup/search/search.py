"""The search: which trials to run, how far, and what to conclude. Decisions only: nothing here trains or writes.

A search depends on its configuration and on what its trials came to alone, so replaying the segments of a study that
was killed leads to the very decision where it stopped.

Steps: one ramp tells where good peaks are to be expected; a few schedules are trained for a quarter of the run; the
model in :mod:`autowarmup.search.surrogate` forecasts how they would end, and the most promising one goes on to its
end. Then whatever is expected to improve on it most per step is trained a stage further, until nothing is. The best
schedule meets the baselines: first on the search's seed, and where it is better there, on fresh paired seeds.
docs/search.md has the measurements behind it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import TypeVar

import numpy as np

from autowarmup.errors import TaskFailedError
from autowarmup.schedule import Schedule
from autowarmup.schedule.ranges import PeakRange
from autowarmup.search.candidates import Candidate, Candidates, harsher
from autowarmup.search.config import TuneConfig
from autowarmup.search.decisions import Arrival, Conclusion, Decision, Decisions, Finish, Start, Wait
from autowarmup.search.probe import peak_of_ramp, ramp
from autowarmup.search.surrogate import Surrogate
from autowarmup.search.trial_state import TrialState, cause_of
from autowarmup.search.trials import Role, SegmentResult, TrialSpec
from autowarmup.search.verdict import Comparison, Verdict, judge, keep
from autowarmup.seeds import derive_seed
from autowarmup.training.trace import Outcome

PEAK_MARGIN = 15.0
"""Peaks are searched up to this factor beyond the expected one and today's."""

MORE_LOOKS = 2
"""New candidates beside the first ones, before one of them goes on to its end,"""
MUCH_BETTER = 0.5
"""where they are expected to be better by this many typical differences."""

SETTLED = 0.05
"""The search ends where no expected improvement exceeds this many typical differences."""

FAILED_ALIKE = 2
"""Proposals that may fail in the same way, before the study stops: then it is not the schedule's doing."""

MOST_FAILURES = 20
"""Proposals that may fail in ways of their own: they may cost no steps, so the budget doesn't bound them."""

T = TypeVar("T")
Choice = TrialState | Candidate
"""What may be trained next: a trial that goes on, or a candidate that starts."""
Steps = Generator[Decision, Arrival | None, T]
"""A part of a search: yields its decisions and returns what it found."""


class Search:
    """The decisions of one study.

    Args:
        config: what the study does.
        candidates: where schedules come from; left out, the configuration's space.
        slots: how many trials can run at once when it begins, >= 1.
    """

    def __init__(self, config: TuneConfig, candidates: Candidates | None = None, slots: int = 1) -> None:
        self.config, self.slots = config, slots
        self._source = candidates or Candidates(config)
        self.spent = 0
        self._trials: list[TrialState] = []
        self._pool: list[Candidate] = []
        self._candidates = 0

    def decisions(self) -> Decisions:
        """The whole search, from the first probe to the verdict.

        Raises:
            TaskFailedError: trials failed in a way that no schedule explains.
        """
        expected = yield from self._expected_peak()
        peaks = self._peak_range(expected)
        proposals = yield from self._exploration(expected, peaks)
        baselines = yield from self._baselines()
        settled = yield from self._exploration_against(baselines, proposals, expected)
        for trial in proposals:
            if trial.outcome is None:
                yield from self._finish(trial, "pruned")
        verdict = yield from self._verdict(proposals, baselines, settled)
        return Conclusion(verdict, peaks)

    # -- the parts of a search --

    def _expected_peak(self) -> Steps[float]:
        """Where the best peak is to be expected: as one exponential ramp of the rate tells, within the space."""
        config = self.config
        if not config.probe_steps:
            assert config.space.peak is not None
            return math.sqrt(config.space.peak.low * config.space.peak.high)
        probe = self._new(ramp(config.current_peak, config.probe_steps), "probe", config.seed)
        yield from self._advance([(probe, config.probe_steps)])
        if probe.error is not None and not len(probe.trace):
            return self._source.within(config.current_peak)
        return self._source.within(peak_of_ramp(probe.trace, config.current_peak))

    def _peak_range(self, expected: float) -> PeakRange:
        """The peaks to search: around the expected one and today's, within the space."""
        if self.config.space.peak is not None:
            return self.config.space.peak
        ends = expected, self.config.current_peak
        return PeakRange(low=min(ends) / PEAK_MARGIN, high=max(ends) * PEAK_MARGIN)

    def _exploration(self, expected: float, peaks: PeakRange) -> Steps[list[TrialState]]:
        """Stage after stage of the trials that promise most, as long as they promise enough and the budget lasts."""
        config = self.config
        first, *_ = config.rungs
        self._pool = self._source.pool(peaks)
        proposals: list[TrialState] = []
        starts: list[Choice] = [*self._source.starts(expected, peaks, max(2, config.cohort))]
        stages = [(start, first) for start in starts]
        while stages:
            yield from self._train(stages, proposals)
            left = config.budget - config.verdict_cost - self.spent
            stages = self._next_stages(proposals, expected, left)
        return proposals

    def _exploration_against(
        self, baselines: Sequence[TrialState], proposals: list[TrialState], expected: float
    ) -> Steps[bool]:
        """Where a baseline is the best so far, the exploration goes on with what is now known, until something is
        better, nothing is expected to be, or the rest of the budget is for the paired runs. Peaks are then expected
        halfway between the baseline's and those that the probe told. Returns whether nothing better is expected."""
        while (best := _best(baselines)) is not None and not _beaten(best, proposals):
            known = [*proposals, *baselines]
            halfway = math.sqrt(expected * best.schedule.peak)
            stages = self._next_stages(known, halfway, self.config.budget - self.config.paired_cost - self.spent)
            if not stages:
                return not self._next_stages(known, halfway, math.inf)
            yield from self._train(stages, proposals)
        return True

    def _train(self, stages: Sequence[tuple[Choice, int]], proposals: list[TrialState]) -> Steps[None]:
        """Trains what was chosen, each up to its step. Candidates become proposals."""
        chosen: list[tuple[TrialState, int]] = []
        for choice, until in stages:
            if isinstance(choice, Candidate):
                self._pool = [candidate for candidate in self._pool if candidate != choice]
                choice = self._new(choice.schedule, "proposal", self.config.seed, params=choice.params)
                proposals.append(choice)
            chosen.append((choice, until))
        yield from self._advance(chosen)

    def _next_stages(self, trials: Sequence[TrialState], expected: float, left: float) -> list[tuple[Choice, int]]:
        """What to train next and how far: up to a cohort, at most ``left`` steps together; none where the search has
        settled. A schedule whose only trial failed may be tried again."""
        if sum(trial.outcome == "failed" for trial in trials) >= MOST_FAILURES:
            return []
        evidence = [trial.evidence(self.config) for trial in trials if trial.outcome != "failed"]
        broken = [item.schedule for item in evidence if item.broke]
        candidates = [*self._pool, *_failed_once(trials)]
        fresh = [c for c in candidates if not any(harsher(c.schedule, schedule) for schedule in broken)]
        choices: list[Choice] = [*(t for t in trials if t.outcome is None), *fresh]
        model = Surrogate(evidence, expected) if any(item.scores for item in evidence) else None
        stages: list[tuple[Choice, int]] = []
        while choices and len(stages) < self.config.cohort:
            if model is not None and stages:
                model = model.fantasize(stages[-1][0].schedule)
            if model is not None:
                chosen = self._most_promising(model, choices, len(trials) + len(stages))
            else:  # whatever was tried has broken at once
                gentler = min([expected, *(schedule.peak for schedule in broken)]) / 3.0
                chosen = min(choices, key=lambda c: abs(math.log(c.schedule.peak / gentler)))
            if chosen is None:
                break
            until = self._rung_after(chosen)
            left -= until - chosen.end
            if left < 0:
                break
            choices.remove(chosen)
            stages.append((chosen, until))
        return stages

    def _most_promising(self, model: Surrogate, choices: Sequence[Choice], started: int) -> Choice | None:
        """The open trial or the candidate that promises most for its cost; None where nothing is worth it.

        Before any trial has got to its end that is the open one expected to end best, unless a candidate is expected to
        be much better and not many have been looked at.
        """
        schedules = [choice.schedule for choice in choices]
        if model.finished:
            improvement = model.improvement(schedules)
            remaining = [1.05 - choice.end / self.config.horizon for choice in choices]
            best = int(np.argmax(improvement / remaining))
            return choices[best] if improvement[best] > SETTLED else None
        expected = dict(zip(choices, model.predict(schedules)[0].tolist(), strict=True))
        leader = min((c for c in choices if isinstance(c, TrialState)), key=expected.__getitem__, default=None)
        newcomer = min((c for c in choices if isinstance(c, Candidate)), key=expected.__getitem__, default=None)
        if leader is None or newcomer is None:
            return leader or newcomer
        look = started < max(2, self.config.cohort) + MORE_LOOKS
        return newcomer if look and expected[newcomer] + MUCH_BETTER < expected[leader] else leader

    def _rung_after(self, choice: Choice) -> int:
        return next(rung for rung in self.config.rungs if rung > choice.end)

    def _baselines(self) -> Steps[list[TrialState]]:
        """The schedules that need no search, run to the end on the search's seed."""
        config = self.config
        baselines = [
            self._new(schedule, "baseline", config.seed, stop_only_on_nonfinite=True) for schedule in config.baselines
        ]
        for rung in config.rungs:  # from rung to rung, so that an interruption costs a part of a run only
            yield from self._advance([(trial, rung) for trial in baselines if trial.outcome is None])
        return baselines

    def _verdict(
        self, proposals: Sequence[TrialState], baselines: Sequence[TrialState], settled: bool
    ) -> Steps[Verdict]:
        """The best baseline against the best proposal: on the search's seed, which favours the proposal, and where
        that is better there, on fresh seeds. What breaks on one of those is replaced by the next best of its kind."""
        names = dict(zip((trial.spec.candidate for trial in baselines), ("no warm-up", "untuned rule"), strict=True))
        stable = _best_first(baselines)
        best_proposals = _best_first(proposals)
        if stable and not _beaten(stable[0], proposals):
            number = stable[0].spec.candidate
            return keep(names[number], number, stable[0].schedule, settled=settled)
        tuned, rivals = None, []
        for trial in stable:
            number = trial.spec.candidate
            rivals.append((yield from self._on_fresh_seeds(names[number], number, trial.schedule, careful=False)))
            if rivals[-1].stable or not self._affords_two_more:
                break
        for number, schedule in self._challengers(best_proposals):
            tuned = yield from self._on_fresh_seeds("tuned", number, schedule, careful=True)
            if tuned.stable or not self._affords_another:
                break
        unseen = [names[trial.spec.candidate] for trial in stable[len(rivals) :]]
        return judge(tuned, rivals, broken=len(baselines) - len(stable), unseen=unseen)

    def _challengers(self, best_first: Sequence[TrialState]) -> Iterator[tuple[int, Schedule]]:
        """Candidates for the fresh seeds, best first; at last the best one at half its peak, within the space."""
        for trial in best_first:
            yield trial.spec.candidate, trial.schedule
        for trial in best_first[:1]:
            gentler = self._source.within(trial.schedule.peak / 2.0)
            if gentler < trial.schedule.peak:
                self._candidates += 1
                yield self._candidates - 1, trial.schedule.model_copy(update={"peak": gentler})

    @property
    def _affords_another(self) -> bool:
        """Whether the budget allows for one more schedule on the fresh seeds."""
        return self.spent + self.config.confirm_seeds * self.config.horizon <= self.config.budget

    @property
    def _affords_two_more(self) -> bool:
        """Whether the budget allows for two more schedules on the fresh seeds."""
        return self.spent + self.config.paired_cost <= self.config.budget

    def _on_fresh_seeds(self, name: str, candidate: int, schedule: Schedule, *, careful: bool) -> Steps[Comparison]:
        """How a schedule does on the fresh seeds. Where it breaks on one of them it is given up on all.

        Args:
            name: what it is called.
            candidate: its number.
            schedule: what is trained.
            careful: whether every fatal instability ends a run; else only a loss that is not finite.
        """
        seeds = [derive_seed(self.config.seed, "confirmation", i) for i in range(self.config.confirm_seeds)]
        runs = [
            self._new(schedule, "confirmation", seed, candidate, stop_only_on_nonfinite=not careful) for seed in seeds
        ]
        for rung in self.config.rungs:
            yield from self._advance([(run, rung) for run in runs if run.outcome is None])
            if any(run.outcome == "unstable" for run in runs):
                for run in runs:
                    if run.outcome is None:
                        yield from self._finish(run, "pruned")
        losses = tuple(run.final_loss for run in runs)
        return Comparison(candidate=candidate, name=name, schedule=schedule, final_losses=losses)

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
        if candidate is None:
            candidate = self._candidates
            self._candidates += 1
        spec = TrialSpec(
            number=len(self._trials),
            candidate=candidate,
            role=role,
            seed=seed,
            schedule=schedule,
            stop_only_on_nonfinite=stop_only_on_nonfinite,
            params=params or {},
        )
        trial = TrialState(spec)
        self._trials.append(trial)
        return trial

    def _advance(self, stages: Sequence[tuple[TrialState, int]]) -> Steps[None]:
        """Trains each trial up to its step, and ends those that are over."""
        if not stages:
            return
        for trial, until in stages:
            yield Start(trial.spec, until)
        arrived: dict[int, SegmentResult] = {}
        for _ in stages:
            arrival = yield Wait()
            assert arrival is not None
            arrived[arrival.result.number] = arrival.result
            self.slots = arrival.slots
        results = [arrived[trial.spec.number] for trial, _ in stages]
        for (trial, _), result in zip(stages, results, strict=True):
            trial.take(result)
        self._check_failures()
        for (trial, until), result in zip(stages, results, strict=True):
            self.spent += len(result.trace)
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
        search goes on without it. Where they fail alike, or where a baseline or a fresh seed fails, the study stops."""
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


def _failed_once(trials: Sequence[TrialState]) -> list[Candidate]:
    """The schedules of proposals that failed, those that were tried only once."""
    tried = Counter(trial.schedule for trial in trials)
    failed = [trial for trial in trials if trial.outcome == "failed" and tried[trial.schedule] == 1]
    return [Candidate(trial.schedule, trial.spec.params) for trial in failed]


def _best_first(trials: Sequence[TrialState]) -> list[TrialState]:
    """Those that got to their horizon, by their final loss."""
    return sorted((trial for trial in trials if trial.final_loss is not None), key=_final)


def _best(trials: Sequence[TrialState]) -> TrialState | None:
    return next(iter(_best_first(trials)), None)


def _beaten(trial: TrialState, others: Sequence[TrialState]) -> bool:
    """Whether one of the others ended with a lower loss."""
    best = _best(others)
    return best is not None and _final(best) < _final(trial)


def _final(trial: TrialState) -> float:
    assert trial.final_loss is not None
    return trial.final_loss
