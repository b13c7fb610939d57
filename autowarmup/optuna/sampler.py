"""The sampler."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as State

from autowarmup.errors import InputError
from autowarmup.optuna.run import TrialRun
from autowarmup.optuna.trials import Key, TrialReader, ended_trial
from autowarmup.reported import checked_slots, configured
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.candidates import PARAMETERS, Candidates
from autowarmup.search.decisions import Conclusion
from autowarmup.search.prior import Prior
from autowarmup.search.trial_state import TrialState
from autowarmup.search.trials import Role, TrialSpec
from autowarmup.search.unpaused import UnpausedSearch
from autowarmup.study.optuna_study import distributions_of

POLL_S = 0.2
"""Seconds between two looks at the study while a trial waits for others."""

FAILURES = 2
"""Times that the same run may fail before the study is stopped."""


class WarmupSampler(BaseSampler):
    """An Optuna sampler that suggests schedules with the search of :func:`autowarmup.autotune`.

    Optuna can't pause a trial. So a trial that the search wouldn't go on with at a quarter or half of its run is
    pruned, and where its schedule is wanted later, it is run again from its start.

    The first trial measures which peaks to search; it has no parameters. Then come proposals and the run of your
    current schedule, and at the end runs of the best proposal and of the current schedule on fresh seeds. The
    attribute ``role`` of a trial says which it is. Within ``study.optimize`` the study stops when the search is over.
    A trial whose process was killed is failed by the next process on that machine; for other machines give Optuna's
    storage a ``heartbeat_interval``.
    Parameters that aren't the schedule's are sampled by ``independent_sampler``; runs on fresh seeds take those of
    the trial that they confirm.

    Args:
        total_steps: optimizer steps of the run that the schedule is for, >= 10.
        current_peak: the learning rate that you use today, > 0. Left out, the peak of ``current``.
        current: the schedule that you use today, over ``total_steps``; what is found must beat it. Left out,
            ``current_peak`` without a warm-up.
        space: a preset's name, a YAML file or a :class:`autowarmup.SearchSpace`.
        budget: what the whole search may spend: optimizer steps, or ``"6 runs"``. Left out, the default of
            :func:`autowarmup.autotune` and two and a half runs more, since steps are repeated.
        confirm_seeds: fresh seeds on which the best schedule meets the current one, at most; 0 to 100.
        slots: how many trials run at once, in all processes together, >= 1.
        independent_sampler: for parameters that aren't the schedule's. Left out, Optuna's TPE.
        settings: further fields of :class:`autowarmup.search.config.TuneConfig`: ``seed``, ``margin``,
            ``trivial_loss``, ``objective``, ``detectors`` and so on.

    Attributes:
        conclusion: the verdict with the schedule, once the search is over; None before.

    Raises:
        InputError: a value is out of its range or of the wrong type.

    Example:
        >>> sampler = WarmupSampler(total_steps=100, current_peak=1e-3)
        >>> study = optuna.create_study(sampler=sampler)
        >>> run = sampler.run(study.ask())
        >>> run.role, run.total_steps
        ('probe', 10)
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
        independent_sampler: BaseSampler | None = None,
        **settings: Any,
    ) -> None:
        self.conclusion: Conclusion | None = None
        self._slots = checked_slots(slots)
        self._config = config = configured(
            total_steps,
            current_peak,
            current=current,
            space=space,
            budget=budget,
            confirm_seeds=confirm_seeds,
            **settings,
        )
        self._reader = TrialReader(config)
        self._independent = independent_sampler or TPESampler(seed=config.seed)
        self._candidates, self._prior = Candidates(config), Prior.learned()
        self._lock = threading.RLock()
        self._specs: dict[Key, TrialSpec | None] = {}
        self._runs: dict[Key, TrialRun] = {}
        self._own: set[Key] = set()  # also of trials that have ended
        self._failures: Counter[tuple[Role, Schedule]] = Counter()

    def run(self, trial: optuna.Trial) -> TrialRun:
        """What a trial trains: its schedule and its seed. Its parameters and attributes are then in the study.

        Args:
            trial: the trial that the objective was given, or that ``study.ask()`` returned.

        Raises:
            optuna.TrialPruned: the search is over, or, by ask and tell, the trials that run decide what comes next.
                Within ``study.optimize`` it waits for them.
            InputError: the study's direction isn't that of the objective, or it has several.
        """
        if not isinstance(trial, optuna.Trial):
            raise InputError(
                f"run() takes the optuna.Trial of an objective or of study.ask(), got {type(trial).__name__}; for the "
                f"schedule of a trial that has ended there is schedule_of()"
            )
        self._check_direction(trial.study)
        key = trial.study.study_name, trial.number
        _ = trial.relative_params  # decides, where no parameter has been asked for yet
        with self._lock:
            if key in self._runs:
                return self._runs[key]
            spec = self._specs.get(key)
            if spec is None and self.conclusion is None:
                raise optuna.TrialPruned("there is nothing to train until one of the trials that run has ended")
            if spec is None:
                _stop(trial.study)
                raise optuna.TrialPruned("the search is over: its verdict is in sampler.conclusion")
            if spec.role == "proposal":
                spec = spec.model_copy(update={"schedule": self._reader.suggested(trial)})
                self._specs[key] = spec
            elif self._reader.params_of(spec):
                self._reader.suggested(trial)
            trial.set_user_attr("role", spec.role)
            trial.set_user_attr("seed", spec.seed)
            trial.set_user_attr("schedule", spec.schedule.model_dump(mode="json"))
            trial.set_user_attr("worker", _worker())
            self._own.add(key)
            self._runs[key] = run = TrialRun(trial, spec, self._config, self._goes_on)
            return run

    def schedule_of(self, trial: FrozenTrial) -> Schedule:
        """The schedule of a trial of the study, such as ``study.best_trial``.

        Raises:
            InputError: the trial has none.
        """
        schedule = self._reader.schedule_of(trial)
        if schedule is None:
            raise InputError(f"trial {trial.number} has no schedule of this sampler's space: parameters {trial.params}")
        return schedule

    def conclusion_of(self, study: Study) -> Conclusion | None:
        """What a study's trials say so far, also before the search is over; None before the run of the current schedule
        has ended."""
        return self._search(study)[0].conclusion()

    # -- Optuna's side --

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The distributions of the parameters that make up the trial's schedule. Decides what the trial is for."""
        spec = self._decided(study, trial)
        params = {} if spec is None else self._reader.params_of(spec)
        return distributions_of(self._config, self._reader.bounds, params) if params else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters that make up the trial's schedule."""
        spec = self._decided(study, trial)
        return {} if spec is None else self._reader.params_of(spec)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter that isn't the schedule's."""
        with self._lock:
            confirmed = self._confirmed(study, trial)
        if confirmed is not None and confirmed.distributions.get(param_name) == param_distribution:
            return confirmed.params[param_name]
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: State, values: Sequence[float] | None) -> None:
        """Optuna calls it when a trial has ended. Stops the study where the search is over.

        Raises:
            InputError: the objective didn't ask for the trial's run.
        """
        if state == State.COMPLETE and "role" not in trial.user_attrs:
            raise InputError(
                f"trial {trial.number} ended without sampler.run(trial), which gives an objective the schedule and the "
                f"seed to train with"
            )
        key = study.study_name, trial.number
        with self._lock:
            run, spec = self._runs.pop(key, None), self._specs.pop(key, None)
            if run is None or spec is None:
                return
            if state == State.FAIL:
                self._failures[spec.role, spec.schedule] += 1
                if self._failures[spec.role, spec.schedule] >= FAILURES:
                    logging.getLogger("autowarmup").warning(
                        "trial %d (%s) failed, as it did before: the study stops", trial.number, spec.role
                    )
                    _stop(study)
                return
            search, running = self._search(study, ended_trial(trial, state, values))
            if not running and search.next_trial() is None:
                self.conclusion = search.conclusion()
                _stop(study)

    def reseed_rng(self) -> None:
        """Optuna calls it where trials run in several threads."""
        self._independent.reseed_rng()

    # -- decisions --

    def _decided(self, study: Study, trial: FrozenTrial) -> TrialSpec | None:
        """What a trial is for; None where the search is over, or where it waits for trials that run."""
        key = study.study_name, trial.number
        while True:
            with self._lock:
                if key in self._specs:
                    return self._specs[key]
                self._end_the_lost(study)
                search, running = self._search(study)
                fixed = trial.system_attrs.get("fixed_params", {})
                own = any(name in fixed for name in PARAMETERS)
                new = search.any_proposal() if own else search.next_trial()
                if new is None and not running:
                    self.conclusion = search.conclusion()
                if new is not None or not running or not _in_optimize(study):
                    self._specs[key] = None if new is None else new.spec
                    return self._specs[key]
            time.sleep(POLL_S)

    def is_pruned(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether a trial is to end now; :class:`WarmupPruner` asks it."""
        run = self._runs.get((study.study_name, trial.number))
        return run is not None and run.pruned

    def _goes_on(self, run: TrialRun) -> bool:
        """Whether the search goes on with a trial that has come to a rung."""
        study, number = run.trial.study, run.trial.number
        with self._lock:
            states = self._reader.states(study, self._specs)
            trial = states[number]
            running = [state for state in states.values() if state.outcome is None and state is not trial]
            return self._made(study, [*states.values()], running).goes_on(trial)

    def _search(self, study: Study, ended: FrozenTrial | None = None) -> tuple[UnpausedSearch, list[TrialState]]:
        """The search as a study has it, and the trials that run; ``ended`` takes the place of the trial of its
        number."""
        states = [*self._reader.states(study, self._specs, ended).values()]
        running = [state for state in states if state.outcome is None]
        return self._made(study, states, running), running

    def _made(self, study: Study, states: Sequence[TrialState], running: Sequence[TrialState]) -> UnpausedSearch:
        readings = [t.user_attrs["reading"] for t in study.get_trials(deepcopy=False) if "reading" in t.user_attrs]
        return UnpausedSearch(
            self._config,
            states,
            running,
            reading=readings[-1] if readings else None,
            bounds=self._reader.bounds,
            slots=self._slots,
            candidates=self._candidates,
            prior=self._prior,
        )

    def _confirmed(self, study: Study, trial: FrozenTrial) -> FrozenTrial | None:
        """The trial whose further parameters a run on a fresh seed takes: the run it is paired with, else the
        proposal."""
        spec = self._decided(study, trial)
        if spec is None or spec.role != "confirmation":
            return None
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        paired = [t for t in others if t.user_attrs.get("seed") == spec.seed and t.params]
        alike = [
            t for t in others if t.user_attrs.get("role") == "proposal" and self._reader.schedule_of(t) == spec.schedule
        ]
        return next(iter([*paired, *reversed(alike)]), None)

    # -- checks --

    def _check_direction(self, study: Study) -> None:
        wanted = self._config.objective.direction
        found = [direction.name.lower() for direction in study.directions]
        if found != [wanted]:
            raise InputError(
                f"the study's direction is {', '.join(found)}, and schedules are judged by the "
                f"{self._config.objective}: create the study with direction={wanted!r}, or pass the sampler an "
                f"objective, such as objective=Objective(name='accuracy', direction='maximize')"
            )

    def _end_the_lost(self, study: Study) -> None:
        """Fails the trials whose process on this machine is gone."""
        for trial in study.get_trials(deepcopy=False, states=(State.RUNNING,)):
            host, _, pid = trial.user_attrs.get("worker", "").rpartition(" ")
            own = (study.study_name, trial.number) in self._own
            if not own and host == platform.node() and _is_gone(int(pid)):
                study.tell(trial.number, state=State.FAIL)


def _in_optimize(study: Study) -> bool:
    """Whether this thread is within ``study.optimize``, which Optuna itself asks like this."""
    return bool(study._thread_local.in_optimize_loop)


def _stop(study: Study) -> None:
    if _in_optimize(study):
        study.stop()


def _worker() -> str:
    """The machine and the process that run a trial."""
    return f"{platform.node()} {os.getpid()}"


def _is_gone(pid: int) -> bool:
    """Whether no other process has this number. Its own one doesn't run a trial that it doesn't know of."""
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
