"""What the tracking tests talk to: small studies, and servers that live, die or never answer."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from autowarmup.instability.instability import Instability, Kind
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.shapes import Polynomial
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.config import TuneConfig
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.search.verdict import Verdict
from autowarmup.study.store import StudyStore
from autowarmup.training.trace import Evaluation, Outcome, Trace

T = TypeVar("T")

STUDY = "3f0c6f8a5f7e4c1d9b2a7e6d5c4b3a21"
STARTED = 1_750_000_000.0
HORIZON = 60
RUNGS = (20, 40, 60)


class Study:
    """A study in ``folder`` as its driver writes it, trial by trial."""

    def __init__(self, folder: Path, study: str = STUDY, horizon: int = HORIZON) -> None:
        self.folder, self.horizon, self.clock = folder, horizon, STARTED
        self.store = StudyStore(folder, write=True)
        config = TuneConfig(
            total_steps=horizon,
            budget=100 * horizon,
            space=SearchSpace(),
            current_peak=0.1,
            task={"model": "Linear(4, 2)", "metrics": ["accuracy"]},
        )
        self.store.set_meta("id", study)
        self.store.set_meta("name", folder.name)
        self.store.set_meta("config", config.model_dump(mode="json"))
        self.store.set_meta("created_at", STARTED - 1.0)
        self.store.set_meta("status", "running")

    def add(self, number: int, **changes: Any) -> TrialSpec:
        schedule = Schedule(peak=0.01 * (number + 1), horizon=self.horizon, warmup_steps=6, shape=Polynomial(power=2))
        spec = TrialSpec(number=number, candidate=number, role="proposal", seed=number % 2, schedule=schedule)
        spec = spec.model_copy(update=changes)
        self.store.add_trial(spec)
        return spec

    def segment(
        self,
        number: int,
        start: int,
        until: int,
        *,
        bad_from: int | None = None,
        error: str | None = None,
        spike: int | None = None,
        metrics: dict[str, float] | None = None,
        validates: bool = True,
    ) -> None:
        """One report; from ``bad_from`` on its losses are infinite, then NaN; it ends five steps later."""
        schedule = self.store.trial(number).spec.schedule
        end = start if error else until if bad_from is None else bad_from + 5
        steps = np.arange(start, end)
        loss = 2.0 * np.exp(-steps / 20.0) + 0.01 * np.sin(steps + number)
        norm = 1.0 + 0.1 * np.cos(steps)
        if bad_from is not None:
            loss[steps >= bad_from] = math.inf
            loss[steps > bad_from] = math.nan
            norm[steps >= bad_from] = math.inf
        value = 2.5 if bad_from is None else math.nan
        evaluation = Evaluation(
            end, value * math.exp(-end / 20.0), value, metrics or {"top@1": 0.5, "accuracy": math.nan}
        )
        self.store.add_segment(
            SegmentResult(
                number,
                until,
                Trace(schedule.curve()[start:end], loss, norm, (evaluation,) if validates and not error else (), start),
                None if bad_from is None else instability("non-finite", bad_from, fatal=True),
                () if spike is None else (instability("spike", spike, fatal=False),),
                error,
                self.clock,
                2.0,
            ),
            position=self.store.segment_count(),
            slots=1,
        )
        self.clock += 2.0

    def run(
        self,
        number: int,
        outcome: Outcome | None = "completed",
        *,
        spike: int | None = None,
        validates: bool = True,
        **changes: Any,
    ) -> None:
        """A whole trial that ends with ``outcome``; None leaves it open after its first segment."""
        self.add(number, **changes)
        if outcome == "failed":
            self.segment(number, 0, RUNGS[0], error="Traceback (most recent call last):\nValueError: bad batch")
        elif outcome == "unstable":
            self.segment(number, 0, RUNGS[0])
            self.segment(number, RUNGS[0], RUNGS[1], bad_from=27)
        elif outcome == "completed":
            for start, until in zip((0, *RUNGS), RUNGS, strict=False):
                self.segment(number, start, until, spike=spike if until == RUNGS[0] else None, validates=validates)
        else:
            self.segment(number, 0, RUNGS[0])
        if outcome:
            self.store.finish(number, outcome)

    def all_outcomes(self) -> None:
        self.run(0, spike=11)
        self.run(1, "pruned")
        self.run(2, "unstable")
        self.run(3, "failed")
        self.run(4)

    def finish(self, status: str = "finished") -> None:
        """Concludes, with artifacts."""
        schedule = self.store.trial(0).spec.schedule
        verdict = Verdict(kind="tuned", candidate=0, schedule=schedule, margin=0.005, message="beats the current one")
        self.store.set_meta("schedule", schedule.model_dump(mode="json"))
        self.store.set_meta("extrapolation", None)
        self.store.set_meta("verdict", verdict.model_dump(mode="json"))
        (self.folder / "schedule.json").write_text(schedule.model_dump_json())
        (self.folder / "report.html").write_text("<h1>SegmentResult</h1>")
        (self.folder / "figures").mkdir(exist_ok=True)
        Image.new("RGB", (1344, 896), "white").save(self.folder / "figures" / "stability_map.png")
        self.store.set_meta("status", status)


def instability(kind: Kind, step: int, *, fatal: bool) -> Instability:
    return Instability(
        kind=kind,
        severity=3.0,
        step=step,
        lr=0.02,
        detected=step + 3,
        fatal=fatal,
        message=f"the loss is not finite since step {step}",
    )


class Server:
    """``mlflow server`` with one worker, on a free port of 127.0.0.1; can be killed and started again.

    Args:
        folder: where it works, and keeps its runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=os.environ | quiet,
                start_new_session=True,
            )
        wait_until(self._answers, 120)

    def kill(self) -> None:
        """The server and its worker, at once: as a machine that goes down."""
        if self._process is None:
            return
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as reply:
                return reply.status == 200
        except (urllib.error.URLError, OSError):
            return False


@contextmanager
def blackhole() -> Iterator[str]:
    """The URI of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], T], seconds: float) -> T:
    """What the condition returns, as soon as that is true."""
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, f"still not so after {seconds:g} s"
        time.sleep(0.1)
    return found


def children(process: int) -> list[int]:
    """The processes that ``process`` started and that live."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
    return [int(child) for child in found.split()]


def group(leader: int) -> list[int]:
    """The processes of a process group that live."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getpgid(int(folder.name)) == leader:
                found.append(int(folder.name))
    return found


def alive(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
