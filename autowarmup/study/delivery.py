"""How far MLflow is behind the study."""

from __future__ import annotations

from pathlib import Path

from autowarmup.shell import command_line
from autowarmup.values import Frozen


class Delivery(Frozen):
    """What MLflow has of a study.

    Args:
        folder: the study's folder.
        uri: the tracking URI, without its password.
        page: where MLflow's page shows the study's trials, as the last part of an address; None before MLflow was
            reached.
        trials: trials in the study.
        delivered: of these, the ones that MLflow is known to have as they are in the study.
        points: metric values that were sent.
        error: why the rest, or the study's own run, isn't there; None where all is.
    """

    folder: str
    uri: str
    page: str | None = None
    trials: int = 0
    delivered: int = 0
    points: int = 0
    error: str | None = None

    @property
    def complete(self) -> bool:
        return self.error is None and self.delivered == self.trials

    @property
    def message(self) -> str:
        """One line for people: what is missing, why, and what to do about it."""
        if self.complete:
            return f"MLflow has all {self.trials} trials: {self.uri}"
        return (
            f"MLflow at {self.uri} is known to have {self.delivered} of {self.trials} trials "
            f"({self.error or 'the others are on their way'}). Nothing is lost: "
            f"`{command_line('sync', Path(self.folder))}` delivers the rest"
        )
