"""A study's trials as an Optuna study, for Optuna's visualisations and samplers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autowarmup.schedule.ranges import PeakRange
from autowarmup.search.config import TuneConfig
from autowarmup.study.store import StoredTrial


def optuna_study(config: TuneConfig, peaks: PeakRange, trials: Sequence[StoredTrial]) -> optuna.Study:
    """An Optuna study in memory with the trials on the search's own seed: all proposals, and the current
    schedule where the search space contains it. The probe and the confirmation are left out.

    Optuna took no part in the search; the trials are added to it afterwards. They are mapped like this:

    ==============  ==================================================================================================
    completed       COMPLETE, with the final loss as its value
    pruned          PRUNED
    unstable        COMPLETE, with the worst loss of the study as its value and the severity of the instability as
                    the constraint ``instability``. As failures, samplers would ignore them and propose them again.
    failed          FAIL
    ==============  ==================================================================================================

    Where another metric than the loss is the objective, its values are taken, in its direction. Intermediate values are
    validation losses, of averaged weights where there are any.

    Args:
        config: the study's configuration.
        peaks: the range of peaks that was searched.
        trials: the study's trials.
    """
    study = optuna.create_study(direction=config.objective.direction)
    for trial in frozen_trials(config, peaks, trials):
        role = trial.user_attrs["role"]
        if role == "proposal" or (role == "baseline" and trial.params):
            study.add_trial(trial)
    return study


def frozen_trials(config: TuneConfig, peaks: PeakRange, trials: Sequence[StoredTrial]) -> list[FrozenTrial]:
    """All trials of a study that have ended as Optuna has them. Those whose schedule isn't in the search space, as the
    probe's, have no parameters. The arguments are those of :func:`optuna_study`."""
    worst = config.objective.shown(max((loss for trial in trials for loss in _losses(trial)), default=0.0))
    found = []
    for trial in trials:
        if trial.outcome is not None:
            params = _params(config, peaks, trial)
            found.append(_frozen(trial, params, distributions_of(config, peaks, params) if params else {}, worst))
    return found


def _params(config: TuneConfig, peaks: PeakRange, trial: StoredTrial) -> dict[str, Any]:
    """The parameters of the search space that make up a trial's schedule; none where the space doesn't contain it."""
    if trial.spec.role == "proposal":
        return dict(trial.spec.params)
    if trial.spec.role == "probe" or not peaks.low <= trial.spec.schedule.peak <= peaks.high:
        return {}
    return config.space.params_of(trial.spec.schedule, config.steps_per_epoch, config.groups) or {}


def distributions_of(config: TuneConfig, peaks: PeakRange, params: dict[str, Any]) -> dict[str, BaseDistribution]:
    """The distributions of the parameters that make up a schedule of the search space."""
    recorder = _Recorder(params)
    config.space.suggest(recorder, peaks, config.horizon, config.steps_per_epoch, config.beta2, config.groups)
    return recorder.distributions


def _frozen(
    trial: StoredTrial, params: dict[str, Any], distributions: dict[str, BaseDistribution], worst: float
) -> FrozenTrial:
    severity = trial.instability.severity if trial.instability else 0.0
    spec = trial.spec
    attributes: dict[str, Any] = {"number": spec.number, "role": spec.role, "seed": spec.seed}
    attributes |= {"outcome": trial.outcome, "severity": severity, "steps": trial.trace.end}
    attributes["schedule"] = spec.schedule.model_dump(mode="json")
    if trial.instability:
        attributes["instability"] = trial.instability.message
    objective = trial.objective
    scores = {e.step: objective.shown(objective.averaged(e)) for e in trial.trace.evaluations}
    scores = {step: score for step, score in scores.items() if math.isfinite(score)}
    common: dict[str, Any] = {"params": params, "distributions": distributions, "user_attrs": attributes}
    if trial.outcome == "failed":
        return create_trial(state=TrialState.FAIL, **common)
    common |= {"constraints": {"instability": severity}, "intermediate_values": scores}
    if trial.outcome == "unstable":
        return create_trial(value=worst, **common)
    if trial.outcome == "pruned":
        return create_trial(state=TrialState.PRUNED, value=[*scores.values()][-1] if scores else None, **common)
    return create_trial(value=None if trial.final_loss is None else objective.shown(trial.final_loss), **common)


def _losses(trial: StoredTrial) -> list[float]:
    losses = [trial.objective.of(evaluation) for evaluation in trial.trace.evaluations]
    if trial.objective.is_loss:
        losses += trial.trace.loss.tolist()
    return [loss for loss in losses if math.isfinite(loss)]


class _Recorder:
    """Stands in for an Optuna trial: suggests known parameters, and records the distribution of each."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.distributions[name] = FloatDistribution(low, high, log=log)
        return float(self.params[name])

    def suggest_categorical(self, name: str, choices: list[str]) -> Any:
        self.distributions[name] = CategoricalDistribution(choices)
        return self.params[name]
