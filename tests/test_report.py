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
from matplotlib.colors import Normalize
from matplotlib.text import Text

from autowarmup.export.frameworks import FRAMEWORKS
from autowarmup.instability.instability import Instability
from autowarmup.report import write_report
from autowarmup.report.boundary import Boundary
from autowarmup.report.duration import duration
from autowarmup.report.figures import FIGURES
from autowarmup.report.ground import coloured
from autowarmup.report.loss_curves import loss_curves, smooth
from autowarmup.report.page import PICTURES, render
from autowarmup.report.schedules import schedules
from autowarmup.report.stability_map import stability_map
from autowarmup.report.variations import usual_schedule, varied
from autowarmup.study.forecast import Forecast
from autowarmup.study.result import TuneResult
from autowarmup.training.trace import Trace
from tests.fake_study import BEST, fake_study, with_infinite_losses

CASES: dict[str, dict[str, Any]] = {
    "tuned": {},
    "tie": {"current_peak": BEST},
    "leaning": {"pairs": 0},
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
    assert result.verdict.message in html.unescape(text[: text.index("<img")])


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
    result, _ = fake_study(proposals=0, collapse_at=1e-5)
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


def pasted(page: str) -> Any:
    """The schedule that the page's code makes."""
    code = html.unescape(re.search(r"<pre[^>]*>(from autowarmup .*?)</pre>", page, re.DOTALL)[1])  # type: ignore[index]
    scope: dict[str, Any] = {}
    exec("\n".join(line for line in code.splitlines() if "optimizer" not in line), scope)  # noqa: S102
    return scope["schedule"]


def test_the_page_gives_the_schedule_to_paste(study: Study, page: str) -> None:
    assert pasted(page) == study[0].schedule


def test_the_page_has_a_tab_for_every_framework(study: Study, page: str) -> None:
    schedule = study[0].schedule
    if schedule is None:
        assert 'id="use"' not in page
        return
    assert page.count(" checked>") == 1
    for name in FRAMEWORKS:
        assert f'<input type="radio" name="framework" id="use-{name}"' in page
        assert f'<label for="use-{name}">' in page
    blocks = [html.unescape(block) for block in re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)]
    for name in FRAMEWORKS:
        assert schedule.export(name).code in blocks
    assert "<script" not in page


def test_the_page_shows_every_trial_and_every_instability(study: Study, page: str) -> None:
    result = study[0]
    trials = page[page.index('id="trials"') : page.index('id="cost"')]
    instabilities = page[page.index('id="instabilities"') : page.index('id="trials"')]
    assert trials.count("<tr") == len(result.records) + 1
    assert instabilities.count("<tr") == sum(record.instability is not None for record in result.records) + 1


def test_an_instability_that_ended_its_trial_is_listed_once(study: Study) -> None:
    result, _ = study
    (number, found), *_ = broken(result)
    passed = found.model_copy(update={"step": found.step - 1, "fatal": False})
    records = [
        record.model_copy(update={"events": (passed, found)}) if record.number == number else record
        for record in result.records
    ]
    page = render(result.model_copy(update={"records": tuple(records)}), dict.fromkeys(PICTURES, b"png"))
    listed = page[page.index('id="instabilities"') : page.index('id="trials"')]
    assert listed.count(f'<td class="number">{number}</td>') == 2
    assert listed.count("(recovered)") == 1


def test_the_trials_are_sorted_by_final_loss(study: Study, page: str) -> None:
    rows = page[page.index('id="trials"') : page.index('id="cost"')].split("<tr")[2:]
    finals = [re.findall(r'class="number">([^<]*)<', row)[3] for row in rows]
    losses = [float(final) for final in finals if final != "\N{EN DASH}"]
    assert len(losses) == sum(record.outcome == "completed" for record in study[0].records)
    assert losses == sorted(losses)
    assert set(finals[len(losses) :]) == {"\N{EN DASH}"}


def table(page: str, section: str) -> list[list[str]]:
    """The rows of a section's table: their cells as text."""
    part = page[page.index(f'id="{section}"') :]
    rows = re.findall(r"<tr.*?</tr>", part[: part.index("</section>")], re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[html.unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in row] for row in cells]


def test_the_pairs_are_told_seed_by_seed_with_their_interval(study: Study, page: str) -> None:
    tuned, current = study[0].verdict.comparisons
    interval = current.interval
    assert interval is not None
    head, first, second = table(page, "pairs")
    assert [cell.split()[0] for cell in head] == ["schedule", *["seed"] * len(tuned.final_losses), "tuned"]
    assert first[1:-1] == [f"{loss:.4f}" for loss in tuned.final_losses]
    assert second[1:-1] == [f"{loss:.4f}" for loss in current.final_losses]
    minus = [f"{value:.4f}".replace("-", "\N{MINUS SIGN}") for value in (interval.mean, interval.low, interval.high)]
    assert second[-1] == f"{minus[0]}{minus[1]} to {minus[2]}"


def test_a_run_of_a_pair_that_ended_early_says_how() -> None:
    result, _ = fake_study(collapse_at=0.0165, kinds=("divergence",), proposals=14)
    assert result.verdict.kind == "tuned"
    assert result.verdict.comparisons[1].unstable
    current = table(render(result, dict.fromkeys(PICTURES, b"png")), "pairs")[2]
    assert current[0].startswith("current")
    assert re.fullmatch(r"unstable at step \d+", current[1])
    stopped = [
        record.model_copy(update={"outcome": "pruned", "instability": None, "steps": 150})
        if record.role == "confirmation" and record.candidate == 1
        else record
        for record in result.records
    ]
    page = render(result.model_copy(update={"records": tuple(stopped)}), dict.fromkeys(PICTURES, b"png"))
    assert table(page, "pairs")[2][1] == "stopped at step 150"


def test_a_tie_shows_the_schedule_that_was_found_too() -> None:
    result, _ = fake_study(current_peak=BEST)
    found = result.verdict.searched
    assert result.verdict.kind == "tie"
    assert found is not None
    assert result.schedule == result.config.current_schedule
    text = render(result, dict.fromkeys(PICTURES, b"png"))
    assert html.escape(found.describe()) in text[: text.index("<nav")]
    assert "What the difference is made of" in text
    assert found.describe() in result.summary()
    assert found.describe() in html.unescape(result._repr_html_())


def test_leaning_says_that_it_is_not_shown() -> None:
    result, _ = fake_study(pairs=0)
    assert result.verdict.kind == "leaning"
    assert result.schedule == result.verdict.searched
    text = render(result, dict.fromkeys(PICTURES, b"png"))
    assert "expected to be better, which is not shown" in text
    assert 'id="pairs"' not in text


def test_the_page_says_what_the_gain_is_made_of(study: Study, page: str) -> None:
    gain = study[0].gain
    assert gain is not None
    rows = table(page, "gain")[1:]
    assert [row[1] for row in rows] == [
        gain.tuned.describe(),
        *(exchange.expected.describe() for exchange in gain.exchanges),
        gain.current.describe(),
    ]
    assert page.count(html.escape(gain.warmup_needed())) == 2


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


def legend_of(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def words_of(figure: Any) -> str:
    """A figure's title and the line below it."""
    axes = figure.axes[0]
    return " ".join([axes.get_title(loc="left"), *(text.get_text() for text in axes.texts)])


def test_the_stability_map_has_a_marker_for_every_trial(study: Study) -> None:
    result, traces = study
    figure = stability_map(result, traces)
    assert markers(figure, "completed") == count(result, "completed", "baseline", "proposal")
    pruned = [record for record in result.records if record.outcome == "pruned"]
    outlived = [record for record in pruned if record.steps > record.schedule.duration]
    assert 0 < len(outlived) < len(pruned)  # those pruned within their warm-up say nothing about stability
    assert markers(figure, "pruned") == len(outlived)
    assert markers(figure, "unstable") == count(result, "unstable", "baseline", "proposal", "confirmation")
    assert "ran to the end: its final loss" in legend_of(figure)
    assert "stopped early: its forecast" in legend_of(figure)


def test_one_scale_of_colours_for_final_losses_and_forecasts(study: Study) -> None:
    result, traces = study
    figure = stability_map(result, traces)
    (completed,), (pruned,) = gids(figure, "completed"), gids(figure, "pruned")
    finals = [r.val_loss for r in result.records if r.outcome == "completed" and r.role != "confirmation"]
    assert sorted(completed.get_array()) == sorted(finals)
    forecast = Forecast.of(result, traces)
    assert forecast is not None
    stopped = [r.schedule for r in result.records if r.outcome == "pruned" and r.steps > r.schedule.duration]
    assert sorted(pruned.get_array()) == pytest.approx(sorted(forecast.losses(stopped).median))
    assert completed.norm is pruned.norm
    assert completed.norm.vmin <= min(finals)


def test_the_ground_is_dark_at_good_schedules_and_fades_where_no_trial_is_near(study: Study) -> None:
    result, traces = study
    figure = stability_map(result, traces)
    (ground,), axes = gids(figure, "ground"), figure.axes[0]
    image = np.asarray(ground.get_array())
    low, high = np.log(axes.get_xlim())

    def brightness(peak: float) -> float:
        column = round((math.log(peak) - low) / (high - low) * (image.shape[1] - 1))
        return float(image[: image.shape[0] // 2, column].mean())

    assert brightness(BEST) < brightness(10 * BEST)
    assert brightness(BEST) < brightness(BEST / 10)
    few, many = Forecast.of(*fake_study(proposals=2)), Forecast.of(result, traces)
    assert few is not None
    assert many is not None
    at = varied(usual_schedule(result), BEST, 30)
    doubts = [float(forecast.losses([at]).doubt[0]) for forecast in (many, few)]
    assert doubts[1] > doubts[0] + 0.2
    faded = [coloured(np.full((1, 1), 2.1), np.full((1, 1), doubt), Normalize(2.0, 3.0)).mean() for doubt in doubts]
    assert faded[1] > faded[0] + 0.1


@pytest.mark.parametrize(
    ("settings", "reason"), [({"collapse_at": 1e-5}, "everything broke"), ({"collapse_at": 1e3}, "nothing broke")]
)
def test_the_stability_map_says_why_it_has_no_boundary(settings: dict[str, Any], reason: str) -> None:
    result, traces = fake_study(**{"proposals": 14, "seed": 2} | settings)
    assert f"no boundary: {reason}" in legend_of(stability_map(result, traces))


@pytest.mark.parametrize("proposals", [2, 100])
def test_the_boundary_has_its_band_with_few_trials_and_with_many(proposals: int) -> None:
    figure = stability_map(*fake_study(proposals=proposals, collapse_at=0.012))
    assert "half of the schedules break" in legend_of(figure)
    assert "10% and 90% break" in legend_of(figure)
    assert ("Peaks above about" in words_of(figure)) == (proposals == 100)


def test_without_two_schedules_to_compare_the_map_shows_the_trials_and_says_so() -> None:
    result, traces = fake_study(proposals=14, collapse_at=1e-5)
    figure = stability_map(result, traces)
    assert Forecast.of(result, traces) is None
    assert "No forecast" in words_of(figure)
    assert markers(figure, "unstable") == count(result, "unstable", "baseline", "proposal", "confirmation")


def test_a_space_of_one_peak_has_its_forecast() -> None:
    result, traces = fake_study(proposals=10, current_peak=BEST, fixed_peak=True)
    assert len({record.schedule.peak for record in result.records if record.role == "proposal"}) == 1
    assert "forecast of the final validation loss" in words_of(stability_map(result, traces))
    assert gids(duration(result, traces), "forecast")


def test_duration_shows_completed_trials_seeds_and_intervals(
    study: Study,
) -> None:
    result, traces = study
    figure = duration(result, traces)
    assert markers(figure, "completed") == count(result, "completed", "baseline", "proposal")
    assert markers(figure, "confirmed") == sum(len(each.losses) for each in result.verdict.comparisons)
    drawn = sorted(tuple(line.get_xdata()) for line in gids(figure, "interval"))
    assert drawn == sorted((c.interval.low, c.interval.high) for c in result.verdict.comparisons[1:])  # type: ignore[union-attr]


def test_the_duration_plot_has_the_forecast_and_its_range(study: Study) -> None:
    result, traces = study
    figure = duration(result, traces)
    (line,), (band,) = gids(figure, "forecast"), gids(figure, "band")
    chosen = result.verdict.schedule
    assert chosen is not None
    assert f"forecast at a peak of {chosen.peak:.3g}, search's seed" in legend_of(figure)
    forecast = Forecast.of(result, traces)
    assert forecast is not None
    places, heights = line.get_data()
    steps = [round(place / 100 * chosen.horizon) for place in places]
    assert heights.tolist() == forecast.losses([varied(chosen, chosen.peak, count) for count in steps]).median.tolist()
    edges = band.get_paths()[0].vertices[:, 1]
    assert edges.min() < heights.min()
    assert edges.max() > heights.max()


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
    assert boundary.warmup_helps
    assert boundary.critical_peak(0.0) == pytest.approx(0.02, rel=0.1)
    assert boundary.critical_peak(0.3) == pytest.approx(0.02 * math.exp(2 * math.sqrt(0.3)), rel=0.15)
    assert ((boundary.probability(peak, share) > 0.5) == unstable).mean() > 0.97


def band(boundary: Boundary, share: float) -> float:
    """The factor between the peaks at which 10% and 90% break."""
    return boundary.critical_peak(share, 0.9) / boundary.critical_peak(share, 0.1)


def test_the_fewer_the_trials_and_the_noisier_the_wider_the_band() -> None:
    widths = []
    for noise, trials in ((0.0, 200), (0.0, 20), (0.0, 6), (2.0, 200)):
        peak, share, unstable = scatter(noise)
        boundary = Boundary.fit(peak[:trials], share[:trials], unstable[:trials])
        assert boundary is not None
        widths.append(band(boundary, 0.1))
    many, some, few, noisy = widths
    assert many < some < few
    assert noisy > 3 * many


def test_a_long_warmup_that_broke_says_more_than_a_short_one() -> None:
    def fitted(share: float) -> Boundary:
        boundary = Boundary.fit(np.array([0.001, 0.01]), np.array([0.1, share]), np.array([False, True]))
        assert boundary is not None
        return boundary

    assert fitted(0.3).critical_peak(0.0) < fitted(0.0).critical_peak(0.0)


def test_no_boundary_on_one_sided_data() -> None:
    peak, share, _ = scatter(noise=0.0)
    assert Boundary.fit(peak, share, np.zeros(200, bool)) is None
    assert Boundary.fit(peak, share, np.ones(200, bool)) is None
    assert Boundary.fit(np.empty(0), np.empty(0), np.empty(0, bool)) is None


def test_a_boundary_needs_no_spread_in_the_duration() -> None:
    peak = np.geomspace(1e-3, 1.0, 20)
    boundary = Boundary.fit(peak, np.full(20, 0.1), peak > 0.03)
    assert boundary is not None
    assert boundary.critical_peak(0.1) == pytest.approx(0.03, rel=0.3)


# --- The forecast -------------------------------------------------------------------------------------------


def forecast_of(study: Study) -> Forecast:
    forecast = Forecast.of(*study)
    assert forecast is not None
    return forecast


def test_the_forecast_is_in_units_of_the_loss() -> None:
    study = fake_study(proposals=20, prune=False)
    result, _ = study
    done = [r for r in result.records if r.outcome == "completed" and r.role == "proposal"]
    expected = forecast_of(study).losses([record.schedule for record in done])
    measured = np.array([record.val_loss for record in done])
    assert np.ptp(measured) > 0.4
    assert np.median(np.abs(expected.median - measured)) < 0.01
    assert (expected.low < expected.median).all()
    assert (expected.median < expected.high).all()


def test_the_forecast_finds_the_surface_where_trials_are() -> None:
    study = fake_study(proposals=60, prune=False)
    usual = usual_schedule(study[0])
    schedules = [varied(usual, BEST * 10.0**decades, 30) for decades in (-0.7, -0.3, 0.0, 0.3)]
    expected = forecast_of(study).losses(schedules)
    true = [2.1 + 0.35 * math.log10(s.peak / BEST) ** 2 + 0.06 * (math.sqrt(0.1) - 0.35) ** 2 for s in schedules]
    assert expected.median.tolist() == pytest.approx(true, abs=0.025)


def test_the_forecast_knows_what_it_does_not_know(study: Study) -> None:
    usual = usual_schedule(study[0])
    near, far = (forecast_of(study).losses([varied(usual, peak, 30)]) for peak in (BEST, 1e-9))
    assert near.doubt < 0.3
    assert far.doubt == pytest.approx(1.0, abs=0.01)
    assert far.high - far.low > 10 * (near.high - near.low)


def test_what_broke_is_forecast_as_bad(study: Study) -> None:
    result, _ = study
    broken = [r.schedule for r in result.records if r.outcome == "unstable" and r.role == "proposal"]
    finals = [r.val_loss for r in result.records if r.outcome == "completed" and r.val_loss is not None]
    assert forecast_of(study).losses(broken).median.min() > max(finals)


def test_losses_that_are_not_finite_are_left_out_of_the_forecast() -> None:
    result, traces = fake_study(proposals=6, prune=False)
    last = max(r.number for r in result.records if r.role == "proposal" and r.outcome == "completed")
    spoilt = traces | with_infinite_losses({last: traces[last]})
    assert np.isfinite(forecast_of((result, spoilt)).losses([usual_schedule(result)]).high).all()
    assert Forecast.of(result, with_infinite_losses(traces)) is None


@pytest.mark.parametrize("shapes", [("none", "linear"), ("none",), ("linear",)])
def test_a_current_schedule_that_is_kept_lends_its_peak_and_not_its_curve(shapes: tuple[str, ...]) -> None:
    result, traces = fake_study(proposals=10, current_peak=BEST, shapes=shapes)
    assert result.verdict.kind == "tie"
    assert usual_schedule(result).shape.kind == "linear"
    assert f"forecast at a peak of {BEST:.3g}, search's seed" in legend_of(duration(result, traces))


# --- What the losses are called, and which schedule is shown -------------------------------------------------------


def test_training_losses_are_not_called_validation_losses() -> None:
    result, traces = fake_study(proposals=20, validation=False)
    assert result.verdict.comparisons
    page = render(result, dict.fromkeys(PICTURES, b"png"))
    assert "validation loss" not in page.lower()
    assert "Final training loss" in page
    shown = [draw(result, traces) for draw in FIGURES.values()]
    texts = [text.get_text() for figure in shown for text in figure.findobj(Text)]
    assert not any("validation" in text for text in texts)
    assert any(text == "final training loss" for text in texts)
    assert markers(shown[2], "completed") == count(result, "completed", "baseline", "proposal")
    assert "validation" not in result._repr_html_()
    assert "validation" not in result.summary()


def test_the_page_shows_the_extrapolated_schedule_and_its_range() -> None:
    result, _ = fake_study(proposals=14, wanted_steps=3000)
    assert result.extrapolation is not None
    assert result.schedule is not None
    page = render(result, dict.fromkeys(PICTURES, b"png"))
    head = page[page.index("<header>") : page.index('id="pairs"')]
    assert html.escape(result.schedule.describe()[1:]) in head
    assert "This schedule is extrapolated" in head
    assert f"{result.extrapolation.peak_low:.3g} to {result.extrapolation.peak_high:.3g}" in head
    assert "3,000 steps" in head
    assert pasted(page) == result.schedule
    assert pasted(page).horizon == 3000


def test_importing_imports_no_matplotlib_and_drawing_no_pyplot() -> None:
    code = """
import sys
import autowarmup.report
assert not {"matplotlib", "jinja2"} & set(sys.modules), "matplotlib or jinja2"
from tests.fake_study import fake_study
from autowarmup.report.figures import FIGURES
FIGURES["duration"](*fake_study(proposals=0)).savefig("/dev/null", format="png")
assert "matplotlib.pyplot" not in sys.modules, "pyplot"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
