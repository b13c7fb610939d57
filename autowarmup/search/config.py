"""The whole configuration of a study, in one model."""

from __future__ import annotations

import math
from typing import Any, Self

from pydantic import Field, model_validator

from autowarmup.instability.monitor import Detectors
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.space import SearchSpace
from autowarmup.values import Frozen

EVALUATIONS = 20
"""Validations of a whole run."""

RUNGS = (0.25, 0.5, 1.0)
"""Shares of the horizon at which it is decided whether a trial goes on."""


class TuneConfig(Frozen):
    """What a study does. Two studies with the same configuration are the same study.

    Args:
        total_steps: optimizer steps of the run that the schedule is for, >= 10.
        tune_steps: optimizer steps of the runs that the study trains, >= 10, where they are to be shorter; the
            schedule is then extrapolated.
        budget: optimizer steps that the whole study may spend, probes and confirmation included.
        space: which schedules may be proposed.
        seed: fixes every choice of the study, and the first run's initial weights and batches.
        current_peak: the learning rate used today; the baselines run at it.
        beta2: the optimizer's second-moment decay, for the untuned rule.
        confirm_seeds: fresh paired seeds on which the winner meets the baselines, >= 2.
        cohort: trials that are trained at the same time; decisions are taken for so many at once.
        steps_per_epoch: where the space gives durations in epochs.
        trivial_loss: the loss of the trivial predictor, where it is known.
        detectors: the settings of the instability detectors.
        task: what is trained, in words and numbers: a study of another task is refused.
    """

    total_steps: int = Field(ge=10)
    tune_steps: int | None = Field(default=None, ge=10)
    budget: int = Field(ge=1)
    space: SearchSpace
    seed: int = Field(default=0, ge=0, lt=2**32)
    current_peak: float = Field(gt=0.0)
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    confirm_seeds: int = Field(default=3, ge=2, le=100)
    cohort: int = Field(default=1, ge=1)
    steps_per_epoch: int | None = Field(default=None, ge=1)
    trivial_loss: float | None = None
    detectors: Detectors = Field(default_factory=Detectors)
    task: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _affordable(self) -> Self:
        self.space.warmup.steps(self.horizon, self.steps_per_epoch)
        if self.horizon > self.total_steps:
            raise ValueError(
                f"tune_steps={self.horizon:,} is longer than total_steps={self.total_steps:,}: tune runs of the same "
                f"length, or shorter ones"
            )
        if self.budget < self.least_budget:
            raise ValueError(
                f"budget={self.budget:,} optimizer steps is too small: with runs of {self.horizon:,} steps and "
                f"confirm_seeds={self.confirm_seeds} a study needs at least {self.least_budget:,} (a probe, two "
                f"candidates, two baselines, and the paired runs that confirm the better of each)"
            )
        return self

    @property
    def horizon(self) -> int:
        """Optimizer steps of the runs that the study trains."""
        return self.tune_steps or self.total_steps

    @property
    def baselines(self) -> tuple[Schedule, ...]:
        """The schedules that need no search, at today's rate: no warm-up, and the untuned rule."""
        decay = self.space.decay[0]
        settings: dict[str, Any] = {
            "peak": self.current_peak,
            "horizon": self.horizon,
            "decay": decay,
            "final_factor": self.space.final_factor.low,
        }
        return Schedule(**settings), Schedule.untuned_linear(beta2=self.beta2, **settings)

    @property
    def eval_every(self) -> int:
        """Optimizer steps between two validations."""
        return validation_interval(self.horizon)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps at which it is decided whether a trial goes on: a quarter, a half and the whole of the horizon. They
        fall on validations."""
        every = self.eval_every
        parts = (math.ceil(self.horizon * share / every) * every for share in RUNGS)
        return tuple(sorted({min(part, self.horizon) for part in parts}))

    @property
    def probe_steps(self) -> int:
        """Length of the ramp that tells which peaks to expect; 0 where the space's peaks lie close together."""
        peak = self.space.peak
        if peak is not None and peak.high <= 4.0 * peak.low:
            return 0
        return max(10, self.horizon // 10)

    @property
    def verdict_cost(self) -> int:
        """Steps kept for the verdict: both baselines on the search's seed, the winner and the better baseline on every
        fresh seed, and a run for a winner that breaks on one and is replaced."""
        return verdict_runs(self.confirm_seeds) * self.horizon

    @property
    def paired_cost(self) -> int:
        """Steps of the paired runs alone: one schedule and one baseline on every fresh seed."""
        return 2 * self.confirm_seeds * self.horizon

    @property
    def least_budget(self) -> int:
        return self.probe_steps + 2 * self.horizon + self.verdict_cost

    @staticmethod
    def default_budget(horizon: int, confirm_seeds: int) -> int:
        """Three whole runs for the search, and what the verdict takes: twelve with three seeds. A study that settles
        sooner, or whose search has nothing better than a baseline, spends less."""
        return (3 + verdict_runs(confirm_seeds)) * horizon


def validation_interval(horizon: int) -> int:
    """Optimizer steps between two validations of a run of that length."""
    return math.ceil(horizon / EVALUATIONS)


def verdict_runs(confirm_seeds: int) -> int:
    """Whole runs that are kept for the verdict; see :attr:`TuneConfig.verdict_cost`."""
    return 2 + 2 * confirm_seeds + 1
