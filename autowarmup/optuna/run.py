"""A trial while an objective trains it, and the pruner that ends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna

from autowarmup.engines.base import MonitorSettings
from autowarmup.errors import InputError
from autowarmup.instability.instability import Instability
from autowarmup.reported import ReportedTrial
from autowarmup.search.config import TuneConfig
from autowarmup.search.probe import peak_of_ramp
from autowarmup.search.trials import TrialSpec
from autowarmup.training.trace import Outcome, Trace, is_evaluated


class TrialRun:
    """What an objective trains in one trial, and where it reports; see :meth:`WarmupSampler.run`.

    Attributes:
        schedule: the schedule to apply: ``schedule.lr_at(step)``, or ``schedule.scheduler(optimizer)``.
        total_steps: its length in optimizer steps.
        seed: for initial weights and batches: trials with the same seed must see the same ones.
        trial: the Optuna trial.
        role: why the trial runs: probe, baseline, proposal or confirmation.
        pruned: whether the trial is to end; ``trial.should_prune()`` with a :class:`WarmupPruner` returns the same.
    """

    def __init__(
        self, trial: optuna.Trial, spec: TrialSpec, config: TuneConfig, goes_on: Callable[[TrialRun], bool]
    ) -> None:
        self.schedule, self.total_steps, self.seed = spec.schedule, spec.schedule.horizon, spec.seed
        self.role, self.pruned = spec.role, False
        self.trial = trial
        self._config, self._goes_on = config, goes_on
        self._reported = ReportedTrial(spec, MonitorSettings.of(config), config.objective)
        self._raw: dict[str, float] = {}

    @property
    def should_validate(self) -> bool:
        """Whether the step that is reported next is one at which unfinished trials may be compared: every twentieth of
        the horizon, and the last one. More validations do no harm."""
        return is_evaluated(self._reported.step + 1, self._config.eval_every, self.total_steps)

    def report(
        self,
        loss: float,
        *,
        grad_norm: float | None = None,
        val_loss: float | None = None,
        val_loss_ema: float | None = None,
        **metrics: float,
    ) -> bool:
        """Reports one optimizer step: call it once after each. Returns whether the trial is to end.

        Validations become the trial's intermediate values: with averaged weights where there are any. Where there is
        none, these are means of the training loss.

        Args:
            loss: the step's training loss; any number, NaN and infinity included.
            grad_norm: the gradient's norm before clipping, if at hand.
            val_loss: the validation loss, on the steps that validate.
            val_loss_ema: the same with averaged weights, if at hand; it ranks unfinished trials better.
            metrics: further validation metrics, among them the objective where that isn't the loss.

        Raises:
            InputError: a value is not a number, or the schedule's last step was reported before.
        """
        known = self._reported
        if known.step >= self.total_steps:
            raise InputError(f"the schedule has {self.total_steps} steps, and all of them were reported")
        values = {"loss": loss, "grad_norm": grad_norm, "val_loss": val_loss, "val_loss_ema": val_loss_ema} | metrics
        result = {name: _number(name, value) for name, value in values.items() if value is not None}
        if not self.pruned:
            instability = known.observe({"step": known.step + 1} | result)
            self._report_value()
            self.pruned = self._ends(instability)
        return self.pruned

    def _report_value(self) -> None:
        """The intermediate value of this step, where it has one."""
        objective, step, parts = self._config.objective, self._reported.step, self._reported.parts
        if parts[-1].evaluations:
            evaluation = parts[-1].evaluations[0]
            value, raw = objective.shown(objective.averaged(evaluation)), objective.shown(objective.of(evaluation))
            if value != raw:
                self._raw[str(step)] = raw
            self.trial.report(value, step)
        elif (
            objective.is_loss
            and is_evaluated(step, self._config.eval_every, self.total_steps)
            and not any(part.evaluations for part in parts)
        ):
            losses = [float(part.loss[0]) for part in parts[-self._config.eval_every :]]
            self.trial.report(sum(losses) / len(losses), step)

    def _ends(self, instability: Instability | None) -> bool:
        """Whether the trial ends at this step; with what is known of it then."""
        step, at_end = self._reported.step, self._reported.step == self.total_steps
        if self.role == "probe" and (at_end or instability is not None):
            trace = Trace.join(self._reported.parts)
            self.trial.set_user_attr("reading", peak_of_ramp(trace, self._config.current_peak))
            return self._ended("pruned", 0.0)
        if instability is not None:
            self.trial.set_user_attr("instability", instability.message)
            return self._ended("unstable", instability.severity)
        if at_end:
            self._ended("completed", 0.0)
        elif step in self._config.rungs and not self._goes_on(self):
            return self._ended("pruned", 0.0)
        elif step in self._config.rungs and self._raw:
            self.trial.set_user_attr("raw", self._raw)
        return False

    def _ended(self, outcome: Outcome, severity: float) -> bool:
        self.trial.set_constraint("instability", severity)
        self.trial.set_user_attr("severity", severity)
        self.trial.set_user_attr("outcome", outcome)
        self.trial.set_user_attr("steps", self._reported.step)
        if self._raw:
            self.trial.set_user_attr("raw", self._raw)
        return True


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"report({name}={value!r}): not a number") from error
