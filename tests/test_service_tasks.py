"""Studies of the operator's task files, MLflow, and the committed OpenAPI document."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from autowarmup.service.app import make_app
from autowarmup.service.settings import ServiceSettings
from tests.mlflow_server import wait_until
from tests.service import Worker, service, started

DOCUMENT = Path(__file__).parents[1] / "docs" / "openapi.json"

of_mlflow = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
"""What MLflow deprecates and leaves open is its own."""

TASK = """
import torch
from torch import nn

def task():
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    y = x @ torch.arange(8.0)[:, None]
    return {"model_fn": lambda: nn.Linear(8, 1), "data": ((x[:192], y[:192]), (x[192:], y[192:])), "total_steps": 40}
"""


def tasks(folder: Path) -> Path:
    folder.mkdir()
    (folder / "linear.py").write_text(TASK)
    (folder / "broken.py").write_text(TASK.replace("nn.Linear(8, 1)", "nn.Linear(9, 1)"))
    return folder


@pytest.mark.slow
def test_the_service_trains_the_operators_tasks(tmp_path: Path) -> None:
    options = ["--no-mlflow", "--tasks", str(tasks(tmp_path / "tasks"))]
    with service(tmp_path / "studies", *options) as running, httpx.Client(base_url=running.url, timeout=30) as client:
        unknown = client.put("/v1/studies/none", json={"run": "nonesuch"})
        assert unknown.status_code == 422
        assert "linear" in unknown.json()["detail"]
        assert client.put("/v1/studies/path", json={"run": "../tasks/linear"}).status_code == 422
        assert client.put("/v1/studies/mine", json={"run": "linear", "total_steps": 50, "seed": 3}).status_code == 201
        refused = client.post("/v1/studies/mine/trials:suggest", json={"client_id": "me"})
        assert refused.json()["type"] == "urn:autowarmup:no-workers"
        summary = wait_until(lambda: (s := client.get("/v1/studies/mine").json())["state"] == "finished" and s, 90)
        assert summary["total_steps"] == 50
        assert summary["verdict"] == "tuned"
        assert client.put("/v1/studies/bad", json={"run": "broken"}).status_code == 201
        failed = wait_until(lambda: (s := client.get("/v1/studies/bad").json())["state"] == "failed" and s, 90)
        assert "mat1 and mat2 shapes cannot be multiplied" in failed["failure"]


@pytest.mark.slow
def test_a_task_study_of_a_killed_service_goes_on_and_leaves_no_process(tmp_path: Path) -> None:
    slow = TASK.replace("lambda: nn.Linear(8, 1)", "slow").replace(
        "def task", "class Slow(nn.Linear):\n    def forward(self, x):\n        import time\n        time.sleep(0.01)\n"
        "        return super().forward(x)\n\ndef slow():\n    return Slow(8, 1)\n\ndef task"
    )  # fmt: skip
    folder = tasks(tmp_path / "tasks")
    (folder / "slow.py").write_text(slow)
    options = ["--no-mlflow", "--tasks", str(folder)]
    running = started(tmp_path / "studies", *options)
    assert httpx.put(f"{running.url}/v1/studies/mine", json={"run": "slow"}, timeout=30).status_code == 201
    wait_until(lambda: httpx.get(f"{running.url}/v1/studies/mine").json()["steps"] > 0, 90)
    running.kill()
    wait_until(lambda: not processes_with(str(tmp_path / "studies" / "mine")), 90)
    with service(tmp_path / "studies", *options) as again:
        wait_until(lambda: httpx.get(f"{again.url}/v1/studies/mine").json()["state"] == "finished", 90)


def processes_with(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


@pytest.mark.slow
@of_mlflow
def test_mlflow_has_every_trial_of_a_workers_study(tmp_path: Path) -> None:
    with service(tmp_path / "studies") as running, httpx.Client(base_url=running.url, timeout=30) as client:
        client.put("/v1/studies/told", json={"total_steps": 60, "current_peak": 0.001})
        Worker(client, "told", "one").work()
        wait_until(lambda: json.loads((tmp_path / "studies/told/request.json").read_text()).get("delivered"), 90)
        trials = len(client.get("/v1/studies/told/trials").json()["trials"])
    assert len(statuses(tmp_path / "studies/told")) == trials + 1  # and the study's own
    assert set(statuses(tmp_path / "studies/told")) <= {"FINISHED", "KILLED", "FAILED"}


def statuses(study: Path) -> list[str]:
    """Those of the runs in a study's own MLflow store."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{study / 'mlflow.db'}")
    client = mlflow.MlflowClient()
    experiments = client.search_experiments()
    return [run.info.status for one in experiments for run in client.search_runs([one.experiment_id])]


@pytest.mark.slow
@of_mlflow
def test_what_mlflow_lacks_of_a_task_study_at_its_end_is_delivered_later(tmp_path: Path) -> None:
    options = ["--tasks", str(tasks(tmp_path / "tasks"))]
    with (
        service(tmp_path / "studies", "--no-mlflow", *options) as running,
        httpx.Client(base_url=running.url, timeout=30) as client,
    ):
        client.put("/v1/studies/later", json={"run": "linear"})
        wait_until(lambda: client.get("/v1/studies/later").json()["state"] == "finished", 90)
        trials = len(client.get("/v1/studies/later/trials").json()["trials"])
    with service(tmp_path / "studies", *options):
        wait_until(lambda: json.loads((tmp_path / "studies/later/request.json").read_text()).get("delivered"), 90)
    assert len(statuses(tmp_path / "studies/later")) == trials + 1
    assert set(statuses(tmp_path / "studies/later")) <= {"FINISHED", "KILLED", "FAILED"}


def test_the_committed_openapi_document_is_that_of_the_service(tmp_path: Path) -> None:
    document = make_app(ServiceSettings(folder=tmp_path / "studies")).openapi()
    assert json.loads(DOCUMENT.read_text()) == json.loads(json.dumps(document)), "run `python -m docs.openapi`"
