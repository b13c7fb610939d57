"""Progress for people: what a study is doing, how long it will take, what it has found."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from autowarmup.store import Report, TrialSpec
from autowarmup.trace import Outcome, Trace

if TYPE_CHECKING:
    from autowarmup.tracking import Delivery


class Progress(Protocol):
    """Told what happens in a study, as it happens."""

    def observe(self, spec: TrialSpec, block: Trace) -> None:
        """A trial trained some steps."""

    def replayed(self, spec: TrialSpec, report: Report) -> None:
        """A part of a trial was found in the study's store."""

    def finished(self, number: int, outcome: Outcome) -> None:
        """A trial is over."""

    def delivered(self, delivery: Delivery | None) -> None:
        """MLflow has what it could take; None where not everything arrived."""

    def close(self) -> None:
        """The study is over."""


class Silent:
    """Says nothing, but where records didn't reach MLflow."""

    def observe(self, spec: TrialSpec, block: Trace) -> None: ...

    def replayed(self, spec: TrialSpec, report: Report) -> None: ...

    def finished(self, number: int, outcome: Outcome) -> None: ...

    def delivered(self, delivery: Delivery | None) -> None: ...

    def close(self) -> None: ...


class Bar:
    """A live line on standard error: the share of the budget spent, time left, trials by outcome, the best so far."""

    def __init__(self, budget: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[found]}"),
            console=Console(stderr=True),
        )
        self._bar.start()
        self._task = self._bar.add_task("starting", total=budget, found="")
        self._outcomes: Counter[str] = Counter()
        self._best: float | None = None
        self._latest: dict[int, float] = {}

    def observe(self, spec: TrialSpec, block: Trace) -> None:
        self._saw(spec, block)
        self._bar.update(self._task, advance=len(block), description=f"{spec.role} {spec.number}", found=self._found())

    def replayed(self, spec: TrialSpec, report: Report) -> None:
        self._saw(spec, report.trace)
        self._bar.update(self._task, advance=len(report.trace), description="resuming", found=self._found())

    def finished(self, number: int, outcome: Outcome) -> None:
        self._outcomes[outcome] += 1
        if outcome == "completed" and number in self._latest:
            self._best = min(self._latest[number], self._best if self._best is not None else float("inf"))
        self._bar.update(self._task, found=self._found())

    def delivered(self, delivery: Delivery | None) -> None: ...

    def close(self) -> None:
        self._bar.stop()

    def _saw(self, spec: TrialSpec, block: Trace) -> None:
        if block.checkpoints:
            self._latest[spec.number] = block.checkpoints[-1].val_loss

    def _found(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self._outcomes.items())
        best = "" if self._best is None else f"; best loss {self._best:.4f}"
        return counts + best


def progress_for(budget: int) -> Progress:
    """A live line where a person is watching, silence elsewhere."""
    return Bar(budget) if sys.stderr.isatty() else Silent()
