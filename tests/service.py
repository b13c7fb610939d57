"""A service in a process of its own, and workers that train nothing: their losses follow from a formula."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from autowarmup.engines.base import Engine, Observe, Segment
from autowarmup.schedule.schedule import Schedule
from autowarmup.search.config import TuneConfig
from autowarmup.search.trials import SegmentResult
from autowarmup.service.client import ServiceClient
from autowarmup.study.driver import conduct, opened_study
from autowarmup.study.progress import Silent
from autowarmup.study.store import StudyStore

STARTED_S = 60


class RunningService(NamedTuple):
    """A service that runs.

    Args:
        url: where it is.
        process: its process.
        said: its first line.
    """

    url: str
    process: subprocess.Popen[str]
    said: str

    def kill(self) -> None:
        """Ends it as a crash would."""
        self.process.kill()
        self.process.communicate()


def started(folder: Path, *options: str, port: int = 0) -> RunningService:
    """Starts ``autowarmup serve`` and waits until it listens."""
    command = [sys.executable, "-m", "autowarmup", "serve", str(folder), "--port", str(port), *options]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    if "service on" not in line:
        process.kill()
        raise AssertionError(line + process.communicate()[1])
    url = line.split("service on ")[1].split(",")[0]
    end = time.monotonic() + STARTED_S
    while time.monotonic() < end:
        try:
            if httpx.get(f"{url}/healthz", verify=False).status_code == 200:
                return RunningService(url, process, line)
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the service didn't answer")


@contextmanager
def service(folder: Path, *options: str, port: int = 0) -> Iterator[RunningService]:
    """The same, until the end of the block."""
    running = started(folder, *options, port=port)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
            running.process.communicate(timeout=30)


LossOf = Callable[[Schedule, int, int], float]


def loss_of(schedule: Schedule | dict[str, Any], seed: int, step: int) -> float:
    """A loss after ``step`` steps: the best peak is 0.02, and above 0.2 runs without a long warm-up diverge."""
    plan = schedule if isinstance(schedule, Schedule) else Schedule.model_validate(schedule)
    off = math.log10(plan.peak / 0.02)
    share = plan.duration / plan.horizon
    noise = 0.02 * random.Random(f"{seed}-{step}").random()
    if plan.peak > 0.2 and share < 0.2 and step > plan.horizon // 5:
        return 5.0 + 0.05 * step
    return 2.1 * math.exp(-step / (0.25 * plan.horizon)) + 0.2 + 0.3 * off**2 + 0.1 * (share - 0.15) ** 2 + noise


def steep_loss(schedule: Schedule, seed: int, step: int) -> float:
    """Another one, that falls the faster the higher the peak is, until the learning rate exceeds what is stable. That
    grows in the first part of the run, so a warm-up helps."""
    broke = breaks(schedule)
    end = min(step, schedule.horizon if broke is None else broke)
    speed = max(0.5, 3.0 + 2.5 * math.log10(schedule.peak / 0.003))
    noise = 0.03 * random.Random(f"{seed}-{step}").random()
    loss = 2.1 * math.exp(-speed * end / schedule.horizon) + 0.2 + noise
    return loss if broke is None else loss + 0.25 * max(0, step - broke)


@lru_cache
def breaks(schedule: Schedule) -> int | None:
    """The step at which a schedule becomes unstable under :func:`steep_loss`."""
    for step in range(schedule.horizon):
        if schedule.lr_at(step) > 0.02 * (1.0 + 4.0 * min(1.0, 6.0 * step / schedule.horizon)):
            return step
    return None


def report_of(trial: dict[str, Any], seq: int, start: int, end: int, loss: LossOf = loss_of) -> dict[str, Any]:
    """The report of steps ``start`` to ``end`` of a leased trial."""
    spec = trial["spec"]
    plan, seed = Schedule.model_validate(spec["schedule"]), spec["seed"]
    every = [step for step in range(start + 1, end + 1) if step % trial["eval_every"] == 0 or step == plan.horizon]
    return {
        "lease": trial["lease"],
        "seq": seq,
        "steps": end,
        "losses": [loss(plan, seed, step) for step in range(start, end)],
        "grad_norms": [1.0] * (end - start),
        "validation": [{"step": step, "val_loss": loss(plan, seed, step)} for step in every],
    }


class Worker:
    """A worker that asks for one trial after the other.

    Args:
        client: sends its requests.
        study: the study's name.
        name: its own.
        pace: steps of a report.
        before_report: called before each report with the trial and the step that it begins at; may raise to stop.
        loss: the loss of a schedule under a seed after so many steps.
    """

    def __init__(
        self,
        client: httpx.Client,
        study: str,
        name: str,
        *,
        pace: int = 10,
        before_report: Callable[[dict[str, Any], int], None] = lambda trial, step: None,
        loss: LossOf = loss_of,
    ) -> None:
        self.client, self.study, self.name, self.pace = client, study, name, pace
        self.before_report, self.loss = before_report, loss

    def work(self) -> str:
        """Trains trials until there are none any more. Returns the study's state then."""
        while True:
            answer = self.post("trials:suggest", {"client_id": self.name, "wait_s": 10})
            for trial in answer["trials"]:
                self.train(trial)
            if answer["state"] != "running":
                return str(answer["state"])

    def train(self, trial: dict[str, Any]) -> None:
        """Trains a leased trial until it is paused or over."""
        seq, step, until = trial["seq"], trial["steps"], trial["until"]
        while True:
            self.before_report(trial, step)
            seq, end = seq + 1, min(until, step + self.pace)
            sent = self.client.post(
                f"/v1/studies/{self.study}/trials/{trial['spec']['number']}/reports",
                json=report_of(trial, seq, step, end, self.loss),
                timeout=60,
            )
            if sent.status_code == 409 and sent.json()["type"].endswith(("lease-lapsed", "not-running")):
                return
            sent.raise_for_status()
            answer = sent.json()
            step, until = end, answer["until"]
            if answer["action"] != "go_on":
                return

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request about the study."""
        answer = self.client.post(f"/v1/studies/{self.study}/{path}", json=body, timeout=60)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found


class StoredResults:
    """An engine that trains nothing: it gives the results that a store has.

    Args:
        store: the store of a study that has ended.
    """

    def __init__(self, store: StudyStore) -> None:
        self._store = store
        self._started: deque[Segment] = deque()

    def slots(self) -> int:
        return 1

    def start(self, segment: Segment) -> None:
        self._started.append(segment)

    def wait(self, observe: Observe) -> SegmentResult:
        segment = self._started.popleft()
        result = self._store.segment(segment.spec.number, segment.until)
        assert result is not None
        assert result.trace.start == segment.past.end
        return result

    def release(self, number: int) -> None: ...

    def close(self) -> None: ...


class InOrder:
    """An engine whose segments end in the order of arrival that a store has, with the slots of that time.

    Args:
        store: the store of a study that has ended.
        engine: runs the segments, one after the other.
    """

    def __init__(self, store: StudyStore, engine: Engine) -> None:
        self._order, self._slots = deque(store.arrivals()), int(store.meta("slots"))
        self._engine = engine
        self._started: dict[int, Segment] = {}

    def slots(self) -> int:
        return self._slots

    def start(self, segment: Segment) -> None:
        self._started[segment.spec.number] = segment

    def wait(self, observe: Observe) -> SegmentResult:
        arrival = self._order.popleft()
        segment = self._started.pop(arrival.number)
        assert segment.until == arrival.until
        self._slots = arrival.slots
        self._engine.start(segment)
        return self._engine.wait(observe)

    def release(self, number: int) -> None:
        self._engine.release(number)

    def close(self) -> None:
        self._engine.close()


def replay(store: StudyStore, config: TuneConfig, folder: Path, engine: Engine | None = None) -> None:
    """Has a search decide anew, in another folder, given the order of arrival that a store has.

    Args:
        store: the store of a study that has ended.
        config: that study's.
        folder: where the study is conducted again.
        engine: runs its segments; left out, their results come from the store.
    """
    with opened_study(folder, config, None) as again:
        conduct(again, config, InOrder(store, engine or StoredResults(store)), Silent())


def told(client: httpx.Client, study: str, until: str, after: str | None = None) -> Iterator[dict[str, Any]]:
    """The events of a study's stream as they come, up to the first of the type ``until``: type, id, data."""
    headers = {} if after is None else {"Last-Event-ID": after}
    event: dict[str, Any] = {}
    with client.stream("GET", f"/v1/studies/{study}/events", headers=headers) as stream:
        for line in stream.iter_lines():
            name, _, value = line.partition(": ")
            if name in ("event", "id", "data"):
                event[name] = json.loads(value) if name == "data" else value
            elif not line and event:
                yield event
                if event["event"] == until:
                    return
                event = {}


def token_file(folder: Path, text: str) -> Path:
    """A file of tokens that is its owner's alone, new or written anew."""
    path = folder / "tokens.txt"
    path.touch(mode=0o600)
    path.write_text(text)
    return path


@contextmanager
def guarded_service(folder: Path, name: str, token: str) -> Iterator[tuple[ServiceClient, Path]]:
    """A service that asks for tokens: its client, and the file of the tokens."""
    tokens = token_file(folder, f"{name} {token}\n")
    with (
        service(folder / "studies", "--no-mlflow", "--token-file", str(tokens)) as found,
        ServiceClient(found.url, token) as client,
    ):
        yield client, tokens
