"""A study as the command line runs it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click

from autowarmup.errors import StudyError
from autowarmup.shell import command_line, printable

if TYPE_CHECKING:
    from autowarmup.cli.command import Command
    from autowarmup.search.config import TuneConfig
    from autowarmup.search.trials import SegmentResult, TrialSpec
    from autowarmup.study.delivery import Delivery
    from autowarmup.study.result import TuneResult
    from autowarmup.training.trace import Outcome, Trace


class Session:
    """A study as the command line runs it: shows its progress, keeps the command in its folder, and has Ctrl-C stop it
    at the next block of steps, where nothing is half done. A second Ctrl-C stops it at once.

    Args:
        command: what runs it.
        print_result: called with the result as soon as the verdict is known.
    """

    def __init__(self, command: Command, print_result: Callable[[TuneResult], None]) -> None:
        from autowarmup.study.display import progress_for

        self.folder: Path | None = None
        self.result: TuneResult | None = None
        self.delivery: Delivery | None = None
        self._command, self._print_result, self._display = command, print_result, progress_for()
        self._process = os.getpid()
        self._stopping = False

    def __enter__(self) -> Self:
        self._handler = signal.getsignal(signal.SIGINT)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._handler)

    def how_to_go_on(self) -> str:
        """For the person who interrupted it."""
        if self.folder is None:
            return "autowarmup: interrupted before the study began"
        return f"autowarmup: interrupted. To go on:\n  {command_line('resume', self.folder)}"

    def started(self, config: TuneConfig, folder: Path, budget: int) -> None:
        self.folder = folder.absolute()
        try:
            self._command.save(folder)
        except OSError as error:
            raise StudyError(f"can't write the study folder {folder}: {error.strerror}") from error
        signal.signal(signal.SIGINT, self._interrupt)
        self._display.started(config, folder, budget)

    def observe(self, spec: TrialSpec, block: Trace) -> None:
        self._display.observe(spec, block)
        self._stop_if_asked()

    def segment_ended(self, result: SegmentResult) -> None:
        """The terminal's Ctrl-C reaches the task's own processes too, whose end may look like a failed trial."""
        self._display.segment_ended(result)
        if result.error is not None:
            self._stop_if_asked()

    def replayed(self, spec: TrialSpec, result: SegmentResult) -> None:
        self._display.replayed(spec, result)

    def finished(self, number: int, outcome: Outcome) -> None:
        self._display.finished(number, outcome)

    def nothing_trained(self, folder: Path, finished_at: float) -> None:
        self._display.nothing_trained(folder.absolute(), finished_at)

    def concluded(self, result: TuneResult) -> None:
        """From here on no training can be half done: Ctrl-C stops at once."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._display.concluded(result)
        self.result = result
        self._print_result(result)

    def doing(self, what: str) -> None:
        self._display.doing(what)

    def warned(self, message: str) -> None:
        click.echo(f"autowarmup: warning: {printable(message)}", err=True)

    def delivered(self, delivery: Delivery) -> None:
        self.delivery = delivery
        if not delivery.complete:
            self.warned(delivery.message)

    def close(self) -> None:
        self._display.close()

    def _interrupt(self, *_: object) -> None:
        """Writes past Python's streams, which may be in the middle of a line. On a terminal the display goes on below
        the message."""
        if os.getpid() != self._process:  # a forked worker of the task's: it ends when its parent does
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._stopping = True
        below = "\n" * max(1, self._display.height)
        message = "autowarmup: stopping after this block of steps; Ctrl-C again stops at once"
        os.write(2, f"\n{message}{below}".encode())

    def _stop_if_asked(self) -> None:
        if self._stopping:
            raise KeyboardInterrupt
