"""The stability map: what the search's model forecasts over peak and warm-up duration, where training breaks, and the
trials that both rest on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from autowarmup.report.boundary import Boundary
from autowarmup.report.ground import (
    COLUMNS,
    LOSSES,
    ROWS,
    Grid,
    coloured,
    draw_ground,
    draw_levels,
    norm_of,
    reddened,
)
from autowarmup.report.style import (
    BLUE,
    GREY,
    INK,
    KINDS,
    MUTED,
    PURPLE,
    canvas,
    cross,
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
from autowarmup.report.trials import final_losses, is_chosen, name_of, peaks, several, share, shares
from autowarmup.report.variations import usual_schedule
from autowarmup.search.trials import COMPARED
from autowarmup.study.forecast import Forecast, Traces
from autowarmup.study.result import TrialRecord, TuneResult
from autowarmup.training.objective import Objective

Array = np.ndarray[Any, np.dtype[np.float64]]

BREAKS = (0.1, 0.5, 0.9)
"""Probabilities of instability: where the boundary's band begins, its line, where the band ends."""
SHARP = 4.0
"""The title gives critical peaks where the band's ends differ by less than this factor."""


def stability_map(result: TuneResult, traces: Traces) -> Figure:
    """Peak against warm-up duration: the forecast of the final loss, faded where the trials say little; how likely
    training breaks; and the trials. Without a forecast the trials alone, and the title says so."""
    records = on_the_map(result)
    if not records:
        return notice("No trial says anything about stability.")
    forecast, boundary = Forecast.of(result, traces), fit_boundary(result)
    shown = {record.number for record in records}
    objective = result.config.objective
    finals = {number: objective.shown(final) for number, final in final_losses(result).items() if number in shown}
    figure, axes, bar = _map_canvas(bool(finals))
    _map_axes(axes, result, records)
    grid, image = Grid.of(axes), np.ones((ROWS, COLUMNS, 3))
    norm = norm_of([*finals.values()]) if finals else None
    if forecast:
        losses, doubt = grid.forecast(forecast, usual_schedule(result))
        norm = norm_of([*finals.values()], losses)
        image = coloured(losses, doubt, norm)
        draw_levels(axes, grid, losses, norm)
        axes.grid(visible=False)
    handles = _draw_stable(axes, records, finals, forecast, norm, objective)
    handles += _draw_unstable(axes, records)
    if boundary:
        chance = grid.chance(boundary)
        image = reddened(image, chance)
        handles += _draw_boundary(axes, grid, chance)
    else:
        handles.append(_no_boundary(records))
    handles += _draw_landmarks(axes, result, records)
    draw_ground(axes, image)
    if norm and bar:
        _colour_bar(figure, bar, norm, result)
    told = _ground_in_words(result) if forecast else "No forecast: no two schedules can be compared"
    title(axes, _finding(records, boundary), told)
    legend(figure, handles, columns=3)
    return figure


def on_the_map(result: TuneResult) -> list[TrialRecord]:
    """Trials that say whether their schedule is stable: they broke, or outlived their warm-up. Of the confirmation
    only those that broke, since their schedules are on the map already."""
    return [
        record
        for record in result.records
        if (record.outcome == "unstable" and record.role != "probe") or (record.role in COMPARED and _outlived(record))
    ]


def fit_boundary(result: TuneResult) -> Boundary | None:
    """The boundary between stable and unstable schedules, from the trials on all seeds; None where all or none broke.

    The current schedule goes on though its loss has collapsed; a run that ends no better than the trivial predictor
    tells nothing.
    """
    finals = final_losses(result)
    trivial = result.config.trivial_loss if result.config.objective.is_loss else None
    told = [
        record
        for record in result.records
        if record.role != "probe"
        and (record.outcome == "unstable" or _outlived(record))
        and (trivial is None or finals.get(record.number, -math.inf) < trivial)
    ]
    return Boundary.fit(
        np.array(peaks(told)),
        np.array(shares(told)) / 100.0,
        np.array([record.outcome == "unstable" for record in told], bool),
    )


def _outlived(record: TrialRecord) -> bool:
    return record.outcome in ("completed", "pruned") and record.steps > record.schedule.duration


# --- The ground ---------------------------------------------------------------------------------------------


def _map_canvas(bar: bool) -> tuple[Figure, Axes, Axes | None]:
    """Axes for the map, and to its right those of its colour bar."""
    if not bar:
        return *canvas(height=5.6), None
    figure = figure_of(8.4, 5.8)
    axes, beside = figure.subplots(1, 2, width_ratios=(42, 1))
    plain(axes)
    return figure, axes, beside


def _map_axes(axes: Axes, result: TuneResult, records: Sequence[TrialRecord]) -> None:
    config, tried = result.config, peaks(records)
    log_scale(axes, "x", min(tried) / 1.6, max(tried) * 1.6)
    axes.set(xlabel="peak learning rate")
    longest = max(record.schedule.duration for record in records)
    searched = config.space.warmup.steps(config.horizon, config.steps_per_epoch)[1]
    duration_scale(axes, "y", max(longest, searched), config.horizon)


def _colour_bar(figure: Figure, axes: Axes, norm: Normalize, result: TuneResult) -> None:
    """The colours' values, the best at the bottom; in the objective's own sign."""
    bar = figure.colorbar(ScalarMappable(norm, LOSSES), cax=axes, extend="max")
    if (objective := result.config.objective).better == "higher":
        bar.formatter = FuncFormatter(lambda value, _: f"{objective.shown(value):.4g}")
    bar.set_label(f"final {result.loss_name}", size=9.5, color=INK)
    bar.ax.tick_params(which="both", labelsize=8.5, color=GREY)
    bar.outline.set_visible(False)


# --- The boundary -------------------------------------------------------------------------------------------


def _draw_boundary(axes: Axes, grid: Grid, chance: Array) -> list[Artist]:
    """The line at which half of the schedules break, and the band around it."""
    style: dict[str, Any] = {"colors": [INK], "zorder": 1}
    low, half, high = BREAKS
    axes.contour(grid.peaks, grid.shares, chance, levels=[half], linewidths=1.8, **style)
    axes.contour(grid.peaks, grid.shares, chance, levels=[low, high], linewidths=1.1, linestyles="dashed", **style)
    return [
        Line2D([], [], color=INK, linewidth=1.8, label="half of the schedules break"),
        Line2D([], [], color=INK, linewidth=1.1, linestyle="dashed", label=f"{low:.0%} and {high:.0%} break"),
    ]


def _no_boundary(records: Sequence[TrialRecord]) -> Artist:
    broke = any(record.outcome == "unstable" for record in records)
    return Line2D([], [], linestyle="none", label=f"no boundary: {'everything' if broke else 'nothing'} broke")


# --- The trials ---------------------------------------------------------------------------------------------


def _draw_stable(
    axes: Axes,
    records: Sequence[TrialRecord],
    finals: Mapping[int, float],
    forecast: Forecast | None,
    norm: Normalize | None,
    objective: Objective,
) -> list[Artist]:
    """Discs for final losses, squares for forecasts of those that were stopped early, empty circles for no loss."""
    stable = [record for record in records if record.outcome != "unstable"]
    losses, pruned = dict(finals), [record for record in stable if record.outcome == "pruned"]
    if forecast and pruned:
        expected = forecast.losses([record.schedule for record in pruned]).median.tolist()
        losses |= dict(zip((record.number for record in pruned), expected, strict=True))
    groups: list[tuple[str, str, dict[str, Any]]] = [
        ("completed", f"ran to the end: its final {objective.name}", {"marker": "o", "s": 95, "zorder": 4}),
        ("pruned", "stopped early: its forecast", {"marker": "s", "s": 42, "zorder": 3}),
    ]
    handles: list[Artist] = []
    for outcome, label, style in groups:
        drawn = [record for record in stable if record.outcome == outcome and record.number in losses]
        if drawn:
            style |= {"edgecolors": "white", "linewidths": 1.2, "clip_on": False, "gid": outcome}
            colours = [losses[record.number] for record in drawn]
            axes.scatter(peaks(drawn), shares(drawn), c=colours, cmap=LOSSES, norm=norm, **style)
            handles.append(point(label, style["marker"], LOSSES(0.4), size=math.sqrt(style["s"])))
    bare = [record for record in stable if record.number not in losses]
    if bare:
        hollow: dict[str, Any] = {"facecolors": "none", "edgecolors": MUTED, "clip_on": False, "zorder": 3}
        axes.scatter(peaks(bare), shares(bare), s=40, gid="no loss", **hollow)
        handles.append(point("stable, no final loss", "o", MUTED, markerfacecolor="none"))
    return handles


def _draw_unstable(axes: Axes, records: Sequence[TrialRecord]) -> list[Artist]:
    by_kind: dict[str, list[TrialRecord]] = {}
    for record in records:
        if record.instability and record.outcome == "unstable":
            by_kind.setdefault(record.instability.kind, []).append(record)
    for kind, some in by_kind.items():
        axes.plot(peaks(some), shares(some), clip_on=False, zorder=3, gid="unstable", **cross(kind))
    return [Line2D([], [], label=f"{KINDS[kind][0]} ({len(some)})", **cross(kind)) for kind, some in by_kind.items()]


def _draw_landmarks(axes: Axes, result: TuneResult, records: Sequence[TrialRecord]) -> list[Artist]:
    """Rings and names for the chosen schedule and the current one, a line where the probe broke."""
    top: dict[str, Any] = {"zorder": 5, "clip_on": False}
    for record in records:
        name = name_of(result, record)
        if name and record.role != "confirmation":
            at = (record.schedule.peak, share(record))
            ring = BLUE if is_chosen(result, record) else INK
            for colour, width in (("white", 4.5), (ring, 2.0)):
                axes.scatter(*at, s=210, facecolors="none", edgecolors=colour, linewidths=width, **top)
            tag(axes, name, at, above=record.role == "baseline", align=_align(axes, record))
    left, right = axes.get_xlim()
    style: dict[str, Any] = {"color": PURPLE, "linestyle": (0, (1, 2)), "linewidth": 2}
    probes = [record.instability.lr for record in result.records if record.role == "probe" and record.instability]
    visible = [rate for rate in probes if left < rate < right]
    for rate in visible:
        axes.axvline(rate, zorder=1, **style)
    return [Line2D([], [], label="the probe's ramp broke", **style)] if visible else []


def _align(axes: Axes, record: TrialRecord) -> str:
    """Names stay within the picture."""
    left, right = np.log(axes.get_xlim())
    place = (math.log(record.schedule.peak) - left) / (right - left)
    return "left" if place < 0.15 else "right" if place > 0.85 else "center"


# --- The title ----------------------------------------------------------------------------------------------


def _finding(records: Sequence[TrialRecord], boundary: Boundary | None) -> str:
    broken = sum(record.outcome == "unstable" for record in records)
    counted = f"{broken or 'None'} of {several(len(records), 'trial')} became unstable"
    return counted if boundary is None else _critical_peaks(records, boundary) or counted


def _ground_in_words(result: TuneResult) -> str:
    usual = usual_schedule(result)
    decay = "no decay" if usual.decay.kind == "constant" else f"{usual.decay.kind} decay"
    kind = f"{usual.shape.kind} warm-up, {decay}"
    return f"Colour: forecast of the final {result.loss_name} ({kind}); paler where the trials say less"


def _critical_peaks(records: Sequence[TrialRecord], boundary: Boundary) -> str | None:
    """The peaks at which half of the schedules break, for the shortest and the longest warm-up; None where the trials
    leave them open."""
    low, high = min(shares(records)) / 100.0, max(shares(records)) / 100.0

    def sharp(part: float) -> bool:
        first, last = (boundary.critical_peak(part, chance) for chance in (BREAKS[0], BREAKS[-1]))
        return last < SHARP * first

    if not (sharp(low) and sharp(high)):
        return None
    if not boundary.warmup_helps:
        middle = (math.sqrt(low) + math.sqrt(high)) ** 2 / 4.0
        return f"Peaks above about {boundary.critical_peak(middle):.2g} break"
    short = "without warm-up" if low == 0.0 else f"with {low:.0%} warm-up"
    first, last = boundary.critical_peak(low), boundary.critical_peak(high)
    return f"Peaks above about {first:.2g} break {short}, above {last:.2g} with {high:.0%}"
