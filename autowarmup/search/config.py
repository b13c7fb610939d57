"""The configuration of a study."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from autowarmup.instability.collapse import Collapse
from autowarmup.instability.monitor import Detectors
from autowarmup.schedule.extrapolation import shortened
from autowarmup.schedule.ranges import Rate
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.shapes import Beta2
from autowarmup.schedule.space import SearchSpace
from autowarmup.training.objective import LOSS, Objective
from autowarmup.values import Frozen, Number, Whole

EVALUATIONS = 20
"""How often a trial is validated from its start to its horizon."""

MIN_STEPS, MAX_STEPS = 10, 10**9
"""Lengths of a run, in optimizer steps."""

MOST_BUDGET = 10**15
"""The largest budget, in optimizer steps."""

Mode = Literal["study", "one-run"]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Steps = Annotated[Whole, Field(ge=MIN_STEPS, le=MAX_STEPS)]
Budget = Annotated[Whole, Field(ge=1, le=MOST_BUDGET)]
ConfirmSeeds = Annotated[Whole, Field(ge=0, le=100)]
Margin = Annotated[Number, Field(ge=0.0, lt=1.0)]
Cohort = Annotated[Whole, Field(ge=1, le=1_000)]

GROUPED_STARTS = 2
"""First schedules with groups, beside those without, where the space has groups."""

RUNGS = (0.25, 0.5, 1.0)
"""Shares of the horizon at which the search decides whether a trial goes on."""


class TuneConfig(Frozen):
    """The configuration of a study. Two studies with the same configuration are the same study.

    Args:
        mode: ``"study"``, or ``"one-run"``: a single run, whose warm-up adapts while it trains.
        total_steps: optimizer steps of the run that the schedule is for, 10 to 10**9.
        tune_steps: optimizer steps of the runs that the study trains, 10 to ``total_steps``. Left out: ``total_steps``.
            If it is less, the schedule is extrapolated to ``total_steps``.
        budget: optimizer steps that the whole study may spend, probe and confirmation included, at most 10**15. Left
            out, it follows from how many trials can run at once; see :meth:`budget_with`.
        space: which schedules may be proposed.
        seed: fixes every choice of the study, and the initial weights and the batches of the search's trials; 0 to
            2**32 - 1.
        current: the schedule that is used today, over ``total_steps``; what is found must beat it. Left out:
            ``current_peak`` without a warm-up, with the space's first decay.
        groups: the patterns of the parameter groups that schedules may have, by name, from the model's input to its
            output; empty for one curve for all. Without patterns they are the optimizer's own.
        current_peak: the peak learning rate that is used today, 1e-12 to 1e6.
        beta2: the decay of the optimizer's second moment, 0 to below 1; the rules depend on it.
        confirm_seeds: fresh seeds on which the best schedule meets the current one, at most; 0 to 100. They are taken
            one after the other until they decide. With 0 there is an answer without them.
        margin: the smallest difference that matters, as a share of the loss, 0 to below 1.
        cohort: how many trials the search chooses together, 1 to 1,000; it waits for all of them before it goes on, so
            that every engine finds the same. Left out, as many trials run as the engine has room for, and one is chosen
            whenever there is room.
        steps_per_epoch: optimizer steps of an epoch, >= 1; needed where the space gives durations in epochs.
        trivial_loss: the loss of the best predictor that ignores its input; None where it is not known.
        objective: what schedules are judged by.
        detectors: the settings of the instability detectors.
        task: a description of what is trained; a study of another task is refused.
    """

    mode: Mode = Field(default="study", exclude_if=lambda mode: mode == "study")
    total_steps: Steps
    tune_steps: Steps | None = None
    budget: Budget | None = None
    space: SearchSpace
    seed: Seed = 0
    current: Schedule | None = None
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict, exclude_if=lambda groups: not groups)
    current_peak: Rate
    beta2: Beta2 = 0.999
    confirm_seeds: ConfirmSeeds = 4
    margin: Margin = 0.005
    cohort: Cohort | None = None
    steps_per_epoch: Whole | None = Field(default=None, ge=1)
    trivial_loss: Number | None = None
    objective: Objective = LOSS
    detectors: Detectors = Field(default_factory=Detectors)
    task: dict[str, Any] = Field(default_factory=dict)

    def learned_nothing(self, final_loss: float) -> bool:
        """Whether a final loss is hardly better than that of a predictor which ignores its input, where that is
        known."""
        if self.trivial_loss is None or not self.objective.is_loss:
            return False
        return final_loss > self.trivial_loss - Collapse.SMALLEST * abs(self.trivial_loss)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.space.check_fit(self.horizon, self.steps_per_epoch, self.beta2)
        if self.horizon > self.total_steps:
            raise ValueError(
                f"tune_steps={self.horizon:,} is longer than total_steps={self.total_steps:,}: tune runs of the same "
                f"length, or shorter ones"
            )
        if self.mode == "one-run" and self.budget is not None and self.budget < self.horizon:
            raise ValueError(
                f"budget={self.budget:,} optimizer steps is too small: the run itself takes {self.horizon:,}"
            )
        if self.mode == "study" and self.budget is not None and self.budget < self.least_budget:
            then = "a pair of runs that confirms what it found" if self.confirm_seeds else "one of the current schedule"
            raise ValueError(
                f"budget={self.budget:,} optimizer steps is too small: with runs of {self.horizon:,} steps a study "
                f"needs at least {self.least_budget:,} (a probe, two runs for the search, and {then})"
            )
        if self.current is not None and self.current.horizon != self.total_steps:
            raise ValueError(
                f"the current schedule is for {self.current.horizon:,} optimizer steps, and the run is "
                f"total_steps={self.total_steps:,} long: give the schedule that you would train these with"
            )
        if self.current is not None and self.current.peak != self.current_peak:
            raise ValueError(
                f"current_peak={self.current_peak:g} is not the peak of the current schedule, "
                f"{self.current.peak:g}: leave current_peak out"
            )
        self._check_groups()
        return self

    def _check_groups(self) -> None:
        """What the space, the current schedule and the study say about groups must fit together."""
        theirs = {group.name: group.parameters for group in self.current.groups} if self.current else {}
        if self.space.groups and not self.groups:
            raise ValueError(
                "the search space has groups, and the study has none: say which parameters are in which, such as "
                "groups={'backbone': 'encoder.*', 'head': 'classifier.*'}"
            )
        if self.groups and not self.space.groups and not theirs:
            raise ValueError(
                f"the study has the groups {', '.join(self.groups)}, and neither the search space nor the current "
                f"schedule says what they differ in: space='transfer-learning' does"
            )
        if theirs and list(theirs.items()) != list(self.groups.items()):
            raise ValueError(
                f"the current schedule has the groups {', '.join(theirs)}, and the study's groups are "
                f"{', '.join(self.groups) or 'none'}: they must be the same, in the same order"
            )

    @property
    def horizon(self) -> int:
        """Optimizer steps of the runs that the study trains: ``tune_steps``, or else ``total_steps``."""
        return self.tune_steps or self.total_steps

    @property
    def current_schedule(self) -> Schedule:
        """The current schedule over the runs that the study trains."""
        plain = Schedule(
            peak=self.current_peak,
            horizon=self.total_steps,
            decay=self.space.decay[0],
            final_factor=self.space.final_factor.low,
        )
        return shortened(self.current or plain, self.horizon)

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

    def rung_after(self, step: int) -> int:
        """The next step, after ``step``, at which the search decides whether a trial goes on. There must be one."""
        return next(rung for rung in self.rungs if rung > step)

    @property
    def probe_steps(self) -> int:
        """Optimizer steps of the probe, the ramp of the learning rate that measures which peaks to search. 0 where the
        space gives peaks that differ by a factor of 4 at most: then there is no probe."""
        peak = self.space.peak
        if peak is not None and peak.high <= 4.0 * peak.low:
            return 0
        return max(10, self.horizon // 10)

    @property
    def least_budget(self) -> int:
        """The smallest budget that is accepted: the probe, two whole runs and one pair of runs; without pairs, a run of
        the current schedule in their place."""
        return self.probe_steps + 2 * self.horizon + self._least_after_search

    def budget_with(self, slots: int) -> int:
        """Optimizer steps that the whole study may spend. Where ``budget`` is left out, it grows with the trials that
        can run at once, so that a study takes a little more than two lengths of a run: after the probe, the search may
        spend one and a half runs and as many more as there are slots, and then come the pairs; without pairs, the rest
        of the current schedule's run. Most studies spend far less on these. For one run it is two, in case that the
        first becomes unstable.

        Args:
            slots: how many trials can run at once when the study begins, >= 1.
        """
        if self.budget is not None:
            return self.budget
        if self.mode == "one-run":
            return 2 * self.horizon
        return self._default_search(slots) + self._most_pairs(slots)

    def search_budgets_with(self, slots: int) -> tuple[int, int]:
        """The parts of :meth:`budget_with` that may be spent before the pairs: on new schedules, and where a trial that
        has begun promises to be the best, on this. At least one pair is kept for later, or a run of the current
        schedule where there are no pairs. The rest of a large budget goes to the search."""
        whole, reserved = self.budget_with(slots), self._least_after_search
        search = max(min(self._default_search(slots), whole - reserved), whole - self._most_pairs(slots))
        return search, min(search + self.horizon, whole - reserved)

    @property
    def _least_after_search(self) -> int:
        return (2 if self.confirm_seeds else 1) * self.horizon

    def _default_search(self, slots: int) -> int:
        first = self.rungs[0] * GROUPED_STARTS if self.space.groups else 0
        return self.probe_steps + round((1.5 + slots) * self.horizon) + first

    def _most_pairs(self, slots: int) -> int:
        """With several slots pairs start before the search has ended, so that some are of a schedule that is not the
        best after all."""
        return max((2 if slots == 1 else 3) * self.confirm_seeds, 1) * self.horizon


def validation_interval(horizon: int) -> int:
    """Optimizer steps between two validations of a run of ``horizon`` steps."""
    return math.ceil(horizon / EVALUATIONS)
