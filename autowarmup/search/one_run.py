"""One run in place of a study: its warm-up adapts while it trains, and nothing is compared.

Where the run becomes unstable, or ends no better than a predictor that ignores its input, it is made once more, with a
cap on the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np

from autowarmup.adaptive.climb import FIRST, ClimbSettings
from autowarmup.errors import TaskFailedError
from autowarmup.schedule.ranges import LOWEST_RATE, PeakRange
from autowarmup.search.config import TuneConfig
from autowarmup.search.decisions import Arrival, Conclusion, Decision, Decisions, Finish, Start, Wait
from autowarmup.search.trial_state import TrialState
from autowarmup.search.trials import TrialSpec
from autowarmup.search.verdict import Verdict
from autowarmup.training.trace import Outcome

PARTS = 10
"""Segments of the run: after each there is a checkpoint, from which it goes on where it was killed."""
GENTLER = 3.0
"""The cap of the next run is lower than the highest learning rate that broke one by this factor."""

HARDLY_EVER = 0.05
"""The share of a climb's steps that lead back, up to which today's learning rate seems far too low."""


def climb_of(config: TuneConfig, cap: float | None = None) -> ClimbSettings:
    """The settings of a warm-up that adapts, for a study's trials.

    It begins at a share of the learning rate that is used today. The decay is that of the current schedule, where one
    was given, or else linear; the space's highest peak is a cap.

    Args:
        config: what the study does.
        cap: another one, > 0; the lower one counts.
    """
    space, current = config.space.peak, config.current
    caps = [peak for peak in (cap, space.high if space else None) if peak is not None]
    decay = {} if current is None else {"decay": current.decay, "final_factor": current.final_factor}
    return ClimbSettings(
        total_steps=config.horizon, first_lr=FIRST * config.current_peak, peak=min(caps, default=None), **decay
    )


class OneRun:
    """The decisions of a study in one run.

    Args:
        config: what the study does.
    """

    def __init__(self, config: TuneConfig) -> None:
        self.config = config
        self.budget = config.budget_with(1)
        self._trials: list[TrialState] = []

    def decisions(self) -> Decisions:
        """The run, another one where that broke and the budget has room for it, and the verdict.

        Raises:
            TaskFailedError: the code of the task raised.
        """
        cap = None
        while True:
            trial = self._new(cap)
            yield from self._train(trial)
            if not self._broke(trial) or self._spent + self.config.horizon > self.budget:
                return self._conclusion()
            cap = max(LOWEST_RATE, _highest_lr(trial) / GENTLER)

    @property
    def _spent(self) -> int:
        return sum(trial.end for trial in self._trials)

    def _new(self, cap: float | None) -> TrialState:
        climb, number = climb_of(self.config, cap), len(self._trials)
        spec = TrialSpec(
            number=number,
            candidate=number,
            role="proposal",
            seed=self.config.seed,
            schedule=climb.schedule_of([]),
            climb=climb,
            keeps_weights=True,
        )
        self._trials.append(TrialState(spec, objective=self.config.objective))
        return self._trials[-1]

    def _train(self, trial: TrialState) -> Generator[Decision, Arrival | None, None]:
        """Trains it to its end."""
        every, horizon = self.config.eval_every, self.config.horizon
        part = math.ceil(horizon / (PARTS * every)) * every
        while trial.outcome is None:
            until = min(trial.end + part, horizon)
            yield Start(trial.spec, until)
            arrival = yield Wait()
            assert arrival is not None
            trial.take(arrival.result)
            if trial.error is not None:
                raise TaskFailedError(
                    f"the run failed at step {trial.end:,}. Nothing that was finished is lost: mend the cause and make "
                    f"the same call again, and it goes on.\n{trial.error}"
                )
            if trial.instability is not None or until == horizon:
                yield self._ended(trial, "completed" if trial.instability is None else "unstable")

    def _ended(self, trial: TrialState, outcome: Outcome) -> Finish:
        trial.outcome = outcome
        return Finish(trial.spec.number, outcome)

    def _broke(self, trial: TrialState) -> bool:
        return trial.final_loss is None or self.config.learned_nothing(trial.final_loss)

    def _conclusion(self) -> Conclusion:
        best = min(self._trials, key=_final)
        found: dict[str, Any] = {"kind": "nothing stable", "candidate": None, "schedule": None}
        if best.final_loss is not None:
            found = {"kind": "not compared", "candidate": best.spec.candidate, "schedule": best.schedule}
        verdict = Verdict(margin=self.config.margin, message=self._message(best), **found)
        lrs = [climb_of(self.config).first_lr, best.schedule.peak]
        return Conclusion(verdict, PeakRange(low=min(lrs), high=max(lrs)))

    def _message(self, best: TrialState) -> str:
        lower = (
            "Call again with a lower current_peak, an eighth of which is where the climb begins, or with a cap: a "
            "space whose peak has an upper end."
        )
        if best.final_loss is None:
            return f"{'The run' if len(self._trials) == 1 else 'Each run'} became unstable. {lower}"
        objective, schedule = self.config.objective, best.schedule
        told = [
            f"A run {'became unstable' if one.final_loss is None else 'learned nothing'} at learning rates of up to "
            f"{_highest_lr(one):.3g}."
            for one in self._trials
            if one is not best
        ]
        told.append(
            f"The learning rate climbed to {schedule.peak:.3g} within {schedule.duration:,} steps, and the run ended "
            f"at a {objective.name} of {objective.shown(best.final_loss):.4g}."
        )
        free = best.spec.climb is not None and best.spec.climb.peak is None
        if free and np.mean(np.diff(best.trace.lr[: schedule.duration + 1]) < 0.0) <= HARDLY_EVER:
            told.append("It hardly ever had to go back, as where today's is far too low: try a higher current_peak.")
        if self.config.learned_nothing(best.final_loss):
            told.append(f"That is no better than ignoring the input ({self.config.trivial_loss:.4g}). {lower}")
        told.append("Nothing was compared: whether another schedule is better, such as today's, isn't known.")
        return " ".join(told)


def _final(trial: TrialState) -> float:
    return math.inf if trial.final_loss is None else trial.final_loss


def _highest_lr(trial: TrialState) -> float:
    """The highest learning rate, where it became unstable up to the step at which that began."""
    end = trial.end if trial.instability is None else trial.instability.step + 1
    return float(trial.trace.lr[:end].max())
