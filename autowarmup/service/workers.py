"""The engine whose trials are trained by workers that ask for them.

The study's thread starts segments and waits for their results, as with every engine. The server's thread leases them to
workers, takes their reports and tells them what to do next. Both look at the same trials under one lock, and a
:class:`Bell` rings when something has changed.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from autowarmup.engines.base import MonitorSettings, Observe, Segment
from autowarmup.engines.checkpoints import Checkpoints
from autowarmup.instability.instability import Instability
from autowarmup.reported import ReportedTrial
from autowarmup.search.config import TuneConfig
from autowarmup.search.trials import SegmentResult
from autowarmup.service.bell import Bell
from autowarmup.service.journal import Freed, Granted, Journal, Reported
from autowarmup.service.messages import Completion, Instruction, LeasedTrial, Report
from autowarmup.service.open_trial import OpenTrial
from autowarmup.service.problems import LeaseLapsedError, ServiceError, UnknownTrialError
from autowarmup.service.traces import block_of
from autowarmup.training.trace import Trace


class WorkersEngine:
    """Runs segments on workers that ask for them.

    Args:
        config: the study's.
        journal: where leases and reports are kept until a segment has ended.
        checkpoints: what workers have handed in of paused trials.
        slots: how many trials run at once; None: as many as there are workers.
        lease_s: seconds without a report after which a worker is lost.
        bell: rings when something has changed.
        clock: seconds that only grow.

    Attributes:
        ready: whether the trials are known, after a restart too.
    """

    def __init__(
        self,
        config: TuneConfig,
        journal: Journal,
        checkpoints: Checkpoints,
        *,
        slots: int | None,
        lease_s: float,
        bell: Bell,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bell = bell
        self._monitoring, self._objective = MonitorSettings.of(config), config.objective
        self._journal, self._checkpoints = journal, checkpoints
        self._slots, self._lease_s, self._clock = slots, lease_s, clock
        self._changed = threading.Condition()
        self._open: dict[int, OpenTrial] = {}
        self._wanted: list[int] = []  # in the order in which the search has started them
        self._results: deque[SegmentResult] = deque()
        self._last_lease: dict[int, str] = {}  # of trials that are over
        self._heard: dict[str, float] = {}  # when each worker was heard of
        self._stopped = False
        self.ready = False

    # The study's side.

    def slots(self) -> int:
        """As many as the study asks for, or else as there are workers; at least 1."""
        return self._slots or max(1, self.workers())

    def start(self, segment: Segment) -> None:
        """Wants a segment. A worker that waits for this decision goes on with its trial; else whoever asks gets it."""
        number = segment.spec.number
        with self._changed:
            trial = self._open.get(number)
            if trial is None:
                trial = self._open[number] = self._begun(segment)
            worker, lease = (trial.worker, trial.lease) if trial.state == "ended" else (None, None)
            trial.start, trial.until, trial.began_at = segment.past.end, segment.until, None
            trial.state = "wanted"
            if self._recalled(trial):
                return
            if worker is not None and lease is not None:
                self._grant(trial, worker, lease, trial.seq)
            else:
                self._wanted.append(number)
        self.bell.ring()

    def wait(self, observe: Observe) -> SegmentResult:
        """The result of the next segment that ends.

        Raises:
            KeyboardInterrupt: the study was told to stop.
            StudyError: the journal can't be written.
        """
        with self._changed:
            self.ready = True
            if not self._results:
                self._decided()
            while not self._results and not self._stopped:
                self._changed.wait()
            if self._stopped:
                raise KeyboardInterrupt
            return self._results.popleft()

    def release(self, number: int) -> None:
        """Forgets trial ``number``, which has ended for good."""
        with self._changed:
            trial = self._open.pop(number, None)
            if trial is not None and trial.lease is not None:
                self._last_lease[number] = trial.lease
            if number in self._wanted:
                self._wanted.remove(number)
        self._checkpoints.forget(number)
        self.bell.ring()

    def stop(self) -> None:
        """Has :meth:`wait` end the study, and workers end their trials at their next report."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self.bell.ring()

    def close(self) -> None:
        """Closes the journal."""
        with self._changed:
            self._stopped = True
            self._journal.close()
        self.bell.ring()

    # The workers' side.

    def suggest(self, worker: str, count: int) -> list[LeasedTrial]:
        """Leases trials to a worker: those that it has and hasn't finished, then those that are wanted.

        Args:
            worker: its name.
            count: at most so many.
        """
        with self._changed:
            if self._stopped:
                return []
            self._heard[worker] = self._clock()
            self._reclaim()
            mine = [trial for trial in self._leased_trials() if trial.worker == worker][:count]
            for trial in mine:
                trial.heard_at = self._clock()
            wanted = sorted(self._wanted, key=lambda number: self._open[number].worker != worker)
            for number in wanted[: count - len(mine)]:
                self._grant(self._open[number], worker, secrets.token_hex(16), 0)
                self._wanted.remove(number)
                mine.append(self._open[number])
            return [self._leased(trial) for trial in mine]

    def report(self, number: int, report: Report) -> Instruction | None:
        """Takes a report. None: its segment has ended, and the search hasn't decided yet; see :meth:`decision`.

        Raises:
            UnknownTrialError: there is no such trial.
            LeaseLapsedError: the trial is not leased under the report's lease.
            ServiceError: steps are missing before the report, or it goes beyond the segment.
            StudyError: the journal can't be written.
        """
        with self._changed:
            if self._stopped or self._is_over(number, report.lease):
                return self._over()
            trial = self._trial(number, report.lease)
            self._heard[trial.worker or ""] = trial.heard_at = self._clock()
            if report.seq <= trial.seq or trial.state != "leased":
                return self._instruction(trial)
            self._check(trial, report)
            self._journal.append(Reported(number=number, start=trial.start, report=report))
            self._take(trial, report)
            return self._instruction(trial)

    def decision(self, number: int, lease: str) -> Instruction | None:
        """What a worker does whose segment has ended. None: the search hasn't decided yet.

        Raises:
            LeaseLapsedError: the trial is not leased under this lease any more.
        """
        with self._changed:
            if self._stopped or self._is_over(number, lease):
                return self._over()
            return self._instruction(self._trial(number, lease))

    def paused(self, number: int, lease: str) -> Instruction:
        """What a worker does where the search takes too long to decide: it asks again later.

        Raises:
            LeaseLapsedError: the trial is not leased under this lease any more.
        """
        with self._changed:
            trial = self._trial(number, lease)
            return Instruction(action="pause", until=trial.until, steps=trial.reported.step)

    def complete(self, number: int, completion: Completion) -> None:
        """Takes a trial back from its worker: it failed, or another one may train it.

        Raises:
            UnknownTrialError: there is no such trial.
            LeaseLapsedError: the trial is not leased under this lease any more.
            ServiceError: it is said to be completed and has steps to go.
        """
        with self._changed:
            if self._stopped or self._is_over(number, completion.lease):
                return
            trial = self._trial(number, completion.lease)
            if trial.state != "leased":
                return
            if completion.outcome == "completed":
                raise ServiceError(
                    409,
                    "The trial has steps to go",
                    f"trial {number} is at step {trial.reported.step} of {trial.until}: report the rest, or say "
                    f"'failed' or 'returned'",
                    kind="steps-to-go",
                )
            if completion.outcome == "failed":
                self._end(trial, error=completion.reason or "the worker reported a failure")
            else:
                self._give_back(trial)
        self.bell.ring()

    def checkpoint_wanted(self, number: int, lease: str, step: int) -> bool:
        """Whether a checkpoint of the trial at ``step`` may be of use.

        Raises:
            UnknownTrialError: there is no such trial.
            LeaseLapsedError: the trial was not leased under this lease.
        """
        with self._changed:
            return not self._is_over(number, lease) and self._trial(number, lease).start <= step

    def workers(self) -> int:
        """How many workers were heard of within their lease."""
        with self._changed:
            earliest = self._clock() - self._lease_s
            self._heard = {name: at for name, at in self._heard.items() if at >= earliest}
            return len(self._heard)

    def live(self) -> dict[int, Trace]:
        """What trials have recorded beyond what is stored, by number."""
        with self._changed:
            parts = {number: [*trial.reported.parts] for number, trial in self._open.items()}
        return {number: Trace.join(found) for number, found in parts.items() if found}

    def worker_of(self, number: int) -> str | None:
        """Who trains a trial now."""
        trial = self._open.get(number)
        return trial.worker if trial is not None and trial.state == "leased" else None

    # Within the lock.

    def _begun(self, segment: Segment) -> OpenTrial:
        reported = ReportedTrial(segment.spec, self._monitoring, self._objective)
        reported.recall(segment.past)
        return OpenTrial(reported, segment.past.end, segment.until)

    def _recalled(self, trial: OpenTrial) -> bool:
        """Goes back to where an earlier process left the segment. Returns whether a worker has it, or it has ended."""
        for entry in self._journal.take(trial.spec.number, trial.start):
            if isinstance(entry, Granted):
                trial.worker, trial.lease, trial.seq = entry.client, entry.lease, entry.seq
                trial.state, trial.heard_at = "leased", self._clock()
                trial.began_at = trial.began_at or time.time()
            elif isinstance(entry, Freed):
                trial.state, trial.worker, trial.lease = "wanted", None, None
            elif trial.state == "leased":
                self._take(trial, entry.report)
        return trial.state != "wanted"

    def _grant(self, trial: OpenTrial, worker: str, lease: str, seq: int) -> None:
        """Leases a trial, once that is written."""
        self._journal.append(Granted(number=trial.spec.number, start=trial.start, client=worker, lease=lease, seq=seq))
        trial.worker, trial.lease, trial.seq = worker, lease, seq
        trial.state, trial.heard_at = "leased", self._clock()
        trial.began_at = trial.began_at or time.time()

    def _leased_trials(self) -> list[OpenTrial]:
        return [trial for trial in self._open.values() if trial.state == "leased"]

    def _leased(self, trial: OpenTrial) -> LeasedTrial:
        assert trial.lease is not None
        return LeasedTrial(
            spec=trial.spec,
            until=trial.until,
            steps=trial.reported.step,
            eval_every=self._monitoring.eval_every,
            lease=trial.lease,
            lease_s=self._lease_s,
            seq=trial.seq,
            checkpoint=trial.start if self._checkpoints.has(trial.spec.number, trial.start) else None,
        )

    def _reclaim(self) -> None:
        """Wants the trials of lost workers again."""
        earliest = self._clock() - self._lease_s
        for trial in self._leased_trials():
            if trial.heard_at < earliest:
                self._give_back(trial)

    def _give_back(self, trial: OpenTrial) -> None:
        self._journal.append(Freed(number=trial.spec.number, start=trial.start))
        trial.state, trial.worker, trial.lease = "wanted", None, None
        self._wanted.append(trial.spec.number)

    def _is_over(self, number: int, lease: str) -> bool:
        return self._last_lease.get(number) == lease

    def _over(self) -> Instruction:
        return Instruction(action="stop", until=0, steps=0, reason="the study has stopped" if self._stopped else None)

    def _trial(self, number: int, lease: str) -> OpenTrial:
        trial = self._open.get(number)
        if trial is None and number not in self._last_lease:
            raise UnknownTrialError(number)
        if trial is None or trial.lease != lease:
            raise LeaseLapsedError(number)
        return trial

    def _check(self, trial: OpenTrial, report: Report) -> None:
        known = trial.reported.step
        if report.steps - len(report.losses) > known:
            raise ServiceError(
                409,
                "Steps are missing",
                f"the report is of the steps {report.steps - len(report.losses)} to {report.steps}, and {known} have "
                f"been received: send those from {known} on, or train the trial again from its start",
                kind="steps-missing",
                steps=known,
            )
        if report.steps > trial.until:
            raise ServiceError(
                409,
                "Trained too far",
                f"the report goes to step {report.steps}, and the trial was to be trained up to {trial.until}: end a "
                f"report there, and go on when that is answered",
                kind="too-far",
                until=trial.until,
            )

    def _take(self, trial: OpenTrial, report: Report) -> None:
        """Adds a report that fits, and ends the segment where it has come to its end."""
        trial.seq = report.seq
        block = block_of(trial.spec, report, trial.reported.step)
        instability = trial.reported.add(block) if len(block) else None
        trial.reported.pack()
        if instability is not None or trial.reported.step >= trial.until:
            self._end(trial, instability)

    def _end(self, trial: OpenTrial, instability: Instability | None = None, error: str | None = None) -> None:
        trial.state = "ended"
        trial.over = instability.kind if instability else error and "failed"
        result = trial.reported.end_segment(trial.until, instability, error)
        began = trial.began_at or time.time()
        self._results.append(replace(result, started_at=began, seconds=time.time() - began))
        self._changed.notify_all()

    def _decided(self) -> None:
        """The search has nothing more to start or to end: what it has not gone on with is paused."""
        for trial in self._open.values():
            if trial.state == "ended":
                trial.state = "paused"
        if self._journal.is_large:
            self._journal.keep({(number, trial.start) for number, trial in self._open.items()})
        self.bell.ring()

    def _instruction(self, trial: OpenTrial) -> Instruction | None:
        if trial.over is not None:
            return Instruction(action="stop", until=trial.until, steps=trial.reported.step, reason=trial.over)
        if trial.state == "ended":
            return None
        action: Literal["go_on", "pause"] = "go_on" if trial.state == "leased" else "pause"
        return Instruction(action=action, until=trial.until, steps=trial.reported.step)
