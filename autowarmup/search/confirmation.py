"""The confirmation: the best schedule that was found meets the current one on fresh seeds, pair by pair.

The schedule that was found is called the challenger. A pair is over when both of its runs are, or halfway where the
current schedule is so far behind there that it doesn't catch up (docs/search.md has the figures). Pairs are started in
their order, as many at once as there is room for, until they have decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autowarmup.schedule.schedule import Schedule
from autowarmup.search.config import TuneConfig
from autowarmup.search.pairs import NoisePrior, Posterior, expected_noise, jitter
from autowarmup.search.trial_state import TrialState
from autowarmup.seeds import derive_seed

FAR_BEHIND = 5.0
"""A current schedule that is behind halfway by this many times the jitter of the difference there doesn't catch up: in
the tables of the search benchmark one in a thousand does."""
BEFORE_HALFWAY = 7
"""Evaluations that this jitter is taken from."""
SPREAD = 1.0
"""Standard deviation of the logarithm of a pair's noise over the expected one; measured in docs/search.md."""
SURE = 0.985
"""Pairs have decided when one schedule is better with this probability. With up to four pairs they then find a
difference where there is none in fewer than 5% of studies; see benchmarks/results/verdict.md."""
UNLIKELY = 0.1
"""They have also decided when a difference that matters is less probable than this."""

Standing = Literal["undecided", "better", "no better", "broken"]
"""What the pairs say of a challenger: nothing yet, better than the current schedule, no better by an amount that
matters, or unstable on a fresh seed."""


def judged(posterior: Posterior, worth: float) -> Standing:
    """What pairs say that got to their ends.

    Args:
        posterior: of their difference.
        worth: the smallest difference that matters, in units of the loss, >= 0.
    """
    if posterior.chance_below(0.0) >= SURE:
        return "better"
    if posterior.chance_below(-worth) <= UNLIKELY:
        return "no better"
    return "undecided"


@dataclass(frozen=True)
class Challenger:
    """A schedule that may be handed back.

    Args:
        candidate: its number in the study.
        schedule: the schedule.
        loss: its final loss on the search's seed; infinite where it was not trained there.
        noise: the noise that is expected of a pair, in units of the loss.
    """

    candidate: int
    schedule: Schedule
    loss: float
    noise: float


@dataclass(frozen=True)
class Pair:
    """Runs of a challenger and of the current schedule under one fresh seed.

    Args:
        challenger: its run; None where it hasn't started.
        current: the run of the current schedule; None where it hasn't started.
        every: optimizer steps between two evaluations.
        halfway: the step from which on a pair may be decided.
    """

    challenger: TrialState | None
    current: TrialState | None
    every: int
    halfway: int

    @property
    def broken(self) -> bool:
        """Whether the challenger didn't get to its end."""
        return self.challenger is not None and self.challenger.outcome in ("unstable", "failed")

    @property
    def won(self) -> bool:
        """Whether the current schedule became unstable where the challenger didn't, or was far behind halfway."""
        if self.current is None or self.challenger is None:
            return False
        if self.current.outcome == "unstable":
            return self.challenger.final_loss is not None
        return self.difference is None and self.far_ahead

    @property
    def noise(self) -> float:
        """The noise that its runs let expect, in units of the loss. Both must have been trained halfway."""
        assert self.challenger is not None
        assert self.current is not None
        return expected_noise(self.challenger.trace, self.current.trace, self.every, self.challenger.objective)

    @property
    def ahead_halfway(self) -> float:
        """By how much the challenger is ahead halfway, in units of the loss; 0 while one of the two isn't there."""
        if self.challenger is None or self.current is None:
            return 0.0
        first, second = (self._halfway(trial) for trial in (self.challenger, self.current))
        return 0.0 if first is None or second is None else second - first

    @property
    def far_ahead(self) -> bool:
        """Whether the current schedule is too far behind halfway to catch up."""
        if self.challenger is None or self.current is None or self.ahead_halfway <= 0.0:
            return False
        traces = self.challenger.trace, self.current.trace
        return self.ahead_halfway > FAR_BEHIND * jitter(
            *traces, self.every, BEFORE_HALFWAY, self.halfway, self.challenger.objective
        )

    @property
    def undecided_halfway(self) -> bool:
        """Whether both runs have been halfway, and neither is too far ahead for the other there."""
        runs = [trial for trial in (self.challenger, self.current) if trial is not None]
        there = [trial.outcome is not None or trial.end >= self.halfway for trial in runs]
        return len(there) == 2 and all(there) and not self.far_ahead

    @property
    def difference(self) -> float | None:
        """The challenger's final loss less the current schedule's; None where one of the two isn't at its end."""
        if self.challenger is None or self.challenger.final_loss is None:
            return None
        if self.current is None or self.current.final_loss is None:
            return None
        return self.challenger.final_loss - self.current.final_loss

    def _halfway(self, trial: TrialState) -> float | None:
        scores = [mark.score for mark in trial.objective.marks(trial.trace, self.every) if mark.step == self.halfway]
        return scores[0] if scores and math.isfinite(scores[0]) else None


class Confirmation:
    """The pairs of a study.

    Args:
        config: what the study does.
        current: the run of the current schedule on the search's seed.
        new: makes a trial of a schedule, given its candidate's number, its seed, and whether only a loss that is not
            finite ends it.
        pauses: whether a run can be paused halfway until the other one is there. Else the challenger's goes on to its
            end.
    """

    def __init__(
        self,
        config: TuneConfig,
        current: TrialState,
        new: Callable[[Schedule, int, int, bool], TrialState],
        *,
        pauses: bool = True,
    ) -> None:
        self._config, self._new, self._pauses = config, new, pauses
        self._on_search_seed, self._current = current, current.spec.candidate
        self._seeds = [derive_seed(config.seed, "confirmation", i) for i in range(config.confirm_seeds)]
        self._runs: dict[tuple[int, int], TrialState] = {}
        self._halfway = config.rungs[-2] if len(config.rungs) > 1 else config.horizon

    def next_stage(
        self, challenger: Challenger, running: Sequence[TrialState], left: int
    ) -> tuple[TrialState, int] | None:
        """The run to train next and the step to train it to; None where there is nothing to start now.

        Args:
            challenger: the schedule that is confirmed.
            running: the trials that are being trained.
            left: optimizer steps that may still be spent.
        """
        if self.standing(challenger) != "undecided":
            return None
        for seed in self._seeds:
            pair = self._pair(challenger.candidate, seed)
            for candidate, trial in ((challenger.candidate, pair.challenger), (self._current, pair.current)):
                if trial is not None and (trial.outcome is not None or trial in running):
                    continue
                end = 0 if trial is None else trial.end
                to_its_end = candidate != self._current and (self.untried(challenger) or not self._pauses)
                if end >= self._halfway and not pair.undecided_halfway and not to_its_end:
                    continue
                until = self._config.rung_after(end)
                needed = until - end if end else self._config.horizon
                if needed > left:
                    return None
                if trial is None:
                    trial = self._start(challenger, candidate, seed)
                return trial, until
        return None

    def know(self, runs: Iterable[TrialState]) -> None:
        """Takes runs on fresh seeds that were made before."""
        self._runs |= {(run.spec.candidate, run.spec.seed): run for run in runs}

    def standing(self, challenger: Challenger) -> Standing:
        """What the pairs say of a challenger so far."""
        pairs = [self._pair(challenger.candidate, seed) for seed in self._seeds]
        if any(pair.broken for pair in pairs):
            return "broken"
        if self.untried(challenger):
            return "undecided"
        posterior = self.posterior(challenger)
        won = sum(pair.won for pair in pairs)
        met = won + (len(posterior.differences) if posterior else 0)
        if won and 2 * won >= met:
            return "better"
        if self._on_search_seed.outcome == "unstable" and self._final_losses(challenger):
            return "better"
        return "undecided" if posterior is None else judged(posterior, self.worth(challenger))

    def posterior(self, challenger: Challenger) -> Posterior | None:
        """What the pairs that are over say of the difference; None before the first is."""
        pairs = self.pairs(challenger.candidate)
        over = [(difference, pair.noise) for pair in pairs if (difference := pair.difference) is not None]
        if not over:
            return None
        differences, noises = zip(*over, strict=True)
        prior = NoisePrior(expected=float(np.median(noises)), spread=SPREAD)
        return Posterior(differences=differences, prior=prior)

    def worth(self, challenger: Challenger) -> float:
        """The smallest difference that matters, in units of the loss."""
        losses = [abs(loss) for loss in self._final_losses(challenger)]
        return self._config.margin * (sum(losses) / len(losses)) if losses else 0.0

    def untried(self, challenger: Challenger) -> bool:
        """Whether a challenger has not been trained to its end yet, under any seed."""
        return math.isinf(challenger.loss) and not self._final_losses(challenger)

    def _final_losses(self, challenger: Challenger) -> list[float]:
        """Those of a challenger's runs on fresh seeds, in the order of their starts."""
        runs = [run for (number, _), run in self._runs.items() if number == challenger.candidate]
        return [run.final_loss for run in runs if run.final_loss is not None]

    @property
    def broke(self) -> bool:
        """Whether a challenger became unstable on a fresh seed."""
        return any(run.outcome == "unstable" for (number, _), run in self._runs.items() if number != self._current)

    def pairs(self, candidate: int) -> list[Pair]:
        """The pairs of a candidate that have started, in the order of their seeds."""
        pairs = [self._pair(candidate, seed) for seed in self._seeds]
        return [pair for pair in pairs if pair.challenger is not None]

    def pair_of(self, challenger: TrialState | None, current: TrialState | None) -> Pair:
        """Two runs under one seed as a pair."""
        return Pair(challenger, current, self._config.eval_every, self._halfway)

    def _pair(self, candidate: int, seed: int) -> Pair:
        return self.pair_of(self._runs.get((candidate, seed)), self._runs.get((self._current, seed)))

    def _start(self, challenger: Challenger, candidate: int, seed: int) -> TrialState:
        is_current = candidate == self._current
        schedule = self._config.current_schedule if is_current else challenger.schedule
        trial = self._new(schedule, candidate, seed, is_current)
        self._runs[candidate, seed] = trial
        return trial
