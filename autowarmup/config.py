"""The whole configuration of a study, in one model."""

from __future__ import annotations

import math
from typing import Any, Self

from pydantic import Field, model_validator

from autowarmup.instability import Detectors
from autowarmup.schedule import Frozen, Schedule
from autowarmup.space import SearchSpace

CHECKPOINTS = 20
"""Validations of a whole run."""


class TuneConfig(Frozen):
    """What a study does. Two studies with the same configuration are the same study.

    Args:
        total_steps: the horizon: optimizer steps of the run being tuned, >= 10.
        budget: optimizer steps that the whole study may spend, probes and confirmation included.
        space: which schedules may be proposed.
        seed: fixes every choice of the study, and the first run's initial weights and batches.
        current_peak: the learning rate used today; the baselines run at it.
        beta2: the optimizer's second-moment decay, for the untuned rule.
        confirm_seeds: fresh paired seeds on which the winner meets the baselines, >= 2.
        cohort: candidates that start together.
        steps_per_epoch: where the space gives durations in epochs.
        trivial_loss: the loss of the trivial predictor, where it is known.
        detectors: the settings of the instability detectors.
        task: what is trained, in words and numbers: a study of another task is refused.
    """

    total_steps: int = Field(ge=10)
    budget: int = Field(ge=1)
    space: SearchSpace
    seed: int = Field(default=0, ge=0, lt=2**32)
    current_peak: float = Field(gt=0.0)
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    confirm_seeds: int = Field(default=3, ge=2, le=100)
    cohort: int = Field(default=8, ge=1)
    steps_per_epoch: int | None = Field(default=None, ge=1)
    trivial_loss: float | None = None
    detectors: Detectors = Field(default_factory=Detectors)
    task: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _affordable(self) -> Self:
        self.space.warmup.steps(self.total_steps, self.steps_per_epoch)
        if self.budget < self.least_budget:
            raise ValueError(
                f"budget={self.budget:,} optimizer steps is too small: with total_steps={self.total_steps:,} and "
                f"confirm_seeds={self.confirm_seeds} a study needs at least {self.least_budget:,} (a probe, two "
                f"baselines, one candidate, and the paired runs that confirm it)"
            )
        return self

    @property
    def baselines(self) -> tuple[Schedule, ...]:
        """The schedules that need no search, at today's rate: no warm-up, and the untuned rule."""
        decay = self.space.decay[0]
        settings: dict[str, Any] = {
            "peak": self.current_peak,
            "horizon": self.total_steps,
            "decay": decay,
            "final_factor": self.space.final_factor.low,
        }
        return Schedule(**settings), Schedule.untuned_linear(beta2=self.beta2, **settings)

    @property
    def eval_every(self) -> int:
        """Optimizer steps between two validations."""
        return math.ceil(self.total_steps / CHECKPOINTS)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps at which unfinished trials are compared; the last is the horizon.

        The first lies past the longest warm-up of the space, because a collapse comes when the peak is reached; the
        second halfway from there to the end. Both fall on validations.
        """
        longest = self.space.warmup.steps(self.total_steps, self.steps_per_epoch)[1]
        every = self.eval_every
        first = math.ceil(max(longest, self.total_steps / 4) / every) * every
        second = math.ceil((first + self.total_steps) / 2 / every) * every
        return tuple(sorted({min(first, self.total_steps), min(second, self.total_steps), self.total_steps}))

    @property
    def probe_steps(self) -> int:
        """Length of the ramp that measures the peak; 0 where the space gives its range."""
        return 0 if self.space.peak else max(10, self.total_steps // 2)

    @property
    def confirm_cost(self) -> int:
        """Steps of the confirmation: the winner and both baselines on every fresh seed, and two runs' worth for a
        winner that breaks on one and is replaced by the next best."""
        return (3 * self.confirm_seeds + 2) * self.total_steps

    @property
    def least_budget(self) -> int:
        return self.probe_steps + 3 * self.total_steps + self.confirm_cost

    @staticmethod
    def default_budget(total_steps: int) -> int:
        """Twenty-four whole runs: about half of them search, the other half confirms."""
        return 24 * total_steps
