"""Accidents of a service, a few of them; `python -m benchmarks.service_faults` has many."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from benchmarks.service_faults import Plan, faults
from tests.service import report_of, service


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_counts_twice(tmp_path: Path) -> None:
    happened, _ = faults(tmp_path / "studies", Plan(studies=2, server_kills=5, worker_kills=8))
    assert happened["studies"] == 2
    assert happened["services killed"] >= 2


def test_a_full_disk_refuses_reports_until_there_is_room(tmp_path: Path, disk: Callable[[str], Path]) -> None:
    """What was not received is sent again; nothing half-written stands in the way of what comes after it."""
    folder = disk("2m")
    with service(folder / "studies", "--no-mlflow") as running:
        with httpx.Client(base_url=running.url, timeout=30) as client:
            settings = {"total_steps": 20_000, "current_peak": 0.001}
            assert client.put("/v1/studies/full", json=settings).status_code == 201
            path = "/v1/studies/full/trials"
            (trial,) = client.post(f"{path}:suggest", json={"client_id": "one", "wait_s": 10}).json()["trials"]
            filler = folder / "filler"
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(b"x" * 1_024):
                    pass
            seq, statuses = 1, []
            while 503 not in statuses:
                body = report_of(trial, seq, (seq - 1) * 300, seq * 300)
                statuses.append(client.post(f"{path}/0/reports", json=body).status_code)
                seq += statuses[-1] == 200
                assert seq < 7, "the disk was not full"
            filler.unlink()
            body = report_of(trial, seq, (seq - 1) * 300, seq * 300)
            assert client.post(f"{path}/0/reports", json=body).status_code == 200
        running.kill()
        with (
            service(folder / "studies", "--no-mlflow") as again,
            httpx.Client(base_url=again.url, timeout=30) as client,
        ):
            (same,) = client.post(f"{path}:suggest", json={"client_id": "one", "wait_s": 10}).json()["trials"]
            assert (same["lease"], same["seq"], same["steps"]) == (trial["lease"], seq, seq * 300)
