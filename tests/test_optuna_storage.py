"""Studies written into Optuna's storages, and shown by optuna-dashboard."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from click.testing import CliRunner, Result

from autowarmup import Schedule
from autowarmup.cli.program import cli
from docs.screenshots import chromium
from tests.mlflow_server import Study, free_port, wait_until


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    built = Study(tmp_path / "digits")
    plain = Schedule(peak=0.01, horizon=60)
    built.run(0, "unstable", role="probe")
    built.run(1, role="baseline", schedule=plain)
    built.run(2, "pruned", params={"peak": 0.03, "warmup_steps_sqrt": 2.0})
    built.run(3, "unstable", params={"peak": 0.04, "warmup_steps_sqrt": 2.0})
    built.run(4, "failed", params={"peak": 0.05, "warmup_steps_sqrt": 2.0})
    built.run(5, params={"peak": 0.02, "warmup_steps_sqrt": 2.0})
    built.run(6, role="confirmation", schedule=plain, candidate=1, seed=901)
    yield built
    built.store.close()


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'optuna.db'}"


def written(study: Study, storage: str, *options: str) -> Result:
    return CliRunner().invoke(cli, ["optuna", str(study.folder), "--storage", storage, *options])


def test_all_trials_are_in_the_storage(study: Study, tmp_path: Path) -> None:
    done = written(study, url(tmp_path))
    assert (done.exit_code, done.output) == (0, "digits: 7 trials added\n")
    found = optuna.load_study(study_name="digits", storage=url(tmp_path)).trials
    assert [trial.state.name for trial in found] == [
        "COMPLETE", "COMPLETE", "PRUNED", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE",
    ]  # fmt: skip
    assert [trial.user_attrs["role"] for trial in found][:3] == ["probe", "baseline", "proposal"]
    assert found[0].params == {}
    assert found[6].params == {"peak": 0.01, "warmup_steps_sqrt": 0.0}
    assert found[5].params["peak"] == 0.02
    assert found[5].intermediate_values
    assert found[3].user_attrs["severity"] == found[3].constraints["instability"] > 0
    assert found[3].user_attrs["instability"]
    assert found[3].value is not None


def test_a_second_time_what_has_ended_since_is_added(study: Study, tmp_path: Path) -> None:
    study.run(7, None)
    assert written(study, url(tmp_path)).output == "digits: 7 trials added, 1 haven't ended\n"
    assert written(study, url(tmp_path)).output == "digits: 0 trials added, 7 were there, 1 haven't ended\n"
    study.store.finish(7, "pruned")
    assert written(study, url(tmp_path)).output == "digits: 1 trials added, 7 were there\n"
    assert len(optuna.load_study(study_name="digits", storage=url(tmp_path)).trials) == 8


def test_another_study_s_name_is_taken(study: Study, tmp_path: Path) -> None:
    optuna.create_study(study_name="digits", storage=url(tmp_path))
    done = written(study, url(tmp_path))
    assert done.exit_code == 2
    assert "has another study of the name 'digits' already: give this one another with --name" in done.stderr
    assert written(study, url(tmp_path), "--name", "mine").output.startswith("mine: 7 trials added")


def test_what_can_t_be_used(study: Study, tmp_path: Path) -> None:
    (tmp_path / "garbage.db").write_text("no database, but long enough to be read as one" * 30)
    for storage, message in {
        "optuna.db": "'optuna.db' is not a database URL; allowed: sqlite://..., postgresql://..., mysql://...",
        "sqllite:///optuna.db": "sqllite (did you mean 'sqlite'?) is not a database that Optuna can use",
        f"sqlite:///{tmp_path}/none/optuna.db": "can't be used: unable to open database file",
        f"sqlite:///{tmp_path}/garbage.db": "can't be used: file is not a database",
        "mysql+nodriver://me:secret@127.0.0.1/x": "mysql+nodriver://me:***@127.0.0.1/x can't be used",
    }.items():
        done = written(study, storage)
        assert done.exit_code == 2
        assert message in done.stderr
        assert "secret" not in done.output
    done = CliRunner().invoke(cli, ["optuna", str(tmp_path / "none"), "--storage", url(tmp_path)])
    assert done.exit_code == 2
    assert "none" in done.stderr


@pytest.mark.slow
@pytest.mark.browser
def test_optuna_dashboard_shows_the_trials(study: Study, tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard", reason="needs optuna-dashboard")
    from selenium.webdriver.common.by import By

    assert written(study, url(tmp_path)).exit_code == 0
    port = free_port()
    start = "from optuna_dashboard._cli import main; main()"
    command = [sys.executable, "-W", "ignore", "-c", start, url(tmp_path), "--host", "127.0.0.1", "--port", str(port)]
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{address}/api/studies", timeout=1) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    with (tmp_path / "dashboard.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(answers, 120)
        with chromium() as browser:
            browser.set_window_size(1600, 1300)

            def text() -> Any:
                return browser.find_element(By.TAG_NAME, "body").text

            browser.get(f"{address}/dashboard")
            wait_until(lambda: "digits" in text(), 60)
            browser.get(f"{address}/dashboard/studies/1/trials")
            wait_until(lambda: "Trial 6" in text(), 60)
            assert "Pruned" in text()
            browser.get(f"{address}/dashboard/studies/1/trials?numbers=3")
            wait_until(lambda: "severity" in text() and "peak" in text(), 60)
    finally:
        process.kill()
        process.wait()
