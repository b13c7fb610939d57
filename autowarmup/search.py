"""The search: which trials to run, how far, and what to conclude. Decisions only: nothing here trains or writes.

A search is a generator. It yields what it wants done, gets reports back, and returns its conclusion::

    decision = Run([...])  ->  list[Report]
    decision = Finish(...) ->  None

It depends on its configuration and on the reports alone, so replaying the reports of a study that was killed leads
to the very decision where it stopped.

Steps: one ramp tells where good peaks are to be expected; a few schedules are trained for a quarter of the run; the
model in :mod:`autowarmup.surrogate` forecasts how they would end, and the most promising one goes on to its end. Then
whatever is expected to improve on it most per step is trained a stage further, until nothing is. The best schedule
meets the baselines: first on the search's seed, and where it is better there, on fresh paired seeds. docs/search.md
has the measurements behind it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from autowarmup.config import TuneConfig
from autowarmup.errors import TaskFailedError
from autowarmup.instability import MAD_TO_SIGMA, Instability
from autowarmup.schedule import ConstantDecay, Exponential, Schedule
from autowarmup.seeds import derive_seed
from autowarmup.space import PeakRange
from autowarmup.store import Report, Role, TrialSpec
from autowarmup.surrogate import Evidence, Surrogate, features, scores
from autowarmup.trace import Outcome, Trace
from autowarmup.verdict import Comparison, Verdict, judge, keep

OF_LOWEST = 0.4
"""The expected peak, as a share of the highest rate at which a ramp's smoothed loss is at its lowest."""

PEAK_MARGIN = 15.0
"""Peaks are searched up to this factor beyond the expected one and today's."""

POOL_BITS = 9
"""Candidates to choose from: two to this power."""

MORE_LOOKS = 2
"""New candidates beside the first ones, before one of them goes on to its end,"""
MUCH_BETTER = 0.5
"""where they are expected to be better by this many typical differences."""

SETTLED = 0.05
"""The search ends where no expected improvement exceeds this many typical differences."""

MOST_FAILURES = 20
"""Trials that fail at once cost no steps: so many of them end a search."""

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


@dataclass(frozen=True)
class Candidate:
    """A schedule that may be proposed, and the space's parameters behind it."""

    schedule: Schedule
    params: dict[str, float | str]
    end: int = 0

    def __hash__(self) -> int:
        return hash(self.schedule)


@dataclass(eq=False)
class _Trial:
    """A trial as the search sees it: its trace so far, and what ended it where something did."""

    spec: TrialSpec
    told: optuna.Trial | None = None
    trace: Trace = field(default_factory=Trace.empty)
    verdict: Instability | None = None
    error: str | None = None
    outcome: Outcome | None = None

    @property
    def schedule(self) -> Schedule:
        return self.spec.schedule

    @property
    def end(self) -> int:
        """The step it has got to."""
        return self.trace.end

    def take(self, report: Report) -> None:
        """It has been trained further."""
        self.trace = Trace.join([self.trace, report.trace])
        self.verdict, self.error = report.verdict, report.error

    def evidence(self, config: TuneConfig) -> Evidence:
        """What it says about its schedule, from the first rung on: before that a loss says little."""
        found = scores(self.trace, config.total_steps, config.eval_every, config.trivial_loss)
        if self.final_loss is not None and found[-1][0] < config.total_steps:  # a loop that doesn't validate at its end
            found = (*found, (config.total_steps, self.final_loss))
        late = tuple((step, score) for step, score in found if step >= config.rungs[0])
        if self.outcome == "unstable":
            return Evidence(self.schedule, late, broke=True)
        return Evidence(self.schedule, late or found[-1:])

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
        expected = yield from self._expected_peak()
        peaks = self._peak_range(expected)
        proposals = yield from self._exploration(expected, peaks)
        baselines = yield from self._baselines(peaks)
        verdict = yield from self._verdict(proposals, baselines)
        return Conclusion(verdict, peaks)

    # -- the parts of a search --

    def _expected_peak(self) -> Generator[Run | Finish, list[Report], float]:
        """Where the best peak is to be expected: as one exponential ramp of the rate tells, within the space."""
        config = self.config
        if not config.probe_steps:
            assert config.space.peak is not None
            return math.sqrt(config.space.peak.low * config.space.peak.high)
        probe = self._new(ramp(config.current_peak, config.probe_steps), "probe", config.seed)
        yield from self._advance([(probe, config.probe_steps)])
        return self._within(peak_of_ramp(probe.trace, config.current_peak))

    def _peak_range(self, expected: float) -> PeakRange:
        """The peaks to search: around the expected one and today's, within the space."""
        if self.config.space.peak is not None:
            return self.config.space.peak
        ends = expected, self.config.current_peak
        return PeakRange(low=min(ends) / PEAK_MARGIN, high=max(ends) * PEAK_MARGIN)

    def _exploration(self, expected: float, peaks: PeakRange) -> Generator[Run | Finish, list[Report], list[_Trial]]:
        """Stage after stage of the trials that promise most, as long as they promise enough and the budget lasts."""
        config = self.config
        first, *_ = config.rungs
        pool = self._pool(peaks)
        proposals: list[_Trial] = []
        starts = self._starts(expected, peaks, max(2, config.cohort))
        stages = [(self._propose(candidate, peaks), first) for candidate in starts]
        while stages:
            proposals += [trial for trial, _ in stages if trial not in proposals]
            yield from self._advance(stages)
            if sum(trial.outcome == "failed" for trial in proposals) >= MOST_FAILURES:
                break
            stages = self._next_stages(proposals, pool, expected, peaks)
        for trial in proposals:
            if trial.outcome is None:
                yield from self._finish(trial, "pruned")
        return proposals

    def _next_stages(
        self, proposals: Sequence[_Trial], pool: list[Candidate], expected: float, peaks: PeakRange
    ) -> list[tuple[_Trial, int]]:
        """What to train next and how far: up to a cohort, affordable together; none where the search has settled."""
        evidence = [trial.evidence(self.config) for trial in proposals if trial.outcome != "failed"]
        broken = [item.schedule for item in evidence if item.broke]
        fresh = [c for c in pool if not any(_harsher(c.schedule, schedule) for schedule in broken)]
        choices: list[_Trial | Candidate] = [*(t for t in proposals if t.outcome is None), *fresh]
        model = Surrogate(evidence, expected) if any(item.scores for item in evidence) else None
        stages: list[tuple[_Trial, int]] = []
        left = self._left
        while choices and len(stages) < self.config.cohort:
            if model is not None and stages:
                model = model.believing(stages[-1][0].schedule)
            if model is not None:
                chosen = self._most_promising(model, choices, len(proposals) + len(stages))
            else:  # whatever was tried has broken at once
                gentler = min([expected, *(schedule.peak for schedule in broken)]) / 3.0
                chosen = min(choices, key=lambda c: abs(math.log(c.schedule.peak / gentler)))
            if chosen is None:
                break
            until = self._rung_after(chosen)
            left -= until - chosen.end
            if left < 0:
                break
            choices.remove(chosen)
            if isinstance(chosen, Candidate):
                pool.remove(chosen)
                chosen = self._propose(chosen, peaks)
            stages.append((chosen, until))
        return stages

    def _most_promising(
        self, model: Surrogate, choices: Sequence[_Trial | Candidate], started: int
    ) -> _Trial | Candidate | None:
        """The open trial or the candidate that promises most for its cost; None where nothing is worth it.

        Before any trial has got to its end that is the open one expected to end best, unless a candidate is expected to
        be much better and not many have been looked at.
        """
        schedules = [choice.schedule for choice in choices]
        if model.finished:
            improvement = model.improvement(schedules)
            remaining = [1.05 - choice.end / self.config.total_steps for choice in choices]
            best = int(np.argmax(improvement / remaining))
            return choices[best] if improvement[best] > SETTLED else None
        expected = dict(zip(choices, model.predict(schedules)[0].tolist(), strict=True))
        leader = min((c for c in choices if isinstance(c, _Trial)), key=expected.__getitem__, default=None)
        newcomer = min((c for c in choices if isinstance(c, Candidate)), key=expected.__getitem__, default=None)
        if leader is None or newcomer is None:
            return leader or newcomer
        look = started < max(2, self.config.cohort) + MORE_LOOKS
        return newcomer if look and expected[newcomer] + MUCH_BETTER < expected[leader] else leader

    def _rung_after(self, choice: _Trial | Candidate) -> int:
        return next(rung for rung in self.config.rungs if rung > choice.end)

    def _baselines(self, peaks: PeakRange) -> Generator[Run | Finish, list[Report], list[_Trial]]:
        """The schedules that need no search, run to the end on the search's seed."""
        config = self.config
        baselines = [self._new(schedule, "baseline", config.seed, patient=True) for schedule in config.baselines]
        for baseline in baselines:
            params = config.space.params_of(baseline.spec.schedule, config.steps_per_epoch)
            if params is not None and peaks.low <= config.current_peak <= peaks.high:
                baseline.told = self._ask(peaks, params)
        for rung in config.rungs:  # from rung to rung, so that an interruption costs a part of a run only
            yield from self._advance([(trial, rung) for trial in baselines if trial.outcome is None])
        return baselines

    def _verdict(
        self, proposals: Sequence[_Trial], baselines: Sequence[_Trial]
    ) -> Generator[Run | Finish, list[Report], Verdict]:
        """The better baseline against the best proposal: on the search's seed, which favours the proposal, and where
        that is better there, on fresh seeds. Where it breaks on one of those, the next challenger takes its place."""
        names = dict(zip((trial.spec.candidate for trial in baselines), ("no warm-up", "untuned rule"), strict=True))
        best_first = sorted((trial for trial in proposals if trial.final_loss is not None), key=_final)
        stable = sorted((trial for trial in baselines if trial.final_loss is not None), key=_final)
        if stable and (not best_first or _final(best_first[0]) >= _final(stable[0])):
            return keep(names[stable[0].spec.candidate], stable[0].spec.candidate, stable[0].schedule)
        rivals = []
        for trial in stable[:1]:
            number = trial.spec.candidate
            rivals.append((yield from self._on_fresh_seeds(names[number], number, trial.schedule, patient=True)))
        tuned = None
        for number, schedule in self._challengers(best_first):
            tuned = yield from self._on_fresh_seeds("tuned", number, schedule, patient=False)
            if tuned.stable or not self._affords_another:
                break
        return judge(tuned, rivals, broken=len(baselines) - len(stable))

    def _challengers(self, best_first: Sequence[_Trial]) -> Iterator[tuple[int, Schedule]]:
        """Candidates for the fresh seeds, best first; at last the best one at half its peak, which is gentler."""
        for trial in best_first:
            yield trial.spec.candidate, trial.schedule
        for trial in best_first[:1]:
            self._candidates += 1
            yield self._candidates - 1, trial.schedule.model_copy(update={"peak": trial.schedule.peak / 2.0})

    @property
    def _affords_another(self) -> bool:
        """Whether the budget allows for one more schedule on the fresh seeds."""
        return self.spent + self.config.confirm_seeds * self.config.total_steps <= self.config.budget

    def _on_fresh_seeds(
        self, name: str, candidate: int, schedule: Schedule, *, patient: bool
    ) -> Generator[Run | Finish, list[Report], Comparison]:
        """How a schedule does on the fresh seeds. An impatient one that breaks on one of them is given up on all."""
        seeds = [derive_seed(self.config.seed, "confirmation", i) for i in range(self.config.confirm_seeds)]
        runs = [self._new(schedule, "confirmation", seed, candidate, patient=patient) for seed in seeds]
        for rung in self.config.rungs:
            yield from self._advance([(run, rung) for run in runs if run.outcome is None])
            if not patient and any(run.outcome in ("unstable", "failed") for run in runs):
                for run in runs:
                    if run.outcome is None:
                        yield from self._finish(run, "pruned")
        losses = tuple(run.final_loss for run in runs)
        return Comparison(candidate=candidate, name=name, schedule=schedule, final_losses=losses)

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

    def _advance(self, stages: Sequence[tuple[_Trial, int]]) -> Generator[Run | Finish, list[Report], None]:
        """Trains each trial up to its step, and ends those that are over."""
        if not stages:
            return
        reports = yield Run(tuple((trial.spec, until) for trial, until in stages))
        for (trial, until), report in zip(stages, reports, strict=True):
            trial.take(report)
            self.spent += len(report.trace)
            if report.error is not None:
                yield from self._finish(trial, "failed")
            elif report.verdict is not None:
                yield from self._finish(trial, "unstable")
            elif until == trial.spec.schedule.horizon:
                yield from self._finish(trial, "completed")
        self._check_failures()

    def _finish(self, trial: _Trial, outcome: Outcome) -> Generator[Run | Finish, list[Report], None]:
        trial.outcome = outcome
        if trial.told is not None:
            self._tell(trial)
        yield Finish(trial.spec.number, outcome)

    def _check_failures(self) -> None:
        ended = [trial for trial in self._trials if trial.outcome is not None]
        errors = [trial.error for trial in ended[:FIRST_TRIALS]]
        if len(errors) == FIRST_TRIALS and None not in errors and len({_cause(error) for error in errors}) == 1:
            raise TaskFailedError(
                f"the first {FIRST_TRIALS} trials all failed in the same way, so the study stops here. When the "
                f"cause is mended, start again in another folder. The last of them:\n{errors[-1]}"
            )

    @property
    def _left(self) -> int:
        """Steps that the exploration may still spend."""
        return self.config.budget - self.config.verdict_cost - self.spent

    # -- candidates --

    def _pool(self, peaks: PeakRange) -> list[Candidate]:
        """The schedules to choose from: evenly spread over the space. Owen 1998, Scrambling Sobol' points."""
        from scipy.stats import qmc

        points = qmc.Sobol(d=6, seed=derive_seed(self.config.seed, "pool")).random_base2(POOL_BITS)
        return [self._candidate(peaks, {}, point.tolist()) for point in points]

    def _starts(self, expected: float, peaks: PeakRange, count: int) -> list[Candidate]:
        """The first candidates: long linear warm-ups, which forgive most, to the expected peak, to one on the way from
        there to today's, and further ones in turn above and below. The decay is linear where the space has it (Defazio
        et al. 2023, Optimal Linear Decay Learning Rate Schedules and Further Refinements, arXiv 2310.07831)."""
        way = math.log10(self.config.current_peak / expected) / 2.0
        step = math.copysign(min(max(abs(way), 0.4), 0.8), way) if way else 0.8
        offsets = [0.0, step, *(0.4 * (k // 2) * (-1) ** k for k in range(4, 4 * count + 4))]
        distinct = dict.fromkeys(self._within(expected * 10.0**offset) for offset in offsets)
        longest = self.config.space.warmup.steps(self.config.total_steps, self.config.steps_per_epoch)[1]
        fixed: dict[str, float | str] = {"warmup_steps_sqrt": math.sqrt(longest)}
        for part, choices in (("shape", self.config.space.shapes), ("decay", self.config.space.decay)):
            if "linear" in choices:
                fixed[part] = "linear"
        return [self._candidate(peaks, fixed | {"peak": peak}, [0.0] * 6) for peak in list(distinct)[:count]]

    def _candidate(self, peaks: PeakRange, fixed: dict[str, float | str], point: Sequence[float]) -> Candidate:
        """The space's schedule at a point of the unit cube, some parameters fixed."""
        config = self.config
        chooser = _Point(fixed, point)
        schedule = config.space.suggest(chooser, peaks, config.total_steps, config.steps_per_epoch, config.beta2)
        return Candidate(schedule, chooser.params)

    def _within(self, peak: float) -> float:
        """The nearest peak of the space."""
        bounds = self.config.space.peak
        return peak if bounds is None else min(max(peak, bounds.low), bounds.high)

    def _propose(self, candidate: Candidate, peaks: PeakRange) -> _Trial:
        trial = self._new(candidate.schedule, "proposal", self.config.seed, params=candidate.params)
        trial.told = self._ask(peaks, candidate.params)
        return trial

    # -- Optuna: every trial is told to its study --

    def _ask(self, peaks: PeakRange, params: dict[str, float | str]) -> optuna.Trial:
        """Optuna's trial with these parameters."""
        study, config = self.optuna_study, self.config
        with _quiet():
            study.enqueue_trial(params)
            told = study.ask()
            config.space.suggest(told, peaks, config.total_steps, config.steps_per_epoch, config.beta2)
        return told

    def _tell(self, trial: _Trial) -> None:
        """Instability is an observation: a value no better than the worst, and its severity as a constraint. Told as
        NaN or as a failure the sampler would ignore it and go back to the same place."""
        study, told = self.optuna_study, trial.told
        assert told is not None
        with _quiet():
            if trial.outcome == "failed":
                study.tell(told, state=TrialState.FAIL)
                return
            verdict = trial.verdict
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


@dataclass
class _Point:
    """Answers what a space asks like an Optuna trial: with a fixed value, or with the next coordinate of a point of the
    unit cube, stretched over the range."""

    fixed: dict[str, float | str]
    point: Sequence[float]
    params: dict[str, float | str] = field(default_factory=dict)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        share = self.point[len(self.params) % len(self.point)]
        value = low * (high / low) ** share if log else low + (high - low) * share
        self.params[name] = min(max(float(self.fixed.get(name, value)), low), high)
        return float(self.params[name])

    def suggest_categorical(self, name: str, choices: list[str]) -> Any:
        share = self.point[len(self.params) % len(self.point)]
        self.params[name] = self.fixed.get(name, choices[int(share * len(choices))])
        return self.params[name]


def ramp(current_peak: float, steps: int) -> Schedule:
    """The probe: an exponential ramp from a thirtieth of today's rate to a hundred times of it."""
    return Schedule(
        peak=current_peak * 100.0,
        horizon=steps,
        warmup_steps=steps,
        shape=Exponential(),
        start_factor=1.0 / 3000.0,
        decay=ConstantDecay(),
    )


def peak_of_ramp(trace: Trace, current_peak: float) -> float:
    """The peak to expect, read off an exponential ramp of the rate: 0.4 of the highest rate at which the smoothed loss
    was at its lowest, within its noise. That rate lies above the best peaks. But no less than today's rate, unless the
    loss had risen above its start by then: where the ramp shows nothing, today's rate is the best guess.

    Example:
        >>> rate = np.geomspace(1e-4, 1.0, 100)
        >>> loss = 3.0 - np.log1p(100 * rate) + (rate / 0.1) ** 2
        >>> round(peak_of_ramp(Trace(rate, loss, loss), current_peak=1e-3), 2)
        0.04
    """
    finite = np.isfinite(trace.loss) & (trace.rate > 0)
    if not finite.any():
        return current_peak / 30.0  # broke at once
    loss, rate = trace.loss[finite], trace.rate[finite]
    smooth, weight = np.empty_like(loss), 0.0
    value = 0.0
    for i, item in enumerate(loss):
        value, weight = 0.9 * value + 0.1 * item, 0.9 * weight + 0.1
        smooth[i] = value / weight
    jumps = np.abs(np.diff(loss))
    noise = MAD_TO_SIGMA * float(np.median(jumps)) / math.sqrt(2.0) if len(jumps) else 0.0
    averaged = noise * math.sqrt(0.1 / 1.9)  # the noise of an average with a decay of 0.9
    low = np.flatnonzero(smooth <= smooth.min() + averaged)
    start = float(np.mean(loss[:3]))
    risen = np.flatnonzero(smooth > start + 3.0 * math.hypot(averaged, noise / math.sqrt(3.0)))
    broken = rate[risen[0]] if len(risen) else math.inf
    expected = OF_LOWEST * float(rate[low[-1]])
    return expected if broken < current_peak or rate[-1] < current_peak else max(expected, current_peak)


def _harsher(schedule: Schedule, broken: Schedule) -> bool:
    """Whether a schedule asks for at least as much as one that broke: no lower peak, no gentler warm-up."""
    return schedule.peak >= broken.peak and features(schedule)[1] <= features(broken)[1]


def _final(trial: _Trial) -> float:
    assert trial.final_loss is not None
    return trial.final_loss


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
