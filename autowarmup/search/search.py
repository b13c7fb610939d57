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
from collections.abc import Generator, Iterator, Sequence
from typing import TypeVar

import numpy as np

from autowarmup.errors import TaskFailedError
from autowarmup.schedule import Schedule
from autowarmup.schedule.space import PeakRange
from autowarmup.search.candidates import Candidate, Candidates, harsher
from autowarmup.search.config import TuneConfig
from autowarmup.search.decisions import Advance, Conclusion, Decision, Decisions, Finish
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

MOST_FAILURES = 20
"""Trials that fail at once cost no steps: so many of them end a search."""

FIRST_TRIALS = 3
"""Where this many trials have all failed in the same way, the task itself is broken."""

T = TypeVar("T")
Steps = Generator[Decision, list[SegmentResult], T]
"""A part of a search: yields its decisions and returns what it found."""


class Search:
    """The decisions of one study."""

    def __init__(self, config: TuneConfig, candidates: Candidates | None = None) -> None:
        self.config = config
        self._source = candidates or Candidates(config)
        self.spent = 0
        self._trials: list[TrialState] = []
        self._candidates = 0

    def decisions(self) -> Decisions:
        """The whole search, from the first probe to the verdict."""
        expected = yield from self._expected_peak()
        peaks = self._peak_range(expected)
        proposals = yield from self._exploration(expected, peaks)
        baselines = yield from self._baselines()
        verdict = yield from self._verdict(proposals, baselines)
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
        pool = self._source.pool(peaks)
        proposals: list[TrialState] = []
        starts = self._source.starts(expected, peaks, max(2, config.cohort))
        stages = [(self._propose(candidate), first) for candidate in starts]
        while stages:
            proposals += [trial for trial, _ in stages if trial not in proposals]
            yield from self._advance(stages)
            if sum(trial.outcome == "failed" for trial in proposals) >= MOST_FAILURES:
                break
            stages = self._next_stages(proposals, pool, expected, peaks)
        for trial in proposals:
            if trial.outcome is None:
                yield from self._finish(trial, "pruned")
        return proposals

    def _next_stages(
        self, proposals: Sequence[TrialState], pool: list[Candidate], expected: float, peaks: PeakRange
    ) -> list[tuple[TrialState, int]]:
        """What to train next and how far: up to a cohort, affordable together; none where the search has settled."""
        evidence = [trial.evidence(self.config) for trial in proposals if trial.outcome != "failed"]
        broken = [item.schedule for item in evidence if item.broke]
        fresh = [c for c in pool if not any(harsher(c.schedule, schedule) for schedule in broken)]
        choices: list[TrialState | Candidate] = [*(t for t in proposals if t.outcome is None), *fresh]
        model = Surrogate(evidence, expected) if any(item.scores for item in evidence) else None
        stages: list[tuple[TrialState, int]] = []
        left = self._left
        while choices and len(stages) < self.config.cohort:
            if model is not None and stages:
                model = model.fantasize(stages[-1][0].schedule)
            if model is not None:
                chosen = self._most_promising(model, choices, len(proposals) + len(stages))
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
            if isinstance(chosen, Candidate):
                pool.remove(chosen)
                chosen = self._propose(chosen)
            stages.append((chosen, until))
        return stages

    def _most_promising(
        self, model: Surrogate, choices: Sequence[TrialState | Candidate], started: int
    ) -> TrialState | Candidate | None:
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

    def _rung_after(self, choice: TrialState | Candidate) -> int:
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

    def _verdict(self, proposals: Sequence[TrialState], baselines: Sequence[TrialState]) -> Steps[Verdict]:
        """The better baseline against the best proposal: on the search's seed, which favours the proposal, and where
        that is better there, on fresh seeds. Where it breaks on one of those, the next challenger takes its place."""
        names = dict(zip((trial.spec.candidate for trial in baselines), ("no warm-up", "untuned rule"), strict=True))
        best_first = sorted((trial for trial in proposals if trial.final_loss is not None), key=_final)
        stable = sorted((trial for trial in baselines if trial.final_loss is not None), key=_final)
        if stable and (not best_first or _final(best_first[0]) >= _final(stable[0])):
            return keep(names[stable[0].spec.candidate], stable[0].spec.candidate, stable[0].schedule)
        rivals = []
        for trial in stable[:1]:
            number = trial.spec.candidate
            rivals.append(
                (yield from self._on_fresh_seeds(names[number], number, trial.schedule, stop_only_on_nonfinite=True))
            )
        tuned = None
        for number, schedule in self._challengers(best_first):
            tuned = yield from self._on_fresh_seeds("tuned", number, schedule, stop_only_on_nonfinite=False)
            if tuned.stable or not self._affords_another:
                break
        return judge(tuned, rivals, broken=len(baselines) - len(stable))

    def _challengers(self, best_first: Sequence[TrialState]) -> Iterator[tuple[int, Schedule]]:
        """Candidates for the fresh seeds, best first; at last the best one at half its peak, which is gentler."""
        for trial in best_first:
            yield trial.spec.candidate, trial.schedule
        for trial in best_first[:1]:
            self._candidates += 1
            yield self._candidates - 1, trial.schedule.model_copy(update={"peak": trial.schedule.peak / 2.0})

    @property
    def _affords_another(self) -> bool:
        """Whether the budget allows for one more schedule on the fresh seeds."""
        return self.spent + self.config.confirm_seeds * self.config.horizon <= self.config.budget

    def _on_fresh_seeds(
        self, name: str, candidate: int, schedule: Schedule, *, stop_only_on_nonfinite: bool
    ) -> Steps[Comparison]:
        """How a schedule does on the fresh seeds. An impatient one that breaks on one of them is given up on all."""
        seeds = [derive_seed(self.config.seed, "confirmation", i) for i in range(self.config.confirm_seeds)]
        runs = [
            self._new(schedule, "confirmation", seed, candidate, stop_only_on_nonfinite=stop_only_on_nonfinite)
            for seed in seeds
        ]
        for rung in self.config.rungs:
            yield from self._advance([(run, rung) for run in runs if run.outcome is None])
            if not stop_only_on_nonfinite and any(run.outcome in ("unstable", "failed") for run in runs):
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
        results = yield Advance(tuple((trial.spec, until) for trial, until in stages))
        for (trial, until), result in zip(stages, results, strict=True):
            trial.take(result)
            self.spent += len(result.trace)
            if result.error is not None:
                yield from self._finish(trial, "failed")
            elif result.instability is not None:
                yield from self._finish(trial, "unstable")
            elif until == trial.spec.schedule.horizon:
                yield from self._finish(trial, "completed")
        self._check_failures()

    def _finish(self, trial: TrialState, outcome: Outcome) -> Steps[None]:
        trial.outcome = outcome
        yield Finish(trial.spec.number, outcome)

    def _check_failures(self) -> None:
        ended = [trial for trial in self._trials if trial.outcome is not None]
        errors = [trial.error for trial in ended[:FIRST_TRIALS]]
        if len(errors) == FIRST_TRIALS and None not in errors and len({cause_of(error) for error in errors}) == 1:
            raise TaskFailedError(
                f"the first {FIRST_TRIALS} trials all failed in the same way, so the study stops here. When the "
                f"cause is mended, start again in another folder. The last of them:\n{errors[-1]}"
            )

    @property
    def _left(self) -> int:
        """Steps that the exploration may still spend."""
        return self.config.budget - self.config.verdict_cost - self.spent

    def _propose(self, candidate: Candidate) -> TrialState:
        return self._new(candidate.schedule, "proposal", self.config.seed, params=candidate.params)


def _final(trial: TrialState) -> float:
    assert trial.final_loss is not None
    return trial.final_loss
