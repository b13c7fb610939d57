"""Workers without Python: each example trains its model under a real service, and finds a schedule for it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from autowarmup import Schedule
from autowarmup.service.client import ServiceClient
from tests.service import guarded_service
from tests.test_study import ROOT

TOKEN = "5f3a" * 8

LOOPS = {"node": "service_loop.js", "sh": "service_loop.sh"}
NEEDED = {"node": ["node"], "sh": ["sh", "curl", "jq", "awk"]}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServiceClient, Path]]:
    """A service, and the file of its tokens."""
    with guarded_service(tmp_path_factory.mktemp("service"), "loop", TOKEN) as found:
        yield found


@pytest.mark.parametrize("program", ["node", pytest.param("sh", marks=pytest.mark.slow)])
def test_a_loop_in_another_language_finds_a_schedule(running: tuple[ServiceClient, Path], program: str) -> None:
    if missing := [name for name in NEEDED[program] if shutil.which(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    client, tokens = running
    command = [program, f"examples/{LOOPS[program]}", client.url, program, str(tokens)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    verdict, schedule = done.stdout.splitlines()
    assert verdict.startswith("verdict: tuned. ")
    found, result = Schedule.model_validate(json.loads(schedule)), client.result(program)
    assert found == result.schedule
    assert found.peak > result.config.current_peak
    completed = [record for record in result.records if record.outcome == "completed"]
    assert completed
    assert all(record.validated and record.final_loss is not None for record in completed)


@pytest.mark.parametrize("program", LOOPS)
def test_such_a_loop_says_what_the_service_refuses(running: tuple[ServiceClient, Path], program: str) -> None:
    if missing := [name for name in NEEDED[program] if shutil.which(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    client, tokens = running
    command = [program, f"examples/{LOOPS[program]}", client.url, "not.a.name", str(tokens)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "not.a.name" in done.stderr + done.stdout
