"""How long a worker may be silent before it is taken for hung."""

from __future__ import annotations

FACTOR = 10.0
"""A wait is too long that lasts this many times the longest seen."""


class Watchdog:
    """Learns from the waits between blocks of steps how long the next may take.

    Args:
        least_s: the least patience in seconds, > 0.

    Example:
        >>> watchdog = Watchdog(least_s=60.0)
        >>> watchdog.patience_s
        600.0
        >>> watchdog.seen(0.5)
        >>> watchdog.patience_s
        60.0
        >>> watchdog.seen(40.0)
        >>> watchdog.patience_s
        400.0
    """

    def __init__(self, least_s: float) -> None:
        self._least_s = least_s
        self._slowest_s: float | None = None

    def seen(self, slowest_s: float) -> None:
        """A worker made progress, having waited at most so long between two blocks."""
        self._slowest_s = max(self._slowest_s or 0.0, slowest_s)

    @property
    def patience_s(self) -> float:
        """Seconds. Before anything was seen, a first block may compile, download and load."""
        if self._slowest_s is None:
            return FACTOR * self._least_s
        return max(self._least_s, FACTOR * self._slowest_s)
