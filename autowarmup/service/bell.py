"""A bell: how the coroutines of a server wait for what threads do."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

T = TypeVar("T")


class Bell:
    """Rings for coroutines that wait for a change in another thread."""

    def __init__(self) -> None:
        self._listening: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._lock = threading.Lock()

    def ring(self) -> None:
        """Wakes all that listen."""
        with self._lock:
            listening = [*self._listening]
        for loop, event in listening:
            loop.call_soon_threadsafe(event.set)

    @contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever it rings. Clear it before you look."""
        entry = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._listening.add(entry)
        try:
            yield entry[1]
        finally:
            with self._lock:
                self._listening.discard(entry)

    async def when(self, found: Callable[[], T | None], seconds: float, look_s: float = math.inf) -> T | None:
        """What ``found`` returns, as soon as that is not None; None where that takes too long. It is asked at each
        ring, and every ``look_s`` seconds where what it looks for may come without one."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        with self.listening() as rung:
            while True:
                rung.clear()
                if (value := found()) is not None or loop.time() >= end:
                    return value
                await rung_within(rung, min(end - loop.time(), look_s))


async def rung_within(rung: asyncio.Event, seconds: float) -> None:
    """Waits for the bell that sets an event, at most so many seconds."""
    with suppress(TimeoutError):
        await asyncio.wait_for(rung.wait(), seconds)
