"""The service under load: simulated workers on 50 studies report ten steps at a time, as fast as they are answered.

`python -m benchmarks.service --write` writes benchmarks/results/service.md. The workers are coroutines of one process
that speak HTTP/1.1 over connections of their own; the service is another process, with studies in a temporary folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).parent / "results" / "service.md"
STUDIES = 50
HORIZON = 20_000
STEPS = 10
"""Optimizer steps of a report."""
CLIENTS = 10
"""Tokens that the workers share: the service lets each client send 1,000 requests a second."""
AGAIN = 20
"""Of so many reports, before one the worker asks for its trial again."""
MOST_WAIT_S = 300.0
"""The longest that it may take until all workers have trials."""


@dataclass
class Measured:
    """What was measured with so many workers.

    Args:
        workers: how many there were.
        rate: reports a second of all together that they were to send; 0: as many as they could.
        since: when the measurement began, on the clock of ``time.perf_counter``; nothing before it counts.
        seconds: for how long.
        reports: seconds that reports within a segment took.
        decisions: seconds that reports took which ended a segment: the search's time is in them.
        suggests: seconds that workers which have a trial took to ask for it again: no search is in them.
        empty: requests for trials that got none, in the time they waited.
        refused: reports that were refused.
        busy: workers that have had a trial beside the probe.
        cpu_s: seconds of CPU that the service took.
        memory: the service's resident memory in MiB, by reports received.
    """

    workers: int
    rate: float
    since: float = math.inf
    seconds: float = 0.0
    reports: list[float] = field(default_factory=list)
    decisions: list[float] = field(default_factory=list)
    suggests: list[float] = field(default_factory=list)
    empty: int = 0
    refused: int = 0
    busy: set[str] = field(default_factory=set)
    cpu_s: float = 0.0
    memory: list[tuple[int, float]] = field(default_factory=list)

    @property
    def pace_s(self) -> float:
        """Seconds from one report of a worker to the next."""
        return self.workers / self.rate if self.rate else 0.0

    @property
    def received(self) -> int:
        return len(self.reports) + len(self.decisions)

    def count(self, list_: list[float], began: float) -> None:
        """Adds the time since ``began`` to one of the lists."""
        if began >= self.since:
            list_.append(time.perf_counter() - began)


class Connection:
    """A connection that is kept open."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._head = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The status and the body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        data = json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(answer.partition("content-length:")[2].split("\r\n", 1)[0] or 0)
        content = await reader.readexactly(length)
        return int(answer.split(" ", 2)[1]), json.loads(content) if content else {}


class Worker:
    """A worker, which trains nothing.

    Args:
        connection: its own.
        study: the study whose trials it asks for.
        name: its own.
        found: what is measured.
    """

    def __init__(self, connection: Connection, study: str, name: str, found: Measured) -> None:
        self._connection, self._name, self._found = connection, name, found
        self._trials = f"/v1/studies/{study}/trials"
        self._noise = random.Random(name)

    async def work(self) -> None:
        """Trains until it is cancelled. Workers don't begin all at once."""
        await asyncio.sleep(self._noise.random() * (self._found.pace_s or 1.0))
        while True:
            for trial in await self._suggest(wait_s=5.0):
                await self._train(trial)

    async def _suggest(self, wait_s: float) -> list[dict[str, Any]]:
        body = {"client_id": self._name, "wait_s": wait_s}
        status, answer = await self._connection.send("POST", f"{self._trials}:suggest", body)
        assert status == 200, answer
        self._found.empty += not answer["trials"]
        trials: list[dict[str, Any]] = answer["trials"]
        return trials

    async def _train(self, trial: dict[str, Any]) -> None:
        """Reports a trial's steps until it is paused or over. Those of a probe are told from validation to validation:
        before it has ended, a study has nothing to do for a second worker."""
        found, spec = self._found, trial["spec"]
        every = trial["eval_every"] if spec["role"] == "probe" else STEPS
        if spec["role"] != "probe":
            found.busy.add(self._name)
        off = math.log10(spec["schedule"]["peak"] / 0.02) ** 2
        seq, step, until = trial["seq"], trial["steps"], trial["until"]
        while True:
            began = time.perf_counter()
            if self._noise.random() < 1 / AGAIN:
                (again,) = await self._suggest(wait_s=0.0)
                assert again["lease"] == trial["lease"]
                found.count(found.suggests, began)
            after, seq = min(until, step + every), seq + 1
            body = self._report(step, after, off) | {"lease": trial["lease"], "seq": seq}
            if after % trial["eval_every"] == 0 or after == HORIZON:
                body["validation"] = {"step": after, "val_loss": body["losses"][-1]}
            sent = time.perf_counter()
            status, answer = await self._connection.send("POST", f"{self._trials}/{spec['number']}/reports", body)
            if status != 200:
                found.refused += 1
                return
            found.count(found.decisions if after == until else found.reports, sent)
            step, until = after, answer["until"]
            if answer["action"] != "go_on":
                return
            await asyncio.sleep(found.pace_s - (time.perf_counter() - began))

    def _report(self, step: int, after: int, off: float) -> dict[str, Any]:
        level, noise = 2.0 * math.exp(-4.0 * step / HORIZON) + 0.2 + 0.3 * off, self._noise
        return {
            "steps": after,
            "losses": [level + 0.02 * noise.random() for _ in range(after - step)],
            "grad_norms": [1.0 + 0.1 * noise.random() for _ in range(after - step)],
        }


async def measure(
    port: int, tokens: Sequence[str], process: subprocess.Popen[str], workers: int, seconds: float, rate: float
) -> Measured:
    """All workers for so many seconds from when all have a trial, at most ``rate`` reports a second together."""
    found = Measured(workers, rate)
    connection = Connection(port, tokens[0])
    studies = [f"load-{workers}-{rate:.0f}-{study}" for study in range(min(STUDIES, workers))]
    for study in studies:
        settings = {"total_steps": HORIZON, "current_peak": 0.001, "workers": workers // len(studies)}
        status, answer = await connection.send("PUT", f"/v1/studies/{study}", settings)
        assert status == 201, answer
    tasks = [
        asyncio.create_task(
            Worker(
                Connection(port, tokens[one % len(tokens)]), studies[one % len(studies)], f"worker-{one}", found
            ).work()
        )
        for one in range(workers)
    ]
    begun = time.perf_counter()
    while len(found.busy) < workers and time.perf_counter() < begun + MOST_WAIT_S:
        await asyncio.sleep(1.0)
    print(f"{len(found.busy)} of {workers} workers have trials after {time.perf_counter() - begun:.0f} s", flush=True)
    found.since, found.cpu_s = time.perf_counter(), -cpu_of(process)
    while (left := found.since + seconds - time.perf_counter()) > 0:
        found.memory.append((found.received, memory_of(process)))
        await asyncio.sleep(min(5.0, left))
    found.seconds = time.perf_counter() - found.since
    found.cpu_s += cpu_of(process)
    found.memory.append((found.received, memory_of(process)))
    broken = [task.exception() for task in tasks if task.done()]
    assert not broken, broken
    for task in tasks:
        task.cancel()
    for study in studies:
        await connection.send("DELETE", f"/v1/studies/{study}", {})
    return found


def memory_of(process: subprocess.Popen[str]) -> float:
    """Resident memory in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def cpu_of(process: subprocess.Popen[str]) -> float:
    """Seconds of CPU that a process has taken."""
    user, system = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def row(found: Measured) -> str:
    """A line of the table."""

    def times(values: Sequence[float]) -> str:
        if not values:
            return "-"
        median, high = np.percentile(values, [50, 99])
        return f"{median * 1e3:.1f} / {high * 1e3:.0f}"

    first, last = found.memory[0], found.memory[-1]
    cells = [
        str(found.workers),
        f"{found.rate:,.0f}" if found.rate else "no limit",
        f"{found.received / found.seconds:,.0f}",
        f"{found.cpu_s / max(1, found.received) * 1e3:.2f}",
        times(found.reports),
        times(found.suggests),
        f"{len(found.decisions)}: {times(found.decisions)}",
        f"{first[1]:.0f} before, {last[1]:.0f} after {last[0]:,}",
    ]
    return f"| {' | '.join(cells)} |"


HEADER = (
    "workers",
    "reports a second, asked for",
    "reports a second",
    "CPU of the service a report",
    "a report",
    "a request for its trial",
    "ends of segments: number, time",
    "memory of the service, MiB, before and after reports",
)


def page(rows: Sequence[str]) -> str:
    """The page of the results."""
    lines = [
        "# The service under load",
        "",
        f"{STUDIES} studies (or one for each worker) of {HORIZON:,} steps, reports of {STEPS} steps. Each worker has a",
        f"connection of its own, and {CLIENTS} tokens are shared. Workers begin at random within the time between two",
        "reports of theirs, or within a second. The measurement begins when all workers have a trial beside the probe.",
        f"Python {platform.python_version()}, {os.cpu_count()} CPU cores; the workers take one.",
        "`python -m benchmarks.service --write`.",
        "",
        "Times are in milliseconds, median / 99th percentile. The report that ends a segment is answered when the",
        f"search has decided, so the search's time is in it. Before one of {AGAIN} reports a worker asks for its trial",
        "again, as after a restart: no search is in that.",
        "",
        f"| {' | '.join(HEADER)} |",
        "| --- " * len(HEADER) + "|",
        *rows,
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", nargs="+", type=int, default=[10, 100, 1_000])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.0, 500.0], help="of all workers; 0: no limit")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE}")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tokens, file = [secrets.token_hex(32) for _ in range(CLIENTS)], Path(folder, "tokens.txt")
        file.touch(mode=0o600)
        file.write_text("".join(f"client-{one} {token}\n" for one, token in enumerate(tokens)))
        served = ["--port", "0", "--no-mlflow", "--token-file", str(file)]
        command = [sys.executable, "-m", "autowarmup", "serve", f"{folder}/studies", *served]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        port = int(process.stderr.readline().split("127.0.0.1:")[1].split(",")[0])
        time.sleep(2.0)
        try:
            for rate, workers in product(options.rates, options.workers):
                rows.append(row(asyncio.run(measure(port, tokens, process, workers, options.seconds, rate))))
                print(rows[-1], flush=True)
        finally:
            process.terminate()
            process.communicate()
    text = page(rows)
    print(text)
    if options.write:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
