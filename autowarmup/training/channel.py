"""What connects a training loop in a thread with the trial that pulls it: one of the two runs at a time."""

from __future__ import annotations

import queue
import threading
from dataclasses import replace

from autowarmup.training.trace import Evaluation, Trace


class End:
    """The loop has ended, by itself or with an exception."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Channel:
    """Hands a loop's steps to its trial.

    A step is complete, and is handed over, when the loop reports the next one or ends: until then evaluations can be
    added to it. So the loop is one step ahead of its trial.

    Attributes:
        stopped: whether the loop has been told to stop.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._latest: Trace | None = None
        self._items: queue.SimpleQueue[Trace | End] = queue.SimpleQueue()
        self._turn = threading.Semaphore(0)

    # The loop's side.

    def wait(self) -> None:
        """Waits until the trial pulls."""
        self._turn.acquire()

    def report(self, step: Trace) -> None:
        """The loop has made a step. Hands over the one before, and waits until the trial pulls the next."""
        if self._latest is not None:
            self._items.put(self._latest)
            self._latest = None
            if not self.stopped:
                self.wait()
        if not self.stopped:
            self._latest = step

    def add(self, evaluation: Evaluation) -> bool:
        """Adds an evaluation to the step that was reported last, in place of one that it has. False where there is
        none: the loop has been told to stop."""
        if self._latest is not None:
            self._latest = replace(self._latest, evaluations=(evaluation,))
        return self._latest is not None

    def end(self, error: BaseException | None) -> None:
        """The loop has ended."""
        if self._latest is not None:
            self._items.put(self._latest)
        self._items.put(End(error))

    # The trial's side.

    def pull(self) -> Trace | End:
        """Lets the loop go on until the next step is complete, and returns that."""
        self._turn.release()
        return self._items.get()

    def stop(self, timeout: float | None) -> bool:
        """Tells the loop to stop and waits until it has; False where it has not after ``timeout`` seconds."""
        self.stopped = True
        self._turn.release()
        try:
            while not isinstance(self._items.get(timeout=timeout), End):
                pass
        except queue.Empty:
            return False
        return True
