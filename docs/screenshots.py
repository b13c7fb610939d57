"""Makes the pictures in docs/images from a study, with headless Chromium (Debian's chromium and chromium-driver).

    make demo
    python docs/screenshots.py --study studies/demo             # all of them
    python docs/screenshots.py --study studies/demo report      # one of them

A further picture is a function that takes the study's folder and returns a PNG, and a line in PICTURES.
"""

from __future__ import annotations

import argparse
import base64
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


PICTURES: dict[str, Callable[[Path], bytes]] = {"report": report, "stability_map": stability_map}
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
