"""A run that can't be touched, judged from what it has written down."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from autowarmup.guard.events import Event, Reason
from autowarmup.guard.onlooker import Decision, Onlooker
from autowarmup.guard.reading import Begin, Entry
from autowarmup.instability.history import Step, median

FEW = 30
"""Fewer losses than this say little but whether they are finite."""
NO_LIMIT = 10**9
"""Nothing is done, so there is no number of interventions past which it would end."""
UNKNOWN_RATE = 1.0
"""Stands for learning rates where none is in the log: the detectors then see one that is constant."""
SEARCH = 8
"""Steps in a row that a loss scaler skips at the most, once it has found its scale."""
FATAL = ("rewind", "lower", "stop")
"""What is done where the weights are damaged."""
RATE = "learning rate where it began"


class Watch:
    """Judges a run from its steps as they come. Of the run of a guard it tells the guard's own events.

    A log may have one step in every so many. The judgement then is of a run of that many fewer steps, whose losses are
    those of the log: what lasts for less than a few of its lines isn't seen.

    Args:
        total: optimizer steps of the whole run; None: up to the last one in the log.

    Attributes:
        steps: the steps, in order; where a run went back to an earlier one, as it was made last.
        events: what was found.
        begin: what a guard's record begins with; None for the logs of others.

    Example:
        >>> watch = Watch(total=None)
        >>> watch.take([Step(step, 0.1, 2.0 / (1 + step) if step < 80 else math.nan, 1.0) for step in range(100)])
        >>> [event.describe() for event in watch.events]
        ['step 80: would skip: the loss is nan', 'step 88: would rewind: the loss is nan (since step 80)']
        >>> watch.verdict()
        'damaged since step 80: the loss is nan'
    """

    def __init__(self, total: int | None) -> None:
        self.steps: list[Step] = []
        self.events: list[Event] = []
        self.begin: Begin | None = None
        self._total = total
        self._every = 0
        self._onlooker: Onlooker | None = None

    @property
    def total(self) -> int:
        """Optimizer steps of the run; those so far where it isn't known."""
        if self._total is None and self.begin is not None:
            return self.begin.schedule.horizon
        return self._total or (self.steps[-1].number + 1 if self.steps else 1)

    @property
    def every(self) -> int:
        """How many optimizer steps there are from one step of the log to the next."""
        numbers = [step.number for step in self.steps[:1000]]
        return int(median(later - earlier for earlier, later in pairwise(numbers))) if len(numbers) > 1 else 1

    @property
    def knows_lr(self) -> bool:
        """Whether learning rates are in the log."""
        return self.lr is not None

    @property
    def lr(self) -> float | None:
        """The last learning rate in the log; None where there is none."""
        return next((step.lr for step in reversed(self.steps) if math.isfinite(step.lr)), None)

    @property
    def over(self) -> bool:
        """Whether the run has got to its end, or was stopped by its guard."""
        stopped = any(event.action == "stop" and event.applied for event in self.events)
        return stopped or (bool(self.steps) and self.steps[-1].number + self.every >= self.total)

    def take(self, entries: Iterable[Entry]) -> None:
        """Takes in what was added to the log."""
        for entry in entries:
            if isinstance(entry, Begin):
                self.begin = entry
            elif isinstance(entry, Event):
                self.events.append(entry)
            else:
                self._add(entry)
        if self.begin is None and self.steps:
            self._judge()

    def fatal(self) -> Event | None:
        """The first event that says that the run is damaged, and that nothing was done about it in time."""
        return next((event for event in self.events if _is_fatal(event)), None)

    def lost_since(self) -> int | None:
        """The step since which no loss was finite, or, for more steps than a loss scaler needs, no gradient; None where
        the last ones are. Transformers writes 0 for a loss that isn't."""
        row = 0
        while row < len(self.steps) and _is_lost(self.steps[-1 - row]):
            row += 1
        lost = row > SEARCH or (row > 0 and not math.isfinite(self.steps[-1].loss))
        return self.steps[-row].number if lost else None

    @property
    def damaged(self) -> bool:
        """Whether there is something fatal."""
        return self.fatal() is not None or (self.lost_since() is not None and not self._protected)

    @property
    def _protected(self) -> bool:
        return self.begin is not None and self.begin.protects

    def verdict(self) -> str:
        """In words."""
        if fatal := self.fatal():
            word = "stopped by its guard at" if fatal.applied else "damaged since"
            return f"{word} step {fatal.step if fatal.applied else fatal.began:,}: {fatal.message}"
        if (since := self.lost_since()) is not None:
            what = "gradient" if math.isfinite(self.steps[-1].loss) else "loss"
            return f"no {what} is finite since step {since:,}"
        done = sum(event.applied and event.action != "ok" for event in self.events)
        if done:
            return f"its guard has intervened, in {done} steps, and it went on"
        few = f"; {len(self.steps)} losses are too few to tell much" if len(self.steps) < FEW else ""
        return f"{len(self.events) or 'nothing'} found{', nothing fatal' if self.events else ''}{few}"

    def describe(self) -> str:
        """What there is, in one line."""
        if not self.steps:
            return "no steps yet"
        first, last = self.steps[0], self.steps[-1]
        every = f", every {self.every}th" if self.every > 1 else ""
        rate = "" if self.lr is None else f", learning rate {self.lr:.3g}"
        return (
            f"steps {first.number:,} to {last.number:,} of {self.total:,}{every}: loss {first.loss:.4g} -> "
            f"{last.loss:.4g}{rate}"
        )

    def plain(self) -> dict[str, Any]:
        """As plain values; a loss that isn't finite is None."""
        last = self.steps[-1] if self.steps else None
        hidden = set() if self.knows_lr else {"lr"}
        return {
            "steps": len(self.steps),
            "last_step": last and last.number,
            "every": self.every,
            "total": self.total,
            "loss": last.loss if last and math.isfinite(last.loss) else None,
            "events": [event.model_dump(mode="json", exclude=hidden) for event in self.events],
            "fatal": self.damaged,
            "verdict": self.verdict(),
        }

    def _add(self, step: Step) -> None:
        """Where a run went back, what it had made since is dropped."""
        if self.steps and step.number <= self.steps[-1].number:
            self.steps = [past for past in self.steps if past.number < step.number]
            self._onlooker = None
        self.steps.append(step)

    def _judge(self) -> None:
        """Judges the steps that weren't yet; all of them anew where another rhythm shows."""
        if self._onlooker is None or self._every != self.every:
            self._begin_judging()
        assert self._onlooker is not None
        for step in self.steps[self._seen :]:
            self._see(self._onlooker, step)

    def _begin_judging(self) -> None:
        self._every = self.every
        lines = max(1, self.total // self._every)
        self._onlooker = Onlooker(lines, 0, NO_LIMIT)
        self.events, self._seen, self._lr, self._peak = [], 0, UNKNOWN_RATE, -math.inf
        self._judged: list[int] = []
        self._rows: dict[Reason, int] = {}
        self._damaged = -1

    def _see(self, onlooker: Onlooker, step: Step) -> None:
        self._seen += 1
        self._lr = step.lr if math.isfinite(step.lr) else self._lr
        rising, self._peak = self._lr > self._peak, max(self._lr, self._peak)
        known = onlooker.judge.count
        decisions = onlooker.see(self._seen - 1, self._lr, step.loss, step.grad_norm, warming_up=rising)
        if onlooker.judge.count > known:
            self._judged.append(step.number)
        rows = {
            decision.finding.reason: self._rows.get(decision.finding.reason, self._began(step, decision))
            for decision in decisions
        }
        for decision in decisions:
            self._tell(step, decision, rows[decision.finding.reason])
        self._rows = rows

    def _began(self, step: Step, decision: Decision) -> int:
        return step.number if decision.of_batch else self._judged[-1 - decision.finding.ago]

    def _tell(self, step: Step, decision: Decision, began: int) -> None:
        """Makes an event of what is new: of the first step in a row, and not of what began before the run was found to
        be damaged."""
        action, finding, _ = decision
        if began <= self._damaged or (finding.reason in self._rows and action not in FATAL):
            return
        if finding.fatal and action == "ok":  # shortly after another intervention, which there was none of here
            action = "rewind"
        if action in FATAL:
            self._damaged = step.number
        evidence = {name: value for name, value in finding.evidence.items() if name != RATE or self.knows_lr}
        self.events.append(
            Event(
                step=step.number,
                began=began,
                action=action,
                applied=False,
                reason=finding.reason,
                message=finding.message,
                evidence=evidence,
                lr=self._lr,
                factor=1.0,
            )
        )


def _is_lost(step: Step) -> bool:
    return not math.isfinite(step.loss) or math.isinf(step.grad_norm)


def _is_fatal(event: Event) -> bool:
    return event.action == "stop" or (event.action in FATAL and not event.applied)
