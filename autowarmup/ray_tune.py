"""autowarmup's search for your own Ray Tune script: a search algorithm and a trial scheduler for ``ray.tune.Tuner``.

The trainable is yours. It finds its :class:`autowarmup.Schedule` in ``config["schedule"]`` and its seed in
``config["seed"]``. It calls ``ray.tune.report`` after every optimizer step, or after several, with these metrics:

==================  =================================================================================================
``step``            optimizer steps made so far
``loss``            the training loss of the last step, or a list with that of each step since the last report
``grad_norm``       the gradient's norm before clipping, in the same form; optional
``val_loss``        the validation loss at ``step``, where there was a validation
``val_loss_ema``    the same with averaged weights; optional, but unfinished trials are ranked better with it
==================  =================================================================================================

Trials may be paused at the steps in ``config["rungs"]``. A trainable that reports a checkpoint there is resumed from
it; one that doesn't is run again from its start.
"""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from autowarmup.engines.base import MonitorSettings
from autowarmup.errors import InputError
from autowarmup.reported import ReportedTrial, checked_slots, configured
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.config import TuneConfig
from autowarmup.search.decisions import Arrival, Conclusion, Finish, Start, Wait
from autowarmup.search.search import Search
from autowarmup.search.trials import SegmentResult


class WarmupSearcher(Searcher):  # type: ignore[misc]
    """A Ray Tune searcher that suggests schedules with the search of :func:`autowarmup.autotune`.

    Give it to ``ray.tune.TuneConfig`` as ``search_alg``, together with a :class:`WarmupScheduler` made from it and
    ``num_samples=-1``; the search ends by itself. ``Tuner.restore`` can't resume it. For a study that can be resumed
    use ``autotune(..., engine="ray")``.

    Args:
        total_steps: optimizer steps of the run that the schedule is for, >= 10.
        current_peak: the learning rate that you use today, > 0. Left out, the peak of ``current``.
        current: the schedule that you use today, over ``total_steps``; what is found must beat it. Left out,
            ``current_peak`` without a warm-up.
        space: a preset's name, a YAML file or a :class:`autowarmup.SearchSpace`.
        budget: what the whole search may spend: optimizer steps, or ``"6 runs"``. Left out, the default of
            :func:`autowarmup.autotune`.
        confirm_seeds: fresh seeds on which the best schedule meets the current one, at most; 0 to 100.
        slots: how many trials Ray Tune can run at once, >= 1. With more of them the search chooses more at a time.
        settings: further fields of :class:`autowarmup.search.config.TuneConfig`: ``seed``, ``margin``, ``cohort``,
            ``trivial_loss``, ``objective``, ``detectors`` and so on. Reports must then have the objective's metric
            with every ``val_loss``.

    Attributes:
        conclusion: the verdict with the schedule, once the search is over; None before.

    Raises:
        InputError: a value is out of its range or of the wrong type.

    Example:
        >>> searcher = WarmupSearcher(total_steps=100, current_peak=1e-3)
        >>> first = searcher.suggest("a")
        >>> first["schedule"].horizon, first["rungs"]
        (10, (25, 50, 100))
    """

    def __init__(
        self,
        total_steps: int,
        current_peak: float | None = None,
        *,
        current: Schedule | None = None,
        space: SearchSpace | str = "default",
        budget: int | str | None = None,
        confirm_seeds: int = 4,
        slots: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(metric="loss", mode="min")
        self.conclusion: Conclusion | None = None
        self._slots = checked_slots(slots)
        self._config = configured(
            total_steps,
            current_peak,
            current=current,
            space=space,
            budget=budget,
            confirm_seeds=confirm_seeds,
            **settings,
        )
        self._begin()

    def _begin(self) -> None:
        self._monitoring = MonitorSettings.of(self._config)
        self._decisions = Search(self._config, slots=self._slots).decisions()
        self._trials: dict[int, ReportedTrial] = {}
        self._numbers: dict[str, int] = {}
        self._started: dict[int, Start] = {}  # by trial: the segments that haven't ended
        self._finished: set[int] = set()
        self._go_on(None)

    def __reduce__(self) -> Any:
        """Pickles the configuration alone. Ray Tune pickles the searcher when it starts; the copy is a search that has
        not begun."""
        return _unstarted, (self._config, self._slots)

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial; None where the search waits for trials that run; ``Searcher.FINISHED``
        when the search is over."""
        if self.conclusion is not None:
            return Searcher.FINISHED
        for number, segment in self._started.items():
            if number not in self._trials:
                spec = segment.spec
                self._trials[number] = ReportedTrial(spec, self._monitoring, self._config.objective)
                self._numbers[trial_id] = number
                return {"schedule": spec.schedule, "seed": spec.seed, "rungs": self._config.rungs}
        return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ray Tune calls it when a trial has ended. One that the search didn't stop has failed."""
        self.failed(trial_id, "the trainable raised" if error else "the trainable ended before its horizon")

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the search can't be restored. Ray Tune calls it regularly."""

    def restore(self, checkpoint_path: str) -> None:
        """Refuses: the search can't be restored.

        Raises:
            InputError: always.
        """
        raise InputError('a WarmupSearcher can\'t be restored: use autotune(..., engine="ray") for studies that can')

    # -- for the scheduler --

    def observe(self, trial_id: str, result: dict[str, Any]) -> None:
        """Takes what a trial reported. :meth:`is_wanted` and :meth:`is_finished` tell what follows from it."""
        number = self._numbers[trial_id]
        segment, trial = self._started.get(number), self._trials[number]
        if segment is None:
            return
        instability = trial.observe(result)
        if instability is not None or trial.step >= segment.until:
            self._end_segment(trial.end_segment(segment.until, instability))

    def failed(self, trial_id: str, why: str) -> None:
        """Records a trial as failed, unless the search has nothing more to expect of it."""
        number = self._numbers[trial_id]
        if segment := self._started.get(number):
            self._end_segment(self._trials[number].end_segment(segment.until, error=why))

    def is_wanted(self, trial_id: str) -> bool:
        """Whether the search wants the trial to train now."""
        return self._numbers[trial_id] in self._started

    def is_finished(self, trial_id: str) -> bool:
        """Whether the trial has ended for good."""
        return self._numbers[trial_id] in self._finished

    def _end_segment(self, result: SegmentResult) -> None:
        """Tells the search of a segment that has ended."""
        del self._started[result.number]
        self._go_on(Arrival(result, self._slots))

    def _go_on(self, arrival: Arrival | None) -> None:
        """Takes decisions until the search waits, or is over."""
        while self.conclusion is None:
            try:
                decision = self._decisions.send(arrival)
            except StopIteration as stop:
                self.conclusion = stop.value
                return
            arrival = None
            match decision:
                case Start():
                    self._started[decision.spec.number] = decision
                case Finish(number, _):
                    self._finished.add(number)
                case Wait():
                    return


class WarmupScheduler(FIFOScheduler):  # type: ignore[misc]
    """A Ray Tune trial scheduler that pauses, resumes and stops trials as a :class:`WarmupSearcher` decides. An
    unstable trial is stopped at the report that shows its instability.

    Args:
        searcher: the searcher in the same ``ray.tune.TuneConfig``.
    """

    def __init__(self, searcher: WarmupSearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decides whether the trial that has just reported goes on, pauses or stops."""
        self._searcher.observe(trial.trial_id, result)
        self._stop_others(tune_controller, trial)
        if self._searcher.is_finished(trial.trial_id):
            return "STOP"
        return "CONTINUE" if self._searcher.is_wanted(trial.trial_id) else "PAUSE"

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Ray Tune calls it when the trainable has raised and isn't tried again."""
        self._searcher.failed(trial.trial_id, "the trainable raised")
        self._stop_others(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """A pending or paused trial that the search wants to train; None where there is none."""
        waiting = [trial for trial in tune_controller.get_trials() if trial.status in ("PENDING", "PAUSED")]
        return next((trial for trial in waiting if self._searcher.is_wanted(trial.trial_id)), None)

    def debug_string(self) -> str:
        """A line for Ray Tune's status output."""
        return "autowarmup: a search for learning-rate warm-ups with detectors of instability"

    def _stop_others(self, tune_controller: Any, trial: Any) -> None:
        for other in tune_controller.get_trials():
            waits = other is not trial and other.status in ("PENDING", "PAUSED")
            if waits and self._searcher.is_finished(other.trial_id):
                tune_controller.stop_trial(other)


def _unstarted(config: TuneConfig, slots: int) -> WarmupSearcher:
    fields = {name: getattr(config, name) for name in type(config).model_fields}
    return WarmupSearcher(**fields, slots=slots)
