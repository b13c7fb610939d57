from __future__ import annotations

import html
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autowarmup.instability.instability import Instability
from autowarmup.report import write_report
from autowarmup.report.boundary import Boundary
from autowarmup.report.figures import FIGURES, duration, loss_curves, schedules, smooth, stability_map
from autowarmup.report.page import PICTURES, render
from autowarmup.study.result import TuneResult
from autowarmup.training.trace import Trace
from tests.fake_study import BEST, fake_study, with_infinite_losses

CASES: dict[str, dict[str, Any]] = {
    "tuned": {},
    "tie": {"current_peak": BEST},
    "nothing stable": {"collapse_at": 1e-5},
    "nothing unstable": {"collapse_at": 1e3},
    "no probe": {"probe": False},
    "one shape": {"shapes": ("linear",)},
    "rules": {"shapes": ("none", "linear")},
    "nothing pruned": {"prune": False},
    "only failures": {"raising": True},
    "one proposal": {"proposals": 1},
    "no proposal": {"proposals": 0},
    "no gradient norm, no averaged weights": {"grad_norm": False, "ema": False},
    "no validation": {"validation": False},
}


Study = tuple[TuneResult, dict[int, Trace]]


def gids(figure: Any, gid: str) -> list[Any]:
    return list(figure.findobj(lambda artist: artist.get_gid() == gid))


def markers(figure: Any, gid: str) -> int:
    """How many markers the artists of that id draw."""
    found = gids(figure, gid)
    return sum(len(a.get_offsets()) if hasattr(a, "get_offsets") else len(a.get_xdata()) for a in found)


def broken(result: TuneResult) -> list[tuple[int, Instability]]:
    """The proposals that broke: their numbers, and how."""
    return [(r.number, r.instability) for r in result.records if r.role == "proposal" and r.instability]


def count(result: TuneResult, outcome: str, *roles: str) -> int:
    return sum(record.outcome == outcome and record.role in roles for record in result.records)


@pytest.mark.parametrize("case", CASES)
def test_every_study_has_its_figures_and_its_verdict(case: str) -> None:
    result, traces = fake_study(**{"proposals": 14} | CASES[case])
    assert all(draw(result, traces).axes for draw in FIGURES.values())
    text = render(result, dict.fromkeys(PICTURES, b"png"))
    assert html.escape(result.verdict.message) in text
    assert text.index(html.escape(result.verdict.message)) < text.index("<img")


@pytest.mark.parametrize("settings", [{}, {"raising": True}])
def test_the_report_is_one_page_and_its_pictures(settings: dict[str, Any], tmp_path: Path) -> None:
    result, traces = fake_study(proposals=12, **settings)
    page = write_report(result, with_infinite_losses(traces), tmp_path / "study")
    assert page == tmp_path / "study" / "report.html"
    assert page.read_text(encoding="utf-8").count("<img") == len(PICTURES)
    pictures = [path.read_bytes()[:4] for path in sorted((page.parent / "figures").glob("*.png"))]
    assert pictures == [b"\x89PNG"] * len(FIGURES)


def test_losses_never_finite_or_traces_missing() -> None:
    result, traces = fake_study(proposals=6)
    nan = {number: replace(trace, loss=np.full(len(trace), math.nan)) for number, trace in traces.items()}
    for nothing in (nan, {}):
        texts = [text.get_text() for text in loss_curves(result, nothing).axes[0].texts]
        assert texts == ["No trial recorded a finite training loss."]


def test_losses_below_zero() -> None:
    result, traces = fake_study(proposals=12)
    below = {number: replace(trace, loss=trace.loss - 10.0) for number, trace in traces.items()}
    bottom, top = loss_curves(result, below).axes[0].get_ylim()
    assert bottom < -7.9 < top < -1


def test_a_study_without_any_trial() -> None:
    result, _ = fake_study(proposals=0, raising=True)
    empty = result.model_copy(update={"records": ()})
    assert all(draw(empty, {}).axes for draw in FIGURES.values())
    assert "Nothing stable" in render(empty, dict.fromkeys(PICTURES, b"png"))


@pytest.fixture(scope="module")
def study() -> Study:
    return fake_study()


@pytest.fixture(scope="module")
def page(study: Study) -> str:
    return render(study[0], dict.fromkeys(PICTURES, b"png"))


def test_the_page_loads_nothing_and_runs_nothing(page: str) -> None:
    assert re.findall(r"https?:|//[a-z]|@import|url\(|<script|<link|<iframe", page) == []
    assert {source.split(",")[0] for source in re.findall(r'src="([^"]*)"', page)} == {"data:image/png;base64"}


def test_the_page_is_accessible(page: str) -> None:
    assert '<html lang="en">' in page
    assert all(re.search(r'alt="[^"]{20,}"', image) for image in re.findall(r"<img[^>]*>", page))
    assert "width=device-width" in page
    assert "prefers-color-scheme: dark" in page
    for target in re.findall(r'href="#([^"]*)"', page):
        assert f'id="{target}"' in page


def test_the_page_gives_the_schedule_to_paste(study: Study, page: str) -> None:
    code = html.unescape(re.search(r'<pre class="wrap">(from .*?)</pre>', page, re.DOTALL)[1])  # type: ignore[index]
    scope: dict[str, Any] = {}
    exec("\n".join(line for line in code.splitlines() if "optimizer" not in line), scope)  # noqa: S102
    assert scope["schedule"] == study[0].schedule


def test_the_page_shows_every_trial_and_every_instability(study: Study, page: str) -> None:
    result = study[0]
    trials = page[page.index('id="trials"') : page.index('id="cost"')]
    instabilities = page[page.index('id="instabilities"') : page.index('id="trials"')]
    assert trials.count("<tr") == len(result.records) + 1
    assert instabilities.count("<tr") == sum(record.instability is not None for record in result.records) + 1


def test_the_trials_are_sorted_by_final_loss(study: Study, page: str) -> None:
    rows = page[page.index('id="trials"') : page.index('id="cost"')].split("<tr")[2:]
    finals = [re.findall(r'class="number">([^<]*)<', row)[3] for row in rows]
    losses = [float(final) for final in finals if final != "\N{EN DASH}"]
    assert len(losses) == sum(record.outcome == "completed" for record in study[0].records)
    assert losses == sorted(losses)
    assert set(finals[len(losses) :]) == {"\N{EN DASH}"}


def test_every_interval_is_told_once_in_words(study: Study, page: str) -> None:
    message, comparisons = study[0].verdict.message, study[0].verdict.comparisons
    (told,) = [comparison for comparison in comparisons[1:] if comparison.name in message]
    (other,) = [comparison for comparison in comparisons[1:] if comparison is not told]
    assert f"Against {told.name}" not in page
    assert other.interval is not None
    assert other.interval.high < 0
    mean, low, high = (f"{-value:.4f}" for value in (other.interval.mean, other.interval.low, other.interval.high))
    assert f"Against {other.name}, the searched schedule ends {mean} lower" in page
    assert f"(95% interval {high} to {low} lower)" in page


def test_a_tie_is_told_in_words() -> None:
    result, _ = fake_study(current_peak=BEST)
    assert result.verdict.kind == "tie"
    text = render(result, dict.fromkeys(PICTURES, b"png"))
    assert "at about the same validation loss" in text
    assert "within the noise" in text


def test_text_of_the_users_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>&<b>"
    result, traces = fake_study(proposals=3, raising=True, text=evil)
    text = write_report(result, traces, tmp_path).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<b>" not in text
    assert "ValueError: &lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&lt;b&gt;" in text


def test_schedules_draws_every_candidate_and_crosses_the_broken_ones(
    study: Study,
) -> None:
    result, traces = study
    figure = schedules(result, traces)
    lines: list[Any] = [line for line in figure.axes[0].lines if line.get_gid() != "onset"]
    assert len(lines) == sum(record.role in ("baseline", "proposal") for record in result.records)
    highest = max(record.schedule.peak for record in result.records if record.role != "probe")
    assert max(max(line.get_ydata()) for line in lines) == pytest.approx(highest)
    crosses = [(line.get_xdata()[0], line.get_ydata()[0]) for line in gids(figure, "onset")]
    assert sorted(crosses) == sorted((found.step, found.lr) for _, found in broken(result))


def test_loss_curves_cross_the_onset_on_the_curve(study: Study) -> None:
    result, traces = study
    crosses = gids(loss_curves(result, traces), "onset")
    heights = {(line.get_xdata()[0], line.get_ydata()[0]) for line in crosses}
    assert len(crosses) == len(broken(result)) > 0
    for number, found in broken(result):
        curve = smooth(traces[number].loss, result.config.total_steps)
        assert (found.step, curve[found.step]) in heights


def test_the_stability_map_has_a_marker_for_every_trial(study: Study) -> None:
    result, traces = study
    figure = stability_map(result, traces)
    assert markers(figure, "completed") == count(result, "completed", "baseline", "proposal")
    pruned = [record for record in result.records if record.outcome == "pruned"]
    outlived = [record for record in pruned if record.steps > record.schedule.duration]
    assert 0 < len(outlived) < len(pruned)  # those pruned within their warm-up say nothing about stability
    assert markers(figure, "pruned") == len(outlived)
    assert markers(figure, "unstable") == count(result, "unstable", "baseline", "proposal", "confirmation")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "completed: final loss" in labels
    assert f"pruned: loss at step {result.config.rungs[0]}" in labels
    assert any(label.startswith("boundary (held-out accuracy") for label in labels)


def test_pruned_trials_compare_at_one_step(study: Study) -> None:
    result, traces = study
    rung = result.config.rungs[0]
    pruned = [r for r in result.records if r.outcome == "pruned" and r.steps > r.schedule.duration]
    (points,) = gids(stability_map(result, traces), "pruned")
    expected = [next(c.score for c in traces[r.number].evaluations if c.step == rung) for r in pruned]
    assert len({record.steps for record in pruned}) > 1
    assert sorted(points.get_array()) == pytest.approx(sorted(expected))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"collapse_at": 1e-5}, "everything broke"),
        ({"collapse_at": 1e3}, "nothing broke"),
        ({"proposals": 6}, "too few trials"),
    ],
)
def test_the_stability_map_says_why_it_has_no_boundary(settings: dict[str, Any], reason: str) -> None:
    result, traces = fake_study(**{"proposals": 14, "seed": 2} | settings)
    labels = [text.get_text() for text in stability_map(result, traces).legends[0].get_texts()]
    assert f"no boundary: {reason}" in labels or (reason == "too few trials" and "nothing broke" in labels[-1])


def test_duration_shows_completed_trials_seeds_and_intervals(
    study: Study,
) -> None:
    result, traces = study
    figure = duration(result, traces)
    assert markers(figure, "completed") == count(result, "completed", "baseline", "proposal")
    assert markers(figure, "confirmed") == 3 * len(result.verdict.comparisons)
    drawn = sorted(tuple(line.get_xdata()) for line in gids(figure, "interval"))
    assert drawn == sorted((c.interval.low, c.interval.high) for c in result.verdict.comparisons[1:])  # type: ignore[union-attr]


def test_smoothing_forgets_the_start_and_leaves_holes() -> None:
    curve = smooth(np.array([4.0, 4.0, math.inf, 4.0, math.nan]), horizon=500)
    assert curve[[0, 1, 3]].tolist() == pytest.approx([4.0] * 3)
    assert np.isnan(curve[[2, 4]]).all()


def scatter(noise: float, count: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Peaks, shares and labels; with a noise of 0 the line ``ln peak = ln 0.02 + 2 sqrt(share)`` parts them."""
    random = np.random.default_rng(0)
    peak, share = 10 ** random.uniform(-3.5, -0.5, count), random.uniform(0, 0.55, count) ** 2
    margin = np.log(peak / 0.02) - 2 * np.sqrt(share) + random.normal(0, 1, count) * noise
    return peak, share, margin > 0


def test_the_boundary_is_found_on_separable_data() -> None:
    peak, share, unstable = scatter(noise=0.0)
    boundary = Boundary.fit(peak, share, unstable)
    assert boundary is not None
    assert boundary.accuracy > 0.9
    assert boundary.warmup_helps
    assert boundary.critical_peak(0.0) == pytest.approx(0.02, rel=0.3)
    assert boundary.critical_peak(0.3) == pytest.approx(0.06, rel=0.3)
    assert ((boundary.probability(peak, share) > 0.5) == unstable).mean() > 0.9


def test_no_boundary_on_inseparable_or_one_sided_data() -> None:
    peak, share, mixed = scatter(noise=100.0)
    assert Boundary.fit(peak, share, mixed) is None
    assert Boundary.fit(peak, share, np.zeros(200, bool)) is None
    assert Boundary.fit(peak, share, np.ones(200, bool)) is None
    assert Boundary.fit(np.empty(0), np.empty(0), np.empty(0, bool)) is None


def test_a_boundary_needs_no_spread_in_the_duration() -> None:
    peak = np.geomspace(1e-3, 1.0, 20)
    boundary = Boundary.fit(peak, np.full(20, 0.1), peak > 0.03)
    assert boundary is not None
    assert not boundary.warmup_helps
    assert boundary.critical_peak(0.1) == pytest.approx(0.03, rel=0.3)


def test_no_critical_peak_where_higher_peaks_do_not_break() -> None:
    assert Boundary(0.0, -1.0, 0.0, 1.0, 0.0).critical_peak(0.1) is None


def test_importing_imports_no_matplotlib_and_drawing_no_pyplot() -> None:
    code = """
import sys
import autowarmup.report
assert not {"matplotlib", "jinja2"} & set(sys.modules), "matplotlib or jinja2"
from tests.fake_study import fake_study
from autowarmup.report.figures import duration
duration(*fake_study(proposals=0)).savefig("/dev/null", format="png")
assert "matplotlib.pyplot" not in sys.modules, "pyplot"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
