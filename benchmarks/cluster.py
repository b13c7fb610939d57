"""What a cluster costs: the time that a trial takes beyond its training, and how the driver's cost grows.

    python benchmarks/cluster.py overhead   # beside plain Ray Core and plain Ray Tune
    python benchmarks/cluster.py reports    # a trial of very fast steps, beside the local engine
    python benchmarks/cluster.py growth     # 100 to 5,000 trials, 4 to 64 simulated nodes

Trials train nothing: they take 0 or 1 second and report one step, or report many steps that take no time, so what is
left is overhead. Workers are warm.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from autowarmup import Detectors, RaySettings, Schedule  # noqa: E402
from autowarmup.engines.base import Engine, MonitorSettings, Segment  # noqa: E402
from autowarmup.engines.local import LocalEngine  # noqa: E402
from autowarmup.engines.ray import RayEngine  # noqa: E402
from autowarmup.search.trials import SegmentResult, TrialSpec  # noqa: E402
from autowarmup.study.store import StudyStore  # noqa: E402
from autowarmup.training.trace import Trace  # noqa: E402

MONITORING = MonitorSettings(Detectors(), 1, None)


class Sleeping:
    """A task whose trials take ``seconds`` and record one step."""

    current_peak, beta2, trivial_loss, steps_per_epoch, uses_cuda = 1e-3, 0.999, None, None, False

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def describe(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def trial(self, schedule: Schedule, seed: int, eval_every: int, state: Any, climb: Any) -> SleepingTrial:
        return SleepingTrial(self.seconds)


class SleepingTrial:
    """A trial of :class:`Sleeping`."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.step = seconds, 0

    def run(self, until: int) -> Any:
        if self.step < until:
            time.sleep(self.seconds)
            self.step = until
            yield Trace(np.array([1e-3]), np.array([1.0]), np.array([1.0]))

    def save(self, open_state: Any) -> bool:
        """Is never paused: its only segment ends at the horizon."""
        return False

    def close(self) -> None:
        """Holds nothing."""


class Counting(Sleeping):
    """A task whose trials record steps as fast as they can, in blocks of ten as models' trials do."""

    def trial(self, schedule: Schedule, seed: int, eval_every: int, state: Any, climb: Any) -> CountingTrial:
        return CountingTrial()


class CountingTrial(SleepingTrial):
    """A trial of :class:`Counting`."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def run(self, until: int) -> Any:
        while self.step < until:
            yield Trace(np.full(10, 1e-3), np.ones(10), np.ones(10), (), self.step)
            self.step += 10


def segments(first: int, count: int, horizon: int = 1) -> list[Segment]:
    schedule = Schedule(peak=1e-3, horizon=horizon)
    specs = [
        TrialSpec(number=number, candidate=number, role="proposal", seed=0, schedule=schedule)
        for number in range(first, first + count)
    ]
    return [Segment(spec, horizon, Trace.empty()) for spec in specs]


def results(engine: Engine, wanted: list[Segment]) -> Iterator[SegmentResult]:
    """Starts the segments and gives their results, as they arrive."""
    for segment in wanted:
        engine.start(segment)
    for _ in wanted:
        yield engine.wait(lambda *_: None)


def engine_seconds(seconds: float, count: int, workers: int, folder: Path) -> float:
    """Seconds of a trial and worker beyond its own, our engine and store, workers warm."""
    engine = RayEngine(Sleeping(seconds), folder / "checkpoints", MONITORING, RaySettings(workers=workers))
    store = StudyStore(folder, write=True)
    try:
        for _ in results(engine, segments(0, workers)):
            pass
        wanted = segments(workers, count)
        start = time.perf_counter()
        for segment in wanted:
            store.add_trial(segment.spec)
        for position, result in enumerate(results(engine, wanted)):
            store.add_segment(result, position, workers)
            store.finish(result.number, "completed")
        return (time.perf_counter() - start) * workers / count - seconds
    finally:
        engine.close()
        store.close()


def core_seconds(seconds: float, count: int, workers: int) -> float:
    """The same of plain actors, a call a trial."""
    import ray

    @ray.remote(num_cpus=1)
    class Actor:
        def run(self) -> float:
            time.sleep(seconds)
            return 1.0

    actors = [Actor.remote() for _ in range(workers)]
    ray.get([actor.run.remote() for actor in actors])
    start = time.perf_counter()
    ray.get([actors[number % workers].run.remote() for number in range(count)])
    taken = time.perf_counter() - start
    for actor in actors:
        ray.kill(actor)
    return taken * workers / count - seconds


def tune_seconds(seconds: float, count: int, workers: int, folder: Path, *, reuse: bool) -> float:
    """The same of a plain Tuner; its start is taken off by a run of one trial a worker."""
    from ray import tune

    def train(config: dict[str, Any]) -> None:
        time.sleep(seconds)
        tune.report({"loss": 1.0})

    def fit(samples: int) -> float:
        start = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            tune.Tuner(
                tune.with_resources(train, {"cpu": 1}),
                tune_config=tune.TuneConfig(num_samples=samples, reuse_actors=reuse),
                run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
            ).fit()
        return time.perf_counter() - start

    fit(workers)
    few = fit(workers)
    return (fit(workers + count) - few) * workers / count - seconds


def overhead(folder: Path, workers: int, count: int) -> None:
    import ray

    ray.init(
        address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20
    )
    print("| trials of | autowarmup on Ray | plain Ray Core | plain Ray Tune, actors reused | plain Ray Tune |")
    print("| --- | --- | --- | --- | --- |")
    for seconds in (0.0, 1.0):
        many = count if seconds else 10 * count
        cells = [
            engine_seconds(seconds, many, workers, folder / f"engine-{seconds}"),
            core_seconds(seconds, many, workers),
            tune_seconds(seconds, many, workers, folder, reuse=True),
            tune_seconds(seconds, max(workers, count // 4), workers, folder, reuse=False),
        ]
        print(f"| {seconds:g} s | " + " | ".join(f"{cell:.3f} s" for cell in cells) + " |", flush=True)
    ray.shutdown()


def reports(folder: Path, steps: int, turns: int) -> None:
    """The engines in turn, one worker."""
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    engines: dict[str, Engine] = {
        "local": LocalEngine(Counting(0.0), folder, MONITORING),
        "ray": RayEngine(Counting(0.0), folder, MONITORING, RaySettings(workers=1)),
    }
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(turns + 1):
        for name, engine in engines.items():
            start = time.perf_counter()
            for _ in results(engine, segments(turn, 1, steps)):
                pass
            if turn:  # the first one warms up
                rates[name].append(steps / (time.perf_counter() - start))
    print(f"| engine | steps a second, median of {turns} trials of {steps:,} steps |")
    print("| --- | --- |")
    for name, measured in rates.items():
        print(f"| {name} | {np.median(measured):,.0f} |")
    engines["ray"].close()
    ray.shutdown()


def growth(folder: Path, trials: list[int], nodes: list[int]) -> None:
    """The driver's own processor time and memory. The nodes share this machine, so their own cost is not looked at."""
    import ray
    from ray.cluster_utils import Cluster

    print("| nodes | trials | driver, CPU seconds | a trial | driver's memory |")
    print("| --- | --- | --- | --- | --- |")
    for size in nodes:
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 * 2**20},
        )
        for _ in range(size):
            cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        ray.init(address=cluster.address, log_to_driver=False)
        for count in trials:
            usage = resource.getrusage(resource.RUSAGE_SELF)
            engine_seconds(0.0, count, min(size, 4), folder / f"growth-{size}-{count}")
            now = resource.getrusage(resource.RUSAGE_SELF)
            spent = now.ru_utime + now.ru_stime - usage.ru_utime - usage.ru_stime
            print(
                f"| {size} | {count:,} | {spent:.1f} | {1e3 * spent / count:.1f} ms | {_memory_mb():.0f} MB |",
                flush=True,
            )
        ray.shutdown()
        cluster.shutdown()


def _memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("what", choices=["overhead", "reports", "growth"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--count", type=int, default=40, help="trials of the overhead's measurement")
    parser.add_argument("--steps", type=int, default=50_000, help="steps of a trial that reports")
    parser.add_argument("--turns", type=int, default=5, help="such trials")
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--nodes", type=int, nargs="+", default=[4, 16, 64])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["HOME"] = name  # Ray's token
        if arguments.what == "overhead":
            overhead(Path(name), arguments.workers, arguments.count)
        elif arguments.what == "reports":
            reports(Path(name), arguments.steps, arguments.turns)
        else:
            growth(Path(name), arguments.trials, arguments.nodes)


if __name__ == "__main__":
    main()
