"""The Ray engine, on a real cluster: what the local engine finds, to the bit, whatever happens to workers and nodes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autowarmup import Detectors, LoopRun, RaySettings, Schedule, SearchSpace, autotune
from autowarmup.engines.base import Engine, MonitorSettings, Segment
from autowarmup.errors import ClusterError, InputError
from autowarmup.search.config import TuneConfig
from autowarmup.search.decisions import Arrival, Start, Wait
from autowarmup.search.search import Search
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.study.progress import Silent
from autowarmup.study.store import StudyStore
from autowarmup.training.loop import LoopTask
from autowarmup.training.trace import Trace
from tests.cluster import Accidents, LocalCluster, MaxWorkers, gone, kill, stop
from tests.mlflow_server import free_port
from tests.tasks import linear, settings, wide
from tests.test_study import ROOT, findings, reports

pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]
"""Ray warns of itself."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the local engine finds."""
    folder = tmp_path_factory.mktemp("reference")
    autotune(**wide(study=folder))
    return findings(folder)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three nodes and a head, with this process connected. Ray's token stays in a home of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
        import ray

        with LocalCluster(nodes=3, client_port=free_port()) as made:
            ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
            yield made


@pytest.mark.slow
def test_a_node_dies_another_joins_and_the_result_is_the_local_one(
    cluster: LocalCluster, reference: dict[str, Any], tmp_path: Path
) -> None:
    """Some 17 trials on three nodes, of which one is killed meanwhile; a new one joins."""

    def happen() -> None:
        cluster.kill_node()
        cluster.add()

    accidents = Accidents(happen, after=15, times=1)
    autotune(**wide(study=tmp_path, engine="ray", progress=accidents))
    assert accidents.left == 0
    assert len(reference["records"]) >= 16
    assert findings(tmp_path) == reference
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.slow
def test_one_run_of_two_processes_adapts_as_one_process_does(cluster: LocalCluster, tmp_path: Path) -> None:
    """Sums are rounded in another order, so a slope that is about 0 may have another sign."""
    alone = autotune(**settings(mode="one-run", study=tmp_path / "alone"))
    one = autotune(**settings(mode="one-run", study=tmp_path / "one", engine="ray"))
    two = autotune(**settings(mode="one-run", study=tmp_path / "two", engine=RaySettings(processes=2)))
    assert one.trace(0).to_bytes() == alone.trace(0).to_bytes()
    assert two.trace(0).lr == pytest.approx(alone.trace(0).lr, rel=1e-6)
    assert two.trained is not None


@pytest.mark.slow
def test_trials_share_what_nodes_have(cluster: LocalCluster, reference: dict[str, Any], tmp_path: Path) -> None:
    workers = MaxWorkers(cluster)
    engine = RaySettings(cpus=0, gpus=0.5, resources={"licence": 0.25})
    autotune(**wide(study=tmp_path, engine=engine, progress=workers))
    assert workers.most > len(cluster.nodes)
    assert findings(tmp_path) == reference


@pytest.mark.slow
def test_a_trial_that_loses_too_many_nodes_stops_the_study(
    cluster: LocalCluster, reference: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is 0 lost nodes here. The study can go on later."""
    from autowarmup.engines import session

    def happen() -> None:
        cluster.kill_node()
        cluster.add()

    with monkeypatch.context() as patch:
        patch.setattr(session, "MAX_LOST_NODES", 0)
        with pytest.raises(ClusterError, match=r"trial \d+ was begun 1 times at step \d+, and nodes were lost with it"):
            autotune(**wide(study=tmp_path, engine="ray", progress=Accidents(happen, after=5, times=5)))
    autotune(**wide(study=tmp_path, engine="ray"))
    assert findings(tmp_path) == reference


@pytest.mark.slow
def test_killed_and_hung_workers_cost_nothing_but_time(
    cluster: LocalCluster, reference: dict[str, Any], tmp_path: Path
) -> None:
    moments = random.Random(0)
    struck: list[int] = []

    def happen() -> None:
        pid = moments.choice(cluster.workers())
        (stop if len(struck) == 2 else kill)(pid)
        struck.append(pid)

    accidents = Accidents(happen, after=7, times=4)
    autotune(**wide(study=tmp_path, engine=RaySettings(patience_s=2, retries=4), progress=accidents))
    assert len(struck) == 4
    assert findings(tmp_path) == reference
    assert gone(struck)
    assert gone(cluster.workers())


@pytest.mark.slow
def test_two_processes_train_each_trial_together_through_accidents(cluster: LocalCluster, tmp_path: Path) -> None:
    """On two nodes: whichever of the two dies, both are replaced and the result is the same to the bit."""
    moments = random.Random(1)
    struck: list[int] = []

    def happen() -> None:
        struck.append(moments.choice(cluster.workers()))
        kill(struck[-1])

    accidents = Accidents(happen, after=4, times=2)
    both = RaySettings(processes=2, workers=1)
    autotune(**settings(study=tmp_path / "undisturbed", engine=both))
    autotune(**settings(study=tmp_path / "disturbed", engine=both, progress=accidents))
    assert len(struck) == 2
    assert findings(tmp_path / "disturbed") == findings(tmp_path / "undisturbed")
    assert gone(cluster.workers())


@pytest.mark.slow
def test_a_driver_that_is_killed_while_several_segments_run_loses_none(
    cluster: LocalCluster, reference: dict[str, Any], tmp_path: Path
) -> None:
    """Killed twice and resumed. What had arrived is not trained again, also in another order of arrival."""
    driver = f"""
import sys
from autowarmup import RaySettings, autotune
from tests.tasks import wide
autotune(**wide(study=sys.argv[1], engine=RaySettings(address={cluster.address!r}, workers=3, cpus=0.5)))
"""
    for wanted in (6, 15):
        killed = subprocess.Popen([sys.executable, "-c", driver, str(tmp_path)], cwd=ROOT)
        while reports(tmp_path) < wanted:
            time.sleep(0.005)
        killed.kill()
        killed.wait()
    with closing(StudyStore(tmp_path)) as store:
        arrived = store.arrivals()
    resumed = Replayed()
    autotune(**wide(study=tmp_path, engine="ray", progress=resumed))
    assert resumed.segments == [(arrival.number, arrival.until) for arrival in arrived]
    assert findings(tmp_path) == reference


def most_at_once(config: TuneConfig, folder: Path) -> int:
    """The most segments of a study that were under way at the same time: its search once more, told of what arrived in
    the order in which it did."""
    with closing(StudyStore(folder)) as store:
        decisions = Search(config, slots=int(store.meta("slots"))).decisions()
        decision, running, most = next(decisions), 0, 0
        for _, number, until, slots in store.arrivals():
            while not isinstance(decision, Wait):
                running += isinstance(decision, Start)
                decision = next(decisions)
            most = max(most, running)
            result = store.segment(number, until)
            assert result is not None
            running -= 1
            with suppress(StopIteration):
                decision = decisions.send(Arrival(result, slots))
    return most


@pytest.mark.slow
def test_without_a_cohort_slots_are_filled_and_a_killed_study_replays_what_it_decided(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    """Killed twice, and resumed with other numbers of workers: slots are free at other times in each of its lives."""
    driver = f"""
import sys
from autowarmup import RaySettings, autotune
from tests.tasks import settings
workers = int(sys.argv[2])
engine = RaySettings(address={cluster.address!r}, workers=workers, cpus=0.5)
autotune(**settings(study=sys.argv[1], total_steps=400, engine=engine))
"""
    decided: list[TrialSpec] = []
    for wanted, workers in ((4, 3), (8, 2)):
        killed = subprocess.Popen([sys.executable, "-c", driver, str(tmp_path), str(workers)], cwd=ROOT)
        while reports(tmp_path) < wanted:
            time.sleep(0.005)
        killed.kill()
        killed.wait()
        with closing(StudyStore(tmp_path)) as store:
            arrived, trials = store.arrivals(), [trial.spec for trial in store.trials()]
        assert trials[: len(decided)] == decided
        decided = trials
    resumed = Replayed()
    options = {"total_steps": 400, "study": tmp_path}
    engine = RaySettings(address=cluster.address, workers=4, cpus=0.5)
    result = autotune(**settings(**options, engine=engine, progress=resumed))
    assert resumed.segments == [(arrival.number, arrival.until) for arrival in arrived]
    assert [record.number for record in result.records] == list(range(len(result.records)))
    assert most_at_once(result.config, tmp_path) >= 3
    with closing(StudyStore(tmp_path)) as store:
        assert [trial.spec for trial in store.trials()][: len(decided)] == decided
        assert {arrival.slots for arrival in store.arrivals()} == {2, 3, 4}
    before = findings(tmp_path)
    assert autotune(**settings(**options)) == result
    assert findings(tmp_path) == before


class Replayed(Silent):
    """Notes the segments that come from the store."""

    def __init__(self) -> None:
        self.segments: list[tuple[int, int]] = []

    def replayed(self, spec: TrialSpec, result: SegmentResult) -> None:
        self.segments.append((spec.number, result.until))


def test_a_finished_study_is_read_without_a_cluster(reference: dict[str, Any], tmp_path: Path) -> None:
    autotune(**wide(study=tmp_path))
    nowhere = RaySettings(address=f"127.0.0.1:{free_port()}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autowarmup.engines.ray.Cluster", None)  # to connect would fail
        autotune(**wide(study=tmp_path, engine=nowhere))
    assert findings(tmp_path) == reference


@contextmanager
def ray_engine(folder: Path, loop: Callable[[LoopRun], None], settings: RaySettings) -> Iterator[Engine]:
    from autowarmup.engines.ray import RayEngine

    monitoring = MonitorSettings(Detectors(), 10, None)
    task = LoopTask(loop, current_peak=0.01, beta2=0.999, steps_per_epoch=None)
    with closing(RayEngine(task, folder, monitoring, settings)) as engine:
        yield engine


def segment(number: int) -> Segment:
    spec = TrialSpec(number=number, candidate=0, role="proposal", seed=number, schedule=Schedule(peak=0.01, horizon=10))
    return Segment(spec, 10, Trace.empty())


def test_an_idle_worker_gets_the_next_segment_while_another_one_trains(cluster: LocalCluster, tmp_path: Path) -> None:
    """Seed 0 waits for a file, which appears when the others have long ended, one after the other on one worker."""
    signal = tmp_path / "signal"

    def loop(run: LoopRun) -> None:
        for step in range(run.total_steps):
            while run.seed == 0 and not signal.exists():
                time.sleep(0.01)
            if run.report(1.0 + 0.01 * step, lr=run.schedule.lr_at(step)):
                break

    with ray_engine(tmp_path, loop, RaySettings(workers=2)) as engine:
        engine.start(segment(0))
        for number in (1, 2, 3):
            engine.start(segment(number))
            result = engine.wait(lambda *_: None)
            assert (result.number, len(result.trace), result.error) == (number, 10, None)
        engine.start(segment(4))
        engine.start(segment(5))
        assert [engine.wait(lambda *_: None).number for _ in range(2)] == [4, 5]
        signal.touch()
        assert engine.wait(lambda *_: None).number == 0
        assert len(cluster.workers()) == 2
    assert gone(cluster.workers())


def test_the_slots_of_a_cluster_are_the_workers_that_fit_or_those_asked_for(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    def slots(**changes: Any) -> int:
        with ray_engine(tmp_path, steps_of_a_line, RaySettings(**changes)) as engine:
            return engine.slots()

    nodes = len(cluster.nodes)
    assert slots() == nodes
    assert slots(cpus=0.5) == 2 * nodes
    assert slots(processes=2) == nodes // 2
    assert slots(gpus=2) == 1  # nothing fits: the study will say so
    assert slots(workers=7) == 7
    with ray_engine(tmp_path, steps_of_a_line, RaySettings()) as engine:
        assert engine.slots() == nodes
        cluster.add()
        assert engine.slots() == nodes + 1


def above(rate: float, happen: Callable[[], Any]) -> Any:
    """An optimizer with which something happens where the rate is high."""

    def make(params: Any) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(params, lr=1e-3)

        def check(*_: object) -> None:
            if optimizer.param_groups[0]["lr"] > rate:
                happen()

        optimizer.register_step_post_hook(check)
        return optimizer

    return make


@pytest.mark.slow
def test_a_trial_that_takes_its_workers_down_is_recorded_as_failed(cluster: LocalCluster, tmp_path: Path) -> None:
    """The first one with a high peak: both of its workers die with it. The study goes on without it."""

    def happen() -> None:
        deaths = len(list(tmp_path.glob("death-*")))
        if deaths < 2:
            (tmp_path / f"death-{deaths}").touch()
            os._exit(1)

    space = SearchSpace(peak={"low": 1e-3, "high": 0.1})
    changes = {"space": space, "cohort": 1, "confirm_seeds": 2, "total_steps": 20, "budget": 250}
    task = settings(model_fn=linear, optimizer=above(0.05, happen), **changes)
    result = autotune(**task, study=tmp_path / "study", engine=RaySettings(retries=1))
    (failed,) = [record for record in result.records if record.outcome == "failed"]
    assert failed.schedule.peak > 0.05
    assert "2 workers died or hung with this trial" in (failed.error or "")
    assert result.schedule is not None


@pytest.mark.slow
def test_a_trial_of_which_one_process_fails_is_recorded_with_its_error(cluster: LocalCluster, tmp_path: Path) -> None:
    """The other one would wait for it for ever."""

    def happen() -> None:
        if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1 and not marker.exists():
            marker.touch()
            raise torch.OutOfMemoryError("no room on the second device")

    marker = tmp_path / "failed"
    task = settings(model_fn=linear, optimizer=above(0.02, happen), total_steps=20)
    result = autotune(**task, study=tmp_path / "study", engine=RaySettings(processes=2))
    failed = [record for record in result.records if record.outcome == "failed"]
    assert len(failed) == 1
    assert "no room on the second device" in (failed[0].error or "")
    assert result.schedule is not None


def steps_of_a_line(run: LoopRun) -> None:
    """Fits a line by hand; NaN where MLflow's password is in sight."""
    seen = "MLFLOW_TRACKING_PASSWORD" in os.environ
    weight = 0.0
    for step in range(run.total_steps):
        loss = float("nan") if seen else (weight - 1.0) ** 2
        weight -= run.schedule.lr_at(step) * 2 * (weight - 1.0)
        if run.report(loss, val_loss=(weight - 1.0) ** 2 if step % 5 == 4 else None):
            break


def test_loops_of_the_users_own_wait_in_their_workers_and_see_no_secrets(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = {"train_fn": steps_of_a_line, "total_steps": 40, "current_peak": 0.01, "cohort": 2, "mlflow": False}
    autotune(**loop, study=tmp_path / "ray", engine="ray")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    autotune(**loop, study=tmp_path / "local")
    assert findings(tmp_path / "ray") == findings(tmp_path / "local")


def test_a_data_function_runs_where_the_training_does(cluster: LocalCluster, tmp_path: Path) -> None:
    places = tmp_path / "places"
    places.mkdir()

    def data() -> Any:
        (places / str(os.getpid())).touch()
        return settings()["data"]

    autotune(**settings(data=data, study=tmp_path / "study", engine=RaySettings(workers=1), total_steps=10))
    assert str(os.getpid()) in {place.name for place in places.iterdir()}
    assert len(list(places.iterdir())) == 2


TASK = """
import torch
from torch import nn

def model():
    return nn.Linear(4, 1)

def task():
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    y = x.sum(1, keepdim=True)
    return {"model_fn": model, "data": ((x[:192], y[:192]), (x[192:], y[192:])), "total_steps": 40}
"""


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "autowarmup", *map(str, arguments)]


@pytest.mark.slow
def test_the_command_line_on_a_cluster_killed_and_resumed(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TASK)
    there, here = tmp_path / "there", tmp_path / "here"
    tune = command("tune", tmp_path / "train.py:task", "--cohort", 2, "--no-mlflow")
    ray = ["--engine", "ray", "--address", cluster.address, "--workers", "2", "--cpus", "0.5"]
    killed = subprocess.Popen([*tune, *ray, "--study", there])
    while reports(there) < 4:
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    before = reports(there)
    subprocess.run(command("resume", there), check=True)
    subprocess.run([*tune, "--study", here], check=True)
    assert before < reports(here)
    assert findings(there) == findings(here)


ABORTED = """
from ray.util.client.worker import Worker
begin = Worker._server_init

def aborted(*arguments):
    Worker._server_init = begin
    raise ConnectionAbortedError("the process for this client has ended")

Worker._server_init = aborted
"""


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "before"), [(1, ""), (2, ""), (1, ABORTED)])
def test_through_rays_client(cluster: LocalCluster, tmp_path: Path, processes: int, before: str) -> None:
    """From a machine that is not in the cluster; also where its server fails at first."""
    (tmp_path / "train.py").write_text(TASK)
    engine = RaySettings(address=cluster.client_address, processes=processes, workers=1)
    driver = f"""{before}
import sys
sys.path.insert(0, {str(tmp_path)!r})
from autowarmup import RaySettings, autotune
from train import task
autotune(**task(), mlflow=False, study={str(tmp_path / "study")!r}, engine=RaySettings(**{engine.model_dump()!r}))
"""
    subprocess.run([sys.executable, "-c", driver], check=True, timeout=200)
    assert (tmp_path / "study" / "result.json").exists()


def test_says_what_cannot_be_sent(cluster: LocalCluster, tmp_path: Path) -> None:
    lock = threading.Lock()

    def model() -> nn.Module:
        with lock:
            return linear()

    with pytest.raises(InputError, match="task can't be sent to workers: TypeError: cannot pickle '_thread.lock'"):
        autotune(**settings(model_fn=model, study=tmp_path, engine="ray"))


@pytest.mark.slow
def test_a_worker_that_never_answers_is_replaced(
    cluster: LocalCluster, reference: dict[str, Any], tmp_path: Path
) -> None:
    """It is stopped while it starts."""
    struck: list[int] = []

    def stop_the_first_worker() -> None:
        while not (born := cluster.workers()):
            time.sleep(0.001)
        stop(born[0])
        struck.extend(born[:1])

    waiting = threading.Thread(target=stop_the_first_worker)
    waiting.start()
    autotune(**wide(study=tmp_path, engine=RaySettings(start_s=8, patience_s=1)))
    waiting.join()
    assert findings(tmp_path) == reference
    assert gone(struck)


def test_says_what_does_not_fit(cluster: LocalCluster, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="started in 2 times 1 seconds: a trial requests CPU 1, GPU 2; the nodes"):
        autotune(**settings(study=tmp_path, engine=RaySettings(gpus=2, start_s=1)))


def test_several_processes_must_ask_for_something(cluster: LocalCluster, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="processes=2 are placed together by the resources that each requests: cpus, gpus or"
    ):
        autotune(**settings(study=tmp_path, engine=RaySettings(cpus=0, processes=2)))


@pytest.mark.slow
def test_batches_that_cannot_be_divided_are_refused(cluster: LocalCluster, tmp_path: Path) -> None:
    class Whole:
        """A batch of its own kind."""

        def __init__(self) -> None:
            self.x, self.y = torch.ones(4, 64), torch.zeros(4, dtype=torch.long)

        def to(self, device: Any) -> Any:
            return self

    class Model(nn.Linear):
        def forward(self, batch: Any) -> torch.Tensor:
            return nn.functional.cross_entropy(super().forward(batch.x), batch.y)

    data = ([Whole()] * 10, [Whole()])
    with pytest.raises(InputError, match="a batch with a Whole in it can't be divided among the processes"):
        autotune(**settings(model_fn=lambda: Model(64, 10), data=data, study=tmp_path, engine=RaySettings(processes=2)))


def test_refuses_workers_of_other_versions(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autowarmup.engines import cluster as own

    monkeypatch.setattr(own, "versions", lambda: {"Python": "3.11", "torch": "1.0", "autowarmup": "0.0"})
    with pytest.raises(ClusterError, match=r"torch 2.* \(here 1.0\), autowarmup .* \(here 0.0\): driver and workers"):
        autotune(**settings(study=tmp_path, engine="ray"))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"gpus": 1.5}, "gpus=1.5: allowed are fractions from 0 to 1 and whole numbers"),
        ({"gpus": 0.5, "processes": 2}, "gpus=0.5: 2 processes that train together can't share a GPU"),
        ({"runtime_env": {"env_vars": {"MLFLOW_TRACKING_TOKEN": "x"}}}, "MLFLOW_TRACKING_TOKEN to the workers"),
    ],
)
def test_settings_that_cannot_work(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        RaySettings(**wrong)


def test_an_engine_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="engine: must be .*, got 'slurm'"):
        autotune(**settings(study=tmp_path, engine="slurm"))
