"""Makes the pictures in docs/images from a study, with headless Chromium (Debian's chromium and chromium-driver).

    make demo
    python docs/screenshots.py --study studies/demo             # all of them
    python docs/screenshots.py --study studies/demo report      # one of them

A further picture is a function that takes the study's folder and returns a PNG, and a line in PICTURES.
"""

from __future__ import annotations

import argparse
import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

IMAGES = Path(__file__).parent / "images"


def report(study: Path) -> bytes:
    """The top of the study's report."""
    with chromium() as browser:
        return page(browser, (study / "report.html").absolute().as_uri(), width=1280, height=1880)


def stability_map(study: Path) -> bytes:
    """The study's stability map, as its report has it."""
    return (study / "figures" / "stability_map.png").read_bytes()


def mlflow_table(study: Path) -> bytes:
    """The study's trials in MLflow's table, as ``autowarmup browse`` shows them."""
    with mlflow_page(study, width=1600, height=1100) as (browser, address):
        browser.get(f"{address}&compareRunsMode=TABLE")
        wait_for(browser, "//a[contains(., 'tuned')]")
        return bytes(browser.get_screenshot_as_png())


def mlflow_charts(study: Path) -> bytes:
    """The charts beside it: losses and rates by step, final losses against peak and warm-up."""
    with mlflow_page(study, width=1600, height=1340) as (browser, address):
        browser.get(f"{address}&compareRunsMode=CHART")
        wait_for(browser, "//*[contains(@class, 'scatterlayer')]", "//*[contains(@class, 'parcoords')]")
        browser.execute_script("document.head.insertAdjacentHTML('beforeend', '<style>.modebar{display:none}</style>')")
        return bytes(browser.get_screenshot_as_png())


PICTURES: dict[str, Callable[[Path], bytes]] = {
    "report": report,
    "stability_map": stability_map,
    "mlflow_table": mlflow_table,
    "mlflow_charts": mlflow_charts,
}
"""Each picture by its name: how it is made from a study's folder."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium with a profile of its own, as a selenium driver."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    with TemporaryDirectory() as profile:
        for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"):
            options.add_argument(flag)
        options.add_argument("--disable-background-networking")
        options.add_argument(f"--user-data-dir={profile}")
        browser = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
        try:
            yield browser
        finally:
            browser.quit()


@contextmanager
def mlflow_page(study: Path, *, width: int, height: int) -> Iterator[tuple[Any, str]]:
    """A browser whose window has that size, and the address of the study's view on an MLflow page, served meanwhile."""
    from autowarmup.tracking import PageServer, stored_uri, sync

    uri = stored_uri(study)
    delivery = sync(study, uri)
    with PageServer(study, uri) as server, chromium() as browser:
        browser.set_window_size(width, height)
        keep_assistant_closed(browser, server.address)
        yield browser, f"{server.address}/{delivery.page}"


def keep_assistant_closed(browser: Any, address: str) -> None:
    """MLflow opens its assistant beside the first page that a browser shows, once."""
    browser.get(address)
    for key, value in (("fab.autoOpenedOnFirstLoad_v1", "true"), ("panelOpen_v1", "false")):
        browser.execute_script(f"localStorage.setItem('mlflow.assistant.{key}', '{value}')")
    browser.get("about:blank")


def wait_for(browser: Any, *xpaths: str) -> None:
    """Returns when all of them show, and two seconds later: what is drawn moves into its place."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.expected_conditions import visibility_of_element_located
    from selenium.webdriver.support.wait import WebDriverWait

    for xpath in xpaths:
        WebDriverWait(browser, 120).until(visibility_of_element_located((By.XPATH, xpath)))
    time.sleep(2.0)


def page(browser: Any, address: str, *, width: int, height: int | None = None, dark: bool = False) -> bytes:
    """A page as PNG, ``width`` CSS pixels wide. Without ``height`` all of it is taken, from top to bottom."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    size = {"width": width, "height": height or 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(address)
    height = height or browser.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    return base64.b64decode(taken["data"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the pictures in docs/images from a study.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which pictures: {', '.join(PICTURES)} [all]")
    parser.add_argument("--study", type=Path, required=True, help="the study's folder, such as studies/demo")
    given = parser.parse_args()
    if unknown := set(given.names) - set(PICTURES):
        parser.error(f"no picture is called {', '.join(sorted(unknown))}; there are {', '.join(PICTURES)}")
    for name in given.names or PICTURES:
        (IMAGES / f"{name}.png").write_bytes(PICTURES[name](given.study))


if __name__ == "__main__":
    main()
