"""Progress: what a terminal and a job's log show of a study."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autowarmup import Schedule
from autowarmup.search.trials import Role, SegmentResult, TrialSpec
from autowarmup.study.delivery import Delivery
from autowarmup.study.display import LiveDisplay, LogLines, lines, progress_for
from autowarmup.study.progress import Silent
from autowarmup.study.standing import Standing
from autowarmup.training.objective import LOSS
from autowarmup.training.trace import Evaluation, Trace


def one_step(number: int, role: Role = "proposal") -> tuple[TrialSpec, Trace]:
    spec = TrialSpec(number=number, candidate=0, role=role, seed=0, schedule=Schedule(peak=0.1, horizon=20))
    return spec, Trace(np.ones(1), np.ones(1), np.ones(1), (Evaluation(1, 0.1 * number, math.nan),))


def shown(standing: Standing, width: int = 200) -> list[str]:
    return [re.sub(r"\d:\d\d", "0:00", line.plain) for line in lines(standing, width)]


def test_what_a_terminal_shows() -> None:
    standing = Standing(budget=10, horizon=2)
    assert shown(standing)[1:] == ["best so far: none yet", "starting"]
    for number, role, outcome in [
        (5, "proposal", "completed"),
        (4, "proposal", "pruned"),
        (1, "confirmation", "completed"),
        (2, "proposal", "unstable"),
    ]:
        standing.trained(*one_step(number, role))  # type: ignore[arg-type]
        standing.ended(number, outcome)  # type: ignore[arg-type]
    spent, best, now = shown(standing)
    assert spent == f" 40% {'━' * 16}{'─' * 24}   2.0 of 5.0 whole runs   at most 0:00 left"
    assert best == "best so far: loss 0.5, no warm-up, peak 0.1 (trial 5)"
    assert now == "proposal 2: step 1 of 20   trials: 2 completed, 1 pruned, 1 unstable (25% of steps)"
    standing.turned_to("writing the report")
    spent, _, now = shown(standing)
    assert now.startswith("writing the report   trials: 2 completed")
    assert "left" not in spent


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    standing = Standing(budget=10, horizon=2)
    standing.trained(*one_step(5))
    standing.ended(5, "completed")
    assert all(len(line) <= width for line in shown(standing, width))


SETTINGS: Any = SimpleNamespace(horizon=20, objective=LOSS)


def test_a_thousand_steps_are_drawn_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    display = LiveDisplay()
    monkeypatch.setattr(
        display,
        "_live",
        SimpleNamespace(start=int, stop=int, update=lambda group, refresh: drawn.append(group.renderables)),
    )
    display.started(SETTINGS, Path(), budget=1000)
    display.replayed(one_step(1)[0], SegmentResult(1, 1, one_step(1)[1]))
    began = time.monotonic()
    for _ in range(1000):
        display.observe(*one_step(1))
    display.finished(1, "completed")
    display.close()
    assert len(drawn) <= 5 + (time.monotonic() - began) / 0.3
    assert [line.plain for line in drawn[-1]][1:] == [
        "best so far: loss 0.1, no warm-up, peak 0.1 (trial 1)",
        "proposal 1: step 1 of 20   trials: 1 completed",
    ]


def test_a_log_has_a_line_for_each_trial(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    log = progress_for()
    assert isinstance(log, LogLines)
    log.started(SETTINGS, Path("study"), budget=1000)
    log.replayed(one_step(1)[0], SegmentResult(1, 1, one_step(1)[1]))
    log.finished(1, "completed")
    log.observe(*one_step(2))
    log.segment_ended(SegmentResult(2, 20, one_step(2)[1], error="Traceback\nValueError: \x1b[31m" + "x" * 5000))
    log.finished(2, "failed")
    log.observe(*one_step(3))
    log.observe(*one_step(3))
    monkeypatch.setattr(log, "_due", 0.0)  # half a minute later
    log.observe(*one_step(3))
    log.doing("writing the report")
    log.close()
    written = capsys.readouterr().err
    assert "\x1b" not in written
    heads = [re.sub(r"\d+:\d\d left", "0:00 left", line.split("autowarmup: ")[1])[:70] for line in written.splitlines()]
    assert heads == [
        "study study: at most 50.0 runs of 20 steps",
        "1 steps were trained before, and are not trained again",
        "  0%, at most 0:00 left: trial 2 (proposal) failed at step 1: ValueErro"[:70],
        "  0%, at most 0:00 left: proposal 3: step 1 of 20",
        "writing the report",
    ]
    assert max(map(len, written.splitlines())) < 430


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_cant_move_its_cursor_gets_lines(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", term)
    assert isinstance(progress_for(), LogLines)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(progress_for(), LiveDisplay)
    monkeypatch.setattr(sys, "stderr", None)
    assert type(progress_for()) is Silent


def test_without_a_command_line_the_log_tells_what_mlflow_lacks(caplog: pytest.LogCaptureFixture) -> None:
    for progress in (progress_for(False), progress_for(True)):
        progress.delivered(Delivery(folder="study", uri="http://host", trials=3, delivered=3))
        assert caplog.messages == []
        progress.delivered(Delivery(folder="study", uri="http://host", trials=3, delivered=1))
        assert "1 of 3 trials" in caplog.messages.pop()
        caplog.clear()
        progress.close()


# --- In a real terminal -----------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent

TASK = """
import time

def train(run):
    weight = 3.0
    for step in range(run.total_steps):
        time.sleep(0.06)
        weight -= run.schedule.lr_at(step) * weight
        if run.report(weight**2 + 0.01, val_loss=weight**2 + 0.01):
            return

def task():
    return {"train_fn": train, "total_steps": 40, "current_peak": 0.1, "confirm_seeds": 2}
"""


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs tmux's commands in a server of its own."""

    def run(*args: str) -> str:
        command = ["tmux", "-f", "/dev/null", "-S", str(tmp_path / "tmux"), *args]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PS1": "$ "}
        for fixed in ("COLUMNS", "LINES"):  # pytest-xdist sets them: a window's own size is to count
            environment.pop(fixed, None)
        return subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    yield run
    run("kill-server")


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
@pytest.mark.slow
def test_the_lines_are_drawn_over_each_other_in_windows_of_any_width(tmux: Callable[..., str], tmp_path: Path) -> None:
    def screen(until: str) -> list[str]:
        end = time.monotonic() + 120
        while not re.search(until, seen := tmux("capture-pane", "-p")) and time.monotonic() < end:
            time.sleep(0.1)
        assert re.search(until, seen), seen
        return [line for line in seen.splitlines() if line]

    (tmp_path / "task.py").write_text(TASK)
    tmux("new-session", "-d", "-x", "200", "-y", "40", "bash", "--noprofile", "--norc")
    screen(r"\$")
    tmux("send-keys", f"{sys.executable} -m autowarmup tune task.py:task --study s --no-mlflow", "Enter")
    screen("best so far: loss")
    steps = 0
    for columns in (70, 40, 120):
        tmux("resize-window", "-x", str(columns), "-y", "40")
        time.sleep(1.0)
        seen = screen("best so far: loss")
        steps += sum("whole runs" in line for line in seen)
        assert sum("best so far" in line for line in seen) == 1, seen
        assert sum("% " in line and "whole" in line for line in seen) <= 1, seen
    assert steps
    ended = " ".join(screen("trials: .* show "))
    assert re.search(r"verdict: .*schedule: peak .*trials: \d+ .*cost: .*report: .*code: .*trials: ", ended), ended
    assert "best so far" not in ended
