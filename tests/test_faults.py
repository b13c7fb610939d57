"""A minute of the accidents that ``make faults`` has hundreds of."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.faults import Faults
from tests.cluster import LocalCluster
from tests.test_study import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]
"""Ray warns of itself."""


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        import ray

        with LocalCluster(nodes=3) as cluster:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            yield Faults(tmp_path_factory.mktemp("faults"), cluster)


def test_workers_are_killed(faults: Faults) -> None:
    assert faults.workers_killed(3)


def test_workers_are_stopped_with_their_data_loading_processes(faults: Faults) -> None:
    assert faults.workers_stopped(2)


def test_one_of_two_processes_is_killed(faults: Faults) -> None:
    assert faults.partners_killed(2)


def test_the_driver_is_killed(faults: Faults) -> None:
    assert faults.drivers_killed(2)


def test_the_head_is_lost(faults: Faults) -> None:
    assert faults.head_lost()


def test_the_head_is_lost_just_before_it_is_asked() -> None:
    """Calls of Ray that only the head can answer don't return then. Ray's own threads ask it once as they start."""
    script = """
import sys
import time
from autowarmup import RaySettings
from autowarmup.engines.cluster import Cluster
cluster = Cluster(RaySettings(address=sys.argv[1]), gpus=0.0)
time.sleep(2.0)
print("connected", flush=True)
sys.stdin.readline()
cluster.capacity()
"""
    with LocalCluster(nodes=1) as cluster:
        driver = subprocess.Popen(
            [sys.executable, "-c", script, cluster.address],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert driver.stdout is not None
        assert driver.stdout.readline() == "connected\n"
        cluster.kill_head()
        message, _ = driver.communicate("go on\n")
    assert "ClusterError: the head of the Ray cluster has not answered for 30 seconds" in message


def test_checkpoints_are_damaged(faults: Faults) -> None:
    assert faults.checkpoints_damaged()


def test_the_disk_is_full(faults: Faults) -> None:
    assert faults.disk_full()


def test_started_four_times_at_once(faults: Faults) -> None:
    assert faults.started_at_once(4)
