"""How a study stands: what it has spent, what it has found, how long it takes still."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field

from autowarmup.schedule.schedule import Schedule
from autowarmup.search.trials import COMPARED, SegmentResult, TrialSpec
from autowarmup.training.objective import LOSS, Objective
from autowarmup.training.trace import Outcome, Trace


@dataclass(frozen=True)
class Best:
    """The trial with the best final value of the objective so far."""

    loss: float
    spec: TrialSpec
    objective: Objective

    @property
    def value(self) -> float:
        """The value in its own sign."""
        return self.objective.shown(self.loss)

    def describe(self) -> str:
        """Its loss and its schedule."""
        role = "the current one, " if self.spec.role == "baseline" else ""
        return (
            f"{self.objective.name} {self.value:.4g}, {in_words(self.spec.schedule)} ({role}trial {self.spec.number})"
        )


class Standing:
    """How a study stands.

    Args:
        budget: optimizer steps that the study may spend.
        horizon: optimizer steps of one whole run.
        objective: what trials are judged by.

    Example:
        >>> standing = Standing(budget=2_400, horizon=200)
        >>> standing.spent(), standing.time_left(), standing.best
        ('0.0 of 12.0 whole runs', None, None)
    """

    def __init__(self, budget: int, horizon: int, objective: Objective = LOSS) -> None:
        self.best: Best | None = None
        self._objective = objective
        self.now = "starting"
        self._budget, self._horizon = budget, horizon
        self._steps = 0
        self._unstable_steps = 0
        self._trained_here = 0
        self._since = time.monotonic()
        self._training = False
        self._outcomes: Counter[Outcome] = Counter()
        self._open: dict[int, _OpenTrial] = {}

    def trained(self, spec: TrialSpec, block: Trace) -> None:
        """A trial made steps."""
        self._saw(spec, block)
        self._trained_here += len(block)
        self._training = True
        self.now = f"{spec.role} {spec.number}: step {block.end:,} of {spec.schedule.horizon:,}"

    def found(self, spec: TrialSpec, result: SegmentResult) -> None:
        """A trial had made steps before this process began: they say nothing of how fast it is."""
        self._saw(spec, result.trace)
        self.segment_ended(result)
        self._since = time.monotonic()
        self.turned_to("reading what was trained before")

    def segment_ended(self, result: SegmentResult) -> None:
        """A part of a trial is over."""
        if trial := self._open.get(result.number):
            trial.reason = _reason(result)

    def ended(self, number: int, outcome: Outcome) -> str:
        """A trial is over.

        Returns:
            What became of it, in a few words.
        """
        self._outcomes[outcome] += 1
        trial = self._open.pop(number, None)
        if trial is None:
            return f"trial {number} {outcome}"
        if outcome == "unstable":
            self._unstable_steps += trial.steps
        if outcome == "completed" and trial.comparable and trial.loss is not None:
            found = Best(trial.loss, trial.spec.as_applied(trial.parts), self._objective)
            self.best = found if self.best is None else min(self.best, found, key=lambda best: best.loss)
        return f"trial {number} ({trial.spec.role}) {outcome}{trial.details(outcome)}"

    def turned_to(self, what: str) -> None:
        """Something other than training is under way."""
        self._training, self.now = False, what

    @property
    def share(self) -> float:
        """The share of the budget that is spent, 0 to 1."""
        return min(1.0, self._steps / self._budget)

    def spent(self) -> str:
        """The cost so far, in whole runs."""
        return f"{self._steps / self._horizon:.1f} of {self._budget / self._horizon:.1f} whole runs"

    def time_left(self) -> str | None:
        """The time that the rest of the budget takes, of which a study may spend less; None while that is unknown."""
        if not self._training:
            return None
        per_step = (time.monotonic() - self._since) / self._trained_here
        return f"at most {duration(per_step * max(0, self._budget - self._steps))} left"

    def counted(self) -> str:
        """Trials by outcome, and what the unstable ones cost."""
        words = [f"{count} {outcome}" for outcome, count in self._outcomes.items()]
        if self._unstable_steps:
            place = list(self._outcomes).index("unstable")
            words[place] += f" ({self._unstable_steps / self._steps:.0%} of steps)"
        return ", ".join(words)

    def _saw(self, spec: TrialSpec, trace: Trace) -> None:
        self._steps += len(trace)
        trial = self._open.setdefault(spec.number, _OpenTrial(spec, self._objective))
        trial.steps += len(trace)
        trial.parts.append(trace)
        if trace.evaluations:
            value = self._objective.of(trace.evaluations[-1])
            trial.loss = None if math.isnan(value) else value


@dataclass
class _OpenTrial:
    spec: TrialSpec
    objective: Objective
    steps: int = 0
    parts: list[Trace] = field(default_factory=list)
    loss: float | None = None
    reason: str = ""

    @property
    def comparable(self) -> bool:
        """Only trials of one seed compare: the best is the best of the search, before its confirmation."""
        return self.spec.role in COMPARED

    def details(self, outcome: Outcome) -> str:
        """What else there is to say of it."""
        if outcome in ("unstable", "failed"):
            return f" at step {self.steps:,}{self.reason}"
        loss = "" if self.loss is None else f", {self.objective.name} {self.objective.shown(self.loss):.4g}"
        return loss if outcome == "completed" else f" at step {self.steps:,}{loss}"


def _reason(result: SegmentResult) -> str:
    if result.instability is not None:
        return f" ({result.instability.kind})"
    if result.error is not None:
        return f": {last_line(result.error)}"
    return ""


def last_line(error: str) -> str:
    """The last line of a traceback, which names the exception.

    >>> last_line("Traceback (most recent call last): ...\\nValueError: 3\\n")
    'ValueError: 3'
    """
    return (error.strip().splitlines() or [""])[-1]


def in_words(schedule: Schedule) -> str:
    """A schedule's warm-up and peak, in a few words.

    >>> in_words(Schedule(peak=3e-3, horizon=300, warmup_steps=60, shape="linear"))
    'linear warm-up over 60 steps (20%) to 0.003'
    """
    groups = f", {schedule.treatment}" if schedule.groups else ""
    if not schedule.duration:
        return f"no warm-up, peak {schedule.peak:.3g}{groups}"
    share = f"{schedule.duration:,} steps ({schedule.duration / schedule.horizon:.0%})"
    return f"{schedule.shape.kind} warm-up over {share} to {schedule.peak:.3g}{groups}"


def duration(seconds: float) -> str:
    """
    >>> duration(75), duration(8_000)
    ('1:15', '2:13:20')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
