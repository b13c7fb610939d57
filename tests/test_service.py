"""The service by its protocol: a real server, workers that train nothing, and kills."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from autowarmup.schedule.schedule import Schedule
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.service.messages import StudyRequest
from autowarmup.service.summary import recorded
from autowarmup.study.store import StoredTrial, StudyStore
from autowarmup.training.trace import Trace
from tests.service import Worker, replay, report_of, service, started, told

REQUEST = {"total_steps": 100, "current_peak": 0.001}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("service") / "studies"
    with service(folder, "--no-mlflow") as running, httpx.Client(base_url=running.url, timeout=30) as opened:
        opened.headers["X-Folder"] = str(folder)
        yield opened


def begun(client: httpx.Client, name: str, **settings: Any) -> None:
    assert client.put(f"/v1/studies/{name}", json=REQUEST | settings).status_code == 201


def leased(client: httpx.Client, study: str, worker: str, count: int = 1, wait_s: float = 10) -> list[dict[str, Any]]:
    answer = client.post(
        f"/v1/studies/{study}/trials:suggest", json={"client_id": worker, "count": count, "wait_s": wait_s}
    )
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["trials"]
    return found


def reported(client: httpx.Client, study: str, trial: dict[str, Any], seq: int, start: int, end: int) -> httpx.Response:
    return client.post(
        f"/v1/studies/{study}/trials/{trial['spec']['number']}/reports", json=report_of(trial, seq, start, end)
    )


def test_a_study_runs_to_its_verdict_and_hands_out_the_schedule(client: httpx.Client) -> None:
    begun(client, "whole")
    assert Worker(client, "whole", "one").work() == "finished"
    summary = client.get("/v1/studies/whole").json()
    assert summary["verdict"] == "tuned"
    assert summary["best"]["value"] < 0.35
    verdict = client.get("/v1/studies/whole/verdict").json()
    schedule = client.get("/v1/studies/whole/schedule").json()
    assert verdict["schedule"] == schedule
    assert "LambdaLR" in client.get("/v1/studies/whole/schedule", params={"format": "pytorch"}).text
    assert client.get("/v1/studies/whole/schedule", params={"format": "nonesuch"}).status_code == 422
    assert client.get("/v1/studies/whole/result").json()["verdict"]["kind"] == "tuned"


def test_the_trials_are_those_of_an_engine_that_runs_them_in_the_same_order(
    client: httpx.Client, tmp_path: Path
) -> None:
    """Three workers at different paces: what the service decides depends on the order of arrival alone."""
    begun(client, "order")
    with (
        httpx.Client(base_url=client.base_url, timeout=60) as second,
        httpx.Client(base_url=client.base_url, timeout=60) as third,
    ):
        workers = [
            Worker(one, "order", f"worker-{pace}", pace=pace, before_report=lambda *_: time.sleep(0.01))
            for one, pace in ((client, 3), (second, 7), (third, 20))
        ]
        threads = [threading.Thread(target=worker.work) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    folder = Path(client.headers["X-Folder"]) / "order"
    config = StudyRequest.model_validate(REQUEST).config()
    with closing(StudyStore(folder)) as found:
        replay(found, config, tmp_path / "again")
    with closing(StudyStore(folder)) as found, closing(StudyStore(tmp_path / "again")) as again:
        assert json.dumps(again.meta("verdict")) == json.dumps(found.meta("verdict"))
        assert again.numbers() == found.numbers()
        for number in found.numbers():
            one, other = found.trial(number), again.trial(number)
            assert (one.spec, one.outcome) == (other.spec, other.outcome)
            assert one.trace.to_bytes() == other.trace.to_bytes()


def test_the_same_request_again_changes_nothing_and_another_one_is_refused(client: httpx.Client) -> None:
    begun(client, "twice")
    assert client.put("/v1/studies/twice", json=REQUEST).status_code == 200
    other = client.put("/v1/studies/twice", json=REQUEST | {"seed": 1})
    assert other.status_code == 409
    assert other.headers["content-type"] == "application/problem+json"
    assert other.json()["type"] == "urn:autowarmup:other-study"


def test_the_same_worker_gets_its_trial_again_and_another_one_gets_none(client: httpx.Client) -> None:
    begun(client, "mine")
    (trial,) = leased(client, "mine", "first")
    assert leased(client, "mine", "first") == [trial]
    assert leased(client, "mine", "second", wait_s=0) == []


def test_a_report_sent_again_changes_nothing(client: httpx.Client) -> None:
    begun(client, "again")
    (trial,) = leased(client, "again", "one")
    assert reported(client, "again", trial, 1, 0, 4).json() == {
        "action": "go_on",
        "until": 10,
        "steps": 4,
        "reason": None,
    }
    assert reported(client, "again", trial, 1, 0, 4).json()["steps"] == 4
    assert reported(client, "again", trial, 2, 2, 7).json()["steps"] == 7  # an overlap is skipped
    trace = client.get("/v1/studies/again/trials/0/trace").json()
    assert trace["losses"] == report_of(trial, 1, 0, 7)["losses"]


def test_missing_steps_are_refused_with_what_is_known(client: httpx.Client) -> None:
    begun(client, "gap")
    (trial,) = leased(client, "gap", "one")
    answer = reported(client, "gap", trial, 1, 4, 7)
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:autowarmup:steps-missing"
    assert answer.json()["steps"] == 0
    assert reported(client, "gap", trial, 1, 0, 12).json()["type"] == "urn:autowarmup:too-far"


def test_a_diverging_trial_is_stopped_at_once(client: httpx.Client) -> None:
    begun(client, "nan", space={"peak": {"low": 0.01, "high": 0.02}}, workers=2)
    trial = next(t for t in leased(client, "nan", "one", count=2) if not t["spec"]["stop_only_on_nonfinite"])
    body = report_of(trial, 1, 0, 3) | {"losses": [2.0, None, None]}
    answer = client.post(f"/v1/studies/nan/trials/{trial['spec']['number']}/reports", json=body)
    assert answer.json()["action"] == "stop"
    Worker(client, "nan", "one").work()
    stored = client.get(f"/v1/studies/nan/trials/{trial['spec']['number']}").json()
    assert stored["outcome"] == "unstable"
    assert stored["instability"] == "non-finite at step 1"


@pytest.mark.slow
def test_a_lapsed_lease_gives_the_trial_to_another_worker(tmp_path: Path) -> None:
    with (
        service(tmp_path / "studies", "--no-mlflow") as running,
        httpx.Client(base_url=running.url, timeout=30) as client,
    ):
        begun(client, "lapse", lease_s=5)
        (trial,) = leased(client, "lapse", "lost")
        reported(client, "lapse", trial, 1, 0, 4)
        (same,) = leased(client, "lapse", "found", wait_s=60)  # the client waits for half of that
        assert same["spec"] == trial["spec"]
        assert same["steps"] == 4
        late = reported(client, "lapse", trial, 2, 4, 8)
        assert late.status_code == 409
        assert late.json()["type"] == "urn:autowarmup:lease-lapsed"
        assert reported(client, "lapse", same, 1, 0, 8).json()["steps"] == 8  # trained again from its start


def test_a_trial_that_is_given_back_goes_to_the_next_worker(client: httpx.Client) -> None:
    begun(client, "back")
    (trial,) = leased(client, "back", "one")
    path = f"/v1/studies/back/trials/{trial['spec']['number']}:complete"
    early = client.post(path, json={"lease": trial["lease"], "outcome": "completed"})
    assert early.json()["type"] == "urn:autowarmup:steps-to-go"
    assert client.post(path, json={"lease": trial["lease"], "outcome": "returned"}).status_code == 204
    (again,) = leased(client, "back", "two")
    assert again["spec"] == trial["spec"]
    assert again["lease"] != trial["lease"]


def test_a_task_that_fails_stops_the_study_which_goes_on_when_resumed(client: httpx.Client) -> None:
    begun(client, "broken")
    for _ in range(4):
        found = leased(client, "broken", "one", wait_s=2)
        for trial in found:
            client.post(
                f"/v1/studies/broken/trials/{trial['spec']['number']}:complete",
                json={"lease": trial["lease"], "outcome": "failed", "reason": "Traceback ...\nValueError: no data"},
            )
    summary = client.get("/v1/studies/broken").json()
    assert summary["state"] == "failed"
    assert "no data" in summary["failure"]
    assert client.post("/v1/studies/broken:resume").json()["state"] == "running"
    assert Worker(client, "broken", "one").work() == "finished"


def test_a_cancelled_study_stops_its_workers_and_goes_on_when_resumed(client: httpx.Client) -> None:
    begun(client, "halt")
    (trial,) = leased(client, "halt", "one")
    assert client.post("/v1/studies/halt:cancel").json()["state"] == "cancelled"
    assert reported(client, "halt", trial, 1, 0, 4).json()["type"] == "urn:autowarmup:not-running"
    assert client.post("/v1/studies/halt:resume").json()["state"] == "running"
    assert Worker(client, "halt", "one").work() == "finished"


def test_a_deleted_study_is_gone_and_its_name_free(client: httpx.Client) -> None:
    begun(client, "gone")
    leased(client, "gone", "one")
    assert client.delete("/v1/studies/gone").status_code == 204
    assert client.get("/v1/studies/gone").status_code == 404
    assert not (Path(client.headers["X-Folder"]) / "gone").exists()
    begun(client, "gone", seed=3)


@pytest.mark.slow
def test_events_have_the_same_numbers_whenever_they_are_read(client: httpx.Client) -> None:
    begun(client, "told")
    Worker(client, "told", "one").work()

    def events(after: str | None = None) -> list[tuple[str, str]]:
        return [(one.get("id", ""), one["event"]) for one in told(client, "told", "end", after)]

    everything = events()
    numbers = [int(number) for number, kind in everything if kind == "segment"]
    assert numbers == list(range(1, len(numbers) + 1))
    assert everything[-1] == ("", "end")
    assert [int(number) for number, kind in events(after="3") if kind == "segment"] == numbers[3:]


def test_a_checkpoint_goes_from_one_worker_to_the_next_as_it_was(client: httpx.Client) -> None:
    import hashlib

    begun(client, "weights")
    (trial,) = leased(client, "weights", "one")
    data = b"weights" * 200_000
    path = f"/v1/studies/weights/trials/{trial['spec']['number']}/checkpoint"
    parameters = {"lease": trial["lease"], "steps": 10}
    wrong = client.put(path, params=parameters, content=data, headers={"X-Checksum-SHA256": "0" * 64})
    assert wrong.status_code == 422
    assert client.get(path, params={"steps": 10}).status_code == 404
    checksum = hashlib.sha256(data).hexdigest()
    assert client.put(path, params=parameters, content=data, headers={"X-Checksum-SHA256": checksum}).status_code == 204
    assert client.get(path, params={"steps": 10}).content == data


@pytest.mark.slow
def test_a_killed_service_goes_on_where_it_was(tmp_path: Path) -> None:
    """Kills between reports: nothing that a worker was told to be received is lost, nothing counts twice."""
    folder, kills = tmp_path / "studies", 4
    running = started(folder, "--no-mlflow")
    port = int(running.url.rsplit(":", 1)[1])
    with httpx.Client(base_url=running.url, timeout=30) as client:
        begun(client, "killed", cohort=1)
        begun(client, "whole", cohort=1)
        Worker(client, "whole", "one").work()
    killed_at: list[int] = []

    def kill(trial: dict[str, Any], step: int) -> None:
        nonlocal running
        if len(killed_at) < kills and (len(killed_at) + 1) * 60 < total[0]:
            killed_at.append(step)
            running.kill()
            running = started(folder, "--no-mlflow", port=port)
        total[0] += 5

    total = [0]
    with httpx.Client(base_url=running.url, timeout=30) as client:
        assert Worker(client, "killed", "one", pace=5, before_report=kill).work() == "finished"
    running.kill()
    assert len(killed_at) == kills
    with closing(StudyStore(folder / "killed")) as store, closing(StudyStore(folder / "whole")) as whole:
        assert store.meta("verdict") == whole.meta("verdict")
        for number in whole.numbers():
            assert store.trial(number).trace.to_bytes() == whole.trial(number).trace.to_bytes()
            assert len(store.trial(number).trace) == len(Trace.join([whole.trial(number).trace]))


@pytest.mark.slow
def test_one_service_at_a_time_has_a_folder(tmp_path: Path) -> None:
    with (
        service(tmp_path / "studies", "--no-mlflow"),
        pytest.raises(AssertionError, match="another service has the folder"),
    ):
        started(tmp_path / "studies", "--no-mlflow")


@pytest.mark.slow
def test_a_trial_that_was_given_back_is_free_after_a_restart(tmp_path: Path) -> None:
    with service(tmp_path / "studies", "--no-mlflow") as running, httpx.Client(base_url=running.url) as client:
        begun(client, "free")
        (trial,) = leased(client, "free", "one")
        body = {"lease": trial["lease"], "outcome": "returned"}
        assert client.post(f"/v1/studies/free/trials/{trial['spec']['number']}:complete", json=body).status_code == 204
        running.kill()
    with service(tmp_path / "studies", "--no-mlflow") as again, httpx.Client(base_url=again.url, timeout=30) as client:
        assert leased(client, "free", "two")[0]["spec"] == trial["spec"]


def test_a_segment_that_was_stored_between_two_looks_does_no_harm() -> None:
    """What is stored and what is not are read one after the other, while the study goes on."""
    part = Trace(*[np.arange(4.0)] * 3)
    spec = TrialSpec(number=0, candidate=0, role="proposal", seed=0, schedule=Schedule(peak=0.1, horizon=20))
    trial = StoredTrial(spec, None, (SegmentResult(0, 4, part),))
    following, later = replace(part, start=4), replace(part, start=8)
    assert [recorded(trial, live).end for live in (None, part, following, later)] == [4, 4, 8, 4]
