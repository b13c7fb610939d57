"""How long a worker may be silent before it is taken for hung."""

from __future__ import annotations

FACTOR = 10.0
"""A wait is too long that lasts this many times the longest seen."""
COLD = 10.0
"""A worker that has not trained yet may import, download and compile first: it gets so many times the patience."""


class Watchdog:
    """Learns from the waits between blocks of steps how long the next may take.

    Args:
        least_s: the least patience in seconds, > 0.

    Example:
        >>> watchdog = Watchdog(least_s=60.0)
        >>> watchdog.patience_s(warm=False), watchdog.patience_s(warm=True)
        (600.0, 60.0)
        >>> watchdog.seen(40.0)
        >>> watchdog.patience_s(warm=True)
        400.0
    """

    def __init__(self, least_s: float) -> None:
        self._least_s = least_s
        self._slowest_s = 0.0

    def seen(self, slowest_s: float) -> None:
        """A worker made progress, having waited at most so long between two blocks."""
        self._slowest_s = max(self._slowest_s, slowest_s)

    def patience_s(self, *, warm: bool) -> float:
        """Seconds, for a worker that has trained before (``warm``) or not."""
        patience_s = max(self._least_s, FACTOR * self._slowest_s)
        return patience_s if warm else COLD * patience_s
