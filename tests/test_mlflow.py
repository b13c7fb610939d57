"""Real studies in a real MLflow: browsed in Chromium, and with a server that goes away and comes back."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from autowarmup import TuneResult, autotune
from autowarmup.tracking import default_uri, sync
from tests.mlflow_server import Server, wait_until
from tests.tasks import settings

pytestmark = pytest.mark.slow


def runs(uri: str, query: str = "") -> list[Any]:
    """All runs of autowarmup's experiment."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what MLflow's dependencies deprecate
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("autowarmup")
        return list(client.search_runs([experiment.experiment_id], query)) if experiment else []


def check(uri: str, result: TuneResult) -> None:
    """MLflow holds the study: every trial once, with its outcome, its steps and its final loss."""
    found = {run.info.run_name: run for run in runs(uri)}
    assert len(found) == len(runs(uri)) == len(result.records) + 1
    for record in result.records:
        run = found[f"trial {record.number}"]
        assert run.data.tags["outcome"] == record.outcome
        assert float(run.data.params["peak"]) == pytest.approx(record.schedule.peak)
        assert run.info.status == {"completed": "FINISHED", "pruned": "KILLED", "unstable": "KILLED"}[record.outcome]
        if record.outcome == "completed":
            assert run.data.metrics["final_val_loss"] == pytest.approx(record.val_loss)
        assert all(math.isfinite(value) for value in run.data.metrics.values())
    unstable = [record for record in result.records if record.outcome == "unstable"]
    assert len(runs(uri, "tags.outcome = 'unstable'")) == len(unstable)


def test_a_study_is_mirrored_into_its_own_folder(tmp_path: Path) -> None:
    result = autotune(**settings(study=tmp_path, mlflow=None, current_peak=0.5))
    check(default_uri(tmp_path), result)


def test_a_server_that_dies_mid_study_and_returns_gets_everything_once(tmp_path: Path) -> None:
    """The study goes on without it; what it missed arrives by itself, or with ``sync`` where the study is over."""
    server = Server(tmp_path)
    server.start()
    study = tmp_path / "study"
    results: list[TuneResult] = []
    settled = settings(study=study, mlflow=server.uri, total_steps=400, confirm_seeds=4)
    driver = threading.Thread(target=lambda: results.append(autotune(**settled)))
    try:
        driver.start()
        wait_until(lambda: len(runs(server.uri)) > 3, 120)
        server.kill()
        driver.join()
        server.start()
        sync(study)
        check(server.uri, results[0])
        sync(study)
        check(server.uri, results[0])
    finally:
        server.kill()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1600,1000",
        f"--user-data-dir={tmp_path / 'chromium'}",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


@pytest.mark.browser
def test_mlflow_ui_lists_the_study_and_its_trials(tmp_path: Path, browser: Any) -> None:
    """As the demo leaves it: ``mlflow ui`` on the study's own store."""
    study = tmp_path / "digits"
    result = autotune(**settings(study=study, mlflow=None))
    sync(study)
    ui = Server(tmp_path, default_uri(study))
    ui.start()
    try:
        browser.get(f"{ui.uri}/#/experiments")
        visible(browser, "//a[contains(., 'autowarmup')]").click()
        wait_until(lambda: "/experiments/1" in browser.current_url, 30)
        browser.get(f"{ui.uri}/#/experiments/1/runs")
        visible(browser, "//a[. = 'digits']")
        visible(browser, "//*[@role = 'gridcell'][.//a[. = 'digits']]//button").click()
        for number in range(5):
            visible(browser, f"//a[. = 'trial {number}']")
        visible(browser, "//a[. = 'digits']").click()
        visible(browser, f"//*[contains(text(), '{result.verdict.message[:40]}')]")
    finally:
        ui.kill()


def visible(browser: Any, xpath: str) -> Any:
    """The element, once it shows; the page is loaded anew where it doesn't, as a person would on a slow machine."""
    from selenium.webdriver.common.by import By

    def shown() -> Any:
        return next((found for found in browser.find_elements(By.XPATH, xpath) if found.is_displayed()), None)

    for _ in range(3):
        with suppress(AssertionError):
            wait_until(lambda: shown() is not None, 40)
            return shown()
        browser.refresh()
    raise AssertionError(f"{xpath} is not on {browser.current_url}")
