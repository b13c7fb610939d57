"""Reports of a trial that a worker has leased."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from autowarmup.errors import RemoteServiceError
from autowarmup.search.trials import SegmentResult
from autowarmup.service.client import RefusedError, ServiceClient
from autowarmup.service.messages import MOST_STEPS, Completion, Instruction, LeasedTrial, Report
from autowarmup.service.traces import part_of, report_of
from autowarmup.training.trace import Trace

INTERVAL_S, INTERVAL_STEPS = 1.0, 100
"""A report is sent after so many seconds or optimizer steps, whichever comes first."""

LOST = ("lease-lapsed", "steps-missing", "not-running", "unknown-trial")
"""What the service says where a trial is not, or can't be, this worker's any more."""

MOST_REASON = 20_000
"""Characters of a traceback that the service takes."""


class DroppedError(RemoteServiceError):
    """The service doesn't want this training of the trial any more."""


class Reporter:
    """Reports a trial's steps under one lease.

    Args:
        client: sends the reports.
        study: the study's name on the service.
        leased: the trial.
    """

    def __init__(self, client: ServiceClient, study: str, leased: LeasedTrial) -> None:
        self._client, self._study, self._leased = client, study, leased
        self._number = leased.spec.number
        self._seq, self._known = leased.seq, leased.steps
        self._until = leased.until
        self._pending: list[Trace] = []
        self._sent_at = time.monotonic()
        self._lock = threading.Lock()

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Keeps the lease, within the block, also where there is nothing to report for long."""
        ended = threading.Event()
        thread = threading.Thread(target=self._beat, args=(ended,), name=f"lease of trial {self._number}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def observe(self, block: Trace) -> None:
        """Takes what was recorded, and reports it now and then; the end of the segment is left to :meth:`end`.

        Raises:
            DroppedError: the trial is not to go on.
        """
        if block.end <= self._known:  # trained again
            return
        self._pending.append(block)
        waiting = sum(map(len, self._pending))
        due = waiting >= INTERVAL_STEPS or time.monotonic() - self._sent_at >= INTERVAL_S
        if due and block.end < self._until and self._send().action != "go_on":
            raise DroppedError(f"trial {self._number} is over")

    def end(self, result: SegmentResult) -> Instruction:
        """Reports the rest of a segment, and what ended it.

        Returns:
            What to do next, when the search has decided.

        Raises:
            DroppedError: the trial is not to go on.
        """
        instruction = self._send()
        if result.error is not None:
            return self._failed(instruction, result.error)
        if instruction.action == "go_on" and result.trace.end < self._until:
            kind = result.instability.kind if result.instability else "no instability"
            reason = f"{kind} at step {result.trace.end} here, where the service sees none"
            return self._failed(instruction, f"trained again, the trial is another one: {reason}")
        self._until = instruction.until
        return instruction

    def give_back(self) -> None:
        """Lets another worker train the trial."""
        completion = Completion(lease=self._leased.lease, outcome="returned")
        self._client.complete(self._study, self._number, completion, once=True)

    def _failed(self, instruction: Instruction, reason: str) -> Instruction:
        completion = Completion(lease=self._leased.lease, outcome="failed", reason=reason[-MOST_REASON:])
        self._client.complete(self._study, self._number, completion)
        return instruction.model_copy(update={"action": "stop", "reason": reason})

    def _send(self) -> Instruction:
        """Reports what there is; without any step it asks what to do."""
        with self._lock:
            trace = Trace.join(self._pending, start=self._known)
            for start in range(0, max(1, len(trace)), MOST_STEPS):
                self._seq += 1
                report = report_of(part_of(trace, start, MOST_STEPS), self._leased.lease, self._seq)
                try:
                    instruction = self._client.report(self._study, self._number, report)
                except RefusedError as error:
                    if error.kind in LOST:
                        raise DroppedError(str(error)) from error
                    raise
            self._pending.clear()
            self._known, self._sent_at = max(self._known, trace.end), time.monotonic()
            return instruction

    def _beat(self, ended: threading.Event) -> None:
        """Says now and then that the worker is alive. What goes wrong shows at the next report."""
        pause = self._leased.lease_s / 4
        while not ended.wait(pause):
            with self._lock:
                if ended.is_set() or time.monotonic() - self._sent_at < pause:
                    continue
                self._seq += 1
                report = Report(lease=self._leased.lease, seq=self._seq, steps=self._known)
                try:
                    self._client.report(self._study, self._number, report, once=True)
                    self._sent_at = time.monotonic()
                except RemoteServiceError:
                    pass
