"""The service under load: simulated workers on 50 studies report ten steps at a time, as fast as they are answered.

`python -m benchmarks.service --write` writes benchmarks/results/service.md. The workers are coroutines of one process
that speak HTTP/1.1 over connections of their own; the service is another process, with studies in a temporary folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import platform
import random
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


@dataclass
class Measured:
    """What was measured with so many workers.

    Args:
        workers: how many there were.
        rate: reports a second of all together that they were to send; 0: as many as they could.
        seconds: for how long.
        reports: seconds that reports within a segment took.
        decisions: seconds that reports took which ended a segment: the search's time is in them.
        suggests: seconds that requests for trials took which got some.
        empty: requests for trials that got none, in the time they waited.
        memory: the service's resident memory in MiB, by reports received.
    """

    workers: int
    rate: float
    seconds: float = 0.0
    reports: list[float] = field(default_factory=list)
    decisions: list[float] = field(default_factory=list)
    suggests: list[float] = field(default_factory=list)
    empty: int = 0
    memory: list[tuple[int, float]] = field(default_factory=list)


class Connection:
    """A connection that is kept open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The status and the body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        data = json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(answer.partition("content-length:")[2].split("\r\n", 1)[0] or 0)
        content = await reader.readexactly(length)
        return int(answer.split(" ", 2)[1]), json.loads(content) if content else {}


async def work(port: int, study: str, name: str, end: float, found: Measured, pace_s: float) -> None:
    """One worker, until the time is over."""
    connection = Connection(port)
    noise = random.Random(name)
    while time.perf_counter() < end:
        began = time.perf_counter()
        _, answer = await connection.send(
            "POST", f"/v1/studies/{study}/trials:suggest", {"client_id": name, "wait_s": 5.0}
        )
        if not answer.get("trials"):
            found.empty += 1
            if answer.get("state") != "running":
                return
            continue
        found.suggests.append(time.perf_counter() - began)
        for trial in answer["trials"]:
            await train(connection, study, trial, end, found, pace_s, noise)


async def train(
    connection: Connection,
    study: str,
    trial: dict[str, Any],
    end: float,
    found: Measured,
    pace_s: float,
    noise: random.Random,
) -> None:
    """Reports a trial's steps until it is paused or over."""
    number, seq, step, until = trial["spec"]["number"], trial["seq"], trial["steps"], trial["until"]
    off = math.log10(trial["spec"]["schedule"]["peak"] / 0.02) ** 2
    while time.perf_counter() < end:
        after, seq = min(until, step + STEPS), seq + 1
        level = 2.0 * math.exp(-4.0 * step / HORIZON) + 0.2 + 0.3 * off
        body: dict[str, Any] = {
            "lease": trial["lease"],
            "seq": seq,
            "steps": after,
            "losses": [level + 0.02 * noise.random() for _ in range(after - step)],
            "grad_norms": [1.0 + 0.1 * noise.random() for _ in range(after - step)],
        }
        if after % trial["eval_every"] == 0 or after == HORIZON:
            body["validation"] = {"step": after, "val_loss": level, "val_loss_ema": level}
        began = time.perf_counter()
        status, answer = await connection.send("POST", f"/v1/studies/{study}/trials/{number}/reports", body)
        took = time.perf_counter() - began
        if status != 200:
            return
        (found.decisions if after == until else found.reports).append(took)
        step, until = after, answer["until"]
        if answer["action"] != "go_on":
            return
        if pace_s > took:
            await asyncio.sleep(pace_s - took)


async def measure(port: int, process: subprocess.Popen[str], workers: int, seconds: float, rate: float) -> Measured:
    """All workers for so many seconds, at most ``rate`` reports a second together."""
    found = Measured(workers, rate)
    connection = Connection(port)
    for study in range(STUDIES):
        settings = {"total_steps": HORIZON, "current_peak": 0.001, "workers": max(1, workers // STUDIES)}
        status, answer = await connection.send("PUT", f"/v1/studies/load-{workers}-{rate:.0f}-{study}", settings)
        assert status == 201, answer
    began = time.perf_counter()
    end = began + seconds
    tasks = [
        asyncio.create_task(
            work(
                port,
                f"load-{workers}-{rate:.0f}-{one % STUDIES}",
                f"worker-{one}",
                end,
                found,
                workers / rate if rate else 0.0,
            )
        )
        for one in range(workers)
    ]
    while time.perf_counter() < end:
        found.memory.append((len(found.reports), memory_of(process)))
        await asyncio.sleep(min(5.0, seconds / 4))
    await asyncio.gather(*tasks)
    found.seconds = time.perf_counter() - began
    found.memory.append((len(found.reports), memory_of(process)))
    for study in range(STUDIES):
        await connection.send("DELETE", f"/v1/studies/load-{workers}-{rate:.0f}-{study}", {})
    return found


def memory_of(process: subprocess.Popen[str]) -> float:
    """Resident memory in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def row(found: Measured) -> str:
    """A line of the table."""

    def times(values: Sequence[float]) -> str:
        if not values:
            return "-"
        median, high = np.percentile(values, [50, 99])
        return f"{median * 1e3:.1f} / {high * 1e3:.0f}"

    total = len(found.reports) + len(found.decisions)
    first, last = found.memory[len(found.memory) // 2], found.memory[-1]
    cells = [
        str(found.workers),
        f"{found.rate:,.0f}" if found.rate else "no limit",
        f"{total / found.seconds:,.0f}",
        times(found.reports),
        times(found.suggests),
        f"{len(found.decisions)}: {times(found.decisions)}",
        f"{first[1]:.0f} at {first[0]:,}, {last[1]:.0f} at {last[0]:,}",
    ]
    return f"| {' | '.join(cells)} |"


HEADER = (
    "workers",
    "reports a second, asked for",
    "reports a second",
    "a report",
    "a request for trials that gets one",
    "ends of segments: number, time",
    "memory of the service, MiB, after reports",
)


def page(rows: Sequence[str]) -> str:
    """The page of the results."""
    lines = [
        "# The service under load",
        "",
        f"{STUDIES} studies of {HORIZON:,} steps, reports of {STEPS} steps, each worker on a connection of its own.",
        f"Python {platform.python_version()}, 2 CPU cores; the workers take one.",
        "`python -m benchmarks.service --write`.",
        "",
        "Times are in milliseconds, median / 99th percentile. The report that ends a segment is answered when the",
        "search has decided, so the search's time is in it.",
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
    parser.add_argument("--rates", nargs="+", type=float, default=[0.0, 200.0], help="of all workers; 0: no limit")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE}")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "autowarmup", "serve", folder, "--port", "0", "--no-mlflow"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        port = int(process.stderr.readline().split("127.0.0.1:")[1].split(",")[0])
        time.sleep(2.0)
        try:
            for rate, workers in product(options.rates, options.workers):
                rows.append(row(asyncio.run(measure(port, process, workers, options.seconds, rate))))
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
