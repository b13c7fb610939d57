"""Accidents of a service: its process is killed, workers vanish, connections are cut, reports come twice or too early.

`python -m benchmarks.service_faults --write` writes benchmarks/results/service_faults.md. The service is a real process
behind a proxy that cuts connections; the workers are threads whose losses follow from a formula, so that every recorded
step can be checked. A worker that vanishes stops without a word in the middle of a trial. At the end each study's
decisions are taken again by the search, given the order of arrival that the store has, and must be the same.
"""

from __future__ import annotations

import argparse
import random
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from autowarmup.service.messages import StudyRequest
from autowarmup.study.store import StudyStore
from tests.service import RunningService, loss_of, replay, report_of, started

PAGE = Path(__file__).parent / "results" / "service_faults.md"
REQUEST = {"total_steps": 200, "current_peak": 0.001, "lease_s": 5}
STEPS = 10


@dataclass
class Plan:
    """How many accidents there are to be.

    Args:
        studies, workers: how many studies, and workers of each.
        server_kills, worker_kills: how often the service and a worker end without a word.
        cut: share of the connections that the proxy cuts.
        twice, early: shares of the reports that are sent twice, and that the one after them overtakes.
    """

    studies: int = 6
    workers: int = 3
    server_kills: int = 40
    worker_kills: int = 100
    cut: float = 0.05
    twice: float = 0.05
    early: float = 0.05


@dataclass
class Happened:
    """What has happened."""

    counts: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, most: int | None = None) -> bool:
        """Counts an accident; False where there were as many as there are to be."""
        with self.lock:
            if most is not None and self.counts[what] >= most:
                return False
            self.counts[what] += 1
            return True


class Proxy:
    """Hands connections on to the service, and cuts some of them at a random moment.

    Args:
        target: the service's port.
        cut: the share that it cuts.
        happened: counts these.
    """

    def __init__(self, target: int, cut: float, happened: Happened) -> None:
        self._target, self._cut, self._happened = target, cut, happened
        self._chance = random.Random(1)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Takes no more connections."""
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), closing(client), closing(self._connected()) as server:
            ends = [
                threading.Thread(target=self._copy, args=pair, daemon=True)
                for pair in ((client, server), (server, client))
            ]
            for end in ends:
                end.start()
            if self._chance.random() < self._cut:
                time.sleep(self._chance.uniform(0.0, 0.02))
                self._happened.count("connections cut")
                return
            for end in ends:
                end.join()

    def _connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._target))

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


class Vanished(Exception):  # noqa: N818 - no error: the worker is gone
    """The worker is gone."""


class Worker(threading.Thread):
    """A worker that retries what isn't answered, as the protocol asks for, and has accidents."""

    def __init__(self, url: str, study: str, name: str, plan: Plan, happened: Happened) -> None:
        super().__init__(daemon=True)
        self.url, self.study, self.client_name = url, study, name
        self.plan, self.happened = plan, happened
        self.chance = random.Random(name)
        self.life = 0

    def run(self) -> None:
        while True:
            self.life += 1
            try:
                self._work(f"{self.client_name}-{self.life}")
                return
            except Vanished:
                time.sleep(self.chance.uniform(0.0, 0.5))

    def _work(self, name: str) -> None:
        while True:
            answer = self._post("trials:suggest", {"client_id": name, "wait_s": 2})
            if answer.get("state") != "running":
                return
            for trial in answer["trials"]:
                self._train(trial)

    def _train(self, trial: dict[str, Any]) -> None:
        path = f"trials/{trial['spec']['number']}/reports"
        seq, step, until = trial["seq"], trial["steps"], trial["until"]
        while True:
            if self.chance.random() < 0.03 and self.happened.count("workers killed", self.plan.worker_kills):
                raise Vanished
            seq, end = seq + 1, min(until, step + STEPS)
            if end < until and self.chance.random() < self.plan.early:
                self.happened.count("reports that came too early")
                self._post(path, report_of(trial, seq + 1, end, min(until, end + STEPS)))
            answer = self._post(path, report_of(trial, seq, step, end))
            if self.chance.random() < self.plan.twice:
                self.happened.count("reports sent twice")
                answer = self._post(path, report_of(trial, seq, step, end))
            if "action" not in answer:  # the lease has lapsed, or steps are missing: ask again
                return
            step, until = end, answer["until"]
            if answer["action"] != "go_on":
                return

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        delay = 0.05
        while True:
            try:
                answer = httpx.post(f"{self.url}/v1/studies/{self.study}/{path}", json=body, timeout=40)
                if answer.status_code < 500:
                    found: dict[str, Any] = answer.json()
                    return found
            except httpx.TransportError:
                pass
            time.sleep(delay * self.chance.random())
            delay = min(1.0, 2 * delay)


def faults(folder: Path, plan: Plan) -> tuple[Counter[str], float]:
    """Runs all studies through their accidents and checks what came of them. Returns what has happened, and the seconds
    it took."""
    happened, chance, began = Happened(), random.Random(0), time.monotonic()
    running = started(folder, "--no-mlflow")
    port = int(running.url.rsplit(":", 1)[1])
    proxy = Proxy(port, plan.cut, happened)
    names = [f"study-{number}" for number in range(plan.studies)]
    for name in names:
        httpx.put(f"{running.url}/v1/studies/{name}", json=REQUEST, timeout=30).raise_for_status()
    workers = [
        Worker(f"http://127.0.0.1:{proxy.port}", name, f"{name}-{number}", plan, happened)
        for name in names
        for number in range(plan.workers)
    ]
    for worker in workers:
        worker.start()
    running = _killed_again_and_again(running, folder, port, plan, happened, chance, workers)
    for worker in workers:
        worker.join()
    running.process.terminate()
    running.process.communicate()
    proxy.close()
    for name in names:
        check(folder / name, happened)
    return happened.counts, time.monotonic() - began


def _killed_again_and_again(
    running: RunningService,
    folder: Path,
    port: int,
    plan: Plan,
    happened: Happened,
    chance: random.Random,
    workers: Sequence[Worker],
) -> RunningService:
    """Kills the service as long as studies run, or so often as was planned."""
    while any(worker.is_alive() for worker in workers):
        time.sleep(chance.uniform(0.0, 1.5))
        if happened.count("services killed", plan.server_kills):
            running.kill()
            running = started(folder, "--no-mlflow", port=port)
        else:
            workers[0].join(1.0)
    return running


def check(folder: Path, happened: Happened) -> None:
    """Checks that nothing was lost, nothing counted twice, and that the search would decide the same again."""
    config = StudyRequest.model_validate(REQUEST).config()
    with closing(StudyStore(folder)) as store:
        assert store.meta("verdict") is not None, folder
        for trial in store.trials():
            plan, seed = trial.spec.schedule, trial.spec.seed
            assert trial.outcome is not None, (folder, trial.spec.number)
            assert trial.trace.loss.tolist() == [loss_of(plan, seed, step) for step in range(len(trial.trace))]
            happened.counts["trials"] += 1
            happened.counts["optimizer steps"] += len(trial.trace)
        with tempfile.TemporaryDirectory() as other:
            replay(store, config, Path(other) / "again")
            with closing(StudyStore(Path(other) / "again")) as again:
                assert again.meta("verdict") == store.meta("verdict"), folder
        happened.counts["studies"] += 1


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=Plan.studies)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE}")
    options = parser.parse_args(arguments)
    total: Counter[str] = Counter()
    seconds, rounds = 0.0, 0
    plan = Plan(studies=options.studies)
    while total["services killed"] < Plan.server_kills or total["workers killed"] < Plan.worker_kills:
        plan.server_kills = Plan.server_kills - total["services killed"]
        plan.worker_kills = Plan.worker_kills - total["workers killed"]
        with tempfile.TemporaryDirectory() as folder:
            counts, took = faults(Path(folder) / "studies", plan)
        total, seconds, rounds = total + counts, seconds + took, rounds + 1
        print(dict(total), flush=True)
    names = "services killed", "workers killed", "connections cut", "reports sent twice", "reports that came too early"
    rows = [f"| {name} | {total[name]:,} |" for name in (*names, "studies", "trials", "optimizer steps")]
    text = "\n".join(
        [
            "# Accidents of the service",
            "",
            f"`python -m benchmarks.service_faults --write`, {seconds / 60:.0f} minutes. All studies came to a",
            "verdict; every step that was recorded is the one that its worker made, none is missing and none is there",
            "twice; and the search, given the same order of arrival, takes the same decisions without any accident.",
            "",
            "| what | how many |",
            "| --- | --- |",
            *rows,
            "",
        ]
    )
    print(text)
    if options.write:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
