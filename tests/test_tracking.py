"""MLflow as a mirror of the study: what arrives, that it arrives once, and that nobody waits for it."""

from __future__ import annotations

import fcntl
import importlib
import math
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from autowarmup.errors import InputError, StudyError, TrackingError
from autowarmup.shell import command_line
from autowarmup.study.delivery import Delivery
from autowarmup.study.store import StudyStore
from autowarmup.tracking import Mirror, check_uri, default_uri, recalled_uri, remembered_uri, sync, tracking_uri
from autowarmup.tracking.uri import redact, scrub
from tests.mlflow_server import HORIZON, STARTED, Server, Study, alive, blackhole, children, free_port, wait_until

Content = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def _mlflow_imported() -> None:
    """MLflow's imports warn of what its own dependencies deprecate."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("autowarmup.tracking.syncer")


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def runs(uri: str, query: str = "") -> list[Any]:
    mlflow = client(uri)
    experiment = mlflow.get_experiment_by_name("autowarmup")
    return list(mlflow.search_runs([experiment.experiment_id], query)) if experiment else []


def label(run: Any) -> str:
    """The study's name, or a trial's number."""
    number = run.data.tags.get("autowarmup.trial")
    return f"trial {number}" if number else str(run.info.run_name)


def content(uri: str) -> Content:
    """Everything that MLflow has, by run name, without the ids that it gave."""
    mlflow = client(uri)
    found: Content = {}
    for run in runs(uri):
        assert label(run) not in found, f"two runs of {label(run)}"
        histories = {key: mlflow.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        found[label(run)] = {
            "info": (run.info.status, run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": {
                key: re.sub(r"run_uuid=\w+", "", value)
                for key, value in run.data.tags.items()
                if key != "mlflow.parentRunId"
            },
            "metrics": {
                key: sorted((point.step, point.timestamp, point.value) for point in history)
                for key, history in histories.items()
            },
        }
        for key, points in found[label(run)]["metrics"].items():
            assert len(points) == len({step for step, _, _ in points}), f"{key} has a step twice"
    return found


def deliver(folder: Path, uri: str) -> Delivery:
    """A pass in this process, as :func:`sync` runs it in another."""
    from autowarmup.tracking.syncer import Syncer

    return Syncer(folder, uri).attempt(driven=False)


def statuses(uri: str) -> dict[str, str]:
    return {label(run): run.info.status for run in runs(uri)}


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    folder = tmp_path / "digits"
    built = Study(folder)
    yield built
    built.store.close()


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with every outcome, synced to its embedded store."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    built = Study(folder)
    built.all_outcomes()
    built.finish()
    built.store.close()
    delivery = sync(folder, default_uri(folder))
    assert delivery.complete
    assert delivery.trials == 5
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    started = Server(folder)
    started.start()
    yield started
    started.kill()


# --- URIs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "https://ada:secret@host/path", "sqlite:///runs.db"])
def test_a_uri_that_can_work_is_accepted(uri: str) -> None:
    check_uri(uri)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "mlruns",
            r"'mlruns' is not supported: it must be an MLflow server \(http://host:5000\) or a database",
        ),
        ("file:///tmp/mlruns", "is not supported"),
        ("databricks", "is not supported"),
        ("http://", "names no host"),
        ("http://host:port", "can't be read"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////no/such/folder/runs.db", "/no/such/folder doesn't exist"),
        ("sqlite:////tmp", "names a folder: write sqlite:////tmp/runs.db"),
        ("sqlite:////etc/passwd", "/etc/passwd (is not an SQLite database|can't be written)"),
        ("sqlite:////dev/null", "/dev/null is not an SQLite database"),
        (
            "postgresql+nodriver://ada:secret@host/runs",
            r"ada:\*\*\*@host/runs' needs the Python module nodriver",
        ),
    ],
)
def test_a_uri_that_cannot_work_is_refused(uri: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        check_uri(uri)
    assert "secret" not in str(error.value)


def test_the_uri_comes_from_the_caller_then_the_environment_then_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri("study") == default_uri("study") == f"sqlite:///{tmp_path}/study/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert tracking_uri("study") == "http://tracker:5000"
    assert tracking_uri("study", "sqlite:///runs.db") == f"sqlite:///{tmp_path}/runs.db"


@pytest.mark.parametrize(
    ("uri", "shown", "kept"),
    [
        ("http://host:5000", "http://host:5000", "http://host:5000"),
        ("https://ada:pa55word@host:5000/team", "https://ada:***@host:5000/team", "https://host:5000/team"),
        ("https://host/?token=pa55word&page=2", "https://host/?token=***&page=2", "https://host/?page=2"),
        ("https://host?X-API-Key=pa55word", "https://host?X-API-Key=***", "https://host"),
        (
            "postgresql://ada:pa55/word@host:5432/runs?sslmode=require",
            "postgresql://ada:***@host:5432/runs?sslmode=require",
            "postgresql://ada@host:5432/runs?sslmode=require",
        ),
        (
            "postgresql://host/runs?user=ada&password=pa55word",
            "postgresql://host/runs?user=ada&password=***",
            "postgresql://host/runs?user=ada",
        ),
        (
            "mysql+pymysql://ada@host/runs?ssl_secret=pa55word&access_token=pa55word",
            "mysql+pymysql://ada@host/runs?ssl_secret=***&access_token=***",
            "mysql+pymysql://ada@host/runs",
        ),
    ],
)
def test_secrets_are_neither_shown_nor_kept(uri: str, shown: str, kept: str, tmp_path: Path) -> None:
    assert redact(uri) == shown
    assert remembered_uri(tmp_path, uri) == kept
    assert scrub(f"no answer from {uri}", uri) == f"no answer from {shown}"
    if password := re.search("pa55/?word", uri):
        assert scrub(f"password {password[0]!r} refused", uri) == "password '***' refused"


def test_a_password_comes_back_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = remembered_uri(tmp_path, "https://ada:secret@host:5000")
    assert recalled_uri(tmp_path, kept) == "https://host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:changed@host:5000")
    assert recalled_uri(tmp_path, kept) == "https://ada:changed@host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:secret@elsewhere")
    assert recalled_uri(tmp_path, kept) == "https://host:5000"
    assert recalled_uri(tmp_path, remembered_uri(tmp_path, None)) is None


def test_a_store_in_the_study_s_folder_is_remembered_by_its_place_in_it(tmp_path: Path) -> None:
    kept = remembered_uri(tmp_path / "here", default_uri(tmp_path / "here"))
    assert recalled_uri(tmp_path / "there", kept) == default_uri(tmp_path / "there")
    elsewhere = f"sqlite:///{tmp_path}/100%25 runs.db"
    assert recalled_uri(tmp_path / "there", remembered_uri(tmp_path / "here", elsewhere)) == elsewhere


def test_importing_the_package_imports_neither_mlflow_nor_torch() -> None:
    program = "import sys, autowarmup.tracking; print({'mlflow', 'torch'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "set()"


# --- What arrives -----------------------------------------------------------------------------------------


def test_a_study_is_a_run_and_its_trials_are_nested_in_it(delivered: Path) -> None:
    found = {label(run): run for run in runs(default_uri(delivered))}
    assert sorted(found) == ["digits", *(f"trial {number}" for number in range(5))]
    parent = found.pop("digits")
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {parent.info.run_id}
    assert parent.data.tags["verdict"] == "tuned"
    assert parent.data.tags["mlflow.note.content"].startswith("**tuned**: beats the current one\n\npeak 0.01")
    assert parent.data.tags["best.shape"] == "polynomial"
    assert parent.data.params["total_steps"] == "60"
    assert parent.data.params["task.model"] == "Linear(4, 2)"
    assert parent.data.metrics["steps_spent"] == 60 + 20 + 32 + 60
    assert parent.data.metrics["trials_unstable"] == 1


def test_statuses_follow_the_outcomes(delivered: Path) -> None:
    assert statuses(default_uri(delivered)) == {
        "digits": "FINISHED",
        "trial 0": "FINISHED",
        "trial 1": "FINISHED",
        "trial 2": "FAILED",
        "trial 3": "FAILED",
        "trial 4": "FINISHED",
    }
    times = {label(run): (run.info.start_time, run.info.end_time) for run in runs(default_uri(delivered))}
    assert times["trial 0"] == (STARTED * 1000, STARTED * 1000 + 6000)


def test_unstable_trials_are_found_by_their_outcome(delivered: Path) -> None:
    (unstable,) = runs(default_uri(delivered), 'tags.outcome = "unstable"')
    assert label(unstable) == "trial 2"
    assert unstable.data.tags["instability"] == "non-finite"
    assert unstable.data.metrics["instability_step"] == 27
    assert unstable.data.metrics["instability_lr"] == 0.02
    assert "not finite since step 27" in unstable.data.tags["mlflow.note.content"]
    (spiked,) = runs(default_uri(delivered), 'tags.spikes = "1"')
    assert label(spiked) == "trial 0"
    (failed,) = runs(default_uri(delivered), 'tags.outcome = "failed"')
    assert "ValueError: bad batch" in failed.data.tags["mlflow.note.content"]


def test_parameters_are_named_as_in_the_schedule(delivered: Path) -> None:
    (run,) = runs(default_uri(delivered), "params.trial = '1'")
    assert run.data.params == {
        "trial": "1",
        "role": "proposal",
        "candidate": "1",
        "seed": "1",
        "peak": "0.02",
        "horizon": "60",
        "warmup_steps": "6",
        "shape": "polynomial",
        "power": "2.0",
        "decay": "cosine",
        "final_factor": "0.0",
        "warmup_share": "0.1",
        "log10_peak": "-1.699",
    }


def test_step_metrics_are_those_of_the_trace(delivered: Path) -> None:
    store = StudyStore(delivered)
    trial = store.trial(0)
    store.close()
    metrics = content(default_uri(delivered))["trial 0"]["metrics"]
    trace = trial.trace
    for key, column in (("learning_rate", trace.lr), ("loss", trace.loss), ("grad_norm", trace.grad_norm)):
        assert [(step, value) for step, _, value in metrics[key]] == list(enumerate(column.tolist()))
    assert [step for step, _, _ in metrics["val_loss"]] == [20, 40, 60]
    assert [value for _, _, value in metrics["val_top_1"]] == [0.5, 0.5, 0.5]
    assert metrics["final_val_loss"][0][2] == trace.evaluations[-1].val_loss
    assert metrics["loss"][0][1] == STARTED * 1000 + 100


def test_values_that_are_not_finite_are_never_numbers(delivered: Path) -> None:
    found = content(default_uri(delivered))
    values = [v for run in found.values() for points in run["metrics"].values() for _, _, v in points]
    assert all(math.isfinite(value) and abs(value) < 1e300 for value in values)
    unstable = found["trial 2"]["metrics"]
    assert [step for step, _, _ in unstable["loss"]] == list(range(27))
    assert [step for step, _, _ in unstable["learning_rate"]] == list(range(32))
    assert "val_accuracy" not in unstable


def test_artifacts_are_on_the_study(delivered: Path) -> None:
    uri = default_uri(delivered)
    (parent,) = runs(uri, "attributes.run_name = 'digits'")
    names = [file.path for file in client(uri).list_artifacts(parent.info.run_id)]
    assert names == ["figures", "report.html", "schedule.json", "stability_map.png"]
    figures = client(uri).list_artifacts(parent.info.run_id, "figures")
    assert [file.path for file in figures] == ["figures/stability_map.png"]
    assert (delivered / "mlartifacts" / parent.info.run_id / "artifacts" / "report.html").exists()


def test_long_trials_are_thinned_but_not_around_instabilities(tmp_path: Path) -> None:
    from autowarmup.tracking.metrics import trial_points

    study = Study(tmp_path, horizon=10_000)
    study.add(0)
    study.segment(0, 0, 4_000, spike=3_003)
    first = trial_points(study.store.trial(0), delivered=0)
    study.segment(0, 4_000, 10_000, bad_from=4_002)
    second = trial_points(study.store.trial(0), delivered=4_000)
    study.store.close()
    steps = [point.step for point in first if point.key == "loss"]
    assert set(range(0, 4_000, 5)) | set(range(2_953, 3_057)) | {3_999} == set(steps)
    assert len(steps) == len(set(steps))
    assert [p.step for p in second if p.key == "learning_rate" and p.step > 3_500] == list(range(3_952, 4_007))


# --- Nothing twice ----------------------------------------------------------------------------------------


def test_a_second_sync_changes_nothing(delivered: Path) -> None:
    before = content(default_uri(delivered))
    assert deliver(delivered, default_uri(delivered)).points == 0
    assert content(default_uri(delivered)) == before


def test_a_run_that_a_slow_server_made_twice_is_removed(delivered: Path) -> None:
    uri = default_uri(delivered)
    before = content(uri)
    for run in runs(uri, "params.trial = '1'") + runs(uri, "attributes.run_name = 'digits'"):
        kept = {key: value for key, value in run.data.tags.items() if key.startswith("autowarmup.")}
        kept.pop("autowarmup.delivered", None)
        client(uri).create_run(run.info.experiment_id, 1, kept, run.info.run_name)
    assert deliver(delivered, uri).complete
    assert content(uri) == before


def test_a_segment_that_was_sent_but_not_marked_is_not_there_twice(delivered: Path) -> None:
    uri = default_uri(delivered)
    before = content(uri)
    for run in runs(uri, "tags.outcome LIKE '%'"):
        client(uri).delete_tag(run.info.run_id, "autowarmup.delivered")
    assert deliver(delivered, uri).points > 400
    assert content(uri) == before


@pytest.mark.slow
def test_a_sync_killed_at_any_moment_leaves_nothing_out_and_nothing_twice(tmp_path: Path) -> None:
    study = Study(tmp_path / "digits", horizon=1_800)
    study.all_outcomes()
    study.add(5)
    study.segment(5, 0, 900)
    study.segment(5, 900, 1_800)
    study.store.finish(5, "completed")
    study.finish()
    reference = f"sqlite:///{tmp_path / 'reference.db'}"
    sync(study.folder, reference)
    uri = default_uri(study.folder)
    program = f"from autowarmup.tracking import sync; sync({str(study.folder)!r}, {uri!r})"
    killed_at: list[int] = []
    for moment in (-1, 0, 1, 2, 700, 1_500, 2_500, 3_500, 4_500, 5_500, 5_950):
        syncing = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
        while syncing.poll() is None and rows(study.folder) < moment:
            time.sleep(0.01)
        if syncing.poll() is None:
            for process in (*children(syncing.pid), syncing.pid):
                os.kill(process, signal.SIGKILL)
            killed_at.append(rows(study.folder))
        syncing.wait()
    assert len({at for at in killed_at if at > 0}) >= 5, killed_at
    sync(study.folder, uri)
    assert content(uri) == content(reference)


def rows(folder: Path) -> int:
    """How far a sync into the embedded store is: -2 before it is being created, -1 from then on, then rows."""
    if not (folder / "mlflow.db").exists():
        return -1 if list(folder.glob("mlflow.db.*")) else -2
    with closing(sqlite3.connect(f"file:{folder / 'mlflow.db'}?mode=ro", uri=True)) as db:
        (found,) = db.execute("SELECT (SELECT count(*) FROM runs) + (SELECT count(*) FROM metrics)").fetchone()
    return int(found)


@pytest.mark.slow
def test_two_syncs_at_once_deliver_once(study: Study, tmp_path: Path) -> None:
    study.all_outcomes()
    study.finish()
    uri = default_uri(study.folder)
    program = f"from autowarmup.tracking import sync; sync({str(study.folder)!r}, {uri!r})"
    both = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    reference = f"sqlite:///{tmp_path / 'reference.db'}"
    sync(study.folder, reference)
    assert content(uri) == content(reference)


# --- Nobody waits -----------------------------------------------------------------------------------------


def test_a_server_that_never_answers_delays_nobody(study: Study) -> None:
    with blackhole() as uri:
        began = time.monotonic()
        mirror = Mirror(study.folder, uri)
        study.all_outcomes()
        study.finish()
        spent = time.monotonic() - began
        delivery = mirror.close(timeout_s=4.0)
    assert spent < 8.0
    assert (delivery.complete, delivery.delivered) == (False, 0)
    assert f"`{command_line('sync', study.folder)}` delivers the rest" in delivery.message
    assert mirror.close() == delivery


def test_a_sync_that_fails_says_why(study: Study, tmp_path: Path) -> None:
    study.run(0)
    with pytest.raises(TrackingError, match=r"known to have 0 of 1 trials .*Max retries exceeded"):
        sync(study.folder, f"http://ada:secret@127.0.0.1:{free_port()}")
    assert "secret" not in (study.folder / "mlflow.log").read_text(encoding="utf-8")
    with pytest.raises(StudyError, match="holds no study"):
        sync(tmp_path / "nothing")
    with pytest.raises(InputError, match="is not supported"):
        Mirror(study.folder, "ftp://host")


def test_the_mirror_follows_and_closes(study: Study) -> None:
    uri = default_uri(study.folder)
    before = set(children(os.getpid()))
    mirror = Mirror(study.folder)
    (process,) = set(children(os.getpid())) - before
    study.run(0)
    study.run(1, None)
    wait_until(lambda: mirror.last.complete and mirror.last.trials == 2, 60)
    assert statuses(uri) == {"digits": "RUNNING", "trial 0": "FINISHED", "trial 1": "RUNNING"}
    assert "torch" not in Path(f"/proc/{process}/maps").read_text(encoding="utf-8")
    assert os.getpriority(os.PRIO_PROCESS, process) > os.getpriority(os.PRIO_PROCESS, 0)
    study.finish("interrupted")
    delivery = mirror.close(timeout_s=60.0)
    assert delivery.complete
    assert not alive(process)
    assert statuses(uri) == {"digits": "KILLED", "trial 0": "FINISHED", "trial 1": "KILLED"}


def test_a_mirror_that_dies_is_reported(study: Study) -> None:
    before = set(children(os.getpid()))
    mirror = Mirror(study.folder)
    (process,) = set(children(os.getpid())) - before
    os.kill(process, signal.SIGKILL)
    study.run(0)
    delivery = mirror.close()
    assert not delivery.complete
    assert "died with status -9" in delivery.message


@pytest.mark.slow
def test_a_study_that_another_process_drives_is_still_running(study: Study) -> None:
    study.run(0, None)
    uri = default_uri(study.folder)
    with (study.folder / "study.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sync(study.folder).complete
        assert statuses(uri) == {"digits": "RUNNING", "trial 0": "RUNNING"}
    assert sync(study.folder).complete
    assert statuses(uri) == {"digits": "KILLED", "trial 0": "KILLED"}


@pytest.mark.slow
def test_a_server_that_dies_mid_study_and_returns_gets_everything(study: Study, server: Server) -> None:
    mirror = Mirror(study.folder, server.uri)
    study.run(0)
    study.add(1)
    study.segment(1, 0, 20)
    wait_until(lambda: mirror.last.complete and mirror.last.trials == 2, 60)
    server.kill()
    study.segment(1, 20, 40, bad_from=27)
    study.store.finish(1, "unstable")
    study.run(2)
    wait_until(lambda: mirror.last.error is not None, 60)
    assert mirror.last.delivered == 1
    server.start()
    study.run(3, "pruned")
    wait_until(lambda: mirror.last.complete and mirror.last.trials == 4, 120)
    study.finish()
    assert mirror.close(60.0).complete
    assert len(runs(server.uri, 'tags.outcome = "unstable"')) == 1
    live = content(server.uri)
    sync(study.folder)
    rebuilt = content(default_uri(study.folder))
    for found in (live, rebuilt):
        for run in found.values():
            run["info"] = run["info"][0], run["info"][2]
    assert live == rebuilt
    (parent,) = runs(server.uri, "attributes.run_name = 'digits'")
    names = [file.path for file in client(server.uri).list_artifacts(parent.info.run_id)]
    assert names == ["figures", "report.html", "schedule.json", "stability_map.png"]


@pytest.mark.slow
def test_a_server_that_stays_dead_gets_everything_from_a_later_sync(study: Study, server: Server) -> None:
    server.kill()
    mirror = Mirror(study.folder, server.uri)
    study.store.set_meta("mlflow", server.uri)
    study.all_outcomes()
    study.finish()
    delivery = mirror.close(60.0)
    assert not delivery.complete
    server.start()
    assert sync(study.folder).complete
    assert statuses(server.uri)["digits"] == "FINISHED"
    assert len(runs(server.uri)) == 6


DRIVER = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.mlflow_server import Study
from autowarmup.tracking import Mirror
study = Study(Path(sys.argv[2]))
mirror = Mirror(study.folder)
study.run(0)
study.run(1, None)
while sys.argv[3] == "following" and not (mirror.last.complete and mirror.last.trials == 2):
    time.sleep(0.1)
if os.fork() == 0:
    time.sleep(30)
    os._exit(0)
print("ready", flush=True)
time.sleep(300)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["starting", "following"])
def test_a_driver_killed_leaves_no_process_and_nothing_running(moment: str, tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    command = [sys.executable, "-c", DRIVER, str(Path(__file__).parents[1]), str(folder), moment]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"ready\n"
        mirror, worker = children(driver.pid)
        if moment == "starting":
            wait_until(lambda: (folder / "mlflow.db").exists(), 60)
        driver.kill()
    wait_until(lambda: not alive(mirror), 30)
    assert alive(worker), "a worker that holds the driver's pipes keeps nothing alive"
    os.kill(worker, signal.SIGKILL)
    uri = default_uri(folder)
    assert statuses(uri) == {"digits": "KILLED", "trial 0": "FINISHED", "trial 1": "KILLED"}

    resumed = Study(folder)
    mirror_again = Mirror(folder)
    wait_until(lambda: statuses(uri)["digits"] == "RUNNING", 30)
    assert statuses(uri)["trial 1"] == "RUNNING"
    resumed.segment(1, 20, 40)
    resumed.segment(1, 40, 60)
    resumed.store.finish(1, "completed")
    resumed.finish()
    resumed.store.close()
    assert mirror_again.close(60.0).complete
    assert statuses(uri) == {"digits": "FINISHED", "trial 0": "FINISHED", "trial 1": "FINISHED"}
    assert len(content(uri)["trial 1"]["metrics"]["loss"]) == HORIZON


# --- What people see --------------------------------------------------------------------------------------
