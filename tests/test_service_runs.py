"""Events of guarded runs on a service: real guards, a real server, kills."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import takewhile
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import torch.distributed as dist
from click.testing import CliRunner
from starlette.testclient import TestClient

from autowarmup import EventSender, Guard, Schedule
from autowarmup.cli.program import cli
from autowarmup.errors import InputError
from autowarmup.guard.events import Event
from autowarmup.service import runs
from autowarmup.service.app import make_app
from autowarmup.service.client import RefusedError, ServiceClient
from autowarmup.service.settings import ServiceSettings
from tests.service import Worker, guarded_service, service, started, token_file, told

REQUEST = {"total_steps": 100, "current_peak": 0.001}
EVENT = {
    "step": 140, "began": 138, "action": "skip", "applied": True, "reason": "outlier", "evidence": {"loss": 9.0},
    "message": "the loss of this batch is 9, expected 2", "lr": 0.01, "factor": 1.0, "snapshot": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("runs") / "studies"
    with service(folder, "--no-mlflow") as running, httpx.Client(base_url=running.url, timeout=30) as opened:
        yield opened


def begun(client: httpx.Client, study: str) -> None:
    assert client.put(f"/v1/studies/{study}", json=REQUEST).status_code == 201


def post(client: httpx.Client, study: str, run: str, *events: Any) -> httpx.Response:
    return client.post(f"/v1/studies/{study}/runs/{run}/events", json={"events": events})


def events_of(client: httpx.Client, study: str, run: str) -> list[dict[str, Any]]:
    answer = client.get(f"/v1/studies/{study}/runs/{run}/events", params={"page_size": 1000})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["events"]
    return found


def train(sender: EventSender | None, record: Path | None = None, steps: int = 60) -> list[dict[str, Any]]:
    """A guarded run whose loss is not finite at every tenth step. Returns its events as they should be told."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    schedule = Schedule(peak=0.01, horizon=steps, warmup_steps=5, shape="linear")
    guard = Guard(schedule, optimizer, mode="protect", model=model, record=record, on_event=sender)
    for step in range(steps):
        x = torch.randn(16, 4)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean() * (math.inf if step % 10 == 9 else 1.0)
        optimizer.zero_grad()
        loss.backward()
        if guard.step(loss):
            optimizer.step()
    guard.close()
    found = [event.model_dump(mode="json") for event in guard.events]
    assert len(found) >= steps // 10
    return found


# --- What is told -----------------------------------------------------------------------------------------


def test_the_events_of_a_run_are_in_the_stream_of_its_study_which_is_over(client: httpx.Client) -> None:
    begun(client, "mine")
    assert Worker(client, "mine", "one", pace=100).work() == "finished"
    stream = told(client, "mine", until="nothing")
    assert "segment" in {one["event"] for one in takewhile(lambda one: one["event"] != "end", stream)}
    with EventSender(str(client.base_url), study="mine", run="night") as sender:
        events = train(sender)
        heard = [next(stream) for _ in range(1 + len(events))]
    stream.close()
    assert [one["event"] for one in heard] == ["run"] * len(heard)
    assert [one["data"]["event"] for one in heard] == [None, *events]
    assert {one["data"]["run"] for one in heard} == {"night"}
    assert events_of(client, "mine", "night") == events
    (summary,) = client.get("/v1/studies/mine/runs").json()["runs"]
    assert (summary["run"], summary["events"], summary["last"]) == ("night", len(events), events[-1])


def test_the_stream_goes_on_where_it_broke_off(client: httpx.Client) -> None:
    begun(client, "resumed")
    post(client, "resumed", "night", EVENT, EVENT | {"step": 150}, EVENT | {"step": 160})
    stream = told(client, "resumed", until="nothing")
    ids = [next(stream)["id"] for _ in range(3)]
    stream.close()
    assert ids == ["0-1", "0-2", "0-3"]
    stream = told(client, "resumed", until="nothing", after="0-2")
    assert next(stream)["data"]["event"]["step"] == 160
    stream.close()
    assert client.get("/v1/studies/resumed/events", headers={"Last-Event-ID": "one"}).status_code == 422


def test_the_stream_of_a_deleted_study_ends(client: httpx.Client) -> None:
    begun(client, "doomed")
    deleting = threading.Timer(0.3, lambda: client.delete("/v1/studies/doomed"))
    deleting.start()
    assert {one["event"] for one in told(client, "doomed", until="nothing")} == {"state"}
    deleting.join()
    assert post(client, "doomed", "night", EVENT).status_code == 404


def test_the_same_events_again_are_stored_once(client: httpx.Client) -> None:
    begun(client, "twice")
    other = EVENT | {"step": 150}
    for _ in range(2):
        assert post(client, "twice", "night", EVENT, EVENT, other).status_code == 204
        assert post(client, "twice", "night").status_code == 204
    assert post(client, "twice", "day", EVENT).status_code == 204
    assert events_of(client, "twice", "night") == [EVENT, other]
    assert events_of(client, "twice", "day") == [EVENT]
    page = client.get("/v1/studies/twice/runs", params={"page_size": 1}).json()
    assert [one["run"] for one in page["runs"]] == ["night"]
    following = client.get("/v1/studies/twice/runs", params={"page_token": page["next_page_token"]}).json()
    assert [one["run"] for one in following["runs"]] == ["day"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "body.events: Field required"),
        ({"events": [EVENT | {"action": "explode"}]}, "body.events.0.action: must be 'ok', 'skip'"),
        ({"events": [EVENT | {"lr": "NaN"}]}, "body.events.0.lr: must be a finite number"),
        ({"events": [EVENT | {"step": -1}]}, "body.events.0.step: must be greater than or equal to 0"),
        ({"events": [EVENT | {"more": 1}]}, "body.events.0.more: Extra inputs are not permitted"),
        ({"events": [EVENT | {"message": "x" * 2_001}]}, "at most 2000 characters"),
        ({"events": [EVENT | {"evidence": {str(n): 1.0 for n in range(101)}}]}, "at most 100 items"),
        ({"events": [EVENT] * 1_001}, "at most 1000 items"),
    ],
)
def test_a_bad_body_is_answered_with_what_is_wrong(client: httpx.Client, body: dict[str, Any], said: str) -> None:
    client.put("/v1/studies/bad", json=REQUEST)
    answer = client.post("/v1/studies/bad/runs/night/events", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in answer.json()["detail"]


def test_names_that_are_none_and_runs_that_are_not_there_are_refused(client: httpx.Client) -> None:
    begun(client, "names")
    assert post(client, "names", "a.b", EVENT).status_code == 422
    assert post(client, "nonesuch", "night", EVENT).json()["type"] == "urn:autowarmup:unknown-study"
    assert client.get("/v1/studies/names/runs/night/events").json()["type"] == "urn:autowarmup:unknown-run"
    assert client.get("/v1/studies/names/runs").json()["runs"] == []
    with pytest.raises(InputError, match=r"run='a\.b': a run's name on a service has letters"):
        EventSender(str(client.base_url), study="names", run="a.b")
    with pytest.raises(RefusedError, match="there is no study 'nonesuch'"):
        EventSender(str(client.base_url), study="nonesuch", run="night")


def test_a_study_keeps_so_many_events_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MOST_ENTRIES", 2)
    settings = ServiceSettings(folder=tmp_path / "studies", mlflow=False)
    with TestClient(make_app(settings), base_url="http://localhost") as client:
        begun(client, "full")
        post(client, "full", "night", EVENT)
        refused = post(client, "full", "night", EVENT, EVENT | {"step": 150}, EVENT | {"step": 160})
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:autowarmup:too-many-events")
        assert post(client, "full", "night", EVENT, EVENT | {"step": 150}).status_code == 204


def test_the_page_shows_what_guards_have_told_as_text(tmp_path: Path) -> None:
    settings = ServiceSettings(folder=tmp_path / "studies", mlflow=False)
    with TestClient(make_app(settings), base_url="http://localhost") as client:
        begun(client, "shown")
        assert "Guarded runs" not in client.get("/studies/shown").text
        post(client, "shown", "night")
        post(client, "shown", "night", EVENT | {"applied": False, "message": "<script>alert(1)</script>"})
        for path in ("/studies/shown", "/studies/shown/live"):
            text = client.get(path).text
            assert "Guarded runs" in text
            assert "the run has begun" in text
            assert "&lt;script&gt;alert(1)&lt;/script&gt; (since step 138)" in text
            assert "would skip" in text


# --- Who tells it -----------------------------------------------------------------------------------------


def test_a_wrong_token_is_refused_at_the_start_and_a_revoked_one_ends_the_telling_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with guarded_service(tmp_path, "alice", "alice-0123456789abcdef") as (client, _):
        study = client._http
        begun(study, "mine")
        for token in ("another-0123456789abcdef", None):
            with pytest.raises(RefusedError, match="HTTP 401"):
                EventSender(client.url, study="mine", run="night", token=token)
        assert httpx.post(f"{client.url}/v1/studies/mine/runs/night/events", json={"events": []}).status_code == 401
        with EventSender(client.url, study="mine", run="night", token="alice-0123456789abcdef") as sender:
            token_file(tmp_path, "bob bob-0123456789abcdef01\n")
            train(sender)
    assert "no more events of run night are sent" in caplog.text
    assert "alice-0123456789abcdef" not in caplog.text


@pytest.mark.parametrize("outage", ["killed", "suspended"])
def test_events_of_a_training_without_service_are_delivered_when_it_is_back(tmp_path: Path, outage: str) -> None:
    """The training ends while the service doesn't answer, so it doesn't wait for it."""
    folder = tmp_path / "studies"
    running = started(folder, "--no-mlflow")
    port = int(running.url.rpartition(":")[2])
    try:
        with httpx.Client(base_url=running.url) as client:
            begun(client, "mine")
        sender = EventSender(running.url, study="mine", run="night")
        if outage == "killed":
            running.kill()
        else:
            running.process.send_signal(signal.SIGSTOP)
        events = train(sender)
        if outage == "killed":
            running = started(folder, "--no-mlflow", port=port)
        else:
            running.process.send_signal(signal.SIGCONT)
        sender.close()
        with httpx.Client(base_url=running.url) as client:
            assert events_of(client, "mine", "night") == events
    finally:
        running.kill()


def test_a_training_may_begin_and_end_without_the_service(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    sender = EventSender("http://127.0.0.1:9", study="mine", run="night")
    events = train(sender)
    sender.close(patience_s=0.0)
    assert "the training goes on, and events of run night are sent later" in caplog.text
    assert f"{len(events)} events of run night were not delivered" in caplog.text


def test_what_was_told_survives_a_kill_and_a_line_that_was_cut_short(tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    running = started(folder, "--no-mlflow")
    with httpx.Client(base_url=running.url) as client:
        begun(client, "mine")
        post(client, "mine", "night", EVENT, EVENT | {"step": 150})
    running.kill()
    file = folder / "mine" / "runs.jsonl"
    assert len(file.read_bytes().splitlines()) == 2
    os.truncate(file, file.stat().st_size - 20)
    with service(folder, "--no-mlflow") as again, httpx.Client(base_url=again.url) as client:
        assert events_of(client, "mine", "night") == [EVENT]
        post(client, "mine", "night", EVENT, EVENT | {"step": 150})
        assert events_of(client, "mine", "night") == [EVENT, EVENT | {"step": 150}]


def test_watch_sends_what_a_record_has(client: httpx.Client, tmp_path: Path) -> None:
    begun(client, "watched")
    record = tmp_path / "run.jsonl"
    events = train(None, record)
    sent = ["--service", str(client.base_url), "--study", "watched", "--run-name", "night"]
    for options in (sent, [*sent, "--follow", "--json"]):
        done = CliRunner().invoke(cli, ["watch", str(record), *options])
        assert done.exit_code == 0, done.output
        assert events_of(client, "watched", "night") == events
    for options in (sent[:2], sent[2:]):
        refused = CliRunner().invoke(cli, ["watch", str(record), *options])
        assert "--service goes with --study and --run-name" in refused.output


def test_a_full_disk_is_no_loss(disk: Any, tmp_path: Path) -> None:
    folder = disk("1m")
    settings = ServiceSettings(folder=folder / "studies", mlflow=False)
    with TestClient(make_app(settings), base_url="http://localhost") as client:
        begun(client, "mine")
        with suppress(OSError), (folder / "filler").open("wb") as filler:
            while True:
                filler.write(b"0" * 4096)
                filler.flush()
        many = [EVENT | {"step": step} for step in range(1_000)]
        assert post(client, "mine", "night", *many).status_code == 503
        (folder / "filler").unlink()
        assert post(client, "mine", "night", *many).status_code == 204
        assert events_of(client, "mine", "night") == many


def test_of_several_processes_the_first_one_tells_and_its_end_delivers_what_is_left(
    client: httpx.Client, tmp_path: Path
) -> None:
    begun(client, "together")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        other = pool.submit(_rank, 0, str(tmp_path), str(client.base_url))
        _rank(1, str(tmp_path), str(client.base_url)).close()
        other.result(timeout=60)
    assert [one["run"] for one in client.get("/v1/studies/together/runs").json()["runs"]] == ["rank-0"]
    assert [one["step"] for one in events_of(client, "together", "rank-0")] == [3]


def _rank(rank: int, folder: str, url: str) -> EventSender | None:
    """One process of a training; the first one ends without another word."""
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    sender = EventSender(url, study="together", run=f"rank-{rank}")
    guard = Guard(Schedule(peak=0.1, horizon=10, warmup_steps=0), optimizer, on_event=sender)
    for step in range(5):
        parameter.grad = torch.ones(1)
        guard.step(math.nan if step == 3 and rank == 1 else 1.0)
    dist.destroy_process_group()
    return sender if rank else None


def test_events_are_what_the_client_was_given(client: httpx.Client) -> None:
    """More than fit into one request."""
    begun(client, "many")
    many = [Event(**(EVENT | {"step": step})) for step in range(1_500)]
    with ServiceClient(str(client.base_url)) as sender:
        sender.add_events("many", "night", many)
    assert client.get("/v1/studies/many/runs").json()["runs"][0]["events"] == 1_500
