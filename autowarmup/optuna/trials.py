"""A study's trials as the search sees them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as State

from autowarmup.schedule.ranges import HIGHEST_RATE, LOWEST_RATE, PeakRange
from autowarmup.schedule.schedule import Schedule
from autowarmup.search.candidates import PARAMETERS
from autowarmup.search.config import TuneConfig
from autowarmup.search.trial_state import TrialState
from autowarmup.search.trials import Role, TrialSpec
from autowarmup.training.objective import Objective
from autowarmup.training.trace import Evaluation, Outcome, Trace

WIDTH = 1000.0
"""Where the space has no peaks, those that may be searched are within this factor of the current one."""

Key = tuple[str, int]
"""A study's name and a trial's number."""

OUTCOMES: dict[State, Outcome | None] = {State.RUNNING: None, State.COMPLETE: "completed", State.PRUNED: "pruned"}
"""How a trial ended; one that failed is no evidence, as in Optuna."""


class TrialReader:
    """Reads a study's trials.

    Args:
        config: what the search does.

    Attributes:
        bounds: the peaks that may be searched: the range of the parameter ``peak``.
    """

    def __init__(self, config: TuneConfig) -> None:
        self.config = config
        peak = config.current_peak
        around = PeakRange(low=max(peak / WIDTH, LOWEST_RATE), high=min(peak * WIDTH, HIGHEST_RATE))
        self.bounds = config.space.peak or around

    def states(
        self, study: Study, specs: Mapping[Key, TrialSpec | None], ended: FrozenTrial | None = None
    ) -> dict[int, TrialState]:
        """The study's trials as the search sees them, by their numbers."""
        found: dict[int, TrialState] = {}
        numbers: dict[Schedule, int] = {}
        for trial in study.get_trials(deepcopy=False):
            trial = ended if ended is not None and trial.number == ended.number else trial
            own = specs.get((study.study_name, trial.number)) if trial.state == State.RUNNING else None
            schedule = own.schedule if own else self.schedule_of(trial)
            if schedule is None or trial.state not in OUTCOMES:
                continue
            role: Role = own.role if own else trial.user_attrs.get("role", "proposal")
            spec = TrialSpec(
                number=len(found),
                candidate=numbers.setdefault(schedule, len(numbers)),
                role=role,
                seed=own.seed if own else trial.user_attrs.get("seed", self.config.seed),
                schedule=schedule,
                stop_only_on_nonfinite=schedule == self.config.current_schedule,
                params={} if role != "proposal" else (own.params if own else self._own_params(trial)),
            )
            found[trial.number] = self._state(spec, trial)
        return found

    def _state(self, spec: TrialSpec, trial: FrozenTrial) -> TrialState:
        """A trial of the study as the search sees it: by its intermediate values and its value."""
        outcome = OUTCOMES[trial.state]
        if outcome in ("completed", "pruned") and trial.user_attrs.get("outcome") == "unstable":
            outcome = "unstable"
        raw = {int(step): value for step, value in trial.user_attrs.get("raw", {}).items()}
        values = {step: (raw.get(step, value), value) for step, value in trial.intermediate_values.items()}
        if outcome is None:  # a last step counts when the trial's value is there
            values = {step: value for step, value in values.items() if step < spec.schedule.horizon}
        end = max(values, default=0)
        if outcome == "completed":
            end = spec.schedule.horizon
            if trial.value is not None and spec.role != "probe":
                values[end] = trial.value, trial.value
        unknown = np.broadcast_to(np.nan, (end,))
        evaluations = (_evaluation(self.config.objective, step, *values[step]) for step in sorted(values))
        trace = Trace(unknown, unknown, unknown, tuple(evaluations))
        return TrialState(spec, trace, outcome=outcome, objective=self.config.objective)

    def params_of(self, spec: TrialSpec) -> dict[str, Any]:
        """The parameters of the space behind a trial's schedule; empty where the space doesn't have it."""
        if spec.role == "proposal":
            return dict(spec.params)
        if spec.role == "probe" or not self.bounds.low <= spec.schedule.peak <= self.bounds.high:
            return {}
        return self.config.space.params_of(spec.schedule, self.config.steps_per_epoch, self.config.groups) or {}

    def suggested(self, trial: Any) -> Schedule:
        config = self.config
        return config.space.suggest(
            trial, self.bounds, config.horizon, config.steps_per_epoch, config.beta2, config.groups
        )

    def _own_params(self, trial: FrozenTrial) -> dict[str, Any]:
        return {name: value for name, value in trial.params.items() if name in PARAMETERS}

    def schedule_of(self, trial: FrozenTrial) -> Schedule | None:
        if "schedule" in trial.user_attrs:
            return Schedule.model_validate(trial.user_attrs["schedule"])
        try:
            return self.suggested(optuna.trial.FixedTrial(self._own_params(trial)))
        except ValueError:  # a parameter is missing: not a schedule
            return None


def _evaluation(objective: Objective, step: int, raw: float, averaged: float) -> Evaluation:
    if objective.is_loss:
        return Evaluation(step, raw, averaged)
    return Evaluation(step, math.nan, math.nan, {objective.name: raw, f"{objective.name}_ema": averaged})


def ended_trial(trial: FrozenTrial, state: State, values: Sequence[float] | None) -> FrozenTrial:
    """A trial as it will be when Optuna has stored its end."""
    return FrozenTrial(
        number=trial.number,
        state=state,
        value=None,
        values=None if values is None else list(values),
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_start,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs,
        system_attrs=trial.system_attrs,
        intermediate_values=trial.intermediate_values,
        trial_id=trial._trial_id,
    )
