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
from autowarmup.tracking import PageServer, default_uri, sync
from docs.screenshots import chromium, keep_assistant_closed
from tests.mlflow_server import Server, free_port, wait_until
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
    found = {run.data.tags.get("autowarmup.trial"): run for run in runs(uri)}
    assert len(found) == len(runs(uri)) == len(result.records) + 1
    for record in result.records:
        run = found[str(record.number)]
        assert run.data.tags["outcome"] == record.outcome
        assert float(run.data.params["peak"]) == pytest.approx(record.schedule.peak, rel=1e-5)
        broke = record.outcome == "unstable" and record.role != "probe"
        assert run.info.status == ("FAILED" if broke else "FINISHED")
        if record.outcome == "completed" and record.role != "probe":
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
def browser() -> Iterator[Any]:
    with chromium() as driver:
        driver.set_window_size(1900, 1300)
        yield driver


@pytest.mark.browser
def test_browse_shows_the_trials_by_name_and_their_charts(tmp_path: Path, browser: Any) -> None:
    """The address that ``browse`` prints, opened as by somebody who has never been there."""
    study = tmp_path / "digits"
    result = autotune(**settings(study=study, mlflow=None, current_peak=0.5))
    delivery = sync(study)
    with PageServer(study, default_uri(study), free_port()) as server:
        keep_assistant_closed(browser, server.address)
        browser.get(f"{server.address}/{delivery.page}")
        visible(browser, "//a[. = 'digits']")
        for column in ("outcome", "role", "shape", "warmup_steps", "warmup_share", "peak", "final_val_loss"):
            visible(browser, f"//*[@role = 'columnheader'][. = '{column}']")
        names = {run.info.run_name: run for run in runs(default_uri(study))}
        assert any(name.startswith("current: no warm-up, peak 5e-1") for name in names)
        for name in names:
            visible(browser, f"//a[. = '{name}']")
        losses = [run.data.metrics.get("final_val_loss", math.inf) for run in names.values()]
        best = next(name for name, run in names.items() if run.data.metrics.get("final_val_loss") == min(losses))
        top = visible(browser, "//*[@role = 'row'][@row-index = '0']//a")
        assert top.text == best
        visible(browser, f"//*[contains(text(), '{result.verdict.kind}')]")
        browser.get("about:blank")
        browser.get(f"{server.address}/{delivery.page}&compareRunsMode=CHART")
        for title in ("loss", "val_loss", "learning_rate", "log10_peak vs. final_val_loss", "Parallel Coordinates"):
            visible(browser, f"//*[@data-testid = 'experiment-view-compare-runs-card'][contains(., '{title}')]")
        visible(browser, "//*[contains(@class, 'scatterlayer')]")


@pytest.mark.browser
def test_the_study_s_run_shows_verdict_and_map(tmp_path: Path, browser: Any) -> None:
    study = tmp_path / "digits"
    result = autotune(**settings(study=study, mlflow=None))
    sync(study)
    (parent,) = runs(default_uri(study), "tags.role = 'study'")
    with PageServer(study, default_uri(study), free_port()) as server:
        keep_assistant_closed(browser, server.address)
        browser.get(f"{server.address}/#/experiments/1/runs/{parent.info.run_id}?workflowType=machine_learning")
        visible(browser, f"//*[contains(text(), '{result.verdict.message[:40]}')]")
        visible(browser, "//*[contains(text(), 'Show more')]").click()
        picture = visible(browser, "//img[contains(@src, 'stability_map.png')]")
        wait_until(lambda: picture.get_property("naturalWidth") > 400, 30)


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
