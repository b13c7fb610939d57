"""Studies that never trained anything: an analytic loss surface with noise, and a collapse above a
boundary."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from autowarmup.instability.instability import Instability, Kind
from autowarmup.schedule.ranges import PeakRange
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.conclusion import concluded
from autowarmup.search.config import TuneConfig
from autowarmup.search.confirmation import Challenger, Confirmation
from autowarmup.search.trial_state import TrialState
from autowarmup.search.trials import Role, SegmentResult, TrialSpec
from autowarmup.search.verdict import Verdict
from autowarmup.study.exchanges import gain_of
from autowarmup.study.result import TrialRecord, TuneResult
from autowarmup.study.store import StoredTrial
from autowarmup.training.trace import Evaluation, Outcome, Trace

HORIZON = 300
BEST = 0.006
"""The peak with the lowest final loss."""
TRIVIAL = 3.25


class FakeStudy:
    """Builds one study, trial by trial.

    Args:
        proposals: how many.
        collapse_at: the peak above which training without warm-up breaks; a 30% warm-up moves it up
        threefold.
        kinds: what goes wrong there.
        current_peak: the peak of the current schedule, which has no warm-up.
        pairs: how many fresh seeds there are.
        probe: whether a ramp measured the peak.
        prune: whether proposals stop at rungs.
        validation, ema, grad_norm: whether trials record them.
        raising: every trial fails in the user's code.
        shapes: warm-up shapes.
        fixed_peak: the space has one peak only, the current one.
        wanted_steps: the length of the run that the schedule is for; the study trains ``HORIZON`` steps.
        text: a text of the user's, in the task and in tracebacks.
    """

    def __init__(
        self,
        *,
        proposals: int = 36,
        collapse_at: float = 0.02,
        kinds: tuple[Kind, ...] = ("silent-failure", "divergence", "non-finite"),
        current_peak: float = 0.016,
        pairs: int = 3,
        probe: bool = True,
        prune: bool = True,
        validation: bool = True,
        ema: bool = True,
        grad_norm: bool = True,
        raising: bool = False,
        shapes: tuple[str, ...] = ("linear", "cosine"),
        fixed_peak: bool = False,
        wanted_steps: int = HORIZON,
        text: str = "digits",
        seed: int = 0,
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.collapse_at, self.kinds, self.prune = collapse_at, kinds, prune
        self.validation, self.ema, self.grad_norm, self.raising = validation, ema, grad_norm, raising
        self.text = text
        peaks = None if probe else PeakRange(low=3e-4, high=0.1)
        if fixed_peak:
            peaks, probe = PeakRange(low=current_peak, high=current_peak), False
        self.fixed_peak = current_peak if fixed_peak else None
        self.config = TuneConfig(
            total_steps=wanted_steps,
            tune_steps=None if wanted_steps == HORIZON else HORIZON,
            budget=20 * HORIZON,
            space=SearchSpace.model_validate({"shapes": shapes, "peak": peaks}),
            current_peak=current_peak,
            confirm_seeds=pairs,
            task={"model": text},
        )
        self.trials: list[StoredTrial] = []
        if probe:
            self._probe()
        self._train(1, "baseline", self.config.current_schedule)
        for candidate in range(2, proposals + 2):
            self._train(candidate, "proposal", self._propose(shapes))
        self.verdict = self._conclude()
        self.traces = {trial.spec.number: trial.trace for trial in self.trials}
        result = TuneResult(
            verdict=self.verdict,
            records=tuple(TrialRecord.of(trial) for trial in self.trials),
            peak_range=peaks or PeakRange(low=3e-4, high=0.1),
            config=self.config,
            budget=self.config.budget_with(slots=1),
            study="/studies/fake",
        )
        self.result = result.model_copy(update={"gain": gain_of(result, self.traces)})

    def _propose(self, shapes: tuple[str, ...]) -> Schedule:
        peak = self.fixed_peak or 10 ** self.random.uniform(-3.5, -1)
        steps = round(self.random.uniform(0, math.sqrt(0.3 * HORIZON)) ** 2)
        shape = str(self.random.choice(shapes)) if steps else "none"
        steps = 0 if shape == "none" else steps
        return Schedule(peak=peak, horizon=HORIZON, warmup_steps=steps, shape=shape)

    def _final(self, schedule: Schedule) -> float:
        share = schedule.duration / HORIZON
        return 2.1 + 0.35 * math.log10(schedule.peak / BEST) ** 2 + 0.06 * (math.sqrt(share) - 0.35) ** 2

    def _breaks(self, schedule: Schedule) -> bool:
        limit = math.log(self.collapse_at) + 2.0 * math.sqrt(schedule.duration / HORIZON)
        return math.log(schedule.peak) + self.random.normal(0, 0.1) > limit

    def _train(self, candidate: int, role: Role, schedule: Schedule, seed: int = 0) -> StoredTrial:
        rungs = self.config.rungs
        broken = self._breaks(schedule)
        final = self._final(schedule) + self.random.normal(0, 0.006) + 0.02 * (seed % 5)
        until, outcome = HORIZON, "completed"
        if role == "proposal" and self.prune and not broken:
            rank = self.random.normal(0, 0.02) + final
            until = rungs[0] if rank > 2.15 else rungs[1] if rank > 2.115 else HORIZON
            outcome = "completed" if until == HORIZON else "pruned"
        trace = self._trace(schedule, final, until)
        verdict, error = None, None
        if self.raising:
            trace, outcome = Trace.empty(), "failed"
            error = f'Traceback (most recent call last):\n  File "task.py", line 3\nValueError: {self.text}'
        elif broken:
            trace, verdict = self._break(trace, schedule)
            outcome = "unstable"
        return self._add(candidate, role, seed, schedule, outcome, trace, verdict, error)  # type: ignore[arg-type]

    def _trace(self, schedule: Schedule, final: float, until: int) -> Trace:
        rate = schedule.curve()
        progress = np.cumsum(np.minimum(rate, 0.02) ** 0.5)
        clean = final + (4.2 - final) * np.exp(-progress / 1.1)
        late = 0.06 * rate / BEST * np.minimum(1.0, np.arange(HORIZON) / 60)
        loss = clean + np.minimum(late, 0.4) + self.random.normal(0, 0.08, HORIZON)
        norm = 1 + self.random.gamma(2.0, 0.2, HORIZON) if self.grad_norm else np.full(HORIZON, np.nan)
        raw = clean + np.minimum(late, 0.4)
        evaluations = tuple(
            Evaluation(step, raw[step - 1], clean[step - 1] if self.ema else math.nan)
            for step in range(self.config.eval_every, until + 1, self.config.eval_every)
        )
        return Trace(rate[:until], loss[:until], norm[:until], evaluations if self.validation else ())

    def _break(self, trace: Trace, schedule: Schedule) -> tuple[Trace, Instability]:
        kind = self.kinds[int(self.random.integers(len(self.kinds)))]
        onset = int(min(schedule.duration * self.random.uniform(0.5, 1.0) + self.random.uniform(4, 25), 250))
        end = min(onset + 45, HORIZON)
        loss = trace.loss[:end].copy()
        after = np.arange(end - onset)
        start = loss[max(0, onset - 5) : onset].mean()
        if kind == "non-finite":
            loss[onset:] = np.where(after < 3, start * 4.0**after, np.nan)
        elif kind == "divergence":
            loss[onset:] = start * np.exp(0.12 * after)
        else:
            loss[onset:] = TRIVIAL - (TRIVIAL - start) * np.exp(-after / 8) + self.random.normal(0, 0.05, len(after))
        found = Instability(
            kind=kind,
            severity=1.0,
            step=onset,
            lr=float(trace.lr[onset]),
            detected=end - 1,
            fatal=True,
            message=f"the loss left {start:.2f} and did not come back",
        )
        kept = tuple(evaluation for evaluation in trace.evaluations if evaluation.step <= onset)
        return Trace(trace.lr[:end], loss, trace.grad_norm[:end], kept), found

    def _probe(self) -> None:
        steps = self.config.probe_steps
        ramp = Schedule(
            peak=1.0,
            horizon=steps,
            warmup_steps=steps,
            shape="exponential",
            start_factor=1e-6,
            decay="constant",
        )
        rate = ramp.curve()
        broken = int(np.argmax(rate > 0.025))
        loss = 4.2 - 1.8 * np.minimum(1, np.arange(steps) / broken) + self.random.normal(0, 0.05, steps)
        loss[broken:] += 0.4 * np.arange(steps - broken)
        found = Instability(
            kind="divergence", severity=1.0, step=broken, lr=rate[broken], detected=broken + 20, fatal=True,
            message="the smoothed loss rose 5% above its minimum",
        )  # fmt: skip
        end = min(steps, broken + 21)
        trace = Trace(rate[:end], loss[:end], np.full(end, np.nan))
        self._add(0, "probe", 0, ramp, "unstable", trace, found, None)

    def _add(
        self,
        candidate: int,
        role: Role,
        seed: int,
        schedule: Schedule,
        outcome: Outcome,
        trace: Trace,
        verdict: Instability | None,
        error: str | None,
    ) -> StoredTrial:
        number = len(self.trials)
        spec = TrialSpec(number=number, candidate=candidate, role=role, seed=seed, schedule=schedule)
        result = SegmentResult(number, len(trace), trace, verdict, (), error, 0.0, 0.004 * len(trace))
        self.trials.append(StoredTrial(spec, outcome, (result,)))
        return self.trials[-1]

    def _conclude(self) -> Verdict:
        """The best proposal that completed meets the current schedule on fresh seeds, where it was better."""
        states = {trial.spec.candidate: state_of(trial) for trial in self.trials}
        proposals = [state for state in states.values() if state.spec.role == "proposal"]
        best = min((s for s in proposals if s.final_loss is not None), key=lambda s: s.final_loss or 0.0, default=None)
        current = states[1]
        confirmation = Confirmation(self.config, current, self._fresh)
        rival = math.inf if current.final_loss is None else current.final_loss * (1.0 - self.config.margin)
        challenger = None
        if best is not None and best.final_loss is not None and best.final_loss < rival:
            challenger = Challenger(best.spec.candidate, best.schedule, best.final_loss, noise=0.01)
            while (stage := confirmation.next_stage(challenger, [], left=10**9)) is not None:
                state = stage[0]
                trial = self._train(state.spec.candidate, "confirmation", state.schedule, state.spec.seed)
                state.take(trial.segments[0])
                state.outcome = trial.outcome
        return concluded(self.config, current, challenger, best, confirmation)

    def _fresh(self, schedule: Schedule, candidate: int, seed: int, stop_only_on_nonfinite: bool) -> TrialState:
        spec = TrialSpec(number=0, candidate=candidate, role="confirmation", seed=seed, schedule=schedule)
        return TrialState(spec)


def state_of(trial: StoredTrial) -> TrialState:
    """A stored trial as the search sees it."""
    return TrialState(trial.spec, trial.trace, trial.instability, trial.error, trial.outcome)


def fake_study(**settings: Any) -> tuple[TuneResult, dict[int, Trace]]:
    """The result of a :class:`FakeStudy`, and its traces."""
    study = FakeStudy(**settings)
    return study.result, study.traces


def with_infinite_losses(traces: dict[int, Trace]) -> dict[int, Trace]:
    """The same traces, the last losses and validations infinite."""
    return {
        number: replace(
            trace,
            loss=np.where(np.arange(len(trace)) > len(trace) // 2, np.inf, trace.loss),
            evaluations=tuple(replace(c, val_loss=math.inf, val_loss_ema=math.inf) for c in trace.evaluations),
        )
        for number, trace in traces.items()
    }
