"""Simulated time: trials that run beside each other, as many at once as there are slots."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class Slots(Generic[T]):
    """What runs at a time, and when the next of it ends. Time is counted in optimizer steps of one trial.

    Args:
        number: how many segments can run at once, >= 1.

    Attributes:
        now: the time, 0 at first.
    """

    def __init__(self, number: int) -> None:
        self.number, self.now = number, 0
        self._running: list[tuple[int, int, T]] = []
        self._starts = count()

    @property
    def free(self) -> bool:
        """Whether one more segment can start."""
        return len(self._running) < self.number

    def start(self, segment: T, end: int) -> None:
        """Occupies a slot with a segment until the time ``end``."""
        heappush(self._running, (end, next(self._starts), segment))

    def wait(self) -> T:
        """The next segment to end, of several at the same time the one that started first. It is ``now`` then."""
        self.now, _, segment = heappop(self._running)
        return segment
