"""Progress for people: what a study is doing, how long it will take, what it has found."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.training.trace import Outcome, Trace

if TYPE_CHECKING:
    from autowarmup.search.config import TuneConfig
    from autowarmup.study.delivery import Delivery

PAUSE_S = 0.3
"""Seconds between two looks of the line: drawing it takes about a millisecond of the training's time."""

WIDE = 110
"""Columns from which on a terminal has room for the bar."""


@runtime_checkable
class Progress(Protocol):
    """Told what happens in a study, as it happens.

    What ``observe`` and ``segment_ended`` raise ends the study: the part of the trial that is under way is done again
    when the study goes on.
    """

    def started(self, config: TuneConfig, folder: Path) -> None:
        """The study in ``folder`` is about to run."""

    def observe(self, spec: TrialSpec, block: Trace) -> None:
        """A trial trained some steps."""

    def segment_ended(self, result: SegmentResult) -> None:
        """A part of a trial has ended, and is about to be written to the study's store."""

    def replayed(self, spec: TrialSpec, result: SegmentResult) -> None:
        """A part of a trial was found in the study's store."""

    def finished(self, number: int, outcome: Outcome) -> None:
        """A trial is over."""

    def doing(self, what: str) -> None:
        """Something that takes a moment, other than training, begins."""

    def delivered(self, delivery: Delivery) -> None:
        """MLflow has what it could take."""

    def close(self) -> None:
        """The study is over."""


class Silent:
    """Says nothing, but where records didn't reach MLflow."""

    def started(self, config: TuneConfig, folder: Path) -> None: ...

    def observe(self, spec: TrialSpec, block: Trace) -> None: ...

    def segment_ended(self, result: SegmentResult) -> None: ...

    def replayed(self, spec: TrialSpec, result: SegmentResult) -> None: ...

    def finished(self, number: int, outcome: Outcome) -> None: ...

    def doing(self, what: str) -> None: ...

    def delivered(self, delivery: Delivery) -> None:
        _warn(delivery)

    def close(self) -> None: ...


class Bar:
    """A live line on standard error: see :class:`Standing`."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False)
        self._standing: Standing | None = None
        self._due = 0.0

    def started(self, config: TuneConfig, folder: Path) -> None:
        self._standing = Standing(config.budget)
        self._live.start()
        self._draw()

    def observe(self, spec: TrialSpec, block: Trace) -> None:
        assert self._standing is not None
        self._standing.trained(spec, block)
        self._draw_now_and_then()

    def segment_ended(self, result: SegmentResult) -> None: ...

    def replayed(self, spec: TrialSpec, result: SegmentResult) -> None:
        assert self._standing is not None
        self._standing.found(spec, result.trace)
        self._draw_now_and_then()

    def finished(self, number: int, outcome: Outcome) -> None:
        assert self._standing is not None
        self._standing.ended(number, outcome)
        self._draw_now_and_then()

    def doing(self, what: str) -> None:
        if self._standing is not None:
            self._standing.turned_to(what)
            self._draw()

    def delivered(self, delivery: Delivery) -> None:
        _warn(delivery)

    def close(self) -> None:
        self.doing("")
        self._live.stop()

    def _draw_now_and_then(self) -> None:
        if time.monotonic() >= self._due:
            self._draw()

    def _draw(self) -> None:
        from rich.text import Text

        assert self._standing is not None
        line = self._standing.line(bar=self._console.width >= WIDE)
        self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        self._due = time.monotonic() + PAUSE_S


class Standing:
    """How a study stands: the share of its budget spent, time left, the best so far, trials by outcome, what is under
    way.

    Example:
        >>> standing = Standing(budget=1_000)
        >>> standing.turned_to("writing the report")
        >>> standing.line()
        '  0%  writing the report'
    """

    def __init__(self, budget: int) -> None:
        self._now = "starting"
        self._training = False
        self._budget = budget
        self._steps = 0
        self._trained = 0
        self._since = time.monotonic()
        self._outcomes: Counter[str] = Counter()
        self._losses: dict[int, float] = {}
        self._best: tuple[float, int] | None = None

    def trained(self, spec: TrialSpec, block: Trace) -> None:
        """A trial made steps."""
        self._saw(spec, block)
        self._trained += len(block)
        self._training = True
        self._now = f"{spec.role} {spec.number}: step {block.end:,} of {spec.schedule.horizon:,}"

    def found(self, spec: TrialSpec, trace: Trace) -> None:
        """A trial had made steps before this process began: they say nothing of how fast it is."""
        self._saw(spec, trace)
        self._since = time.monotonic()
        self.turned_to("taking up what is done")

    def ended(self, number: int, outcome: Outcome) -> None:
        """A trial is over."""
        self._outcomes[outcome] += 1
        loss = self._losses.pop(number, None)
        if outcome == "completed" and loss is not None:
            self._best = min((loss, number), self._best or (float("inf"), number))

    def turned_to(self, what: str) -> None:
        """Something other than training is under way."""
        self._training, self._now = False, what

    def line(self, bar: bool = False) -> str:
        """All of it, the most important first."""
        share = min(1.0, self._steps / self._budget)
        parts = [f"{share:4.0%}", _bar(share) if bar else "", self._time_left(), self._best_so_far()]
        parts += [", ".join(f"{count} {outcome}" for outcome, count in self._outcomes.items()), self._now]
        return "  ".join(part for part in parts if part)

    def _saw(self, spec: TrialSpec, trace: Trace) -> None:
        """Only trials of one seed compare: the best is the best of the search, before its confirmation."""
        self._steps += len(trace)
        if trace.evaluations and spec.role in ("baseline", "proposal"):
            self._losses[spec.number] = trace.evaluations[-1].val_loss

    def _time_left(self) -> str:
        if not self._training:
            return ""
        per_step = (time.monotonic() - self._since) / self._trained
        return f"{_duration(per_step * max(0, self._budget - self._steps))} left"

    def _best_so_far(self) -> str:
        return "" if self._best is None else f"best {self._best[0]:.4g} (trial {self._best[1]})"


def progress_for(shown: bool | None = None) -> Progress:
    """A live line where standard error is a terminal, silence elsewhere; or as told. A process may have no standard
    error at all."""
    watched = sys.stderr is not None and sys.stderr.isatty()
    return Bar() if (watched if shown is None else shown) else Silent()


def _bar(share: float, width: int = 16) -> str:
    full = round(share * width)
    return "\N{BOX DRAWINGS HEAVY HORIZONTAL}" * full + "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * (width - full)


def _duration(seconds: float) -> str:
    """
    >>> _duration(75), _duration(8_000)
    ('1:15', '2:13:20')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _warn(delivery: Delivery) -> None:
    if not delivery.complete:
        logging.getLogger("autowarmup").warning(delivery.message)
