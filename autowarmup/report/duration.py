"""The figure of the warm-up's duration: the forecast of the final loss, the trials, and the paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from autowarmup.report.pairs import paired, signed
from autowarmup.report.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PLATE,
    canvas,
    duration_scale,
    figure_of,
    legend,
    log_scale,
    notice,
    plain,
    point,
    tag,
    title,
)
from autowarmup.report.trials import final_losses, several, share, shares
from autowarmup.report.variations import durations, usual_schedule, varied
from autowarmup.schedule.schedule import Schedule
from autowarmup.search.verdict import CURRENT, TUNED, Interval
from autowarmup.study.forecast import Forecast, Traces, searched
from autowarmup.study.result import TrialRecord, TuneResult
from autowarmup.training.objective import Objective

Vector = np.ndarray[Any, np.dtype[np.float64]]

POINTS = 60
"""Durations at which the forecast is computed."""


def duration(result: TuneResult, traces: Traces) -> Figure:
    """Warm-up duration against final loss: the forecast at one peak with its uncertainty, the trials of the search, and
    the confirmed schedules; beside it the paired differences on the fresh seeds, where there are any."""
    finals, objective = final_losses(result), result.config.objective
    completed = [record for record in searched(result) if record.number in finals]
    comparisons = result.verdict.comparisons
    losses = [loss for comparison in comparisons for loss in comparison.losses]
    losses += [finals[record.number] for record in completed]
    if not losses:
        return notice(f"No trial got to its end with a finite {result.loss_name}.")
    pairs = paired(result)
    interval = pairs[1].interval if pairs else None
    if interval:
        figure = figure_of(9.6, 5.0)
        axes, forest = figure.subplots(1, 2, width_ratios=(6, 5))
        plain(axes)
        plain(forest)
        _draw_interval(forest, interval, objective)
    else:
        figure, axes = canvas()
    longest = max([r.schedule.duration for r in completed] + [c.schedule.duration for c in comparisons])
    duration_scale(axes, "x", longest, result.config.horizon)
    forecast = Forecast.of(result, traces)
    handles: list[Artist] = []
    if forecast:
        usual = usual_schedule(result)
        at = usual.model_copy(update={"peak": (result.verdict.schedule or forecast.model.reference).peak})
        median, drawn = _draw_forecast(axes, forecast, at, objective)
        losses = [*losses, *np.clip(median, *_widened(losses)).tolist()]
        handles += drawn
    handles += _draw_finals(axes, completed, finals)
    handles += _draw_confirmed(axes, result)
    _loss_axis(axes, losses)
    axes.set(ylabel=f"final {result.loss_name}")
    title(
        axes, f"Final {objective.name} by warm-up duration" + ("" if forecast else " (too few losses for a forecast)")
    )
    legend(figure, handles, columns=2)
    return figure


def _draw_forecast(axes: Axes, forecast: Forecast, at: Schedule, objective: Objective) -> tuple[Vector, list[Artist]]:
    """The forecast at one peak: its median, which is returned, and the band of one standard deviation to each side."""
    longest = min(round(axes.get_xlim()[1] / 100.0 * at.horizon), at.horizon - 1)
    steps = durations(longest, POINTS)
    losses = forecast.losses([varied(at, at.peak, count) for count in steps])
    median, low, high = (np.array([objective.shown(loss) for loss in part]) for part in losses[:3])
    places = 100.0 * np.array(steps) / at.horizon
    axes.fill_between(places, low, high, color=BLUE, alpha=0.14, linewidth=0, zorder=1, gid="band")
    axes.plot(places, median, color=BLUE, linewidth=1.4, zorder=2, gid="forecast")
    line = Line2D([], [], color=BLUE, linewidth=1.4, label=f"forecast at a peak of {at.peak:.3g}, search's seed")
    return median, [line, Patch(color=BLUE, alpha=0.14, linewidth=0, label="its 68% range")]


def _widened(losses: Sequence[float]) -> tuple[float, float]:
    """The losses' range and half as much to each side."""
    room = 0.5 * (max(losses) - min(losses))
    return min(losses) - room, max(losses) + room


def _loss_axis(axes: Axes, losses: Sequence[float]) -> None:
    low, high = min(losses), max(losses)
    if low > 0 and high / low > 5:
        log_scale(axes, "y", low / 1.4, high * 1.4)
    else:
        room = 0.14 * ((high - low) or max(abs(low) * 1e-3, 1e-9))
        axes.set_ylim(low - room, high + room)


def _draw_finals(axes: Axes, completed: Sequence[TrialRecord], finals: Mapping[int, float]) -> list[Artist]:
    """The search's trials that ran to the end, as circles."""
    if not completed:
        return []
    losses = [finals[record.number] for record in completed]
    style: dict[str, Any] = {"facecolors": "white", "edgecolors": GREEN, "linewidths": 1.4, "clip_on": False}
    axes.scatter(shares(completed), losses, s=36, gid="completed", zorder=3, **style)
    return [point("trials of the search, at their own peaks", "o", GREEN, markerfacecolor="none")]


def _draw_confirmed(axes: Axes, result: TuneResult) -> list[Artist]:
    """Each confirmed schedule: its seeds as dots, its mean as a bar with its name."""
    comparisons = result.verdict.comparisons
    for comparison in comparisons:
        losses = comparison.losses
        if not losses:
            continue
        best, chosen = comparison.name == TUNED, comparison.candidate == result.verdict.candidate
        colour, place = BLUE if chosen else GREEN if best else ORANGE, share(comparison)
        style: dict[str, Any] = {"color": colour, "zorder": 4, "clip_on": False}
        axes.plot([place] * 2, [min(losses), max(losses)], linewidth=1.6, **style)
        axes.plot([place] * len(losses), losses, "o", markersize=5, gid="confirmed", **style)
        axes.plot([place], [np.mean(losses)], "_", markersize=18, markeredgewidth=3, **style)
        name = comparison.name + (" (chosen)" if chosen else "")
        above = best == (result.config.objective.better == "higher")
        at = (place, max(losses) if above else min(losses))
        tag(axes, name, at, above=above, colour=colour, align="left" if place == 0.0 else "center")
    if not comparisons:
        return []
    text = f"on {several(len(comparisons[0].final_losses), 'fresh seed')}, with their mean"
    return [Line2D([], [], marker="o", markersize=5, color=MUTED, linewidth=1.6, label=text)]


def _draw_interval(axes: Axes, interval: Interval, objective: Objective) -> None:
    """The paired differences: a bar for the interval, a dot for each seed."""
    decided = interval.high < 0 or interval.low > 0
    colour, seeds = BLUE if decided else MUTED, interval.differences
    axes.plot([interval.low, interval.high], [0, 0], color=colour, linewidth=3, gid="interval")
    axes.plot(seeds, [0] * len(seeds), "o", color=colour, markersize=5, alpha=0.6, gid="difference")
    axes.plot([interval.mean], [0], "|", color=colour, markersize=16, markeredgewidth=3)
    low, mean, high = (signed(value) for value in (interval.low, interval.mean, interval.high))
    where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    style: dict[str, Any] = {"fontsize": 9.5, "color": INK, "zorder": 5, "bbox": PLATE}
    axes.annotate(f"{mean} [{low}, {high}]", (0.0, 0), xytext=(0, 15), **style, **where)
    axes.axvline(0.0, color=INK, linewidth=1.2, zorder=1)
    axes.set_ylim(-0.6, 0.7)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.25)
    confidence = f"{interval.confidence:.0%} interval"
    better = "below" if objective.better == "lower" else "above"
    axes.set(xlabel=f"{TUNED} minus {CURRENT}, final {objective.name},\n{confidence} ({better} 0: {TUNED} is better)")
    title(axes, _paired_finding(interval, objective))


def _paired_finding(interval: Interval, objective: Objective) -> str:
    _, low, high = objective.shown_range(interval.mean, interval.low, interval.high)
    if high < 0:
        return "Better than the current schedule"
    return "Worse than the current schedule" if low > 0 else "No clear difference"
