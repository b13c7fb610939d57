"""The commands that a study prints run as they are printed, in a fresh shell where autowarmup is not on PATH."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sysconfig
from pathlib import Path

import pytest

from autowarmup.cli.program import cli

ROOT = Path(__file__).parent.parent
SCRIPT = Path(sysconfig.get_path("scripts"), "autowarmup")
FRESH = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
"""Of a fresh shell's environment: nothing but what makes it this copy of the package."""

TASK = """
import os, signal

def train(run):
    if os.environ.get("INTERRUPT") and run.schedule.peak != 0.1:
        signal.raise_signal(signal.SIGINT)
    weight = 3.0
    for step in range(run.total_steps):
        weight -= run.schedule.lr_at(step) * weight
        if run.report(weight**2 + 0.01, val_loss=weight**2 + 0.01):
            return

def task():
    return {"train_fn": train, "total_steps": 20, "current_peak": 0.1, "confirm_seeds": 2}
"""


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs it as pasted into a fresh shell, in another folder than the study's."""
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", command],
        env=FRESH | environment, cwd="/", capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def printed(text: str) -> list[str]:
    """The commands in what was printed: a word, a colon, the command; or a line of its own; or in backquotes."""
    program = re.escape(str(SCRIPT))
    return re.findall(rf"(?m)(?:^  |^[\w ]+: |`)('?{program}'? .*?)(?:$|`)", text)


def name_of(command: str) -> str:
    return shlex.split(command)[1]


def browses(command: str) -> bool:
    """Whether it serves until Ctrl-C."""
    with subprocess.Popen(
        ["bash", "--noprofile", "--norc", "-c", f"exec {command} --no-open"], env=FRESH, cwd="/", stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        served = process.stdout.readline().startswith(b"http://")
        process.send_signal(signal.SIGINT)
        return served and process.wait(30) == 0


@pytest.mark.skipif(not SCRIPT.exists(), reason="autowarmup is not installed here")
@pytest.mark.slow
def test_commands_that_are_printed_run_in_a_fresh_shell(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "task.py").write_text(TASK)
    first = f"cd '{folder}' && '{SCRIPT}' tune task.py:task --study 'my study'"
    interrupted = shell(first, INTERRUPT="1")
    assert interrupted.returncode == 130, interrupted.stderr
    commands = printed(interrupted.stderr)
    assert name_of(commands[-1]) == "resume"
    shown = shell(f"'{SCRIPT}' show '{folder}/my study'")
    assert printed(shown.stdout) == commands[-1:]

    resumed = shell(commands[-1])
    assert resumed.returncode == 0, resumed.stderr
    commands = printed(resumed.stdout)
    assert [name_of(command) for command in commands] == ["schedule", "browse", "show"]
    for command in commands:
        if name_of(command) != "browse":
            done = shell(command)
            assert (done.returncode, done.stderr) == (0, ""), command
        elif "browse" in cli.commands:
            assert browses(command)


@pytest.mark.skipif(not SCRIPT.exists(), reason="autowarmup is not installed here")
@pytest.mark.slow
def test_what_mlflow_lacks_is_delivered_by_the_command_that_is_printed(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(TASK)
    done = shell(f"cd '{tmp_path}' && '{SCRIPT}' tune task.py:task --study s --mlflow http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    (command,) = printed(done.stderr)
    assert name_of(command) == "sync"
    delivered = shell(f"{command} --mlflow sqlite:///{tmp_path}/mlflow.db")
    assert delivered.returncode == 0, delivered.stderr


def test_on_path_the_name_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from autowarmup.shell import command_line

    monkeypatch.setenv("PATH", os.pathsep.join([str(SCRIPT.parent), "/usr/bin"]))
    assert command_line("show", tmp_path).startswith("autowarmup show /")
    other = tmp_path / "autowarmup"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), str(SCRIPT.parent)]))
    assert command_line("show", tmp_path).startswith(str(SCRIPT))
