"""The command line: what it prints where, its exit codes, and how it is interrupted."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autowarmup import Schedule
from autowarmup.cli.program import cli
from autowarmup.errors import TrackingError
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.shell import command_line
from autowarmup.study.delivery import Delivery
from autowarmup.study.store import FORMAT, StudyStore
from autowarmup.training.trace import Trace

ROOT = Path(__file__).parent.parent
LOG_LINE = re.compile(r"\d\d:\d\d:\d\d autowarmup: .*")
HEAVY = {"torch", "ray", "mlflow", "matplotlib"}

LOOP = '''
import os, random, signal, time
from pathlib import Path

def train(run):
    """A noisy quadratic: gradient descent on it breaks above a rate of 2."""
    weight, noise = 3.0, random.Random(run.seed)
    for step in range(run.total_steps):
        time.sleep(float(os.environ.get("STEP_S", 0)))
        weight -= run.schedule.lr_at(step) * (weight + 0.1 * noise.random())
        if run.report(weight**2 + 0.01, val_loss=weight**2 + 0.01):
            return

def task():
    print("what a task prints")
    return {"train_fn": train, "total_steps": 20, "current_peak": 0.1, "confirm_seeds": 2, "budget": 260}

def plain():
    return {"train_fn": train, "total_steps": 20}

def breaks(run):
    for step in range(run.total_steps):
        if run.report(1.0 if step < 6 else float("nan"), lr=run.schedule.lr_at(step)):
            return

def unstable():
    return task() | {"train_fn": breaks}

def raises(run):
    raise RuntimeError("no such layer")

def raising():
    return task() | {"train_fn": raises}

def once(name):
    try:
        Path(name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

def interrupts(run):
    if run.schedule.peak != 0.1 and once("interrupted"):
        signal.raise_signal(signal.SIGINT)
    train(run)

def interrupting():
    return task() | {"train_fn": interrupts}

def loses_worker(run):
    if run.schedule.peak != 0.1 and once("interrupted"):
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("DataLoader worker exited unexpectedly")
    train(run)

def losing_worker():
    return task() | {"train_fn": loses_worker}

def entry():
    return task() | {"total_step": 20}

def number():
    return 3

def wants_x(x):
    return {}

def fails():
    return open("/no/such/file")

def impatient():
    raise KeyboardInterrupt

def no_steps():
    return {"train_fn": train}

def broken_model():
    def model_fn():
        raise RuntimeError("no such layer")
    return {"model_fn": model_fn, "data": lambda: ([1], [1]), "total_steps": 20}
'''

LINEAR = """
import time
from pathlib import Path
import torch
from torch import nn

def task():
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    y = x.sum(1, keepdim=True)
    return {"model_fn": lambda: nn.Linear(4, 1), "data": ((x[:192], y[:192]), (x[192:], y[192:]))}

class Stuck(nn.Linear):
    def forward(self, x):
        if Path("study/study.db").exists():
            print("a step that takes a minute")
            time.sleep(60)
        return super().forward(x)

def stuck():
    return task() | {"model_fn": lambda: Stuck(4, 1)}

def loaders():
    pairs = [torch.utils.data.TensorDataset(*part) for part in task()["data"]]
    made = [torch.utils.data.DataLoader(pair, 32, num_workers=1) for pair in pairs]
    return task() | {"data": made}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with task files; what loading them leaves behind is undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    modules, handler = set(sys.modules), signal.getsignal(signal.SIGINT)
    (tmp_path / "loop.py").write_text(LOOP)
    (tmp_path / "linear.py").write_text(LINEAR)
    yield tmp_path
    assert signal.getsignal(signal.SIGINT) is handler
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No report is drawn."""

    def write_report(result: Any, traces: Any, folder: Path) -> Path:
        (folder / "report.html").write_text("<html>")
        return folder / "report.html"

    monkeypatch.setattr("autowarmup.report.write_report", write_report)


def run(*args: str | Path) -> Result:
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def tune(target: str, *args: str) -> Result:
    return run("tune", target, "--study", "study", "--no-mlflow", *args)


def findings(study: Path) -> dict[str, Any]:
    """What a study found, without what differs from run to run: times and where it lies."""
    result = json.loads((study / "result.json").read_text())
    del result["study"]
    for record in result["records"]:
        del record["seconds"]
    return dict(result)


# --- Starting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["-c", "import autowarmup"], ["-m", "autowarmup", "--help"], ["-m", "autowarmup", "tune", "-h"]]
)
def test_nothing_heavy_is_loaded(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "autowarmup" in loaded
    assert loaded & HEAVY == set()


def test_version_and_help() -> None:
    assert run("--version").output == "autowarmup 0.1.0\n"
    assert "Exit codes" in run("-h").output


def test_without_a_command_it_helps() -> None:
    done = run()
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: autowarmup [OPTIONS] [COMMAND]")
    assert run("tun").stderr.startswith("autowarmup: error: No such command 'tun'")


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_help_with_an_example(name: str) -> None:
    shown = run(name, "-h")
    assert shown.exit_code == 0
    assert f"autowarmup {name}" in shown.output.split("Example", 1)[1]


# --- tune -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_tune_trains_a_model_and_tells_what_it_found() -> None:
    done = tune("linear.py:task", "--steps", "20", "--budget", "300", "--seed", "1", "--lr", "0.01")
    assert done.exit_code == 0
    assert done.stdout.startswith("verdict: t")
    assert all(LOG_LINE.fullmatch(line) for line in done.stderr.splitlines()), done.stderr
    config = json.loads(Path("study/result.json").read_text())["config"]
    assert (config["budget"], config["seed"], config["current_peak"]) == (300, 1, 0.01)
    assert f"report: {Path('study/report.html').absolute()}\n" in done.stdout
    assert f"code: {command_line('schedule', Path('study'), '--code', 'pytorch')}\n" in done.stdout
    assert done.stdout.count("verdict: t") == 1


@pytest.mark.usefixtures("quick")
def test_the_current_schedule_comes_from_options_or_from_a_file() -> None:
    few = ("--steps", "20", "--confirm-seeds", "0", "--budget", "3.5 runs", "--margin", "0.01")
    assert tune("loop.py:task", *few, "--current-warmup", "10%", "--current-shape", "cosine").exit_code == 0
    config = json.loads(Path("study/result.json").read_text())["config"]
    current = Schedule(peak=0.1, horizon=20, warmup_steps=2, shape="cosine")
    assert Schedule.model_validate(config["current"]) == current
    assert (config["budget"], config["margin"], config["confirm_seeds"]) == (70, 0.01, 0)
    Path("today.json").write_text(current.model_copy(update={"peak": 0.05}).model_dump_json())
    assert (
        run("tune", "loop.py:plain", *few, "--current", "today.json", "--study", "other", "--no-mlflow").exit_code == 0
    )
    config = json.loads(Path("other/result.json").read_text())["config"]
    assert Schedule.model_validate(config["current"]) == current.model_copy(update={"peak": 0.05})
    assert config["current_peak"] == 0.05
    Path("today.json").unlink()
    assert run("resume", "other").exit_code == 0


@pytest.mark.usefixtures("quick")
def test_options_override_the_task_and_a_space_comes_from_a_file() -> None:
    Path("mine.yaml").write_text("shapes: [linear]\npeak: {low: 0.05, high: 0.5}\n")
    done = tune("loop.py:task", "--steps", "30 steps", "--budget", "400", "--space", "mine.yaml", "--cohort", "3")
    assert done.exit_code == 0
    config = json.loads(Path("study/result.json").read_text())["config"]
    assert (config["total_steps"], config["confirm_seeds"], config["cohort"]) == (30, 2, 3)
    assert config["space"]["peak"]["high"] == 0.5


@pytest.mark.usefixtures("quick")
def test_json_is_all_there_is_on_standard_output() -> None:
    done = tune("loop.py:task", "--json")
    found = json.loads(done.stdout)
    assert found["verdict"] in ("tuned", "tie", "leaning")
    assert Schedule.model_validate(found["schedule"]).horizon == 20
    assert found["cost"]["steps"] <= 400
    assert found["paths"]["report"] == str(Path("study/report.html").absolute())
    assert found["mlflow"] is None
    assert [line for line in done.stderr.splitlines() if not LOG_LINE.fullmatch(line)] == ["what a task prints"]


@pytest.mark.usefixtures("quick")
def test_nothing_stable_has_an_exit_code_and_no_schedule() -> None:
    done = tune("loop.py:unstable", "--json")
    assert done.exit_code == 3
    found = json.loads(done.stdout)
    assert (found["verdict"], found["schedule"]) == ("nothing stable", None)
    assert not Path("study/schedule.json").exists()
    assert "nothing stable" in run("show", "study").stdout
    shown = run("schedule", "study")
    assert (shown.exit_code, shown.stdout) == (3, "")
    assert "nothing stable" in shown.stderr


def test_a_task_that_always_raises_fails_the_study() -> None:
    done = tune("loop.py:raising")
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.search(r"autowarmup: error: trial 0 \(probe\) failed.* make the same call again", done.stderr)
    assert "no such layer" in done.stderr


def test_a_model_that_raises_is_shown_from_the_users_file_on() -> None:
    done = tune("loop.py:broken_model")
    assert done.exit_code == 1
    assert "before the first trial" in done.stderr
    assert done.stderr.count('File "') == 1
    assert done.stderr.rstrip().endswith("RuntimeError: no such layer")


@pytest.mark.usefixtures("quick")
def test_what_mlflow_lacks_is_told() -> None:
    done = run("tune", "loop.py:task", "--study", "study", "--mlflow", "http://127.0.0.1:9")
    assert done.exit_code == 0
    assert re.search(r"MLflow at http://127.0.0.1:9 is known to have 0 of \d+ trials", done.stderr)
    assert command_line("sync", Path("study")) in done.stderr
    assert f"MLflow: {command_line('browse', Path('study'))}" in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["loop.py"], "must be given as FILE.py:function"),
        (["lop.py:task"], r"no file .*lop\.py \(did you mean 'loop\.py'\?\)"),
        (["nowhere/loop.py:task"], "there is no folder .*nowhere"),
        (["loop.py:taks"], r"has no function 'taks' \(did you mean 'task'\?\); it has train, task, plain"),
        (["loop.py:os"], "must be a function, got module"),
        (["loop.py:wants_x"], "called without arguments: missing a required argument: 'x'"),
        (["loop.py:number"], "must return a dict of autotune's arguments, .* got int"),
        (["loop.py:entry"], r"the entry 'total_step', .* \(did you mean 'total_steps'\?\)"),
        (["loop.py:fails"], r"(?s)fails\(\) in .*loop\.py failed:\nTraceback .*FileNotFoundError"),
        (["loop.py:no_steps"], "how many optimizer steps .* Pass --steps N"),
        (["exits.py:task"], r"ended with sys\.exit\(0\): put what only a script does under"),
        (["typo.py:task"], "(?s)failed:.*SyntaxError"),
        (["notes.txt:task"], "not a Python file"),
        (["loop.py:task", "--steps", "10%"], "'10%' is not a number of optimizer steps such as 1000"),
        (["loop.py:task", "--steps", "2 epochs"], "'2 epochs' is in epochs"),
        (["loop.py:task", "--budget", "10"], "budget=10 optimizer steps is too small"),
        (["loop.py:task", "--budget", "6 parsecs"], "budget '6 parsecs' is not a number of optimizer steps.*'6 runs'"),
        (["loop.py:task", "--budget", "1 run"], "budget=20 optimizer steps is too small"),
        (["loop.py:task", "--current", "no.json"], r"--current: no\.json can't be read: No such file"),
        (["loop.py:task", "--current", "notes.txt"], r"--current: notes\.txt is not a schedule: .*JSON"),
        (["loop.py:task", "--current", "notes.txt", "--current-warmup", "10%"], "leave out --current-warmup"),
        (["loop.py:task", "--current-shape", "linear"], "it needs --current-warmup"),
        (["loop.py:task", "--current-warmup", "3 parsecs"], "current: duration '3 parsecs' is not a number of steps"),
        (["loop.py:task", "--current-warmup", "5", "--current-shape", "bent"], "current: shape: .*'bent'"),
        (["loop.py:task", "--margin", "1"], "margin: must be less than 1, got 1.0"),
        (["loop.py:task", "--seed", "-1"], "seed: .* got -1"),
        (["loop.py:task", "--space", "defualt"], r"did you mean 'default'\?"),
        (["loop.py:task", "--batch-size", "8"], "--batch-size: the task has a training loop of its own"),
        (["loop.py:task", "--precision", "fp8"], "'fp8' is not one of 'fp32', 'bf16', 'fp16'"),
        (["loop.py:task", "--mlflow", "http://host", "--no-mlflow"], "exclude each other"),
        (["loop.py:task", "--address", "auto"], "--address is about a Ray cluster: it needs --engine ray"),
        (["loop.py:task", "--engine", "ray", "--gpus", "1.5"], "gpus=1.5: allowed are fractions from 0 to 1"),
        (["loop.py:task", "--mlflow", "mlruns"], "tracking URI 'mlruns' is not supported"),
        (["linear.py:task", "--steps", "0.5 epochs"], "total_steps: must be greater than or equal to 10, got 3"),
        (["linear.py:task", "--steps", "20", "--device", "tpu"], "device='tpu' can't be used here"),
    ],
)
def test_what_cant_be_used(args: list[str], message: str) -> None:
    Path("exits.py").write_text("import sys\nsys.exit(0)\n")
    Path("typo.py").write_text("def task(:\n")
    Path("notes.txt").write_text("def task(): ...\n")
    done = run("tune", *args, "--study", "study")
    assert (done.exit_code, done.stdout) == (2, "")
    errors = done.stderr.removeprefix("what a task prints\n")
    assert errors.startswith("autowarmup: error: ")
    assert not Path("study/study.db").exists()
    assert re.search(message, errors), errors


def test_the_users_traceback_starts_in_the_users_file() -> None:
    errors = tune("loop.py:fails").stderr
    assert errors.count('File "') == 1
    assert "in fails" in errors


def test_a_task_file_may_be_named_like_a_module() -> None:
    Path("json.py").write_text(LOOP)
    done = tune("json.py:number")
    assert "got int" in done.stderr
    assert json.loads("1") == 1
    assert sys.modules["json"] is json


# --- Interruption -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("function", ["interrupting", "losing_worker"])
def test_an_interrupted_study_goes_on_to_the_same_result(function: str) -> None:
    done = tune(f"loop.py:{function}")
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr.endswith(f"autowarmup: interrupted. To go on:\n  {command_line('resume', Path('study'))}\n")

    shown = json.loads(run("show", "study", "--json").stdout)
    assert shown["status"] == "interrupted"
    assert {trial["outcome"] for trial in shown["trials"]} <= {"completed", "unstable", "pruned", "open"}
    assert f"to go on: {command_line('resume', Path('study'))}" in run("show", "study").stdout
    assert "no verdict yet" in run("report", "study").stderr
    assert run("schedule", "study").exit_code == 2

    resumed = run("resume", "study", "--json")
    assert resumed.exit_code == 0
    assert run("tune", f"loop.py:{function}", "--study", "undisturbed", "--no-mlflow").exit_code == 0
    assert findings(Path("study")) == findings(Path("undisturbed"))
    assert run("resume", "study", "--json").stdout == resumed.stdout


@pytest.mark.usefixtures("quick")
def test_resume_remembers_the_options_and_where_it_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tune("loop.py:interrupting", "--seed", "5").exit_code == 130
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run("resume", "../study").exit_code == 0
    assert json.loads((tmp_path / "study/result.json").read_text())["config"]["seed"] == 5


def test_a_study_of_a_python_call_says_how_it_goes_on() -> None:
    StudyStore(Path("study"), write=True).close()
    done = run("resume", "study")
    assert done.exit_code == 2
    assert "run the Python call of autotune() that started it again" in done.stderr


def test_a_command_that_cant_be_read() -> None:
    StudyStore(Path("study"), write=True).close()
    Path("study/command.json").write_text("{}")
    done = run("resume", "study")
    assert done.exit_code == 2
    assert "file: is missing" in done.stderr


def test_an_interruption_before_the_study() -> None:
    done = tune("loop.py:impatient")
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr == "autowarmup: interrupted before the study began\n"


class Watched:
    """The command line in a process group of its own, its standard error on a pseudo-terminal."""

    def __init__(self, *args: str, **environment: str) -> None:
        self._master, slave = os.openpty()
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "autowarmup", *args],
            stdout=subprocess.PIPE,
            stderr=slave,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "130", "PYTHONPATH": str(ROOT)} | environment,
            start_new_session=True,
        )
        os.close(slave)

    def interrupt(self) -> None:
        """As a terminal does: every process of the group gets it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def read(self, until: str = "") -> str:
        """What it shows, up to a text or to its end."""
        while not until or until not in self.seen:
            try:
                part = os.read(self._master, 65536)
            except OSError:  # Linux: nobody holds the other side any more
                break
            self.seen += part.decode()
        assert until in self.seen, self.seen
        return self.seen

    def wait(self) -> tuple[int, str]:
        """The exit code and standard output."""
        self.read()
        output, _ = self.process.communicate(timeout=60)
        os.close(self._master)
        return self.process.returncode, output.decode()


@pytest.mark.usefixtures("quick")
def test_progress_on_a_terminal_and_ctrl_c() -> None:
    watched = Watched("tune", "loop.py:task", "--study", "study", "--no-mlflow", STEP_S="0.02")
    watched.read(until="best so far: \x1b[1mloss ")
    watched.interrupt()
    code, output = watched.wait()
    assert (code, output) == (130, "")
    assert "what a task prints" in watched.seen
    seen = re.sub(r"\x1b\[[\d;]*m", "", watched.seen)
    assert re.search(r" \d+% ━+─+   [\d.]+ of 13.0 whole runs   at most \d:\d\d left\r\n", seen)
    assert re.search(r"best so far: loss [\d.]+, \w+ warm-up over .* steps \(\d+%\) to [\d.]+ \(trial \d+\)\r\n", seen)
    assert re.search(r"proposal \d+: step \d+ of 20   trials: \d+ completed", seen)
    assert "stops at once" in seen
    assert command_line("resume", Path("study")) in seen
    assert "Traceback" not in watched.seen
    assert run("resume", "study").exit_code == 0
    assert run("tune", "loop.py:task", "--study", "undisturbed", "--no-mlflow").exit_code == 0
    assert findings(Path("study")) == findings(Path("undisturbed"))


@pytest.mark.slow
def test_ctrl_c_leaves_mlflow_in_order() -> None:
    def statuses() -> list[str]:
        with sqlite3.connect("study/mlflow.db") as db:
            return [row[0] for row in db.execute("SELECT status FROM runs")]

    watched = Watched("tune", "loop.py:task", "--study", "study", STEP_S="0.05")
    watched.read(until="proposal ")
    watched.interrupt()
    assert watched.wait()[0] == 130
    assert "warning" not in watched.seen
    assert "RUNNING" not in statuses()
    assert "KILLED" in statuses()
    resumed = Watched("resume", "study")
    code, output = resumed.wait()
    assert code == 0
    assert "MLflow: " in output
    assert " browse " in output
    assert "RUNNING" not in statuses()


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once() -> None:
    watched = Watched("tune", "linear.py:stuck", "--study", "study", "--no-mlflow", "--steps", "20")
    watched.read(until="a step that takes a minute")
    watched.interrupt()
    watched.read(until="stops at once")
    began = time.monotonic()
    watched.interrupt()
    assert watched.wait()[0] == 130
    assert time.monotonic() - began < 20.0
    assert f"resume {Path('study').absolute()}" in watched.seen


@pytest.mark.slow
def test_data_loading_processes_do_not_turn_ctrl_c_into_failed_trials() -> None:
    watched = Watched("tune", "linear.py:loaders", "--study", "study", "--no-mlflow", "--steps", "100")
    watched.read(until="baseline ")
    watched.interrupt()
    assert watched.wait()[0] == 130
    assert "Traceback" not in watched.seen
    outcomes = {trial["outcome"] for trial in json.loads(run("show", "study", "--json").stdout)["trials"]}
    assert "open" in outcomes
    assert "failed" not in outcomes


# --- show, report -----------------------------------------------------------------------------------------


@pytest.fixture
def store() -> Iterator[StudyStore]:
    """A study with one open trial, as its driver has it."""
    store = StudyStore(Path("study"), write=True)
    store.set_meta("status", "running")
    store.set_meta("config", {"budget": None, "total_steps": 20})
    store.set_meta("budget", 400)
    store.add_trial(TrialSpec(number=0, candidate=0, role="proposal", seed=0, schedule=Schedule(peak=0.1, horizon=20)))
    yield store
    store.close()


def test_show_while_it_runs_and_after_it_was_killed(store: StudyStore) -> None:
    with FileLock("study/study.lock"):
        shown = json.loads(run("show", "study", "--json").stdout)
    assert (shown["status"], shown["spent"], shown["budget"]) == ("running", 0, 400)
    assert [trial["outcome"] for trial in shown["trials"]] == ["open"]
    killed = run("show", "study")
    assert "killed, 0 of 400 optimizer steps" in killed.stdout
    assert f"to go on: {command_line('resume', Path('study'))}" in killed.stdout


def test_show_needs_a_study() -> None:
    done = run("show", "nowhere")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "autowarmup: error: nowhere holds no study" in done.stderr
    Path("study").mkdir()
    Path("study/study.db").write_text("this is no database, whatever its name says " * 30)
    done = run("show", "study")
    assert done.exit_code == 2
    assert "can't read the study folder study: file is not a database" in done.stderr


def test_a_study_that_is_worked_on_is_refused(store: StudyStore) -> None:
    with FileLock("study/study.lock"):
        done = tune("loop.py:task")
    assert done.exit_code == 2
    assert "another process is working on the study" in done.stderr


def test_report_and_show_of_a_finished_study() -> None:
    assert tune("linear.py:task", "--steps", "20").exit_code == 0
    Path("study/report.html").unlink()
    done = run("report", "study")
    assert done.stdout == "study/report.html\n"
    assert Path("study/report.html").stat().st_size > 10_000
    assert json.loads(run("show", "study", "--json").stdout)["status"] == "finished"
    table = run("show", "study").stdout
    assert "finished" in table
    assert "verdict: t" in table
    found = Schedule.model_validate_json(run("schedule", "study", "--json").stdout)
    assert found == Schedule.model_validate_json(Path("study/schedule.json").read_text())


def test_the_schedule_that_is_printed_is_extrapolated_where_the_result_is() -> None:
    done = tune("loop.py:task", "--steps", "400", "--tune-steps", "20")
    assert done.exit_code == 0
    wanted = Schedule.model_validate_json(Path("study/schedule.json").read_text())
    assert wanted.horizon == 400
    note = re.search(r"tuned at 20 steps; at 400 steps the peak is extrapolated: .*, between .* and .*", done.stdout)
    assert note is not None
    for shown in (run("show", "study"), run("schedule", "study"), run("schedule", "study", "--code", "pytorch")):
        assert note[0] in shown.stdout
    assert wanted.describe() in run("show", "study").stdout
    assert wanted.describe() in run("schedule", "study").stdout
    assert f"peak={wanted.peak!r},\n    horizon=400,\n" in run("schedule", "study", "--code", "autowarmup").stdout
    assert Schedule.model_validate_json(run("schedule", "study", "--json").stdout) == wanted
    assert run("schedule", "study", "--curve").stdout.count("\n") == 401
    overview = json.loads(run("show", "study", "--json").stdout)
    assert (Schedule.model_validate(overview["schedule"]), overview["extrapolation"]) == (wanted, note[0])


@pytest.mark.usefixtures("quick")
def test_a_finished_study_says_that_nothing_was_trained() -> None:
    tune("loop.py:task")
    with closing(StudyStore(Path("study"))) as store:
        finished_at = store.meta("finished_at")
    when = f"{datetime.fromtimestamp(finished_at):%Y-%m-%d %H:%M}"
    done = tune("loop.py:task")
    assert f"the study in {Path('study').absolute()} finished on {when}: nothing was trained\n" in done.stderr
    assert "steps were trained before" not in done.stderr
    with closing(StudyStore(Path("study"))) as store:
        assert store.meta("finished_at") == finished_at


@pytest.mark.parametrize("width", ["80", "200"])
def test_show_prints_texts_of_the_users_as_they_are(
    store: StudyStore, width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    texts = ["[/bold] closed", "[bold]kept[/bold]", "\x1b[31mred\x07", "long " * 1000, "[/red]"]
    for number, text in enumerate(texts):
        schedule = Schedule(peak=0.1, horizon=20)
        store.add_trial(TrialSpec(number=number, candidate=0, role="proposal", seed=0, schedule=schedule))
        error = f"Traceback (most recent call last):\nValueError: {text}"
        store.add_segment(SegmentResult(number, 20, Trace.empty(), error=error), position=number, slots=1)
        store.finish(number, "failed")
    done = run("show", "study")
    assert done.exit_code == 0
    assert "ValueError: [/bold] closed" in done.stdout
    assert "ValueError: [bold]kept[/bold]" in done.stdout
    assert r"ValueError: \x1b[31mred\x07" in done.stdout
    assert "\x1b" not in done.stdout
    assert len(done.stdout) < 5000


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a finished study."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "loop.py").write_text(LOOP)
    command = [sys.executable, "-m", "autowarmup", "tune", "loop.py:task", "--study", "study", "--no-mlflow"]
    subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=True)
    return folder / "study" / "study.db"


def is_refused(*args: str) -> None:
    """The study can't be read, or can be all the same; neither is a traceback."""
    done = run(*args)
    assert done.exit_code in (0, 2, 3)
    assert done.exit_code == 0 or done.stderr.startswith("autowarmup: ")


@given(
    changes=st.sampled_from([0, 1, 30, 1000]),
    seed=st.integers(0, 2**32),
    size=st.sampled_from([10**9, 100, 5000, 60_000]),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_study_is_an_error(finished: Path, changes: int, seed: int, size: int) -> None:
    damaged, draw = bytearray(finished.read_bytes()), random.Random(seed)
    for _ in range(changes):
        damaged[draw.randrange(len(damaged))] = draw.randrange(256)
    Path("study").mkdir(exist_ok=True)
    Path("study/study.db").write_bytes(damaged[:size])
    for command in (["show", "study"], ["show", "study", "--json"], ["schedule", "study"]):
        is_refused(*command)


def test_a_damaged_name_of_a_table_is_an_error(finished: Path) -> None:
    Path("study").mkdir()
    damaged = finished.read_bytes().replace(b"tablemeta", b"table\x9feta")
    assert damaged != finished.read_bytes()
    Path("study/study.db").write_bytes(damaged)
    assert "can't read the study folder study" in run("show", "study").stderr


@pytest.mark.parametrize("value", [3, 1e400, b"\x00\xff", "", "[]", "{}", '"x"', "3", "null", "no JSON"])
@pytest.mark.parametrize(
    "column",
    ["meta.value", "trials.spec", "trials.outcome"]
    + [f"segments.{name}" for name in ("until", "trace", "instability", "events", "error", "started_at", "seconds")],
)
def test_a_study_with_values_of_another_kind_is_an_error(finished: Path, column: str, value: object) -> None:
    Path("study").mkdir()
    shutil.copy(finished, "study")
    table, name = column.split(".")
    with closing(sqlite3.connect("study/study.db")) as db, suppress(sqlite3.IntegrityError):
        db.execute(f"UPDATE {table} SET {name} = ?", (value,))
        db.commit()
    for command in (["show", "study"], ["show", "study", "--json"], ["schedule", "study"]):
        is_refused(*command)


def test_a_study_of_another_schema_is_an_error() -> None:
    Path("study").mkdir()
    with closing(sqlite3.connect("study/study.db")) as db:
        db.execute("CREATE TABLE meta (name TEXT)")
    for command in ("show", "schedule", "report", "resume"):
        done = run(command, "study")
        assert (done.exit_code, done.stdout) == (2, "")
        assert "another version of autowarmup" in done.stderr
    assert "another version of autowarmup" in tune("loop.py:task").stderr
    with closing(sqlite3.connect("study/study.db")) as db:
        db.execute(f"PRAGMA user_version = {FORMAT}")
    assert "can't be read as a study" in run("show", "study").stderr


@pytest.mark.parametrize(
    "command",
    [["show"], ["schedule"], ["report"], ["resume"], ["sync"], ["spaces"], [], ["tune"], ["schedule", "--peak"]]
    + [["tune", "loop.py:task", option] for option in ("--study", "--space", "--mlflow", "--steps", "--device")],
)
@pytest.mark.parametrize("text", ["x" * 5000, "x" * 5000 + ".py:task", "9" * 5000])
def test_long_arguments_are_an_error_of_a_few_lines(command: list[str], text: str) -> None:
    done = run(*command, text)
    assert (done.exit_code, done.stdout) == (2, "")
    assert len(done.stderr) < 2000
    assert "Traceback" not in done.stderr


def test_closed_output_is_no_error(finished: bytes) -> None:
    Path("study").mkdir()
    shutil.copy(finished, "study")
    for name in ("schedule study --curve", "schedule --peak 1 --horizon 1000000000 --curve"):
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m autowarmup {name} | head -1; echo ${{PIPESTATUS[0]}}"],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.splitlines()[0] == "step,rate"
        assert done.stderr == ""
    assert done.stdout.splitlines()[1] == "141"


# --- schedule, spaces -------------------------------------------------------------------------------------

BY_HAND = ["schedule", "--peak", "3e-3", "--horizon", "1000", "--warmup", "10%"]


def test_a_schedule_by_hand_in_words_as_a_curve_and_as_json() -> None:
    made = Schedule(peak=3e-3, horizon=1000, warmup_steps=100, shape="linear")
    words, line = run(*BY_HAND).stdout.splitlines()
    assert words == made.describe()
    assert len(line) == 72
    assert "█" in line
    header, *rows = run(*BY_HAND, "--curve").stdout.splitlines()
    assert header == "step,rate"
    assert [float(row.split(",")[1]) for row in rows] == made.curve().tolist()
    assert len(run(*BY_HAND, "--curve", "--steps", "7").stdout.splitlines()) == 8
    assert Schedule.model_validate_json(run(*BY_HAND, "--json").stdout) == made


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--shape", "polynomial", "--power", "3", "--start-factor", "0.1", "--decay", "wsd"],
        ["--shape", "exponential", "--decay", "linear", "--final-factor", "0.1"],
    ],
)
def test_the_code_makes_the_same_schedule(options: list[str]) -> None:
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    names: dict[str, Any] = {"optimizer": optimizer}
    exec(run(*BY_HAND, *options, "--code", "autowarmup").stdout, names)  # noqa: S102 - code that is meant to be pasted
    assert names["schedule"] == Schedule.model_validate_json(run(*BY_HAND, *options, "--json").stdout)
    assert optimizer.param_groups[0]["lr"] == names["schedule"].lr_at(0)


def test_code_runs_as_printed_without_autowarmup() -> None:
    import torch

    done = run(*BY_HAND, "--shape", "sqrt", "--code", "pytorch")
    assert "# To resume, load the state of the scheduler" in done.stdout
    assert done.stderr == ""
    names: dict[str, Any] = {"model": torch.nn.Linear(1, 1)}
    exec(done.stdout, names)  # noqa: S102 - code that is meant to be pasted
    assert "autowarmup" not in done.stdout
    schedule = Schedule(peak=3e-3, horizon=1000, warmup_steps=100, shape="sqrt")
    for step in range(1000):
        assert names["optimizer"].param_groups[0]["lr"] == pytest.approx(schedule.lr_at(step), rel=1e-12, abs=1e-12)
        names["optimizer"].step()
        names["scheduler"].step()


def test_a_configuration_alone_is_on_standard_output() -> None:
    done = run(*BY_HAND, "--config", "deepspeed")
    assert json.loads(done.stdout)["scheduler"]["type"] == "WarmupCosineLR"
    assert "note: It differs from the schedule by at most 0.0099 of the peak, at step 0.\n" in done.stderr


def test_a_configuration_that_goes_with_the_code_is_a_comment() -> None:
    printed = run(*BY_HAND, "--code", "torchtune").stdout
    assert "#   _component_: planned.planned_schedule\n" in printed
    compile(printed, "planned.py", "exec")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--peak", "1", "--horizon", "10", "--code", "tourch"],
            "unknown framework 'tourch' (did you mean 'pytorch'?)",
        ),
        (["--peak", "1", "--horizon", "10", "--code", "tensorflow"], "did you mean 'keras'?"),
        (["--peak", "1", "--horizon", "10", "--code", ""], "unknown framework ''; known: pytorch, transformers,"),
        (["--peak", "1", "--horizon", "10", "--config", "pytorch"], "PyTorch has no schedules of its own"),
        ([*BY_HAND[1:], "--shape", "sqrt", "--config", "keras"], "Keras / TensorFlow has no schedule of its own near"),
        (["--peak", "1"], "--horizon is missing"),
        (["--peak", "1", "--horizon", "9" * 30], "is not in the range 1<=x<=1000000000"),
        (["--peak", "1", "--horizon", "10", "--shape", "cosine"], "shape 'cosine' needs a duration"),
        (["--peak", "1", "--horizon", "10", "--warmup", "1 epoch"], "has no epochs"),
        (["--peak", "1", "--horizon", "10", "--warmup", "200%"], "longer than the horizon"),
        (["--peak", "-1", "--horizon", "10"], "peak: must be greater than 0, got -1.0"),
        (["--peak", "1", "--horizon", "10", "--shape", "radam", "--warmup", "5"], "takes no warmup_steps"),
        (["study", "--peak", "1"], "--peak makes a schedule by hand"),
        (["--peak", "1", "--horizon", "10", "--curve", "--json"], "exclude each other"),
        (["--peak", "1", "--horizon", "10", "--steps", "5"], "--steps goes with --curve"),
    ],
)
def test_schedules_that_cant_be_made(args: list[str], message: str) -> None:
    done = run("schedule", *args)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


def test_spaces() -> None:
    assert "transformer-pretraining  Linear warm-up" in run("spaces").stdout
    assert "default" in json.loads(run("spaces", "--json").stdout)
    text = run("spaces", "fine-tuning").stdout
    Path("mine.yaml").write_text(text)
    assert run("spaces", "mine.yaml").stdout == text
    assert run("spaces", "mine.yaml", "--json").stdout == run("spaces", "fine-tuning", "--json").stdout
    done = run("spaces", "fine-tunning")
    assert done.exit_code == 2
    assert "did you mean 'fine-tuning'?" in done.stderr


# --- sync, doctor -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("delivered", "code"), [(3, 0), (2, 4)])
def test_sync_tells_what_mlflow_has(delivered: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = Delivery(folder="study", uri="http://host", trials=3, delivered=delivered)
    monkeypatch.setattr("autowarmup.tracking.sync", lambda folder, uri: delivery)
    done = run("sync", "study", "--mlflow", "http://host")
    assert (done.exit_code, done.stdout) == (code, delivery.message + "\n")


def test_sync_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(folder: Path, uri: str | None) -> Delivery:
        raise TrackingError("no server at http://host")

    monkeypatch.setattr("autowarmup.tracking.sync", sync)
    done = run("sync", "study")
    assert (done.exit_code, done.stderr) == (4, "autowarmup: error: no server at http://host\n")
    assert run("sync").exit_code == 2


def examined(*args: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = run("doctor", "--json", *args)
    return done.exit_code, {finding["name"]: finding for finding in json.loads(done.stdout)}


def test_doctor_finds_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    code, found = examined("--study", "deep/studies")
    assert (code, [finding["problem"] for finding in found.values() if finding["problem"]]) == (0, [])
    assert set(found) >= {"python", "torch", "optuna", "mlflow", "ray", "device", "threads", "study folder"}
    assert found["study folder"]["value"] == str(Path("deep/studies").absolute())
    assert not Path("deep").exists()
    assert "OK      torch: 2" in run("doctor").stdout


def test_doctor_names_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 10_000)
    code, found = examined("--mlflow", "http://127.0.0.1:9", "--study", "/proc/studies")
    assert code == 1
    assert "export OMP_NUM_THREADS=" in found["threads"]["problem"]
    assert "no answer from http://127.0.0.1:9/health" in found["MLflow URI"]["problem"]
    assert "can't be written" in found["study folder"]["problem"]
    text = run("doctor", "--mlflow", "mlruns")
    assert text.exit_code == 1
    assert "problem MLflow URI: mlruns\n        tracking URI 'mlruns' is not supported" in text.stdout
