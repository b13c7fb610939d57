"""How far a study is, read from its store without its traces."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

from autowarmup.instability import Instability
from autowarmup.search.trials import TrialSpec
from autowarmup.training.trace import Outcome


class TrialOverview(NamedTuple):
    """A trial without what it recorded.

    Args:
        spec: the trial as it was decided.
        outcome: how it ended, None while it is open.
        until: the step that its last segment was to reach, 0 before the first has ended.
        instability: what ended it, if that was one.
    """

    spec: TrialSpec
    outcome: Outcome | None
    until: int
    instability: Instability | None


class Overview:
    """The study in the file ``path``, read-only."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30.0, isolation_level=None)

    def version(self) -> int:
        """A number that changes with every transaction of another connection."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def trials(self) -> list[TrialOverview]:
        """All trials, in order."""
        query = (
            "SELECT spec, outcome, coalesce(max(until), 0), max(instability) FROM trials "
            "LEFT JOIN segments ON segments.number = trials.number GROUP BY trials.number ORDER BY trials.number"
        )
        return [
            TrialOverview(
                TrialSpec.model_validate_json(spec),
                outcome,
                until,
                Instability.model_validate_json(found) if found else None,
            )
            for spec, outcome, until, found in self._db.execute(query)
        ]
