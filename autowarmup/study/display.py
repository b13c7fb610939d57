"""Progress on standard error: a live display on a terminal, plain lines in a job's log or a notebook."""

from __future__ import annotations

import math
import os
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.shell import printable
from autowarmup.study.progress import Silent
from autowarmup.study.standing import Standing
from autowarmup.training.trace import Outcome, Trace

if TYPE_CHECKING:
    from rich.live import Live
    from rich.segment import ControlCode
    from rich.text import Text

    from autowarmup.search.config import TuneConfig
    from autowarmup.study.result import TuneResult

PAUSE_S = 0.3
"""Seconds between two drawings: one takes about a millisecond of the training's time."""

LINE_S = 30.0
"""Seconds after which a line says how a trial goes that has not ended."""

WIDEST = 110
"""Columns that are used at most: longer lines are hard to read, and break when the window is made smaller."""


def progress_for(shown: bool | None = None) -> LiveDisplay | LogLines | Silent:
    """Live on a terminal, lines elsewhere; False: nothing."""
    if shown is False or sys.stderr is None:
        return Silent()
    live = sys.stderr.isatty() and os.environ.get("TERM") not in (None, "", "dumb", "unknown")
    return LiveDisplay() if live else LogLines()


class LogLines(Silent):
    """A line at the start, for each trial that ended, and every half minute in between."""

    def started(self, config: TuneConfig, folder: Path, budget: int) -> None:
        self._standing = Standing(budget, config.horizon, config.objective)
        self._found = 0
        self._due = time.monotonic() + LINE_S
        _say(f"study {folder}: at most {budget / config.horizon:.1f} runs of {config.horizon:,} steps")

    def observe(self, spec: TrialSpec, block: Trace) -> None:
        self._standing.trained(spec, block)
        self._tell_of_found()
        if time.monotonic() >= self._due:
            self._tell(self._standing.now)

    def segment_ended(self, result: SegmentResult) -> None:
        self._standing.segment_ended(result)

    def replayed(self, spec: TrialSpec, result: SegmentResult) -> None:
        self._standing.found(spec, result)
        self._found += len(result.trace)

    def finished(self, number: int, outcome: Outcome) -> None:
        before = self._standing.best
        what = self._standing.ended(number, outcome)
        if self._found:
            return
        best = self._standing.best
        if best is not None:
            what += f"; best so far {best.describe()}" if best is not before else f"; best {best.value:.4g}"
        self._tell(what)

    def nothing_trained(self, folder: Path, finished_at: float) -> None:
        self._found = 0
        _say(nothing_trained(folder, finished_at))

    def concluded(self, result: TuneResult) -> None:
        self._tell_of_found()
        _say(f"verdict: {result.verdict.kind}, after {self._standing.spent()}")

    def doing(self, what: str) -> None:
        _say(what)

    def _tell(self, what: str) -> None:
        left = self._standing.time_left()
        _say(f"{self._standing.share:4.0%}{f', {left}' if left else ''}: {what}")
        self._due = time.monotonic() + LINE_S

    def _tell_of_found(self) -> None:
        if self._found:
            _say(f"{self._found:,} steps were trained before, and are not trained again")
            self._found = 0


class LiveDisplay(Silent):
    """Three lines that are drawn again and again: what is spent and how long it takes still, the best so far, what is
    under way. Once the verdict is known they go; what comes after it has one line."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._live = self._new_live()
        self._standing: Standing | None = None
        self._drawn: list[int] = []
        self._due = 0.0

    @property
    def height(self) -> int:
        return len(self._drawn) if self._live.is_started else 0

    def started(self, config: TuneConfig, folder: Path, budget: int) -> None:
        self._standing = Standing(budget, config.horizon, config.objective)
        self._live.start()
        self._draw()

    def observe(self, spec: TrialSpec, block: Trace) -> None:
        assert self._standing is not None
        self._standing.trained(spec, block)
        self._draw_when_due()

    def segment_ended(self, result: SegmentResult) -> None:
        assert self._standing is not None
        self._standing.segment_ended(result)

    def replayed(self, spec: TrialSpec, result: SegmentResult) -> None:
        assert self._standing is not None
        self._standing.found(spec, result)
        self._draw_when_due()

    def finished(self, number: int, outcome: Outcome) -> None:
        assert self._standing is not None
        self._standing.ended(number, outcome)
        self._draw_when_due()

    def nothing_trained(self, folder: Path, finished_at: float) -> None:
        self._console.print(f"autowarmup: {nothing_trained(folder, finished_at)}", markup=False, highlight=False)

    def concluded(self, result: TuneResult) -> None:
        self._standing = None
        self._live.transient = True
        self._live.stop()
        self._live, self._drawn = self._new_live(transient=True), []

    def doing(self, what: str) -> None:
        if self._standing is not None:
            self._standing.turned_to(what)
            self._draw()
        else:
            self._live.start()
            self._show([_dim(what)])

    def close(self) -> None:
        if self._standing is not None:
            self._draw()
        self._live.stop()

    def _new_live(self, transient: bool = False) -> Live:
        """Draws lines over the ones it drew before; a transient one's go when it stops."""
        from rich.live import Live

        return Live(console=self._console, auto_refresh=False, transient=transient)

    def _draw_when_due(self) -> None:
        if time.monotonic() >= self._due:
            self._draw()

    def _draw(self) -> None:
        assert self._standing is not None
        self._show(lines(self._standing, min(self._console.width, WIDEST)))
        self._due = time.monotonic() + PAUSE_S

    def _show(self, drawn: list[Text]) -> None:
        from rich.console import Group

        self._clear_wrapped()
        self._live.update(Group(*drawn), refresh=True)
        self._drawn = [line.cell_len for line in drawn]

    def _clear_wrapped(self) -> None:
        """A window that was made narrower wraps what is on it: the further rows go, the others are drawn over."""
        from rich.control import Control
        from rich.segment import ControlType

        wrapped = sum(max(0, math.ceil(cells / self._console.width) - 1) for cells in self._drawn)
        if wrapped:
            row: tuple[ControlCode, ...] = ((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
            self._console.control(Control(*row * wrapped))


def lines(standing: Standing, width: int) -> list[Text]:
    """What the live display shows, each line at most ``width`` columns wide."""
    from rich.text import Text

    left = standing.time_left()
    words = [standing.spent(), *([left] if left else [])]
    taken = 5 + sum(len(word) + 3 for word in words)
    full = round(standing.share * (bar := max(0, min(40, width - taken - 1))))
    spent = Text.assemble(
        (f"{standing.share:4.0%} ", "bold"),
        ("\N{BOX DRAWINGS HEAVY HORIZONTAL}" * full, "green"),
        ("\N{BOX DRAWINGS LIGHT HORIZONTAL}" * (bar - full), "bright_black"),
        *(f"   {word}" for word in words),
    )
    best = standing.best
    found = Text.assemble("best so far: ", (best.describe() if best else "none yet", "bold"))
    counted = standing.counted()
    now = Text(f"{standing.now}   trials: {counted}" if counted else standing.now)
    drawn = [spent, found, now]
    for line in drawn:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return drawn


def nothing_trained(folder: Path, finished_at: float) -> str:
    """That a study had finished before, and when.

    >>> nothing_trained(Path("/studies/a"), datetime(2026, 11, 27, 5, 10).timestamp())
    'the study in /studies/a finished on 2026-11-27 05:10: nothing was trained'
    """
    return (
        f"the study in {folder} finished on {datetime.fromtimestamp(finished_at):%Y-%m-%d %H:%M}: nothing was trained"
    )


def _dim(what: str) -> Text:
    from rich.text import Text

    return Text(what, style="bright_black")


def _say(text: str) -> None:
    """A line of a log. A log that can't be written ends no study."""
    with suppress(OSError):
        sys.stderr.write(f"{datetime.now():%H:%M:%S} autowarmup: {printable(text, longest=400)}\n")
        sys.stderr.flush()
