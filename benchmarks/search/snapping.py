"""The search proposes schedules of a continuous space; a table holds those of its grid. Each becomes the nearest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from autowarmup.schedule.ranges import PeakRange
from autowarmup.schedule.schedule import Schedule
from autowarmup.search.candidates import Candidate, Candidates
from autowarmup.search.config import TuneConfig
from autowarmup.search.surrogate import features

LENGTHS = (0.5, 0.3, 0.4, 0.3)
"""How far schedules may differ in each of their features to be much alike."""
POOL = 0.6
"""Share of the grid that a search may choose from, drawn by its seed, as the search draws its pool from a space."""


def nearest(schedule: Schedule, schedules: Iterable[Schedule]) -> Schedule:
    """The schedule that is most like another one, by the surrogate's features."""
    return min(schedules, key=lambda other: _distance(other, schedule))


class GridCandidates(Candidates):
    """A search's candidates, snapped to a part of the grid."""

    def __init__(self, config: TuneConfig, grid: Sequence[Schedule]) -> None:
        super().__init__(config)
        chosen = np.random.default_rng(config.seed).permutation(len(grid))[: round(POOL * len(grid))]
        self._grid = [Candidate(grid[i], {}) for i in sorted(chosen.tolist())]

    def pool(self, peaks: PeakRange) -> list[Candidate]:
        return list(self._grid)

    def starts(self, expected: float, peaks: PeakRange, count: int) -> list[Candidate]:
        schedules = [candidate.schedule for candidate in self._grid]
        wanted = super().starts(expected, peaks, count)
        return [Candidate(s, {}) for s in dict.fromkeys(nearest(start.schedule, schedules) for start in wanted)]


def _distance(first: Schedule, second: Schedule) -> float:
    near = np.subtract(features(first), features(second)) / LENGTHS
    return float((near**2).sum())
