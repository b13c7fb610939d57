"""The image and the compose file. There is no container engine here: what the compose file says is started as processes
with networks, mounts and users of their own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.compose import ROOT, Stack, missing

DOCKER = ROOT / "docker"
TASK = '''
"""A small regression, slow enough to be disturbed."""

import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Slow(nn.Sequential):
    def forward(self, x):
        time.sleep(0.02)
        return super().forward(x)


def model_fn():
    return Slow(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))


def data():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(320, 8, generator=draw)
    y = (x @ torch.randn(8, 4, generator=draw)).argmax(1)
    return (x[:256], y[:256]), (x[256:], y[256:])


def task():
    return {"model_fn": model_fn, "data": data(), "batch_size": 32}
'''
LIMIT_S = 150


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    return read


def test_only_the_service_and_mlflow_are_published_and_only_on_this_machine() -> None:
    published = {name: said["ports"] for name, said in compose()["services"].items() if "ports" in said}
    assert set(published) == {"service", "mlflow"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_secrets_are_files_and_have_no_default() -> None:
    said = compose()
    assert all(set(secret) == {"file"} for secret in said["secrets"].values())
    for service in said["services"].values():
        for name, value in (service.get("environment") or {}).items():
            if re.search("PASSWORD|SECRET|TOKEN", name):
                assert str(value).startswith("/run/secrets/"), name
                assert str(value).removeprefix("/run/secrets/") in service["secrets"]


def test_each_service_waits_for_the_health_of_what_it_needs() -> None:
    services = compose()["services"]
    for said in services.values():
        for name, how in said.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in services[name]


def test_workers_reach_neither_mlflow_nor_its_database() -> None:
    networks = {name: set(said["networks"]) for name, said in compose()["services"].items()}
    for worker in ("worker", "ray-worker", "ray-head"):
        assert not networks[worker] & (networks["mlflow"] | networks["postgres"])


def test_made_secrets_are_for_their_user_alone_and_kept(tmp_path: Path) -> None:
    script = shutil.copy(DOCKER / "secrets.sh", tmp_path)
    subprocess.run([script], check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert set(compose()["secrets"]) <= set(made)
    assert len(set(made.values())) == len(made)
    assert all(len(text.split()[-1]) >= 64 for text in made.values())
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()} == {0o600}
    subprocess.run([script], check=True)
    assert made == {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}


def test_the_entry_point_reads_secrets_and_keeps_the_command_s_words(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("$(id) 'a b'\n")
    show = [sys.executable, "-c", "import os, sys; print(os.environ['PGPASSWORD'], *sys.argv[1:], sep='|')", "c  d"]
    env = {"PGPASSWORD_FILE": str(tmp_path / "secret"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([DOCKER / "entrypoint.sh", *show], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "$(id) 'a b'|c  d\n"


def test_the_linter_finds_nothing_in_the_dockerfile() -> None:
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([program, DOCKER / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_ray_job_has_tokens_and_runs_the_image() -> None:
    said = yaml.safe_load((DOCKER / "kuberay.yaml").read_text(encoding="utf-8"))
    assert said["kind"] == "RayJob"
    spec = said["spec"]["rayClusterSpec"]
    assert spec["authOptions"] == {"mode": "token"}
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        for container in group["template"]["spec"]["containers"]:
            assert container["image"] == compose()["services"]["service"]["image"]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_files_that_the_dockerfile_copies_are_in_its_context() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DOCKER / "Dockerfile").read_text(encoding="utf-8"), re.M)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split() if line[0] == "!"}
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert name.split("/")[0] in allowed


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_image_s_install_steps_run_in_a_bare_environment(tmp_path: Path) -> None:
    lines = (DOCKER / "Dockerfile").read_text(encoding="utf-8").partition("\nFROM python:3.11-slim-bookworm\n")[0]
    steps = re.findall(r"^RUN (pip .+)$", lines, re.M)
    assert len(steps) == 2
    venv.create(tmp_path / "venv", with_pip=True)
    context = tmp_path / "context"
    context.mkdir()
    for names in re.findall(r"^COPY (.+) \S+$", lines, re.M):
        for name in names.split():
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, context / name)
    index = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True
    )
    bin_ = tmp_path / "venv" / "bin"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env |= {"PATH": f"{bin_}:/usr/bin:/bin", "TORCH_INDEX": index.stdout.strip() or "https://pypi.org/simple"}
    for step in steps:
        subprocess.run(["sh", "-c", step], cwd=context, env=env, check=True)
    for command in ("autowarmup --version", "autowarmup serve --help", "mlflow --version", "ray --version"):
        subprocess.run([bin_ / command.split()[0], *command.split()[1:]], cwd=tmp_path, env=env, check=True)
    subprocess.run([bin_ / "python", "-c", "import flask_wtf, psycopg"], cwd=tmp_path, env=env, check=True)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if why := missing():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("compose")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "small.py").write_text(TASK)
    variables = {
        "TASKS": str(folder / "tasks"),
        "TASK": "small",
        "STUDY": "shared",
        "RAY_OBJECT_STORE": str(80 * 2**20),
    }
    with Stack(DOCKER / "compose.yaml", folder, variables) as built:
        built.up()
        yield built


def client(stack: Stack, token: str | None = "operator") -> httpx.Client:
    head = {}
    if token:
        secret = (stack.base / "secrets" / token).read_text().split()[-1]
        head = {"Authorization": f"Bearer {secret}"}
    retries = httpx.HTTPTransport(retries=3)
    return httpx.Client(base_url=f"http://127.0.0.1:{stack.ports[8700]}", headers=head, timeout=60, transport=retries)


def tracking(stack: Stack) -> httpx.Client:
    password = (stack.base / "secrets" / "mlflow_password").read_text()
    return httpx.Client(base_url=f"http://127.0.0.1:{stack.ports[5000]}", auth=("autowarmup", password), timeout=60)


def runs(stack: Stack, study: str) -> list[str]:
    """The states of a study's runs in MLflow."""
    with tracking(stack) as mlflow:
        found = mlflow.get("/api/2.0/mlflow/experiments/search", params={"max_results": 100}).json()["experiments"]
        ids = [one["experiment_id"] for one in found]
        asked = {"experiment_ids": ids, "max_results": 1000}
        all_runs = mlflow.post("/api/2.0/mlflow/runs/search", json=asked).json().get("runs", [])
    parents = {one["info"]["run_id"] for one in all_runs if one["info"]["run_name"] == study}
    return [
        one["info"]["status"]
        for one in all_runs
        if one["info"]["run_id"] in parents
        or any(tag["key"] == "mlflow.parentRunId" and tag["value"] in parents for tag in one["data"].get("tags", ()))
    ]


def summary(stack: Stack, study: str) -> dict[str, Any]:
    """How a study stands; empty while the service doesn't answer."""
    try:
        with client(stack) as service:
            answer = service.get(f"/v1/studies/{study}")
        found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        return found
    except httpx.TransportError:
        return {}


def studies(stack: Stack) -> list[dict[str, Any]]:
    """The studies, which have ended."""
    with client(stack) as service:
        if not service.get("/v1/studies").json()["studies"]:
            service.put("/v1/studies/shared", json={"total_steps": 60, "current_peak": 0.02})
            stack.up("worker")
            ends(stack, "shared")
        found: list[dict[str, Any]] = service.get("/v1/studies").json()["studies"]
    return found


def delivered(stack: Stack) -> None:
    """Waits until MLflow has all runs of the studies, and none of them as running, or as killed with the service that a
    test has stopped: that is told in the next pass over a study."""
    trials = {one["id"]: sum(one["trials"].values()) for one in studies(stack)}

    def settled() -> bool:
        states = {name: runs(stack, name) for name in trials}
        open_ones = {"RUNNING", "KILLED"}
        return all(len(states[name]) == 1 + trials[name] and not open_ones & {*states[name]} for name in trials)

    wait(stack, settled, lambda: ({name: runs(stack, name) for name in trials}, trials))


def wait(stack: Stack, done: Callable[[], bool], what: Callable[[], object]) -> None:
    stack.wait(done, LIMIT_S, "waited for too long", what)


def steps_after(stack: Stack, study: str, more: int) -> None:
    """Waits until a study has made so many steps more, or has ended."""
    before = summary(stack, study).get("steps", 0)

    def further() -> bool:
        stack.mend()
        now = summary(stack, study)
        return bool(now) and (now["state"] != "running" or now["steps"] >= before + more)

    wait(stack, further, lambda: summary(stack, study))


def ends(stack: Stack, study: str) -> dict[str, Any]:
    """Waits until a study has a verdict."""

    def over() -> bool:
        stack.mend()
        return summary(stack, study).get("state", "running") != "running"

    wait(stack, over, lambda: summary(stack, study))
    found = summary(stack, study)
    assert found["state"] == "finished", (found, stack.log("service")[-3000:])
    return found


@pytest.mark.slow
@pytest.mark.xdist_group("compose")
@pytest.mark.timeout(600)
def test_everybody_needs_a_secret(stack: Stack) -> None:
    with client(stack, None) as anybody:
        assert anybody.get("/readyz").status_code == 200
        assert anybody.get("/v1/studies").status_code == 401
    assert httpx.get(f"http://127.0.0.1:{stack.ports[5000]}/api/2.0/mlflow/experiments/search").status_code == 401
    join = "import ray; ray.init('ray://ray-head:10001'); print('joined', len(ray.nodes()))"
    node = stack.of("ray-worker")[0]
    python = ["python", "-W", "ignore", "-c", join]
    # Ray gives a client's server half a minute to start, which a busy machine may not do at the first time.
    wait(stack, lambda: "joined 3" in node.entered(python, capture_output=True, text=True).stdout, lambda: "Ray")
    stranger = node.entered(
        ["env", "RAY_AUTH_TOKEN_PATH=", "RAY_AUTH_TOKEN=" + "0" * 64, *python], capture_output=True, text=True
    )
    assert stranger.returncode != 0
    assert "joined" not in stranger.stdout
    database = ["psql", "--host=127.0.0.1", "--username=mlflow", "--no-password", "--command=select 1"]
    assert stack.of("postgres")[0].entered(database, capture_output=True).returncode != 0


@pytest.mark.slow
@pytest.mark.xdist_group("compose")
@pytest.mark.timeout(600)
def test_a_study_of_workers_outlives_each_of_them(stack: Stack) -> None:
    with client(stack) as service:
        body = {"total_steps": 240, "current_peak": 0.02, "lease_s": 5.0, "seed": 1}
        assert service.put("/v1/studies/shared", json=body).status_code == 201
    stack.up("worker")
    for name in ("worker-1", "mlflow", "postgres", "service"):
        steps_after(stack, "shared", 24)
        assert summary(stack, "shared")["state"] == "running"
        stack.containers[name].kill()
    found = ends(stack, "shared")
    assert found["verdict"] is not None
    assert found["trials"].get("failed", 0) == 0
    with client(stack) as service:
        assert service.get("/v1/studies/shared/schedule").status_code == 200
    wait(stack, lambda: not any(one.runs() for one in stack.of("worker")), lambda: "workers")
    assert [one.process.returncode for one in stack.of("worker") if one.process] == [0, 0]


@pytest.mark.slow
@pytest.mark.xdist_group("compose")
@pytest.mark.timeout(600)
def test_a_study_on_ray_outlives_its_nodes(stack: Stack) -> None:
    with client(stack) as service:
        body = {"run": "small", "total_steps": 60, "current_peak": 0.02, "budget": "6 runs"}
        assert service.put("/v1/studies/hosted", json=body).status_code == 201
    steps_after(stack, "hosted", 1)
    stack.containers["ray-worker-1"].kill()
    steps_after(stack, "hosted", 24)
    for name in ("ray-head", "ray-worker-1", "ray-worker-2"):
        stack.containers[name].kill()
    stack.up("ray-worker")
    with client(stack) as service:
        if summary(stack, "hosted")["state"] == "running":
            wait(stack, lambda: summary(stack, "hosted")["state"] != "running", lambda: summary(stack, "hosted"))
        assert service.post("/v1/studies/hosted:resume").status_code == 200
    assert ends(stack, "hosted")["verdict"] is not None


@pytest.mark.slow
@pytest.mark.xdist_group("compose")
@pytest.mark.timeout(600)
def test_all_runs_are_in_mlflow_and_none_is_left_running(stack: Stack) -> None:
    delivered(stack)


@pytest.mark.slow
@pytest.mark.xdist_group("compose")
@pytest.mark.timeout(600)
def test_a_backup_brings_everything_back(stack: Stack) -> None:
    def known() -> tuple[Any, ...]:
        names = [one["id"] for one in studies(stack)]
        with client(stack) as service:
            results = [service.get(f"/v1/studies/{name}/result").text for name in names]
        return names, results, [sorted(runs(stack, name)) for name in names]

    delivered(stack)
    before = known()
    for line in commands("Backup"):
        stack.compose(line)
    stack.compose("docker compose down --volumes")
    for line in commands("Restore"):
        stack.compose(line)
    assert known() == before


def commands(title: str) -> list[str]:
    """The commands under a title of docker/README.md."""
    text = (DOCKER / "README.md").read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    block = re.search(r"```\n(.*?)```", text, re.S)
    assert block is not None, title
    return [line for line in block[1].splitlines() if shlex.split(line, comments=True)]
