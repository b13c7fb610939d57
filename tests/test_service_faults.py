"""Accidents of a service, a few of them; `python -m benchmarks.service_faults` has many."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.service_faults import Plan, faults


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_counts_twice(tmp_path: Path) -> None:
    happened, _ = faults(tmp_path / "studies", Plan(studies=2, server_kills=5, worker_kills=8))
    assert happened["studies"] == 2
    assert happened["services killed"] >= 2
