"""A study of one of the operator's task files: ``autowarmup tune`` in a process of its own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from autowarmup.errors import InputError
from autowarmup.schedule.schedule import Schedule
from autowarmup.service.hosted import HostedStudy, Kept
from autowarmup.service.settings import ServiceSettings
from autowarmup.service.workers_study import has_verdict
from autowarmup.study.folder import write_file
from autowarmup.tracking.mirror import private
from autowarmup.values import short

LOG = logging.getLogger("autowarmup.service")

FUNCTION = "task"
"""What a task file's function is called."""

FLAGS = {
    "total_steps": "--steps",
    "tune_steps": "--tune-steps",
    "budget": "--budget",
    "space": "--space",
    "seed": "--seed",
    "current_peak": "--lr",
    "confirm_seeds": "--confirm-seeds",
    "margin": "--margin",
    "cohort": "--cohort",
    "trivial_loss": "--trivial-loss",
    "objective": "--objective",
    "direction": "--direction",
}
"""The options of ``autowarmup tune``, by the names of ``autotune``'s arguments."""

CURRENT = "current.json"
"""The name of the file with today's schedule, in the study's folder."""

NOTHING_STABLE = 3
"""Its exit code where it came to a verdict, and has no schedule."""


class TaskStudy(HostedStudy):
    """A study that the service trains itself.

    Args:
        folder: the study's.
        kept: what the service keeps of it.
        settings: where the task files are, and where they train.
        turn: how many such studies may train at once.

    Raises:
        InputError: there is no such task file, or an option that ``autowarmup tune`` can't be given.
    """

    def __init__(self, folder: Path, kept: Kept, settings: ServiceSettings, turn: threading.Semaphore) -> None:
        super().__init__(folder, kept)
        if isinstance(kept.request.current, dict):
            raise InputError("current: with run it must be a whole schedule, its horizon and its peak included")
        self._settings, self._turn = settings, turn
        self._command = [*_program(), "tune", f"{task_file(settings, str(kept.request.run))}:{FUNCTION}"]
        self._command += ["--study", str(folder), *_options(kept.request.options(), folder), *_where(settings)]
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self.finished = has_verdict(folder)

    def start(self) -> None:
        self._stopping.clear()
        current = self.kept.request.current
        if isinstance(current, Schedule):
            write_file(self.folder / CURRENT, current.model_dump_json())
        super().start()

    def _work(self) -> None:
        while not self._turn.acquire(timeout=0.2):
            if self._stopping.is_set():
                return
        try:
            if not self._stopping.is_set():
                self._train()
        finally:
            self._turn.release()
            self.bell.ring()

    def _train(self) -> None:
        uri = self._settings.mlflow
        env = os.environ | ({"MLFLOW_TRACKING_URI": uri} if uri else {})
        log = self.folder / "service.log"
        with open(log, "ab", opener=private) as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True
            )
        code = self._process.wait()
        self._process = None
        if self._stopping.is_set():
            return
        self.finished = code in (0, NOTHING_STABLE) and has_verdict(self.folder)
        if not self.finished:
            self.failure = _last_error(log)
            LOG.warning("study %s failed with status %s", self.id, code)

    def interrupt(self) -> None:
        self._stopping.set()
        if (process := self._process) is not None:
            process.send_signal(signal.SIGINT)


def task_files(settings: ServiceSettings) -> dict[str, Path]:
    """The operator's task files by name."""
    if settings.tasks is None:
        return {}
    found = sorted(settings.tasks.glob("*.py"))
    return {path.stem: path.absolute() for path in found if path.is_file() and not path.stem.startswith("_")}


def task_file(settings: ServiceSettings, name: str) -> Path:
    """The operator's task file of that name.

    Raises:
        InputError: there is none.
    """
    known = task_files(settings)
    if name not in known:
        raise InputError(
            f"run={name!r}: no such task; allowed: {', '.join(known) or 'none, the operator has set up none'}"
        )
    return known[name]


def _program() -> list[str]:
    """``autowarmup``, ended when the service is."""
    return [sys.executable, "-m", "autowarmup.service.child", str(os.getpid())]


def _options(given: dict[str, Any], folder: Path) -> list[str]:
    """What ``autowarmup tune`` is given.

    Raises:
        InputError: it has no option for it.
    """
    options = []
    for name, value in given.items():
        if name == "current":
            options.append(f"--current={folder / CURRENT}")
        elif name in FLAGS and isinstance(value, int | float | str):
            options.append(f"{FLAGS[name]}={value}")
        else:
            raise InputError(f"{name}={short(value)} can't be given with run: it must be a number or a preset's name")
    return options


def _where(settings: ServiceSettings) -> list[str]:
    where = ["--no-mlflow"] if settings.mlflow is False else []
    if settings.task_engine == "ray":
        where += ["--engine", "ray", *(["--address", settings.ray_address] if settings.ray_address else [])]
    return where


def _last_error(log: Path) -> str:
    """What the program said last."""
    text = log.read_text(encoding="utf-8", errors="replace")[-4_000:]
    _, mark, last = text.rpartition("autowarmup: error: ")
    return last.strip() if mark else text.strip()[-500:] or "the study's process was killed"
