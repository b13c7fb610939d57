"""The search: which trials to run, how far, and what to conclude. Decisions only: nothing here trains or writes.

A search is a generator. It yields what it wants done, gets reports back, and returns its conclusion::

    decision = Run([...])  ->  list[Report]
    decision = Finish(...) ->  None

It depends on its configuration and on the reports alone, so replaying the reports of a study that was killed leads
to the very decision where it stopped.

Steps: measure the peak with one ramp (where the space leaves it open), run the baselines, propose candidates in
cohorts with successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943) on the validation loss of averaged
weights, then let the best meet the baselines on fresh paired seeds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import optuna
from optuna.trial import TrialState

from autowarmup.config import TuneConfig
from autowarmup.errors import TaskFailedError
from autowarmup.schedule import ConstantDecay, Exponential, Schedule
from autowarmup.seeds import derive_seed
from autowarmup.space import PeakRange
from autowarmup.store import Report, Role, TrialSpec
from autowarmup.trace import Outcome, Trace
from autowarmup.verdict import Comparison, Verdict, judge

KEPT = 1 / 3
"""Share of a cohort that goes on past a rung."""

FIRST_TRIALS = 3
"""Where this many trials have all failed in the same way, the task itself is broken."""


@dataclass(frozen=True)
class Run:
    """Train each trial up to a step."""

    segments: tuple[tuple[TrialSpec, int], ...]


@dataclass(frozen=True)
class Finish:
    """Trial ``number`` is over."""

    number: int
    outcome: Outcome


@dataclass(frozen=True)
class Conclusion:
    """What the search ends with."""

    verdict: Verdict
    peak_range: PeakRange


Decisions = Generator[Run | Finish, "list[Report]", Conclusion]


@dataclass
class _Trial:
    """A trial as the search sees it."""

    spec: TrialSpec
    told: optuna.Trial | None = None
    reports: list[Report] = field(default_factory=list)
    outcome: Outcome | None = None

    @property
    def trace(self) -> Trace:
        return Trace.join([report.trace for report in self.reports])

    @property
    def score(self) -> float:
        """What it is ranked by while unfinished."""
        checkpoints = self.trace.checkpoints
        return checkpoints[-1].score if checkpoints else _last_loss(self.trace)

    @property
    def final_loss(self) -> float | None:
        """The validation loss at the horizon, None where it didn't get there."""
        if self.outcome != "completed":
            return None
        checkpoints = self.trace.checkpoints
        return checkpoints[-1].val_loss if checkpoints else _last_loss(self.trace)


class Search:
    """The decisions of one study."""

    def __init__(self, config: TuneConfig) -> None:
        self.config = config
        self.spent = 0
        self._trials: list[_Trial] = []
        self._candidates = 0
        with _quiet():
            self.optuna_study = optuna.create_study(direction="minimize")

    def decisions(self) -> Decisions:
        """The whole search, from the first probe to the verdict."""
        peaks = yield from self._peaks()
        baselines = yield from self._baselines(peaks)
        proposals = yield from self._proposals(peaks)
        verdict = yield from self._confirmation(proposals, baselines)
        return Conclusion(verdict, peaks)

    # -- the parts of a search --

    def _peaks(self) -> Generator[Run | Finish, list[Report], PeakRange]:
        """The peaks to search: as given, or read off one exponential ramp of the rate."""
        config = self.config
        if config.space.peak is not None:
            return config.space.peak
        ramp = Schedule(
            peak=config.current_peak * 100.0,
            horizon=config.probe_steps,
            warmup_steps=config.probe_steps,
            shape=Exponential(),
            start_factor=1.0 / 3000.0,
            decay=ConstantDecay(),
        )
        probe = self._new(ramp, "probe", config.seed)
        yield from self._advance([probe], config.probe_steps)
        return peaks_of_ramp(probe.trace, config.current_peak)

    def _baselines(self, peaks: PeakRange) -> Generator[Run | Finish, list[Report], list[_Trial]]:
        """The schedules that need no search, run to the end; they are the sampler's first observations."""
        config = self.config
        baselines = [self._new(schedule, "baseline", config.seed, patient=True) for schedule in config.baselines]
        for baseline in baselines:
            params = config.space.params_of(baseline.spec.schedule, config.steps_per_epoch)
            if params is not None and peaks.low <= config.current_peak <= peaks.high:
                baseline.told = self._ask(peaks, params)[0]
        yield from self._finish_all(baselines)
        return baselines

    def _proposals(self, peaks: PeakRange) -> Generator[Run | Finish, list[Report], list[_Trial]]:
        """Cohort after cohort of candidates, halved at every rung, as long as the budget lasts."""
        config = self.config
        proposals: list[_Trial] = []
        most = self._most_proposals()
        while size := min(self._affordable_cohort(), most - len(proposals)):
            cohort = self._propose(size, peaks, first=not proposals)
            proposals += cohort
            alive = cohort
            for rung in config.rungs:
                yield from self._advance(alive, rung)
                alive = [trial for trial in alive if trial.outcome is None]
                kept = sorted(alive, key=lambda trial: trial.score)[: math.ceil(len(alive) * KEPT)]
                for trial in alive:
                    if trial not in kept:
                        yield from self._finish(trial, "pruned")
                alive = kept
        return proposals

    def _confirmation(
        self, proposals: Sequence[_Trial], baselines: Sequence[_Trial]
    ) -> Generator[Run | Finish, list[Report], Verdict]:
        """The stable baselines and the best proposal on fresh paired seeds; where that one breaks, the next best."""
        completed = [trial for trial in proposals if trial.final_loss is not None]
        best_first = sorted(completed, key=lambda trial: trial.final_loss or 0.0)
        rivals = []
        for name, trial in zip(("no warm-up", "untuned rule"), baselines, strict=True):
            rivals.append((yield from self._on_fresh_seeds(name, trial, patient=True)))
        tuned = None
        for trial in best_first:
            tuned = yield from self._on_fresh_seeds("tuned", trial, patient=False)
            if tuned.stable or self.spent + self.config.confirm_seeds * self.config.total_steps > self.config.budget:
                break
        return judge(tuned, rivals)

    def _on_fresh_seeds(
        self, name: str, trial: _Trial, *, patient: bool
    ) -> Generator[Run | Finish, list[Report], Comparison]:
        """How a schedule does on the fresh seeds; one that broke in the search is not run again."""
        losses: list[float | None] = []
        if trial.outcome == "completed":
            losses = yield from self._fresh_losses(trial, patient)
        return Comparison(
            candidate=trial.spec.candidate, name=name, schedule=trial.spec.schedule, final_losses=tuple(losses)
        )

    def _fresh_losses(self, trial: _Trial, patient: bool) -> Generator[Run | Finish, list[Report], list[float | None]]:
        """Final losses seed by seed. An impatient schedule that breaks on one seed is given up on all."""
        seeds = [derive_seed(self.config.seed, "confirmation", i) for i in range(self.config.confirm_seeds)]
        spec = trial.spec
        runs = [self._new(spec.schedule, "confirmation", seed, spec.candidate, patient=patient) for seed in seeds]
        for rung in self.config.rungs:
            yield from self._advance([run for run in runs if run.outcome is None], rung)
            if not patient and any(run.outcome in ("unstable", "failed") for run in runs):
                for run in runs:
                    if run.outcome is None:
                        yield from self._finish(run, "pruned")
        return [run.final_loss for run in runs]

    # -- trials --

    def _new(
        self,
        schedule: Schedule,
        role: Role,
        seed: int,
        candidate: int | None = None,
        *,
        patient: bool = False,
        params: dict[str, float | str] | None = None,
    ) -> _Trial:
        if candidate is None:
            candidate = self._candidates
            self._candidates += 1
        spec = TrialSpec(
            number=len(self._trials),
            candidate=candidate,
            role=role,
            seed=seed,
            schedule=schedule,
            patient=patient,
            params=params or {},
        )
        trial = _Trial(spec)
        self._trials.append(trial)
        return trial

    def _advance(self, trials: Sequence[_Trial], until: int) -> Generator[Run | Finish, list[Report], None]:
        """Trains the trials up to a step, and ends those that are over."""
        if not trials:
            return
        reports = yield Run(tuple((trial.spec, until) for trial in trials))
        for trial, report in zip(trials, reports, strict=True):
            trial.reports.append(report)
            self.spent += len(report.trace)
            if report.error is not None:
                yield from self._finish(trial, "failed")
            elif report.verdict is not None:
                yield from self._finish(trial, "unstable")
            elif until == trial.spec.schedule.horizon:
                yield from self._finish(trial, "completed")
        self._check_failures()

    def _finish_all(self, trials: Sequence[_Trial]) -> Generator[Run | Finish, list[Report], None]:
        """Trains the trials to their end, from rung to rung, so that an interruption costs a part of a run only."""
        for rung in self.config.rungs:
            yield from self._advance([trial for trial in trials if trial.outcome is None], rung)

    def _finish(self, trial: _Trial, outcome: Outcome) -> Generator[Run | Finish, list[Report], None]:
        trial.outcome = outcome
        if trial.told is not None:
            self._tell(trial)
        yield Finish(trial.spec.number, outcome)

    def _check_failures(self) -> None:
        ended = [trial for trial in self._trials if trial.outcome is not None]
        errors = [trial.reports[-1].error for trial in ended[:FIRST_TRIALS]]
        if len(errors) == FIRST_TRIALS and None not in errors and len({_cause(error) for error in errors}) == 1:
            raise TaskFailedError(
                f"the first {FIRST_TRIALS} trials all failed in the same way, so the study stops here. When the "
                f"cause is mended, start again in another folder. The last of them:\n{errors[-1]}"
            )

    # -- the budget --

    @property
    def _left(self) -> int:
        """Steps that proposals may still spend."""
        return self.config.budget - self.config.confirm_cost - self.spent

    def _most_proposals(self) -> int:
        """Unstable candidates cost little, and what they leave buys others: up to twice as many as planned."""
        cohorts = math.ceil(self._left / self._cohort_cost(self.config.cohort))
        return 2 * cohorts * self.config.cohort

    def _affordable_cohort(self) -> int:
        """Candidates that the rest of the budget buys, up to a whole cohort."""
        left = self._left
        return next((size for size in range(self.config.cohort, 0, -1) if self._cohort_cost(size) <= left), 0)

    def _cohort_cost(self, size: int) -> int:
        cost, start = 0, 0
        for rung in self.config.rungs:
            cost += size * (rung - start)
            size, start = math.ceil(size * KEPT), rung
        return cost

    # -- Optuna: what to propose, what to tell it --

    def _propose(self, size: int, peaks: PeakRange, *, first: bool) -> list[_Trial]:
        """Candidates of Optuna's TPE sampler; the first cohort's peaks and durations are spread evenly instead."""
        fixed: list[dict[str, float | str]] = [{} for _ in range(size)]
        if first:
            fixed = self._spread(size, peaks)
        asked = [self._ask(peaks, params) for params in fixed]
        cohort = []
        for told, schedule in asked:
            trial = self._new(schedule, "proposal", self.config.seed, params=dict(told.params))
            trial.told = told
            cohort.append(trial)
        return cohort

    def _spread(self, size: int, peaks: PeakRange) -> list[dict[str, float | str]]:
        """A Latin square: every one of ``size`` equal parts of the peaks and of the durations is used once."""
        random = np.random.default_rng(derive_seed(self.config.seed, "spread"))
        low, high = self.config.space.warmup.steps(self.config.total_steps, self.config.steps_per_epoch)
        middles = (np.arange(size) + 0.5) / size
        rates = np.clip(peaks.low * (peaks.high / peaks.low) ** middles, peaks.low, peaks.high)
        roots = math.sqrt(low) + random.permutation(middles) * (math.sqrt(high) - math.sqrt(low))
        return [
            {"peak": float(rate), "warmup_steps_sqrt": float(root)} for rate, root in zip(rates, roots, strict=True)
        ]

    def _ask(self, peaks: PeakRange, fixed: dict[str, float | str]) -> tuple[optuna.Trial, Schedule]:
        """The sampler's next candidate, with some parameters fixed. Its seed depends on how many were asked before."""
        study, config = self.optuna_study, self.config
        with _quiet():
            count = len(study.get_trials(deepcopy=False))
            study.sampler = optuna.samplers.TPESampler(
                seed=derive_seed(config.seed, "sampler", count), n_startup_trials=config.cohort
            )
            if fixed:
                study.enqueue_trial(fixed)
            told = study.ask()
            schedule = config.space.suggest(told, peaks, config.total_steps, config.steps_per_epoch, config.beta2)
        return told, schedule

    def _tell(self, trial: _Trial) -> None:
        """Instability is an observation: a value no better than the worst, and its severity as a constraint. Told as
        NaN or as a failure the sampler would ignore it and go back to the same place."""
        study, told = self.optuna_study, trial.told
        assert told is not None
        with _quiet():
            if trial.outcome == "failed":
                study.tell(told, state=TrialState.FAIL)
                return
            verdict = trial.reports[-1].verdict
            told.set_constraint("instability", verdict.severity if verdict else 0.0)
            told.set_user_attr("outcome", trial.outcome)
            told.set_user_attr("severity", verdict.severity if verdict else 0.0)
            if trial.outcome == "unstable":
                study.tell(told, self._worst(trial))
                return
            for checkpoint in trial.trace.checkpoints:
                told.report(checkpoint.score, checkpoint.step)
            if trial.outcome == "pruned":
                study.tell(told, state=TrialState.PRUNED)
            else:
                study.tell(told, trial.final_loss)

    def _worst(self, trial: _Trial) -> float:
        """The highest loss seen so far: of the trials told, and of this one."""
        told = [t.value for t in self.optuna_study.get_trials(deepcopy=False) if t.value is not None]
        losses = trial.trace.loss[np.isfinite(trial.trace.loss)]
        return float(max([*told, *losses.tolist()], default=0.0))


def peaks_of_ramp(trace: Trace, current_peak: float) -> PeakRange:
    """The range of peaks to search, read off an exponential ramp of the rate.

    The rate at which the smoothed loss was lowest lies above the best peaks: by a factor of 2 or 3 where the ramp is
    long, of 10 and more where it is short. So the range goes from a thirtieth of it up to it, and includes the peak
    used today.

    >>> rate = np.geomspace(1e-4, 1.0, 100)
    >>> loss = 3.0 - np.log1p(100 * rate) + (rate / 0.1) ** 2
    >>> peaks = peaks_of_ramp(Trace(rate, loss, loss), current_peak=1e-3)
    >>> round(peaks.low, 3), round(peaks.high, 2)
    (0.001, 0.1)
    """
    finite = np.isfinite(trace.loss) & (trace.rate > 0)
    if not finite.any():
        return PeakRange(low=current_peak / 100.0, high=current_peak)  # broke at once
    loss, rate = trace.loss[finite], trace.rate[finite]
    smooth, weight = np.empty_like(loss), 0.0
    value = 0.0
    for i, item in enumerate(loss):
        value, weight = 0.9 * value + 0.1 * item, 0.9 * weight + 0.1
        smooth[i] = value / weight
    lowest = float(rate[int(np.argmin(smooth))])
    return PeakRange(low=min(lowest / 30.0, current_peak), high=max(lowest, current_peak))


def _last_loss(trace: Trace) -> float:
    """The mean training loss of the last tenth, for loops that never validate."""
    tail = trace.loss[-max(1, len(trace) // 10) :]
    return float(np.mean(tail)) if len(tail) else math.inf


def _cause(error: str | None) -> tuple[str, str]:
    """Where a traceback ends and which exception it ends with; its message may differ from trial to trial."""
    where, _, last = (error or "").rpartition("\n  File ")
    raised = re.search(r"^[\w.]+", last, re.MULTILINE)
    return last.split("\n")[0] if where else "", raised[0] if raised else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's own log lines say nothing that the study doesn't."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
