"""The exploration: which schedule to train next on the search's seed, and how far.

A few schedules are looked at for a quarter of the run, the current one among them. The model in
:mod:`autowarmup.search.surrogate` forecasts how they would end, and the most promising one goes on to its end. Then
whatever is expected to improve on the best most per step is trained a stage further, until nothing is expected to
improve on it by an amount that matters. What runs at the moment is assumed to end as forecast.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence

import numpy as np

from autowarmup.schedule import Schedule
from autowarmup.schedule.ranges import PeakRange
from autowarmup.search.candidates import Candidate, Candidates, harsher
from autowarmup.search.config import TuneConfig
from autowarmup.search.prior import Prior
from autowarmup.search.surrogate import Surrogate
from autowarmup.search.trial_state import TrialState

MORE_LOOKS = 2
"""New candidates beside the first ones, before one of them goes on to its end,"""
MUCH_BETTER = 0.5
"""where they are expected to be better by this many typical differences."""

SETTLED = 0.05
"""The search ends where no expected improvement exceeds this many typical differences."""

MOST_FAILURES = 20
"""Proposals that may fail in ways of their own: they may cost no steps, so the budget doesn't bound them."""

Choice = TrialState | Candidate
"""What may be trained next: a trial that goes on, or a candidate that starts."""


class Exploration:
    """The choices of a search before its pairs.

    Args:
        config: what the study does.
        source: where schedules come from.
        expected: the best peak to expect, as the probe tells.
        peaks: the peaks to search.
        looks: how many schedules to start with beside the current one, >= 2.
        prior: what is expected of schedules.
    """

    def __init__(
        self, config: TuneConfig, source: Candidates, expected: float, peaks: PeakRange, looks: int, prior: Prior
    ) -> None:
        self._config, self._expected, self._prior = config, expected, prior
        self._starts = source.starts(expected, peaks, looks)
        self._looks = len(self._starts) + 1
        self._pool = [*source.plain(peaks), *source.pool(peaks)]

    def choose(
        self, trials: Sequence[TrialState], running: Sequence[TrialState], left: int, left_at_most: int
    ) -> Choice | None:
        """What to train next, up to its next rung.

        Args:
            trials: those on the search's seed so far, the current schedule's among them.
            running: those of them that are being trained.
            left: optimizer steps that may still be spent.
            left_at_most: optimizer steps that may be spent on a trial that promises to be the best.

        Returns:
            None where nothing that is affordable is worth it, or where the results of what is running decide.
        """
        kept = self._kept(trials, running)

        def affordable(choice: Choice) -> bool:
            steps = self._config.rung_after(choice.end) - choice.end
            if isinstance(choice, Candidate):
                return steps <= min(left, left_at_most - kept)
            furthest = choice.spec.role == "proposal" and choice.end == self._config.horizon - kept
            return steps <= (left_at_most if furthest else left_at_most - kept)

        choice = self._starts[0] if self._starts else self._best_choice(trials, running, affordable)
        if choice is None or not affordable(choice):
            return None
        if isinstance(choice, Candidate):
            self._starts = self._starts[1:]
            self._pool = [candidate for candidate in self._pool if candidate != choice]
        return choice

    def leave_out(self, tried: Collection[Schedule], again: Sequence[Candidate]) -> None:
        """Takes account of schedules that were tried before: they are not chosen again, but for those in ``again``."""
        self._starts = [candidate for candidate in self._starts if candidate.schedule not in tried]
        self._pool = [candidate for candidate in self._pool if candidate.schedule not in tried]
        self._pool += again

    def next_of_pool(self, trials: Sequence[TrialState]) -> Candidate:
        """The next candidate of the space, whatever is expected of it, that is not harsher than what broke."""
        broken = [trial.schedule for trial in trials if trial.outcome == "unstable"]
        gentle = (c for c in self._pool if not any(harsher(c.schedule, schedule) for schedule in broken))
        return next(gentle, self._pool[0])

    def _kept(self, trials: Sequence[TrialState], running: Sequence[TrialState]) -> int:
        """Optimizer steps that the proposal which gets furthest needs from there to its end; 0 where one is there."""
        proposals = [trial for trial in trials if trial.spec.role == "proposal"]
        if any(trial.final_loss is not None for trial in proposals):
            return 0
        open_ones = [trial for trial in proposals if trial.outcome is None]
        ends = [self._config.rung_after(trial.end) if trial in running else trial.end for trial in open_ones]
        return self._config.horizon - max(ends, default=0)

    def _best_choice(
        self, trials: Sequence[TrialState], running: Sequence[TrialState], affordable: Callable[[Choice], bool]
    ) -> Choice | None:
        if sum(trial.outcome == "failed" for trial in trials) >= MOST_FAILURES:
            return None
        evidence = [trial.evidence(self._config) for trial in trials if trial.outcome != "failed"]
        broken = [item.schedule for item in evidence if item.broke]
        candidates = [*self._pool, *_failed_once(trials)]
        choices: list[Choice] = [trial for trial in trials if trial.outcome is None and trial not in running]
        choices += [c for c in candidates if not any(harsher(c.schedule, schedule) for schedule in broken)]
        choices = [choice for choice in choices if affordable(choice)]
        if not choices:
            return None
        if not any(item.scores and not item.broke for item in evidence):  # whatever was tried has broken at once
            if running:
                return None
            gentler = min([self._expected, *(schedule.peak for schedule in broken)]) / 3.0
            return min(choices, key=lambda choice: abs(math.log(choice.schedule.peak / gentler)))
        model = Surrogate(evidence, self._expected_peak(trials), self._prior, self._config.margin)
        if running:
            model = model.fantasize([trial.schedule for trial in running])
        if model.finished:
            best, improvement = self._most_improving(model, choices, 0.0)
            return best if improvement > SETTLED else None
        return self._leader_or_newcomer(model, choices, running, len(trials))

    def _expected_peak(self, trials: Sequence[TrialState]) -> float:
        """Where the current schedule is the best so far, halfway between its peak and the one that the probe told."""
        completed = [trial for trial in trials if trial.final_loss is not None]
        best = min(completed, key=lambda trial: trial.final_loss or 0.0, default=None)
        if best is None or best.spec.role != "baseline":
            return self._expected
        return math.sqrt(self._expected * best.schedule.peak)

    def _most_improving(self, model: Surrogate, choices: Sequence[Choice], bound: float) -> tuple[Choice, float]:
        """The choice with the largest expected improvement on ``bound`` for its cost, and that improvement."""
        improvement = model.improvement([choice.schedule for choice in choices], bound)
        remaining = [1.05 - choice.end / self._config.horizon for choice in choices]
        best = int(np.argmax(improvement / remaining))
        return choices[best], float(improvement[best])

    def _leader_or_newcomer(
        self, model: Surrogate, choices: Sequence[Choice], running: Sequence[TrialState], started: int
    ) -> Choice | None:
        """Before any trial has got to its end: the open trial that is expected to end best goes on. A candidate that
        is expected to be much better is looked at first. Where such a trial is running, there is room for others."""
        if any(trial.end >= self._config.rungs[0] for trial in running):
            bound = min(model.predict([trial.schedule for trial in running])[0])
            return self._most_improving(model, choices, float(bound))[0]
        forecasts, _ = model.predict([choice.schedule for choice in choices])
        expected = dict(zip(choices, forecasts.tolist(), strict=True))
        leader = min((c for c in choices if isinstance(c, TrialState)), key=expected.__getitem__, default=None)
        newcomer = min((c for c in choices if isinstance(c, Candidate)), key=expected.__getitem__, default=None)
        if leader is None or newcomer is None:
            return leader or newcomer
        look = started < self._looks + MORE_LOOKS
        return newcomer if look and expected[newcomer] + MUCH_BETTER < expected[leader] else leader


def _failed_once(trials: Sequence[TrialState]) -> list[Candidate]:
    """The schedules of proposals that failed, those that were tried only once."""
    tried = Counter(trial.schedule for trial in trials)
    failed = [trial for trial in trials if trial.outcome == "failed" and tried[trial.schedule] == 1]
    return [Candidate(trial.schedule, trial.spec.params) for trial in failed]
