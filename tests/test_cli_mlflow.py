"""The command line and MLflow: passwords, studies that move, where they are tracked."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from autowarmup.cli.program import cli
from autowarmup.study.store import StudyStore
from tests.mlflow_server import children

LOOP = """
import os, signal
from pathlib import Path

def train(run):
    weight = 3.0
    for step in range(run.total_steps):
        if run.schedule.peak != 0.1 and step == 3 and Path("interrupt").exists():
            Path("interrupt").unlink()
            signal.raise_signal(signal.SIGINT)
        weight -= run.schedule.lr_at(step) * weight
        if run.report(weight**2 + 0.01, val_loss=weight**2 + 0.01):
            return

def task():
    return {"train_fn": train, "total_steps": 20, "current_peak": 0.1, "confirm_seeds": 2, "budget": 260}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a task; loading it leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "loop_to_track.py").write_text(LOOP)
    yield tmp_path
    sys.modules.pop("loop_to_track", None)


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_report(result: Any, traces: Any, folder: Path) -> Path:
        (folder / "report.html").write_text("<html>")
        return folder / "report.html"

    monkeypatch.setattr("autowarmup.report.write_report", write_report)


def run(*args: str | Path) -> Result:
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def tune(*args: str | Path) -> Result:
    return run("tune", "loop_to_track.py:task", "--study", "study", *args)


def tracked(store: Path) -> int:
    """The trials that an MLflow store has."""
    with closing(sqlite3.connect(store)) as db:
        (count,) = db.execute("SELECT count(*) FROM tags WHERE key = 'autowarmup.trial'").fetchone()
    return int(count)


def trials(folder: Path) -> int:
    with closing(StudyStore(folder)) as store:
        return len(store.numbers())


def test_a_study_keeps_no_password(folder: Path) -> None:
    """Neither in its files, which are its owner's alone, nor in what is printed."""
    done = tune("--mlflow", "http://ada:pa55word@127.0.0.1:9?token=t0ken123")
    assert done.exit_code == 0
    assert "known to have 0 of" in done.stderr
    for text in (done.stdout, done.stderr):
        assert "pa55word" not in text
        assert "t0ken123" not in text
    for path in (folder / "study").rglob("*"):
        if path.is_file():
            assert b"pa55word" not in path.read_bytes(), path
            assert b"t0ken123" not in path.read_bytes(), path
    assert stat.S_IMODE((folder / "study" / "study.db").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "study" / "mlflow.log").stat().st_mode) == 0o600


def test_a_folder_as_sqlite_store_is_refused_at_once(folder: Path) -> None:
    before = set(children(os.getpid()))
    done = tune("--mlflow", f"sqlite:///{folder}")
    assert done.exit_code == 2
    assert f"names a folder: write sqlite:///{folder}/runs.db" in done.stderr
    assert not (folder / "study").exists()
    assert set(children(os.getpid())) == before


@pytest.mark.slow
def test_a_study_that_is_moved_goes_on(folder: Path) -> None:
    (folder / "interrupt").touch()
    assert tune().exit_code == 130
    begun = tracked(folder / "study" / "mlflow.db")
    shutil.copytree(folder / "study", folder / "copy")
    (folder / "study").rename(folder / "moved")
    assert run("resume", "moved").exit_code == 0
    assert not (folder / "study").exists()
    assert tracked(folder / "moved" / "mlflow.db") == trials(folder / "moved") > begun
    finished = (folder / "moved" / "mlflow.db").read_bytes()
    assert run("resume", "copy").exit_code == 0
    assert tracked(folder / "copy" / "mlflow.db") == trials(folder / "copy")
    assert (folder / "moved" / "mlflow.db").read_bytes() == finished


def test_resume_can_track_elsewhere_or_not_at_all(folder: Path) -> None:
    (folder / "interrupt").touch()
    assert tune("--no-mlflow").exit_code == 130
    assert not (folder / "study" / "mlflow.db").exists()
    (folder / "interrupt").touch()
    assert run("resume", "study", "--mlflow", "sqlite:///runs.db").exit_code == 130
    begun = tracked(folder / "runs.db")
    assert begun == trials(folder / "study")
    assert run("resume", "study", "--no-mlflow").exit_code == 0
    assert tracked(folder / "runs.db") == begun < trials(folder / "study")
    both = run("resume", "study", "--mlflow", "http://host", "--no-mlflow")
    assert both.exit_code == 2
    assert "exclude each other" in both.stderr
    assert run("resume", "study", "--mlflow", "mlruns").exit_code == 2
