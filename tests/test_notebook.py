"""What a notebook shows of a result."""

from __future__ import annotations

import html
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from autowarmup.report import write_report
from autowarmup.study.result import TuneResult
from docs.screenshots import chromium
from tests.fake_study import fake_study


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    """A study's result, its report written to the study's folder."""
    folder = tmp_path_factory.mktemp("study")
    found, traces = fake_study(proposals=12)
    found = found.model_copy(update={"study": str(folder)})
    write_report(found, traces, folder)
    return found


class Tags(HTMLParser):
    """Fails where a tag is closed that isn't open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_notebook_shows_the_verdict_the_schedule_the_comparisons_and_the_pictures(result: TuneResult) -> None:
    shown = result._repr_html_()
    Tags(shown)
    assert result.schedule is not None
    for text in (result.verdict.message, result.schedule.describe(), result.summary().splitlines()[-1][1:]):
        assert html.escape(text) in shown
    assert len(re.findall(r'<img src="data:image/png;base64,', shown)) == 4
    for comparison in result.verdict.comparisons:
        assert comparison.name in shown
        assert ", ".join("none" if loss is None else f"{loss:.4f}" for loss in comparison.final_losses) in shown
        if comparison.interval:
            assert f"{comparison.interval.mean:+.4f} [{comparison.interval.low:+.4f}" in shown
    assert re.findall(r"https?:|<script|<link|<style|src=\"(?!data:)", shown) == []


def test_without_the_study_folder_the_rest_is_shown(result: TuneResult, tmp_path: Path) -> None:
    copy = tmp_path / "study"
    shutil.copytree(result.study, copy)
    moved = result.model_copy(update={"study": str(copy)})
    (copy / "figures" / "duration.png").unlink()
    assert moved._repr_html_().count("<img") == 3
    shutil.rmtree(copy)
    shown = moved._repr_html_()
    Tags(shown)
    assert "<img" not in shown
    assert "Report:" not in shown
    assert html.escape(result.verdict.message) in shown


def test_an_extrapolated_schedule_is_shown_as_such() -> None:
    result, _ = fake_study(proposals=12, wanted_steps=3000)
    assert result.extrapolation is not None
    shown = result._repr_html_()
    assert "at step 3,000" in shown
    assert f"between {result.extrapolation.peak_low:.3g} and {result.extrapolation.peak_high:.3g}" in shown


def test_text_is_escaped(result: TuneResult) -> None:
    evil = "<script>alert(1)</script>&"
    verdict = result.verdict.model_copy(update={"message": evil})
    shown = result.model_copy(update={"verdict": verdict, "study": f"/{evil}"})._repr_html_()
    assert "<script" not in shown
    assert html.escape(evil) in shown


def test_nothing_stable_is_shown() -> None:
    result, _ = fake_study(proposals=3, collapse_at=1e-5)
    shown = result._repr_html_()
    Tags(shown)
    assert "Nothing stable" in shown
    assert "Schedule:" not in shown


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(("ground", "ink"), [("#ffffff", "rgb(17, 17, 17)"), ("#111111", "rgb(221, 221, 221)")])
def test_in_a_browser_it_takes_the_notebooks_colours(result: TuneResult, ground: str, ink: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(f"<meta charset=utf-8><body style='background: {ground}; color: {ink}'>{result._repr_html_()}")
    with chromium() as browser:
        browser.get(page.as_uri())

        def each(selector: str, value: str) -> list[Any]:
            found: list[Any] = browser.execute_script(
                f"return [...document.querySelectorAll('{selector}')].map(element => {value})"
            )
            return found

        assert set(each("p, td, th", "getComputedStyle(element).color")) == {ink}
        assert set(each("tr, td, th", "getComputedStyle(element).backgroundColor")) == {"rgba(0, 0, 0, 0)"}
        assert min(each("img", "element.naturalWidth")) > 500
