"""The search for users of Ray Tune: a searcher and a scheduler for a ``Tuner`` of one's own.

The trainable is the user's. It finds its :class:`autowarmup.Schedule` in ``config["schedule"]`` and its seed in
``config["seed"]``, and reports with ``ray.tune.report``, after one optimizer step or several:

==================  =================================================================================================
``step``            optimizer steps made so far
``loss``            the training loss of the last step, or a list: of each step since the last report
``grad_norm``       the gradient's norm before clipping, in the same form; may be left out
``val_loss``        the validation loss at ``step``, where there was a validation
``val_loss_ema``    the same with averaged weights; may be left out, but ranks unfinished trials better
==================  =================================================================================================

At the steps in ``config["rungs"]`` trials may be paused: a trainable that reports a checkpoint there goes on from it;
one that doesn't is run again from its start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from autowarmup.engines.base import MonitorSettings
from autowarmup.engines.segment import first_fatal
from autowarmup.errors import InputError
from autowarmup.instability.instability import Instability
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.config import TuneConfig
from autowarmup.search.decisions import Advance, Conclusion, Finish
from autowarmup.search.search import Search
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.training.trace import Evaluation, Trace
from autowarmup.values import checked


class WarmupSearcher(Searcher):  # type: ignore[misc]
    """Proposes schedules: the search of :func:`autowarmup.autotune`, trial by trial.

    Give it to ``ray.tune.TuneConfig`` together with a :class:`WarmupScheduler` of it and ``num_samples=-1``; the search
    ends by itself. ``Tuner.restore`` can't go on with it: a study that must survive its driver runs with
    ``autotune(..., engine="ray")``.

    Args:
        total_steps: the run being tuned, in optimizer steps, >= 10.
        current_peak: the learning rate in use today.
        space: a preset's name, a YAML file or a :class:`autowarmup.SearchSpace`.
        budget: optimizer steps that the whole search may spend; left out, what the search and the verdict take, as in
            :func:`autowarmup.autotune`.
        confirm_seeds: fresh seeds on which the winner meets the better baseline, >= 2.
        settings: further fields of :class:`autowarmup.search.config.TuneConfig`: ``seed``, ``cohort``,
            ``trivial_loss``, ``detectors`` and so on.

    Attributes:
        conclusion: the verdict with the schedule, when the search is over; None before.

    Raises:
        InputError: the values can't be used.

    Example:
        >>> searcher = WarmupSearcher(total_steps=100, current_peak=1e-3)
        >>> first = searcher.suggest("a")
        >>> first["schedule"].horizon, first["rungs"]
        (10, (25, 50, 100))
    """

    def __init__(
        self,
        total_steps: int,
        current_peak: float,
        *,
        space: SearchSpace | str = "default",
        budget: int | None = None,
        confirm_seeds: int = 3,
        **settings: Any,
    ) -> None:
        super().__init__(metric="loss", mode="min")
        self.conclusion: Conclusion | None = None
        self._config = checked(
            TuneConfig,
            total_steps=total_steps,
            current_peak=current_peak,
            space=space if isinstance(space, SearchSpace) else SearchSpace.load(space),
            confirm_seeds=confirm_seeds,
            budget=TuneConfig.default_budget(total_steps, confirm_seeds) if budget is None else budget,
            **settings,
        )
        self._begin()

    def _begin(self) -> None:
        self._watch = MonitorSettings(self._config.detectors, self._config.eval_every, self._config.trivial_loss)
        self._decisions = Search(self._config).decisions()
        self._trials: dict[int, ReportedTrial] = {}
        self._numbers: dict[str, int] = {}
        self._run: tuple[tuple[TrialSpec, int], ...] = ()
        self._answer: dict[int, SegmentResult] = {}
        self._over: set[int] = set()
        self._decide(next(self._decisions))

    def __reduce__(self) -> Any:
        """Tune writes a copy when it starts: a search that has not begun."""
        return _fresh, (self._config,)

    def suggest(self, trial_id: str) -> Any:
        """The next schedule to start, None where others have to report first."""
        if self.conclusion is not None:
            return Searcher.FINISHED
        for spec, _ in self._run:
            if spec.number not in self._trials:
                self._trials[spec.number] = ReportedTrial(spec, self._watch)
                self._numbers[trial_id] = spec.number
                return {"schedule": spec.schedule, "seed": spec.seed, "rungs": self._config.rungs}
        return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial that ended without being told to has failed."""
        self.failed(trial_id, "the trainable raised" if error else "the trainable ended before its horizon")

    def save(self, checkpoint_path: str) -> None:
        """Tune asks for it now and then; see the class."""

    def restore(self, checkpoint_path: str) -> None:
        """Raises:
        InputError: always; see the class.
        """
        raise InputError('a WarmupSearcher can\'t be restored: autotune(..., engine="ray") runs studies that can')

    # -- for the scheduler --

    def observe(self, trial_id: str, result: dict[str, Any]) -> None:
        """A trial has reported. What it decides shows in :meth:`wants` and :meth:`is_over`."""
        number = self._numbers[trial_id]
        until = {spec.number: until for spec, until in self._run}.get(number)
        trial = self._trials[number]
        if until is None or number in self._answer:
            return
        instability = trial.observe(result)
        if instability is not None or trial.step >= until:
            self._report(trial.report(until, instability))

    def failed(self, trial_id: str, why: str) -> None:
        """A trial has ended by itself."""
        number = self._numbers[trial_id]
        for spec, until in self._run:
            if spec.number == number and number not in self._answer:
                self._report(self._trials[number].report(until, error=why))

    def wants(self, trial_id: str) -> bool:
        """Whether a trial has steps to train now."""
        number = self._numbers[trial_id]
        return number not in self._answer and any(spec.number == number for spec, _ in self._run)

    def is_over(self, trial_id: str) -> bool:
        """Whether a trial has ended for good."""
        return self._numbers[trial_id] in self._over

    def _report(self, report: SegmentResult) -> None:
        """When all have reported, the search decides what comes next."""
        self._answer[report.number] = report
        if len(self._answer) < len(self._run):
            return
        answer = [self._answer[spec.number] for spec, _ in self._run]
        self._run, self._answer = (), {}
        self._send(answer)

    def _send(self, answer: list[SegmentResult]) -> None:
        try:
            self._decide(self._decisions.send(answer))
        except StopIteration as stop:
            self.conclusion = stop.value

    def _decide(self, decision: Advance | Finish) -> None:
        if isinstance(decision, Finish):
            self._over.add(decision.number)
            self._send([])
        else:
            self._run = decision.segments


class WarmupScheduler(FIFOScheduler):  # type: ignore[misc]
    """Pauses, resumes and stops trials as a :class:`WarmupSearcher` decides, the unstable ones within one report.

    Args:
        searcher: the one in the same ``TuneConfig``.
    """

    def __init__(self, searcher: WarmupSearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Goes on, pauses or stops."""
        self._searcher.observe(trial.trial_id, result)
        self._stop_others(tune_controller, trial)
        if self._searcher.is_over(trial.trial_id):
            return "STOP"
        return "CONTINUE" if self._searcher.wants(trial.trial_id) else "PAUSE"

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Its trainable raised, and Tune doesn't try again."""
        self._searcher.failed(trial.trial_id, "the trainable raised")
        self._stop_others(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """One that has steps to train."""
        waiting = [trial for trial in tune_controller.get_trials() if trial.status in ("PENDING", "PAUSED")]
        return next((trial for trial in waiting if self._searcher.wants(trial.trial_id)), None)

    def debug_string(self) -> str:
        """For Tune's status."""
        return "A search for warm-ups, watched by autowarmup's detectors"

    def _stop_others(self, tune_controller: Any, trial: Any) -> None:
        for other in tune_controller.get_trials():
            if other is not trial and other.status in ("PENDING", "PAUSED") and self._searcher.is_over(other.trial_id):
                tune_controller.stop_trial(other)


def _fresh(config: TuneConfig) -> WarmupSearcher:
    fields = {name: getattr(config, name) for name in type(config).model_fields}
    return WarmupSearcher(**fields)


@dataclass
class ReportedTrial:
    """What a trial has reported."""

    spec: TrialSpec
    monitoring: MonitorSettings
    step: int = 0
    parts: list[Trace] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._monitor = self.monitoring.detectors.monitor(self.spec.schedule.horizon, self.monitoring.trivial_loss)

    def observe(self, result: dict[str, Any]) -> Instability | None:
        """Takes what is new in a report; a trial that was run again repeats what it said."""
        losses = _listed(result, "loss")
        norms = _listed(result, "grad_norm") if "grad_norm" in result else [math.nan] * len(losses)
        step = int(result["step"])
        start = step - len(losses)
        if start > self.step:
            raise InputError(f"a report for steps {start} to {step}, but the last one ended at step {self.step}")
        known = self.step - start
        if known >= len(losses):
            return None
        rate = np.array([self.spec.schedule.lr_at(at) for at in range(self.step, step)])
        evaluations: tuple[Evaluation, ...] = ()
        if "val_loss" in result:
            averaged = float(result.get("val_loss_ema", math.nan))
            evaluations = (Evaluation(step, float(result["val_loss"]), averaged),)
        block = Trace(rate, np.array(losses[known:]), np.array(norms[known:]), evaluations, self.step)
        self.step = step
        self.parts.append(block)
        return first_fatal(self._monitor, block, stop_only_on_nonfinite=self.spec.stop_only_on_nonfinite)

    def report(self, until: int, instability: Instability | None = None, error: str | None = None) -> SegmentResult:
        """What came since the last one."""
        trace = Trace.join(self.parts, start=self.step)
        self.parts = []
        return SegmentResult(self.spec.number, until, trace, instability, error=error)


def _listed(result: dict[str, Any], name: str) -> list[float]:
    value = result[name]
    return [float(part) for part in value] if isinstance(value, Sequence | np.ndarray) else [float(value)]
