"""The configuration of a study."""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from autowarmup.instability.monitor import Detectors
from autowarmup.schedule.ranges import Rate
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.shapes import Beta2
from autowarmup.schedule.space import SearchSpace
from autowarmup.values import Frozen, Number, Whole

EVALUATIONS = 20
"""How often a trial is validated from its start to its horizon."""

MIN_STEPS, MAX_STEPS = 10, 10**9
"""Lengths of a run, in optimizer steps."""

Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Steps = Annotated[Whole, Field(ge=MIN_STEPS, le=MAX_STEPS)]
Budget = Annotated[Whole, Field(ge=1, le=10**15)]
ConfirmSeeds = Annotated[Whole, Field(ge=2, le=100)]
Cohort = Annotated[Whole, Field(ge=1, le=1_000)]

RUNGS = (0.25, 0.5, 1.0)
"""Shares of the horizon at which the search decides whether a trial goes on."""


class TuneConfig(Frozen):
    """The configuration of a study. Two studies with the same configuration are the same study.

    Args:
        total_steps: optimizer steps of the run that the schedule is for, 10 to 10**9.
        tune_steps: optimizer steps of the runs that the study trains, 10 to ``total_steps``. Left out: ``total_steps``.
            If it is less, the schedule is extrapolated to ``total_steps``.
        budget: optimizer steps that the whole study may spend, probe and confirmation included, at most 10**15.
        space: which schedules may be proposed.
        seed: fixes every choice of the study, and the initial weights and the batches of the search's trials; 0 to
            2**32 - 1.
        current_peak: the learning rate that is used today, 1e-12 to 1e6; the baselines run at it.
        beta2: the decay of the optimizer's second moment, 0 to below 1; the untuned rule depends on it.
        confirm_seeds: fresh seeds on which the best schedule is compared with the better baseline, 2 to 100.
        cohort: how many trials the search chooses together, 1 to 1,000; they can be trained at the same time.
        steps_per_epoch: optimizer steps of an epoch, >= 1; needed where the space gives durations in epochs.
        trivial_loss: the loss of the best predictor that ignores its input; None where it is not known.
        detectors: the settings of the instability detectors.
        task: a description of what is trained; a study of another task is refused.
    """

    total_steps: Steps
    tune_steps: Steps | None = None
    budget: Budget
    space: SearchSpace
    seed: Seed = 0
    current_peak: Rate
    beta2: Beta2 = 0.999
    confirm_seeds: ConfirmSeeds = 3
    cohort: Cohort = 1
    steps_per_epoch: Whole | None = Field(default=None, ge=1)
    trivial_loss: Number | None = None
    detectors: Detectors = Field(default_factory=Detectors)
    task: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _affordable(self) -> Self:
        self.space.check_fit(self.horizon, self.steps_per_epoch, self.beta2)
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
        """Optimizer steps of the runs that the study trains: ``tune_steps``, or else ``total_steps``."""
        return self.tune_steps or self.total_steps

    @property
    def baselines(self) -> tuple[Schedule, ...]:
        """The schedules that need no search: no warm-up and the untuned rule, both with ``current_peak``."""
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
        """The steps at which the search decides whether a trial goes on: a quarter, a half and the whole of the
        horizon, rounded up to the next validation."""
        every = self.eval_every
        parts = (math.ceil(self.horizon * share / every) * every for share in RUNGS)
        return tuple(sorted({min(part, self.horizon) for part in parts}))

    @property
    def probe_steps(self) -> int:
        """Optimizer steps of the probe, the ramp of the learning rate that measures which peaks to search. 0 where the
        space gives peaks that differ by a factor of 4 at most: then there is no probe."""
        peak = self.space.peak
        if peak is not None and peak.high <= 4.0 * peak.low:
            return 0
        return max(10, self.horizon // 10)

    @property
    def verdict_cost(self) -> int:
        """Optimizer steps reserved for the verdict: both baselines on the search's seed, the best schedule and the
        better baseline on every fresh seed, and one more run, in case the best schedule becomes unstable on a fresh
        seed and the next best takes its place."""
        return verdict_runs(self.confirm_seeds) * self.horizon

    @property
    def paired_cost(self) -> int:
        """Steps of the paired runs alone: one schedule and one baseline on every fresh seed."""
        return 2 * self.confirm_seeds * self.horizon

    @property
    def least_budget(self) -> int:
        """The smallest budget that is accepted: the probe, two whole runs and the verdict."""
        return self.probe_steps + 2 * self.horizon + self.verdict_cost

    @staticmethod
    def default_budget(horizon: int, confirm_seeds: int) -> int:
        """The default budget in optimizer steps: three whole runs for the search, and the runs of the verdict. With
        three seeds these are twelve runs. A study spends less where the search ends early, or where it finds nothing
        better than a baseline.

        Args:
            horizon: optimizer steps of a whole run.
            confirm_seeds: fresh seeds of the confirmation.
        """
        return (3 + verdict_runs(confirm_seeds)) * horizon


def validation_interval(horizon: int) -> int:
    """Optimizer steps between two validations of a run of ``horizon`` steps."""
    return math.ceil(horizon / EVALUATIONS)


def verdict_runs(confirm_seeds: int) -> int:
    """Whole runs reserved for the verdict; see :attr:`TuneConfig.verdict_cost`."""
    return 2 + 2 * confirm_seeds + 1
