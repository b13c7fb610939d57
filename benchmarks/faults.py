"""Accidents, again and again: what a study on a Ray cluster finds must not depend on them.

    python benchmarks/faults.py --write     # the long one, about half an hour on two cores
    python benchmarks/faults.py --scale 0.03

Every scenario runs studies of 30 trials on a cluster of three nodes until it has had its number of accidents, at
moments drawn from a seed. A study passes where all that it found is, to the bit, what the local engine finds
undisturbed: the same trials, each segment once, the same traces, the same verdict.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the last bits of a sum depend on the number of threads

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from autowarmup import RaySettings, autotune  # noqa: E402
from autowarmup.study.store import StudyStore  # noqa: E402
from tests.cluster import Accidents, LocalCluster, gone, group, kill, stop  # noqa: E402
from tests.tasks import loaders, wide  # noqa: E402
from tests.test_study import findings, reports  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "faults.md"
DRIVER = """
import sys
from autowarmup import RaySettings, autotune
from autowarmup.errors import StudyLockedError
from tests.tasks import wide
tracking = {"mlflow": sys.argv[3]} if len(sys.argv) > 3 else {}
try:
    autotune(**wide(study=sys.argv[1], engine=RaySettings(address=sys.argv[2])) | tracking)
except StudyLockedError:
    sys.exit(7)
"""
LOCKED = 7
SCENARIOS = {
    "workers_killed": 100,
    "drivers_killed": 40,
    "nodes_killed": 10,
    "partners_killed": 20,
    "workers_stopped": 8,
    "head_lost": None,
    "disk_full": None,
    "checkpoints_damaged": None,
    "mlflow_dead": None,
    "started_at_once": 16,
}
"""And how many accidents each has."""


class Faults:
    """The scenarios. Each returns what it did; a study that found something else is an ``AssertionError``.

    Args:
        folder: where studies go.
        cluster: three nodes, this process connected.
        seed: of the moments.
    """

    def __init__(self, folder: Path, cluster: LocalCluster, seed: int = 0) -> None:
        self.folder, self.cluster = folder, cluster
        self.moments = random.Random(seed)
        self.studies = 0
        autotune(**wide(study=folder / "reference"))
        self.reference = findings(folder / "reference")

    # -- what happens to workers and nodes --

    def workers_killed(self, count: int) -> str:
        struck: list[int] = []

        def happen() -> None:
            struck.append(self.moments.choice(self.cluster.workers()))
            kill(struck[-1])

        studies = self._until(struck, count, happen, RaySettings(retries=100))
        assert gone(struck)
        return f"{len(struck)} SIGKILLs of workers, {_studies(studies)}"

    def workers_stopped(self, count: int) -> str:
        """With data-loading processes: they must be gone too."""
        data = {"data": loaders(workers=1), "total_steps": 20}
        autotune(**wide(study=self.folder / "loading", **data))
        reference = findings(self.folder / "loading")
        struck: list[int] = []
        children: list[int] = []

        def happen() -> None:
            struck.append(max(self.cluster.workers(), key=lambda pid: len(group(pid))))
            children.extend(group(struck[-1]))
            (kill if len(struck) % 2 else stop)(struck[-1])

        studies = 0
        while len(struck) < count:
            folder = self._folder()
            engine = RaySettings(retries=100, patience_s=2)
            autotune(**wide(study=folder, engine=engine, progress=Accidents(happen, 9, count - len(struck)), **data))
            assert findings(folder) == reference
            studies += 1
        assert gone(struck + children)
        return (
            f"{len(struck) // 2} SIGSTOPs past the watchdog and {len(struck) - len(struck) // 2} SIGKILLs of workers "
            f"with {len(children) - len(struck)} data-loading processes, {_studies(studies)}"
        )

    def partners_killed(self, count: int) -> str:
        """While two processes train each trial together; at any time, also while they start and connect."""
        engine = RaySettings(processes=2, retries=100)
        autotune(**wide(study=self.folder / "pairs", engine=engine))
        reference = findings(self.folder / "pairs")
        struck: list[int] = []
        over = threading.Event()

        def strike() -> None:
            while len(struck) < count and not over.wait(self.moments.uniform(1.0, 15.0)):
                for pid in self.moments.sample(pids := self.cluster.workers(), min(1, len(pids))):
                    kill(pid)
                    struck.append(pid)

        striking = threading.Thread(target=strike)
        striking.start()
        studies = 0
        try:
            while len(struck) < count:
                folder = self._folder()
                autotune(**wide(study=folder, engine=engine))
                assert findings(folder) == reference
                studies += 1
        finally:
            over.set()
            striking.join()
        assert gone(struck)
        return f"{len(struck)} SIGKILLs of one of the two processes that train a trial together, {_studies(studies)}"

    def nodes_killed(self, count: int) -> str:
        killed: list[int] = []

        def happen() -> None:
            self.cluster.kill_node()
            self.cluster.add()
            killed.append(1)

        studies = self._until(killed, count, happen, RaySettings(retries=0))
        return f"{len(killed)} nodes killed, as many added, {_studies(studies)}"

    # -- what happens to the driver --

    def drivers_killed(self, count: int) -> str:
        kills = studies = 0
        while kills < count:
            folder = self._folder()
            kills += self._killed_driver(folder, count - kills)
            studies += 1
        assert gone(self.cluster.workers())
        return f"{kills} SIGKILLs of drivers, {_studies(studies)}"

    def head_lost(self) -> str:
        """The cluster's head is gone in the midst of a study, and the workers, which could have finished it without a
        head; it goes on with another cluster."""
        folder = self._folder()
        with LocalCluster(nodes=2) as other:
            driver = self._driver(folder, address=other.address, stderr=subprocess.PIPE)
            wanted = self.moments.randint(3, 12)
            while reports(folder) < wanted:
                time.sleep(0.01)
            other.kill_head()
            for pid in other.workers():
                kill(pid)
            message = driver.communicate()[1].decode()
            assert driver.returncode == 1, driver.returncode
            assert "ClusterError: the head of the Ray cluster has not answered for 30 seconds" in message, message
            done = reports(folder)
            assert self._driver(folder).wait() == 0
            assert findings(folder) == self.reference
            assert gone(other.workers())
        return f"a lost head: the study stopped after {done} segments with a ClusterError, and went on elsewhere"

    def _killed_driver(self, folder: Path, most: int, *tracking: str) -> int:
        """Kills the study's driver up to ``most`` times; then the study finishes. How often."""
        kills = 0
        while True:
            wanted = reports(folder) + self.moments.randint(1, 12)
            driver = self._driver(folder, *tracking)
            while driver.poll() is None and (kills == most or reports(folder) < wanted):
                time.sleep(0.002)
            time.sleep(self.moments.uniform(0.0, 0.1))
            if driver.poll() is None and kills < most:
                driver.send_signal(signal.SIGKILL)
                driver.wait()
                kills += 1
            else:
                assert driver.wait() == 0
                assert findings(folder) == self.reference
                return kills

    def started_at_once(self, count: int) -> str:
        folder = self._folder()
        codes = [driver.wait() for driver in [self._driver(folder) for _ in range(count)]]
        assert set(codes) == {0, LOCKED}
        assert findings(folder) == self.reference
        return f"{count} simultaneous starts of one study: {codes.count(LOCKED)} were refused"

    # -- what happens to files and servers --

    def checkpoints_damaged(self) -> str:
        """One cut short, one with a single bit turned over, while no driver runs."""
        folder = self._folder()
        while len(states := sorted((folder / "checkpoints").glob("*.pt"))) < 2:
            driver = self._driver(folder)
            while driver.poll() is None and len([*(folder / "checkpoints").glob("*.pt")]) < 2:
                time.sleep(0.002)
            driver.kill()
            driver.wait()
        states[0].write_bytes(states[0].read_bytes()[: states[0].stat().st_size // 2])
        data = bytearray(states[1].read_bytes())
        data[len(data) // 2] ^= 1
        states[1].write_bytes(data)
        assert self._driver(folder).wait() == 0
        assert findings(folder) == self.reference
        return "a truncated and a bit-flipped checkpoint: both trials were run again up to where they were"

    def disk_full(self) -> str:
        """The checkpoints' disk, a real one of 64 kB, fills up; then the study goes on elsewhere."""
        folder = self._folder()
        StudyStore(folder, write=True).close()  # a study's folder, so that it may hold something
        place = folder / "checkpoints"
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return "a full disk: skipped, needs the right to mount one"
        try:
            failed = self._driver(folder, stderr=subprocess.PIPE)
            message = failed.communicate()[1].decode()
            assert failed.returncode == 1
            assert "StudyError: can't write the checkpoint" in message, message
            assert "No space left on device" in message, message
        finally:
            subprocess.run(["umount", str(place)], check=True)
        assert self._driver(folder).wait() == 0
        assert findings(folder) == self.reference
        return "a full disk: the study stopped with a StudyError, and went on when there was room"

    def mlflow_dead(self) -> str:
        """The server never answers, the driver is killed twice; later everything is delivered to one that does."""
        from mlflow import MlflowClient

        from autowarmup.tracking import sync

        folder = self._folder()
        kills = self._killed_driver(folder, 2, "http://127.0.0.1:9")
        uri = f"sqlite:///{folder}/mlflow.db"
        assert sync(folder, uri).complete
        client = MlflowClient(uri)
        runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000)
        states = [run.info.status for run in runs]
        assert len(runs) == len(self.reference["records"]) + 1
        assert "RUNNING" not in states
        return f"a dead MLflow server and {kills} killed drivers: {len(runs)} runs delivered later, 0 left RUNNING"

    # -- how --

    def _until(self, struck: list[int], count: int, happen: Callable[[], Any], engine: RaySettings) -> int:
        studies = 0
        while len(struck) < count:
            folder = self._folder()
            accidents = Accidents(happen, self.moments.randint(2, 6), count - len(struck))
            autotune(**wide(study=folder, engine=engine, progress=accidents))
            assert findings(folder) == self.reference
            assert not list((folder / "checkpoints").iterdir())
            studies += 1
        return studies

    def _folder(self) -> Path:
        self.studies += 1
        return self.folder / f"study-{self.studies}"

    def _driver(
        self, folder: Path, *tracking: str, address: str | None = None, stderr: int | None = None
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", DRIVER, str(folder), address or self.cluster.address, *tracking]
        return subprocess.Popen(command, cwd=ROOT, stderr=stderr)


def _studies(count: int) -> str:
    return f"{count} {'study' if count == 1 else 'studies'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(SCENARIOS)}; left out, all of them")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the accidents")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    arguments = parser.parse_args()

    lines = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"] = folder  # Ray's token
        import ray

        with LocalCluster(nodes=3) as cluster:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            faults = Faults(Path(folder), cluster, arguments.seed)
            for name in arguments.scenario or SCENARIOS:
                scenario, count = getattr(faults, name), SCENARIOS[name]
                start = time.monotonic()
                done = scenario(max(1, round(count * arguments.scale))) if count else scenario()
                line = f"{done}, {time.monotonic() - start:.0f} s"
                print(line, flush=True)
                lines.append(line)
            assert gone(cluster.workers())
    if arguments.write:
        RESULTS.write_text(page(lines, arguments.seed), encoding="utf-8")


def page(lines: list[str], seed: int) -> str:
    listing = "\n".join(f"- {line}" for line in lines)
    return f"""# Accidents on a cluster

`make faults`, seed {seed}: three Ray nodes of one CPU each on a machine with {os.cpu_count()} cores, Python
{platform.python_version()}. In each line every study ended with exactly the 30 trials, segments, traces and verdict
that the local engine finds undisturbed (or two processes a trial, where two train it): none lost, none twice. No worker
or data-loading process was left.

{listing}
"""


if __name__ == "__main__":
    main()
