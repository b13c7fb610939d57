"""What people meet in MLflow: names, roles, a view, descriptions; stores that move; and the page of ``browse``."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from urllib.request import urlopen

import pytest

from autowarmup import Schedule
from autowarmup.errors import TrackingError
from autowarmup.search.trials import TrialSpec
from autowarmup.study.delivery import Delivery
from autowarmup.tracking import PageServer, default_uri, sync
from autowarmup.tracking.naming import Lineup, run_colour, run_name
from autowarmup.tracking.overview import TrialOverview
from autowarmup.tracking.view import unpack
from tests.mlflow_server import STUDY, Server, Study, alive, children, free_port, group, instability, wait_until


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


def experiment(uri: str) -> Any:
    return client(uri).get_experiment_by_name("autowarmup")


def runs(uri: str) -> dict[str, Any]:
    """The runs by trial number, the study's own under ""."""
    found = client(uri).search_runs([experiment(uri).experiment_id])
    return {run.data.tags.get("autowarmup.trial", ""): run for run in found}


def names(uri: str) -> list[str]:
    """The trials' names, in their order."""
    found = runs(uri)
    found.pop("")
    return [found[number].info.run_name for number in sorted(found, key=int)]


def deliver(folder: Path, uri: str | None = None) -> Delivery:
    """A pass in this process, as :func:`sync` runs it in another."""
    from autowarmup.tracking.syncer import Syncer

    delivery = Syncer(folder, uri or default_uri(folder)).attempt(driven=False)
    assert delivery.error is None
    return delivery


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    built = Study(tmp_path / "digits")
    yield built
    built.store.close()


def whole(study: Study) -> None:
    """A study with every role and outcome, as a search conducts it."""
    plain = Schedule(peak=0.001, horizon=60)
    rule = Schedule.untuned_linear(peak=0.001, horizon=60, beta2=0.9)
    linear = Schedule(peak=5.36e-3, horizon=60, warmup_steps=18, shape="linear")
    gentle = Schedule(peak=2.4e-3, horizon=60, warmup_steps=18, shape="linear")
    study.run(0, "unstable", role="probe", candidate=0)
    study.run(1, "pruned")
    study.run(2, "unstable")
    study.run(3, "failed")
    study.run(4, schedule=linear, candidate=4)
    study.run(5, schedule=gentle, candidate=5)
    study.run(6, role="baseline", schedule=plain, candidate=6)
    study.run(7, schedule=rule, candidate=7)
    study.run(8, role="confirmation", schedule=plain, candidate=6, seed=901)
    study.run(9, role="confirmation", schedule=plain, candidate=6, seed=902)
    study.run(10, "unstable", role="confirmation", schedule=linear, candidate=4, seed=901)
    study.run(11, "pruned", role="confirmation", schedule=linear, candidate=4, seed=902)
    study.run(12, role="confirmation", schedule=gentle, candidate=5, seed=901)
    study.run(13, role="confirmation", schedule=gentle, candidate=5, seed=902)
    study.finish()


# --- Names ------------------------------------------------------------------------------------------------


def test_a_run_s_name_says_what_the_trial_is(study: Study) -> None:
    whole(study)
    deliver(study.folder)
    assert names(default_uri(study.folder)) == [
        "probe: unstable at rate 2e-2",
        "pruned at step 20: polynomial 10% to 2e-2",
        "unstable at step 27: polynomial 10% to 3e-2",
        "failed: polynomial 10% to 4e-2",
        "linear 30% to 5.4e-3",
        "tuned: linear 30% to 2.4e-3",
        "current: no warm-up, peak 1e-3",
        "untuned-linear 32% to 1e-3",
        "current, seed 1: no warm-up, peak 1e-3",
        "current, seed 2: no warm-up, peak 1e-3",
        "unstable at step 27: seed 1: linear 30% to 5.4e-3",
        "pruned at step 20: seed 2: linear 30% to 5.4e-3",
        "tuned, seed 1: linear 30% to 2.4e-3",
        "tuned, seed 2: linear 30% to 2.4e-3",
    ]


def test_a_name_follows_its_trial(study: Study) -> None:
    uri = default_uri(study.folder)
    study.run(0, None)
    deliver(study.folder)
    assert names(uri) == ["polynomial 10% to 1e-2"]
    study.store.finish(0, "pruned")
    deliver(study.folder)
    assert names(uri) == ["pruned at step 20: polynomial 10% to 1e-2"]
    study.run(1)
    deliver(study.folder)
    study.run(2, candidate=1, role="confirmation", schedule=study.store.trial(1).spec.schedule)
    deliver(study.folder)
    assert names(uri)[1:] == ["tuned: polynomial 10% to 2e-2", "tuned, seed 1: polynomial 10% to 2e-2"]


def test_a_name_that_a_person_gave_stays(study: Study) -> None:
    uri = default_uri(study.folder)
    study.run(0)
    deliver(study.folder)
    client(uri).update_run(runs(uri)["0"].info.run_id, name="the good one")
    study.run(1)
    deliver(study.folder)
    assert names(uri) == ["the good one", "polynomial 10% to 2e-2"]


@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        (Schedule(peak=0.027, horizon=240, warmup_steps=1, shape="exponential"), "exponential 0.4% to 2.7e-2"),
        (Schedule(peak=12.0, horizon=100, warmup_steps=100, shape="sqrt"), "sqrt 100% to 1.2e1"),
        (Schedule(peak=1e-10, horizon=100), "no warm-up, peak 1e-10"),
    ],
)
def test_schedules_are_named_shortly(schedule: Schedule, name: str) -> None:
    spec = TrialSpec(number=0, candidate=0, role="proposal", seed=0, schedule=schedule)
    assert run_name(TrialOverview(spec, None, 0, None), Lineup()) == name


def test_colours_tell_the_outcome_and_else_the_part() -> None:
    schedule = Schedule(peak=0.1, horizon=100)
    spec = TrialSpec(number=0, candidate=3, role="proposal", seed=0, schedule=schedule)
    found = instability("divergence", 5, fatal=True)
    lineups = {"tuned": Lineup(tuned=3), "current": Lineup(current=3), "proposal": Lineup()}
    completed = TrialOverview(spec, "completed", 100, None)
    colours = {part: run_colour(completed, lineup) for part, lineup in lineups.items()}
    colours |= {
        outcome: run_colour(TrialOverview(spec, outcome, 100, found), Lineup(tuned=3))  # type: ignore[arg-type]
        for outcome in ("pruned", "unstable", "failed")
    }
    colours["probe"] = run_colour(completed._replace(spec=spec.model_copy(update={"role": "probe"})), Lineup())
    assert len(set(colours.values())) == len(colours)


# --- What is said -----------------------------------------------------------------------------------------


def test_a_probe_has_no_final_loss_and_no_red_cross(study: Study) -> None:
    whole(study)
    deliver(study.folder)
    found = runs(default_uri(study.folder))
    assert (found["0"].info.status, found["0"].data.tags["outcome"]) == ("FINISHED", "unstable")
    completed = study.folder.parent / "completed"
    other = Study(completed)
    other.run(0, role="probe")
    other.store.close()
    deliver(completed)
    probe = runs(default_uri(completed))["0"]
    assert probe.data.tags["outcome"] == "completed"
    assert "val_loss" in probe.data.metrics
    assert "final_val_loss" not in probe.data.metrics


def test_a_metric_of_the_user_s_never_takes_the_loss_s_place(study: Study) -> None:
    metrics = dict.fromkeys(
        ("val_loss", "loss", "loss_ema", "val_loss_ema", "grad_norm", "learning_rate", "final_val_loss", "top@1"), 77.0
    )
    study.add(0)
    study.segment(0, 0, 60, metrics=metrics)
    study.store.finish(0, "completed")
    deliver(study.folder)
    found = runs(default_uri(study.folder))["0"].data.metrics
    own = {"val_loss", "val_loss_ema", "loss", "grad_norm", "learning_rate", "final_val_loss"}
    assert all(found[name] < 3.0 for name in own)
    assert {name for name, value in found.items() if value == 77.0} == {
        "metric_val_loss",
        "metric_val_loss_2",
        "metric_val_loss_ema",
        "metric_val_loss_ema_2",
        "val_grad_norm",
        "val_learning_rate",
        "val_final_val_loss",
        "val_top_1",
    }


def test_a_failed_trial_that_is_tried_again_gets_a_new_run(study: Study) -> None:
    uri = default_uri(study.folder)
    study.run(0, "failed")
    deliver(study.folder)
    failed = runs(uri)["0"]
    folder = study.folder.parent / "again" / "digits"
    again = Study(folder)
    again.run(0)
    again.store.close()
    deliver(folder, uri)
    mended = runs(uri)["0"]
    assert mended.info.run_id != failed.info.run_id
    assert mended.info.run_name == "polynomial 10% to 1e-2"
    history = client(uri).get_metric_history(mended.info.run_id, "loss")
    assert [point.step for point in sorted(history, key=lambda point: point.step)] == list(range(60))


def test_descriptions_say_what_was_found_and_show_the_map(study: Study) -> None:
    whole(study)
    uri = default_uri(study.folder)
    deliver(study.folder)
    parent = runs(uri)[""]
    picture = f"![Stability map](get-artifact?path=stability_map.png&run_uuid={parent.info.run_id})"
    note = parent.data.tags["mlflow.note.content"]
    assert note.startswith(
        "**tuned**: beats the current one\n\npeak 0.01, polynomial (power 2) warm-up over 6 steps (10%)"
    )
    assert picture in note
    described = experiment(uri).tags["mlflow.note.content"]
    assert described.startswith("digits: **tuned**, peak 0.01, polynomial (power 2) warm-up")
    assert f"[charts](#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey={STUDY}&comp" in described
    assert picture in described
    artifacts = study.folder / "mlartifacts" / parent.info.run_id / "artifacts"
    assert (artifacts / "stability_map.png").stat().st_size < (artifacts / "figures/stability_map.png").stat().st_size
    assert parent.data.tags["role"] == "study"


def test_an_experiment_s_description_names_all_its_studies(study: Study, tmp_path: Path) -> None:
    whole(study)
    uri = default_uri(study.folder)
    deliver(study.folder)
    other = Study(tmp_path / "letters", "0" * 32)
    other.store.set_meta("created_at", 1_760_000_000.0)
    other.run(0, None)
    other.store.close()
    deliver(other.folder, uri)
    first, second, _ = experiment(uri).tags["mlflow.note.content"].split("\n\n")
    assert first.startswith("letters: 1 open. [Table of trials](")
    assert second.startswith("digits: **tuned**")


def test_a_description_that_a_person_wrote_stays(study: Study) -> None:
    uri = default_uri(study.folder)
    study.run(0)
    deliver(study.folder)
    client(uri).set_experiment_tag("1", "mlflow.note.content", "Ours. See the wiki.")
    study.run(1)
    study.finish()
    deliver(study.folder)
    assert experiment(uri).tags["mlflow.note.content"] == "Ours. See the wiki."


# --- The view ---------------------------------------------------------------------------------------------


def view(uri: str) -> tuple[str, dict[str, Any]]:
    found = unpack(experiment(uri).tags[f"mlflow.sharedViewState.{STUDY}"])
    assert found is not None
    return found


def test_a_study_has_a_view_and_the_delivery_says_where(study: Study) -> None:
    whole(study)
    uri = default_uri(study.folder)
    delivery = deliver(study.folder)
    name, state = view(uri)
    assert name == "digits"
    assert state["orderByKey"] == "metrics.`final_val_loss`"
    assert state["selectedColumns"] == [
        "tags.`outcome`",
        "tags.`role`",
        "params.`shape`",
        "params.`warmup_steps`",
        "params.`warmup_share`",
        "params.`peak`",
        "metrics.`final_val_loss`",
    ]
    charts = {chart["uuid"]: chart for chart in state["compareRunCharts"]}
    assert charts["learning_rate"]["range"] == {"yMin": 0.0, "yMax": pytest.approx(1.05 * 0.04)}, "without the probe's"
    assert 1.9 < charts["loss"]["range"]["yMax"] < 2.5
    assert (charts["final-peak"]["xaxis"]["key"], charts["final-peak"]["yaxis"]["key"]) == (
        "log10_peak",
        "final_val_loss",
    )
    assert delivery.page == f"#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey={STUDY}"
    known = {f"params.`{key}`" for run in runs(uri).values() for key in run.data.params}
    known |= {f"tags.`{key}`" for run in runs(uri).values() for key in run.data.tags}
    known |= {f"metrics.`{key}`" for run in runs(uri).values() for key in run.data.metrics}
    assert set(state["selectedColumns"]) <= known
    assert parse_qs(delivery.page.partition("?")[2])["viewStateShareKey"] == [STUDY]


def test_a_view_that_a_person_saved_in_its_place_stays(study: Study) -> None:
    uri, tag = default_uri(study.folder), f"mlflow.sharedViewState.{STUDY}"
    study.run(0)
    deliver(study.folder)
    theirs = json.dumps({"name": "mine", "createdAt": 1, "updatedAt": 2, "state": "{}"})
    client(uri).set_experiment_tag("1", tag, theirs)
    study.run(1)
    deliver(study.folder)
    assert experiment(uri).tags[tag] == theirs


def test_loops_without_validation_are_ranked_by_the_training_loss(study: Study) -> None:
    study.run(0, validates=False)
    study.run(1, validates=False)
    deliver(study.folder)
    uri = default_uri(study.folder)
    assert view(uri)[1]["orderByKey"] == "metrics.`final_loss`"
    metrics = runs(uri)["0"].data.metrics
    assert "final_val_loss" not in metrics
    assert metrics["final_loss"] == pytest.approx(0.11, abs=0.03)


# --- Stores that move -------------------------------------------------------------------------------------


def test_a_study_that_is_moved_takes_its_store_and_artifacts_along(study: Study, tmp_path: Path) -> None:
    study.run(0)
    study.finish()
    deliver(study.folder)
    moved = tmp_path / "elsewhere" / "numbers"
    shutil.copytree(study.folder, moved)
    study.store.close()
    shutil.rmtree(study.folder)
    (moved / "report.html").write_text("<h1>again</h1>")
    sync(moved)
    uri = default_uri(moved)
    parent = runs(uri)[""]
    place = moved / "mlartifacts" / parent.info.run_id / "artifacts"
    assert parent.info.artifact_uri == place.as_uri()
    assert (place / "report.html").read_text() == "<h1>again</h1>"
    assert parent.data.tags["folder"] == str(moved)
    assert not study.folder.exists()


def test_a_copy_leaves_the_original_s_store_alone(study: Study, tmp_path: Path) -> None:
    study.run(0, None)
    deliver(study.folder)
    copy = tmp_path / "copy"
    shutil.copytree(study.folder, copy)
    before = (study.folder / "mlflow.db").read_bytes()
    resumed = Study(copy)
    resumed.segment(0, 20, 40)
    resumed.store.close()
    sync(copy)
    assert (study.folder / "mlflow.db").read_bytes() == before
    assert runs(default_uri(copy))["0"].data.tags["autowarmup.delivered"] == "40"


# --- The page ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_page_is_served_until_it_is_closed(study: Study) -> None:
    study.run(0)
    sync(study.folder)
    before = set(children(os.getpid()))
    with PageServer(study.folder, default_uri(study.folder), free_port()) as server:
        (leader,) = set(children(os.getpid())) - before
        with urlopen(f"{server.address}/health", timeout=10) as answer:
            assert answer.read() == b"OK"
        processes = group(leader)
        assert len(processes) <= 3, "the server, its worker and what Python needs for them"
    assert not any(map(alive, processes))
    assert not (study.folder / "mlruns").exists()


@pytest.mark.slow
def test_a_page_that_can_t_be_served_leaves_no_process(study: Study) -> None:
    before = set(children(os.getpid()))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(TrackingError, match="can't be used: Address"):
        PageServer(study.folder, default_uri(study.folder), taken.getsockname()[1])
    garbage = study.folder / "garbage.db"
    garbage.write_text("no database")
    with pytest.raises(TrackingError, match=r"doesn't start on port \d+, see .*mlflow.log"):
        PageServer(study.folder, f"sqlite:///{garbage}", free_port())
    assert set(children(os.getpid())) == before


def browsing(*args: str | Path) -> subprocess.Popen[str]:
    """``autowarmup browse``, whose Ctrl-C is that of a terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "autowarmup", "browse", *map(str, args), "--no-open"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_browse_serves_the_view_and_leaves_no_process(study: Study, ending: signal.Signals) -> None:
    """Also for a study that was never tracked, and however it is ended."""
    study.run(0)
    study.finish()
    with browsing(study.folder) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().strip()
        base, _, page = address.partition("/#/")
        assert page == f"experiments/1/runs?workflowType=machine_learning&viewStateShareKey={STUDY}"
        with urlopen(f"{base}/ajax-api/2.0/mlflow/experiments/get?experiment_id=1", timeout=30) as answer:
            assert STUDY in answer.read().decode()
        (leader,) = children(process.pid)
        processes = group(leader)
        process.send_signal(ending)
        process.wait(60)
        assert process.returncode == (0 if ending == signal.SIGINT else -ending)
        assert "Traceback" not in process.stderr.read()
        wait_until(lambda: not any(map(alive, processes)), 30)


@pytest.mark.slow
def test_browse_of_a_study_on_a_server_opens_the_server_s_page(study: Study, tmp_path: Path) -> None:
    """Nothing is started; a browser is, where there is a display."""
    server = Server(tmp_path)
    server.start()
    try:
        study.run(0)
        study.store.set_meta("mlflow", server.uri)
        opener, opened = tmp_path / "opener", tmp_path / "opened"
        opener.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}\n')
        opener.chmod(0o755)
        display = {"DISPLAY": ":0", "BROWSER": str(opener)}
        command = [sys.executable, "-m", "autowarmup", "browse", str(study.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | display)
        address = f"{server.uri}/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey={STUDY}"
        assert done.stdout == f"{address}\n"
        assert opened.read_text() == address
        opened.unlink()
        subprocess.run([*command, "--no-open"], capture_output=True, check=True, env=os.environ | display)
        assert not opened.exists()
        assert not (study.folder / "mlflow.db").exists()
    finally:
        server.kill()
