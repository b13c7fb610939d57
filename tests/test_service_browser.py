"""The service's page in Chromium: to log in, to watch a study grow, to sort and filter its trials.

Makes the pictures of docs/service.md, in the folder that the variable ``PICTURES`` names.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from autowarmup.guard.events import Event
from docs.screenshots import chromium, page
from tests.mlflow_server import wait_until
from tests.service import Worker, service, steep_loss, token_file

TOKEN = "alice-0123456789abcdef"
ASKED = {"total_steps": 400, "current_peak": 0.02, "budget": "16 runs", "task": {"model": "MLP", "data": "digits"}}
MOST_BYTES = 200_000


class Throttle:
    """Lets workers send so many reports, then has them wait."""

    def __init__(self) -> None:
        self._reports = threading.Semaphore(0)

    def allow(self, reports: int) -> None:
        self._reports.release(reports)

    def wait(self, trial: dict[str, Any], step: int) -> None:
        assert self._reports.acquire(timeout=240)


@contextmanager
def working(url: str, study: str, name: str, throttle: Throttle) -> Iterator[threading.Thread]:
    """A worker in a thread; at the end it may send all it has."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
        worker = Worker(client, study, name, pace=20, before_report=throttle.wait, loss=steep_loss)
        thread = threading.Thread(target=worker.work)
        thread.start()
        try:
            yield thread
        finally:
            throttle.allow(10_000)
            thread.join(240)


@pytest.mark.slow
@pytest.mark.browser
def test_one_logs_in_and_watches_a_study(tmp_path: Path) -> None:
    file = token_file(tmp_path, f"alice {TOKEN}\n")
    pictures = Path(os.environ.get("PICTURES", tmp_path))
    throttle, second = Throttle(), Throttle()
    with (
        service(tmp_path / "studies", "--no-mlflow", "--token-file", str(file)) as running,
        httpx.Client(base_url=running.url, headers={"Authorization": f"Bearer {TOKEN}"}) as client,
        chromium() as browser,
    ):
        for name in ("digits-mlp", "digits-wide", "digits-deep"):
            assert client.put(f"/v1/studies/{name}", json=ASKED | {"seed": len(name)}).status_code == 201
        client.post("/v1/studies/digits-wide:cancel")
        logs_in(browser, running.url)
        with working(running.url, "digits-mlp", "gpu-1", throttle) as worker:
            browser.get(f"{running.url}/studies/digits-mlp")
            watches_it_grow(browser, throttle)
            throttle.allow(10_000)
            worker.join(120)
            wait_until(lambda: "Tuned: use this schedule" in text(browser, "said"), 60)
            assert browser.execute_script("return window.same"), "the page wasn't loaded again"
        wait_until(lambda: browser.find_elements("partial link text", "Report"), 120)
        follows_a_guarded_run(browser, client)
        sorts_and_filters(browser)
        chooses_an_export(browser)
        with (
            working(running.url, "digits-deep", "gpu-2", second),
            working(running.url, "digits-deep", "gpu-3", second),
        ):
            second.allow(75)
            wait_until(lambda: client.get("/v1/studies/digits-deep").json()["best"] is not None, 60)
            for name, path, width, height, dark in (
                ("service_studies", "/", 1160, 300, False),
                ("service_study", "/studies/digits-mlp", 1160, 1640, False),
                ("service_study_dark", "/studies/digits-deep", 1160, 1500, True),
                ("service_study_phone", "/studies/digits-deep", 390, 1560, False),
            ):
                taken = page(browser, running.url + path, width=width, height=height, dark=dark)
                wide = browser.execute_script("return document.documentElement.scrollWidth")
                assert wide == width, "nothing but tables scrolls sideways"
                small = in_few_colours(taken)
                assert 5_000 < len(small) < MOST_BYTES
                (pictures / f"{name}.png").write_bytes(small)
        assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def logs_in(browser: Any, url: str) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(f"{url}/studies/digits-mlp")
    assert browser.current_url == f"{url}/login"
    browser.switch_to.active_element.send_keys("wrong", Keys.ENTER)
    wait_until(lambda: "no valid token" in browser.page_source, 20)
    browser.get_log("browser")  # that answer was an error, as it should be
    browser.switch_to.active_element.send_keys(TOKEN, Keys.ENTER)
    wait_until(lambda: browser.current_url == f"{url}/", 20)
    assert {cookie["name"]: cookie["httpOnly"] for cookie in browser.get_cookies()} == {"autowarmup_session": True}


def watches_it_grow(browser: Any, throttle: Throttle) -> None:
    browser.execute_script("window.same = true")
    for _ in range(2):
        before = len(rows(browser))
        throttle.allow(30)
        wait_until(lambda before=before: len(rows(browser)) > before, 60)
    assert browser.execute_script("return window.same"), "the page wasn't loaded again"
    assert "whole runs" in text(browser, "progress")


def follows_a_guarded_run(browser: Any, client: httpx.Client) -> None:
    """The study is over, and the real run has begun."""
    assert text(browser, "runs").strip() == ""
    address = "/v1/studies/digits-mlp/runs/night/events"
    assert client.post(address, json={"events": []}).status_code == 204
    wait_until(lambda: "the run has begun" in text(browser, "runs"), 20)
    skipped = Event(
        step=240, began=240, action="skip", applied=True, reason="outlier", lr=0.02, factor=1.0,
        message="the loss of this batch is 3.174, expected 0.2921", evidence={},
    )  # fmt: skip
    assert client.post(address, json={"events": [skipped.model_dump()]}).status_code == 204
    wait_until(lambda: "the loss of this batch is 3.174" in text(browser, "runs"), 20)
    assert browser.execute_script("return window.same"), "the page wasn't loaded again"


def sorts_and_filters(browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    numbers = [row[0] for row in rows(browser)]
    header = browser.find_element(By.XPATH, "//table[@id = 'table']//button[. = 'peak']")
    header.click()
    peaks = [float(row[4]) for row in rows(browser)]
    assert peaks == sorted(peaks)
    header.send_keys(Keys.ENTER)
    assert [float(row[4]) for row in rows(browser)] == sorted(peaks, reverse=True)
    sorted_by = browser.find_elements(By.CSS_SELECTOR, "#table th[aria-sort]")
    assert [(th.text.split()[0], th.get_attribute("aria-sort")) for th in sorted_by] == [("peak", "descending")]
    browser.find_element(By.ID, "wanted").send_keys("divergence")
    found = rows(browser)
    assert found
    assert all("divergence" in row[-1] for row in found)
    assert text(browser, "shown") == f"{len(found)} of {len(numbers)} trials"
    browser.find_element(By.ID, "wanted").send_keys(*[Keys.BACKSPACE] * 10)
    outcome = Select(browser.find_element(By.ID, "outcome"))
    outcome.select_by_visible_text("completed")
    assert {row[1] for row in rows(browser)} == {"completed"}
    outcome.select_by_visible_text("all")
    browser.find_element(By.XPATH, "//table[@id = 'table']//button[. = 'trial']").click()
    assert [row[0] for row in rows(browser)] == numbers


def chooses_an_export(browser: Any) -> None:
    """With the keyboard alone: the tabs are one group of choices."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.find_element(By.ID, "use-pytorch").send_keys(Keys.ARROW_RIGHT)
    shown = [found.text for found in browser.find_elements(By.CSS_SELECTOR, ".tabs .panel pre") if found.is_displayed()]
    assert len(shown) >= 1
    assert "transformers" in shown[0].lower()


def rows(browser: Any) -> list[list[str]]:
    """The cells of the trials that the table shows."""
    script = """return [...document.querySelectorAll('#rows tr')].filter(row => !row.hidden)
        .map(row => [...row.cells].map(cell => cell.textContent.trim()))"""
    found: list[list[str]] = browser.execute_script(script)
    return found


def text(browser: Any, name: str) -> str:
    """The text of the element of that id."""
    return str(browser.execute_script("return document.getElementById(arguments[0]).textContent", name))


def in_few_colours(png: bytes) -> bytes:
    """A picture as a smaller file."""
    out = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()
