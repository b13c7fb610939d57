"""``autotune(service=...)`` and ``autowarmup tune --service``: a study that a service conducts, as any other one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from autowarmup import autotune
from autowarmup.errors import InputError, RemoteServiceError, StudyMismatchError, TaskFailedError
from autowarmup.search.config import TuneConfig
from autowarmup.service.client import ServiceClient
from autowarmup.service.messages import StudyRequest
from autowarmup.service.tuning import request_of
from autowarmup.study.result import TuneResult
from autowarmup.study.store import StudyStore
from tests import worker_tasks
from tests.service import guarded_service
from tests.test_service_workers import TASKS, Recorded, ended, worker
from tests.test_study import ROOT, findings

TOKEN = "5f3a" * 8


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServiceClient, Path]]:
    """A service that asks for tokens, and the file of its tokens."""
    with guarded_service(tmp_path_factory.mktemp("service"), "me", TOKEN) as found:
        yield found


def where(client: ServiceClient) -> dict[str, Any]:
    return {"service": client.url, "service_token": TOKEN}


def without_segments(found: dict[str, Any]) -> dict[str, Any]:
    """The copy of a trial is in one piece."""
    return {key: value for key, value in found.items() if key != "segments"}


@pytest.mark.slow
def test_finds_what_the_local_engine_does_and_keeps_it_here(
    running: tuple[ServiceClient, Path], tmp_path: Path
) -> None:
    client, _ = running
    autotune(**worker_tasks.cohort(), study=tmp_path / "local")
    seen, folder = Recorded(), tmp_path / "by_service"
    result = autotune(**worker_tasks.cohort(), study=folder, progress=seen, **where(client))
    assert without_segments(findings(folder)) == without_segments(findings(tmp_path / "local"))
    assert TuneResult.load(folder) == result
    assert len(result.trace(0)) == result.records[0].steps
    assert (folder / "report.html").exists()
    assert seen.ends == {record.number: record.outcome for record in result.records}

    again = Recorded()
    assert autotune(**worker_tasks.cohort(), study=folder, progress=again, **where(client)) == result
    assert again.blocks == [], "nothing is trained again"
    with pytest.raises(StudyMismatchError, match="by the service at http"):
        autotune(**worker_tasks.cohort(), study=folder)
    with pytest.raises(StudyMismatchError, match="without a service"):
        autotune(**worker_tasks.cohort(), study=tmp_path / "local", **where(client))


def test_the_request_makes_the_same_configuration(tmp_path: Path) -> None:
    current = {"warmup_steps": "10%", "shape": "linear"}
    autotune(**worker_tasks.one(), study=tmp_path, current=current, tune_steps=20, budget="6 runs", progress=False)
    with closing(StudyStore(tmp_path)) as store:
        config = TuneConfig.model_validate(store.meta("config"))
    request = request_of(config)
    assert type(request).model_validate_json(request.model_dump_json()).config() == config


@pytest.mark.slow
def test_other_workers_join_in(running: tuple[ServiceClient, Path], tmp_path: Path) -> None:
    """The one that began the study is interrupted, and goes on with what another one has trained meanwhile."""
    client, tokens = running
    task = worker_tasks.slow_free()

    class Interrupted(Recorded):
        def observe(self, *args: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        autotune(**task, study=tmp_path / "joined", progress=Interrupted(), **where(client))
    joining = worker(client.url, "joined", "slow_free", "--token-file", str(tokens))
    assert "study joined is finished" in ended(joining)
    seen = Recorded()
    result = autotune(**task, study=tmp_path / "joined", progress=seen, **where(client))
    assert seen.blocks == []
    assert result.schedule is not None
    assert len(result.trace(0)) == result.records[0].steps


def test_code_that_fails_raises_as_it_does_locally(running: tuple[ServiceClient, Path], tmp_path: Path) -> None:
    client, _ = running
    with pytest.raises(TaskFailedError, match="out of ideas"):
        autotune(**worker_tasks.broken(), study=tmp_path / "broken", progress=False, **where(client))


def test_another_study_of_that_name_is_not_touched(running: tuple[ServiceClient, Path], tmp_path: Path) -> None:
    client, _ = running
    client.put("taken", StudyRequest(total_steps=100, current_peak=0.1))
    with pytest.raises(RemoteServiceError, match="begun with other settings"):
        autotune(**worker_tasks.one(), study=tmp_path / "taken", progress=False, **where(client))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"service_token": "a"}, "without service"),
        ({"service": "http://127.0.0.1:1", "engine": "ray"}, "engine can't be given with service"),
        ({"service": "http://127.0.0.1:1", "mlflow": "http://127.0.0.1:5000"}, "mlflow can't be given with service"),
        ({"service": "127.0.0.1:8700"}, "must begin with http"),
        ({"service": "http://127.0.0.1:1", "service_token": "se cret"}, "printable ASCII"),
    ],
)
def test_what_can_not_be_used_is_refused(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        autotune(**worker_tasks.one() | given, study=tmp_path / "study")
    assert "se cret" not in str(refused.value)
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_the_command_line_keeps_the_place_of_the_token_alone(
    running: tuple[ServiceClient, Path], tmp_path: Path
) -> None:
    client, tokens = running
    options = ["--service", client.url, "--token-file", str(tokens), "--study", str(tmp_path / "cli"), "--json"]
    command = [sys.executable, "-m", "autowarmup"]
    tuned = subprocess.run(
        [*command, "tune", f"{TASKS}:one", "--no-mlflow", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tuned.returncode == 0, tuned.stderr
    files = [path for path in (tmp_path / "cli").rglob("*") if path.is_file()]
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    resumed = subprocess.run(
        [*command, "resume", str(tmp_path / "cli"), "--json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "nothing was trained" in resumed.stderr
    assert json.loads(resumed.stdout)["schedule"] == json.loads(tuned.stdout)["schedule"]
