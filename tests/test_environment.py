"""A study ends well in surroundings that are not a terminal's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TASK = """
from tests.tasks import settings

def task():
    print("from the task")
    return settings(total_steps=20)
"""
PROGRAM = """
import sys
{setup}
from autowarmup.cli.program import main
sys.argv = ["autowarmup", "tune", "task.py:task", "--study", "study"]
main()
"""


def tune(folder: Path, setup: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "task.py").write_text(TASK)
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(setup=setup)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_backend_that_is_not_installed_does_not_matter(tmp_path: Path) -> None:
    """Jupyter sets ``MPLBACKEND`` for the processes it starts, also for those whose environment lacks that backend."""
    done = tune(tmp_path, MPLBACKEND="module://matplotlib_inline.backend_inline")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "study" / "report.html").exists()


def test_a_backend_that_is_installed_is_kept() -> None:
    program = "from autowarmup.report.backend import import_matplotlib as load; load(); import matplotlib as m; " + (
        "print(m.get_backend())"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "svg"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "svg"


@pytest.mark.slow
def test_a_process_without_standard_error(tmp_path: Path) -> None:
    done = tune(tmp_path, setup="sys.stderr = None")
    assert done.returncode == 0
    assert done.stdout.startswith("verdict: ")
