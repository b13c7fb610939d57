"""What a study tells while it runs: to a display, to the command line, to a test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from autowarmup.errors import StudyError
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.training.trace import Outcome, Trace

if TYPE_CHECKING:
    from autowarmup.search.config import TuneConfig
    from autowarmup.study.delivery import Delivery
    from autowarmup.study.result import TuneResult


@runtime_checkable
class Progress(Protocol):
    """Told what happens in a study, as it happens.

    What ``observe`` and ``segment_ended`` raise ends the study: the part of the trial that is under way is done again
    when the study goes on.
    """

    def started(self, config: TuneConfig, folder: Path, budget: int) -> None:
        """The study in ``folder`` is about to run. It may spend ``budget`` optimizer steps."""

    def observe(self, spec: TrialSpec, block: Trace) -> None:
        """A trial trained some steps."""

    def segment_ended(self, result: SegmentResult) -> None:
        """A part of a trial has ended, and is about to be written to the study's store."""

    def replayed(self, spec: TrialSpec, result: SegmentResult) -> None:
        """A part of a trial was found in the study's store."""

    def finished(self, number: int, outcome: Outcome) -> None:
        """A trial is over."""

    def nothing_trained(self, folder: Path, finished_at: float) -> None:
        """The study in ``folder`` had finished before, at ``finished_at`` (seconds since the epoch): its result comes
        from the store, and no step was trained. Comes before ``concluded``."""

    def concluded(self, result: TuneResult) -> None:
        """The verdict is known; nothing of it has been written yet."""

    def doing(self, what: str) -> None:
        """Something that takes a moment, other than training, begins."""

    def warned(self, message: str) -> None:
        """Something went wrong that does not change the result."""

    def delivered(self, delivery: Delivery) -> None:
        """MLflow has what it could take."""

    def close(self) -> None:
        """The study is over."""


class Silent:
    """Shows nothing; warnings go to the log ``autowarmup``. The base of all that shows more."""

    @property
    def height(self) -> int:
        """Lines on the terminal that are drawn again and again."""
        return 0

    def started(self, config: TuneConfig, folder: Path, budget: int) -> None: ...

    def observe(self, spec: TrialSpec, block: Trace) -> None: ...

    def segment_ended(self, result: SegmentResult) -> None: ...

    def replayed(self, spec: TrialSpec, result: SegmentResult) -> None: ...

    def finished(self, number: int, outcome: Outcome) -> None: ...

    def nothing_trained(self, folder: Path, finished_at: float) -> None: ...

    def concluded(self, result: TuneResult) -> None: ...

    def doing(self, what: str) -> None: ...

    def warned(self, message: str) -> None:
        logging.getLogger("autowarmup").warning(message)

    def delivered(self, delivery: Delivery) -> None:
        if not delivery.complete:
            self.warned(delivery.message)

    def close(self) -> None: ...


@contextmanager
def warning_of_failure(what: str, progress: Progress) -> Iterator[None]:
    """Writes what comes after the verdict: where the disk or the store refuses, that is a warning, no exception.

    Args:
        what: what is written, for the warning.
        progress: gets the warning.
    """
    try:
        yield
    except (OSError, StudyError) as error:
        progress.warned(
            f"can't write {what}: {error}. When that is mended, make the same call again: it trains nothing"
        )
