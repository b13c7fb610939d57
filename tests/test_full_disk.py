"""A full disk, a real one: the verdict that was reached is told, and a study goes on where there is room again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from autowarmup import LoopRun, TuneResult, autotune
from autowarmup.errors import StudyError
from autowarmup.study.progress import Silent

ROOT = Path(__file__).parent.parent

TASK = """
def train(run):
    weight = 3.0
    for step in range(run.total_steps):
        weight -= run.schedule.lr_at(step) * weight
        if run.report(weight**2 + 0.01, val_loss=weight**2 + 0.01):
            return

def task():
    return {"train_fn": train, "total_steps": 20, "current_peak": 0.1, "confirm_seeds": 2}
"""


def train(run: LoopRun) -> None:
    weight = 3.0
    for step in range(run.total_steps):
        weight -= run.schedule.lr_at(step) * weight
        if run.report(weight**2 + 0.01, val_loss=weight**2 + 0.01):
            return


def tuned(study: Path, progress: Silent) -> TuneResult:
    return autotune(
        train_fn=train, total_steps=20, current_peak=0.1, confirm_seeds=2, study=study, mlflow=False, progress=progress
    )


class FillsTheDisk(Silent):
    """Fills the disk when a number of trials has finished, or when the verdict is known."""

    def __init__(self, disk: Path, after: int | None = None) -> None:
        self.disk, self.after = disk, after
        self.warnings: list[str] = []
        self.verdict = ""

    def finished(self, number: int, outcome: str) -> None:
        if number == self.after:
            self.fill()

    def concluded(self, result: TuneResult) -> None:
        self.verdict = result.verdict.kind
        if self.after is None:
            self.fill()

    def warned(self, message: str) -> None:
        self.warnings.append(message)

    def fill(self) -> None:
        with suppress(OSError), (self.disk / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 512)


def findings(result: TuneResult) -> dict[str, object]:
    found = result.model_dump(exclude={"study"})
    for record in found["records"]:
        del record["seconds"]
    return found


def test_during_the_trials_the_study_stops_and_goes_on_when_there_is_room(
    disk: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = disk("1m")
    with pytest.raises(StudyError, match=r"study\.db: database or disk is full.* make the same call again"):
        tuned(folder / "study", FillsTheDisk(folder, after=2))
    (folder / "filler").unlink()
    disk("20m")
    assert findings(tuned(folder / "study", Silent())) == findings(tuned(tmp_path / "undisturbed", Silent()))


def test_once_the_verdict_is_known_what_fails_is_a_warning(disk: Callable[[str], Path]) -> None:
    folder = disk("1m")
    told = FillsTheDisk(folder)
    result = tuned(folder / "study", told)
    assert told.verdict == result.verdict.kind == "tuned"
    assert len(told.warnings) == 4, told.warnings
    for name in ("the verdict, to ", "result.json", "schedule.json", "the report"):
        assert any(name in warning and "make the same call again" in warning for warning in told.warnings), name
    (folder / "filler").unlink()
    disk("20m")
    again = FillsTheDisk(folder, after=-1)
    assert findings(tuned(folder / "study", again)) == findings(result)
    assert again.warnings == []
    assert TuneResult.load(folder / "study").verdict == result.verdict
    assert (folder / "study" / "report.html").exists()


@pytest.mark.slow
def test_the_command_line_prints_the_verdict_and_warns(disk: Callable[[str], Path], tmp_path: Path) -> None:
    folder = disk("900k")  # the trials fit, the report doesn't
    (tmp_path / "task.py").write_text(TASK)
    command = [sys.executable, "-m", "autowarmup", "tune", "task.py:task", "--no-mlflow", "--study", f"{folder}/study"]

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("verdict: tuned. ")
    assert "report: " not in done.stdout
    assert re.search("autowarmup: warning: can't write .*No space left on device", done.stderr)
    assert "Traceback" not in done.stderr
    disk("20m")
    done = run("--json")
    assert json.loads(done.stdout)["verdict"] == "tuned"
    assert "nothing was trained" in done.stderr
