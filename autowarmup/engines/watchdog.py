"""How long a worker may go without progress before it counts as hung."""

from __future__ import annotations

FACTOR = 10.0
"""A worker counts as hung after this many times the longest wait between two blocks of steps so far."""
COLD = 10.0
"""Factor on the timeout of a worker that has not trained yet: it may have to import, download or compile first."""


class Watchdog:
    """Derives a timeout for hung workers from the waits between blocks of steps so far.

    Args:
        min_timeout_s: the shortest timeout of a worker that has trained before, in seconds, > 0.

    Example:
        >>> watchdog = Watchdog(min_timeout_s=60.0)
        >>> watchdog.timeout_s(warm=False), watchdog.timeout_s(warm=True)
        (600.0, 60.0)
        >>> watchdog.record(40.0)
        >>> watchdog.timeout_s(warm=True)
        400.0
    """

    def __init__(self, min_timeout_s: float) -> None:
        self._min_timeout_s = min_timeout_s
        self._slowest_s = 0.0

    def record(self, slowest_s: float) -> None:
        """Takes note of a worker's longest wait between two blocks of steps, in seconds."""
        self._slowest_s = max(self._slowest_s, slowest_s)

    def timeout_s(self, *, warm: bool) -> float:
        """Seconds without progress after which a worker counts as hung. ``warm``: it has trained before."""
        timeout_s = max(self._min_timeout_s, FACTOR * self._slowest_s)
        return timeout_s if warm else COLD * timeout_s
