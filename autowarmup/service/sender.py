"""Sends the events of a guarded run to the service that has its study, beside the training."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from pathlib import Path
from typing import Self

from autowarmup.errors import InputError, RemoteServiceError
from autowarmup.guard.events import Event
from autowarmup.service.client import RefusedError, ServiceClient

LOG = logging.getLogger("autowarmup.guard")

PAUSE_S, LAST_PAUSE_S = 5.0, 0.5
"""Between two tries where the service doesn't answer: while the training goes on, and at its end."""

PATIENCE_S = 60.0
"""Seconds for which the end of the training waits for what isn't delivered."""


class EventSender:
    """Sends the events of a guard to a service, where they are in the study's stream of events and on its page.

    Give it to the guard: ``Guard(..., on_event=sender)``. The training never waits for it: a thread sends. Where the
    service doesn't answer, the training goes on, and events are delivered as soon as it does. What is left at the end
    of the program, or of a ``with`` block, is waited for, a minute at most. The same event again is stored once, so a
    run that is resumed goes on under its name.

    Args:
        service: the service's address, such as ``"https://tuner.example:8700"``.
        study: the study's name there.
        run: the name of the run, of your own choice: letters, digits, dashes and underscores, at most 63.
        token: the token that the service knows you by; None where it asks for none.
        ca: certificates to trust, as a PEM file; None for those that this machine trusts.

    Raises:
        InputError: an argument can't be used.
        RefusedError: the service doesn't know the token or the study.

    With several processes (``torch.distributed``) make one in each, after the process group: only the first one sends.

    Example::

        sender = EventSender("https://tuner.example:8700", study="mine", run="night", token=token)
        guard = Guard(result, optimizer, mode="protect", model=model, on_event=sender)
    """

    def __init__(
        self, service: str, study: str, run: str, *, token: str | None = None, ca: str | Path | None = None
    ) -> None:
        from autowarmup.guard.agreement import Agreement

        self._client = ServiceClient(service, token, ca=None if ca is None else Path(ca))
        self._study, self._run = study, run
        self._waiting: list[Event] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._late = False
        self._thread: threading.Thread | None = None
        if Agreement().first:
            self._announced = self._announce()
            self._thread = threading.Thread(target=self._work, name=f"events of run {run}", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    def __call__(self, event: Event) -> None:
        """Takes an event, which is sent soon."""
        if self._thread is not None:
            with self._changed:
                self._waiting.append(event)
                self._changed.notify()

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Delivers what is left, and closes the connection. Events from then on aren't sent.

        Args:
            patience_s: seconds to wait for a service that doesn't answer.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            atexit.unregister(self.close)
            self._deadline = time.monotonic() + patience_s
            self._closing.set()
            with self._changed:
                self._changed.notify()
            thread.join()
            if self._waiting:
                LOG.warning(
                    "%d events of run %s were not delivered to %s", len(self._waiting), self._run, self._client.url
                )
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _announce(self) -> bool:
        """Tells the service of the run. Returns whether it has answered."""
        try:
            self._client.add_events(self._study, self._run, [], once=True)
            return True
        except (InputError, RefusedError):
            self._client.close()
            raise
        except RemoteServiceError as error:
            self._tell_late(error)
            return False

    def _work(self) -> None:
        """Sends what waits, until the end."""
        while self._has_some():
            events = self._waiting[:]
            try:
                self._client.add_events(self._study, self._run, events, once=True)
            except (RefusedError, InputError) as error:
                LOG.warning("no more events of run %s are sent: %s", self._run, error)
                self._thread = None
                return
            except RemoteServiceError as error:
                self._tell_late(error)
                if not self._paused():
                    return
            else:
                self._announced, self._late = True, False
                with self._changed:
                    del self._waiting[: len(events)]

    def _has_some(self) -> bool:
        """Waits for something to send; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_due or self._closing.is_set())
            return self._is_due

    @property
    def _is_due(self) -> bool:
        return bool(self._waiting) or not self._announced

    def _paused(self) -> bool:
        """Waits until the next try; False where there is none."""
        if not self._closing.is_set():
            self._closing.wait(PAUSE_S)
            return True
        time.sleep(LAST_PAUSE_S)
        return time.monotonic() < self._deadline

    def _tell_late(self, error: RemoteServiceError) -> None:
        """Warns once, until the service answers again."""
        if not self._late:
            LOG.warning("%s: the training goes on, and events of run %s are sent later", error, self._run)
        self._late = True
