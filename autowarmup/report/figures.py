"""The four pictures of a study, as matplotlib figures: for the report, for notebooks, for papers.

Each takes a study's result and its traces by trial number, and returns a ``Figure`` that belongs to nobody:
pyplot isn't involved, so nothing stays behind and no backend is chosen. Colours are Okabe and Ito's, which
colour-blind people can tell apart; whatever a colour says, a line's style or a marker's shape says too.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from autowarmup.report.boundary import LEAST, LEAST_TOTAL, Boundary
from autowarmup.report.pairs import searched_and_rivals, signed
from autowarmup.report.style import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    INK,
    KINDS,
    MUTED,
    ORANGE,
    PLATE,
    PURPLE,
    canvas,
    cross,
    duration_scale,
    figure_of,
    label_ends,
    legend,
    log_scale,
    map_canvas,
    notice,
    plain,
    point,
    tag,
    title,
)
from autowarmup.search.verdict import Comparison, Interval
from autowarmup.study.result import TrialRecord, TuneResult
from autowarmup.training.trace import Trace

Traces = Mapping[int, Trace]
Array = np.ndarray[Any, np.dtype[np.float64]]

POINTS = 1000
"""Points of a schedule's line: more than its pixels."""


def schedules(result: TuneResult, traces: Traces) -> Figure:
    """The schedules tried, each as far as it was trained, coloured by outcome."""
    searched = [record for record in _searched(result) if record.steps]
    if not searched:
        return notice("No trial got past its first step.")
    figure, axes = canvas()
    for record in _back_to_front(result, searched):
        steps = np.unique(np.linspace(0, record.steps - 1, POINTS).astype(int))
        axes.plot(steps, [record.schedule.lr_at(int(step)) for step in steps], **_line(result, record))
        _mark_onset(axes, record, record.instability.lr if record.instability else math.nan)
    peaks = _peaks(searched)
    log_scale(axes, "y", min(peaks) / 20, max(peaks) * 1.6)
    axes.set_xlim(-0.01 * result.config.horizon, result.config.horizon * 1.01)
    axes.set(xlabel="optimizer step", ylabel="learning rate")
    title(axes, _counted(searched))
    legend(figure, [*_line_handles(result, searched), *_kind_handles(searched)])
    return figure


def loss_curves(result: TuneResult, traces: Traces) -> Figure:
    """Smoothed training losses of the search, and where instability began."""
    searched = [record for record in _searched(result) if len(traces.get(record.number, ()))]
    curves = {record.number: smooth(traces[record.number].loss, result.config.horizon) for record in searched}
    if not any(np.isfinite(curve).any() for curve in curves.values()):
        return notice("No trial recorded a finite training loss.")
    figure, axes = canvas()
    bottom, top = _loss_limits(curves.values())
    ends = []
    for record in _back_to_front(result, searched):
        curve, steps = curves[record.number], traces[record.number].steps
        axes.plot(steps, np.minimum(curve, 2 * top - bottom), **_line(result, record))
        _mark_onset(axes, record, _value_at(curve, record, top))
        name, finite = _name(result, record), curve[np.isfinite(curve)]
        if record.outcome == "completed" and name and len(finite):
            ends.append((float(finite[-1]), name, _colour(result, record)))
    if bottom > 0 and top / bottom > 4:
        log_scale(axes, "y", bottom, top)
    else:
        axes.set_ylim(bottom, top)
    axes.set_xlim(-0.01 * result.config.horizon, result.config.horizon * 1.01)
    axes.set(xlabel="optimizer step", ylabel="training loss, smoothed")
    label_ends(axes, ends)
    title(axes, _where_it_broke(searched))
    legend(figure, [*_line_handles(result, searched), *_kind_handles(searched)])
    return figure


def stability_map(result: TuneResult, traces: Traces) -> Figure:
    """Peak against warm-up duration: what got how far with which loss, what broke, and the boundary
    between."""
    records = _on_the_map(result)
    if not records:
        return notice("No trial says anything about stability.")
    stable = [record for record in records if record.outcome != "unstable"]
    completed = {r.number: r.val_loss for r in stable if r.outcome == "completed" and r.val_loss is not None}
    rung, unfinished = _rung_losses([r for r in stable if r.outcome == "pruned"], traces)
    boundary = fit_boundary(result)

    bars = [(completed, FINAL_COLOURS, "final loss")] if completed else []
    bars += [(unfinished, RUNG_COLOURS, f"loss at step {rung}")] if unfinished else []
    figure, axes, bar_axes = map_canvas(len(bars))
    for bar, (losses, colours, label) in zip(bar_axes, bars, strict=True):
        _colour_bar(figure, bar, losses.values(), colours, label)
    _map_axes(axes, result, records)
    if boundary:
        _draw_boundary(axes, boundary)
    handles = _draw_stable(axes, stable, completed, unfinished, rung)
    handles += _draw_unstable(axes, records)
    handles += _draw_landmarks(axes, result, records)
    handles.append(_boundary_handle(boundary, records))
    title(axes, _stability_finding(result, records, boundary))
    legend(figure, handles, columns=3)
    return figure


def duration(result: TuneResult, traces: Traces) -> Figure:
    """Warm-up duration against final loss, and the paired intervals of the confirmed schedules."""
    comparisons = result.verdict.comparisons
    completed = [r for r in _searched(result) if r.outcome == "completed" and r.val_loss is not None]
    searched, rivals = searched_and_rivals(result)
    paired = [(rival, rival.interval) for rival in rivals if rival.interval]
    losses = [loss for comparison in comparisons for loss in comparison.losses]
    losses += [record.val_loss for record in completed if record.val_loss is not None]
    if not losses:
        return notice("No trial got to its horizon with a finite validation loss.")
    if searched and paired:
        figure = figure_of(9.6, 4.8)
        axes, forest = figure.subplots(1, 2, width_ratios=(6, 5))
        plain(axes)
        plain(forest)
        _forest(forest, searched, paired)
    else:
        figure, axes = canvas()
    handles = _draw_finals(axes, completed)
    handles += _draw_confirmed(axes, result)
    durations = [r.schedule.duration for r in completed] + [c.schedule.duration for c in comparisons]
    duration_scale(axes, "x", max(durations), result.config.horizon)
    axes.margins(y=0.14)
    if min(losses) > 0 and max(losses) / min(losses) > 5:
        log_scale(axes, "y", min(losses) / 1.4, max(losses) * 1.4)
    axes.set(ylabel="final validation loss")
    title(axes, "Final loss by warm-up duration")
    legend(figure, handles)
    return figure


FIGURES: dict[str, Callable[[TuneResult, Traces], Figure]] = {
    "schedules": schedules,
    "loss_curves": loss_curves,
    "stability_map": stability_map,
    "duration": duration,
}
"""Each figure by its name."""


def draw_all(result: TuneResult, traces: Traces) -> dict[str, bytes]:
    """Every figure as a PNG, by its name."""
    pictures = {}
    for name, draw in FIGURES.items():
        buffer = io.BytesIO()
        draw(result, traces).savefig(buffer, format="png", dpi=160)
        pictures[name] = buffer.getvalue()
    return pictures


def smooth(loss: Array, horizon: int) -> Array:
    """An exponential moving average over about 3% of the horizon and 5 steps at least, without the start's
    bias; a loss that is not finite leaves a hole and counts for nothing."""
    keep = 1.0 - 1.0 / max(5.0, 0.03 * horizon)
    average, weight = 0.0, 0.0
    out = np.full(len(loss), np.nan)
    for step, value in enumerate(loss):
        if math.isfinite(value):
            average, weight = keep * average + (1.0 - keep) * value, keep * weight + (1.0 - keep)
            out[step] = average / weight
    return out


def fit_boundary(result: TuneResult) -> Boundary | None:
    """The boundary between stable and unstable schedules of a study, where it shows one."""
    records = _on_the_map(result)
    return Boundary.fit(
        np.array([record.schedule.peak for record in records]),
        np.array([record.schedule.duration / result.config.horizon for record in records]),
        np.array([record.outcome == "unstable" for record in records], bool),
    )


# --- Which trials -----------------------------------------------------------------------------------------


def _searched(result: TuneResult) -> list[TrialRecord]:
    """One trial of each candidate: those of the search, on its seed. Probes and confirmations are left
    out."""
    return [record for record in result.records if record.role in ("baseline", "proposal")]


def _on_the_map(result: TuneResult) -> list[TrialRecord]:
    """Trials that say whether their schedule is stable: they broke, or outlived their warm-up. Of the
    confirmation only those that broke, since their schedules are on the map already."""
    return [
        record
        for record in result.records
        if (record.outcome == "unstable" and record.role != "probe")
        or (
            record.role in ("baseline", "proposal")
            and record.outcome in ("completed", "pruned")
            and record.steps > record.schedule.duration
        )
    ]


def _rung_losses(pruned: Sequence[TrialRecord], traces: Traces) -> tuple[int, dict[int, float]]:
    """The losses of pruned trials at the first step at which one was pruned: there, and only there, all
    compare."""
    evaluations = {
        record.number: {c.step: c.score for c in traces[record.number].evaluations if math.isfinite(c.score)}
        for record in pruned
        if record.number in traces
    }
    rung = min((max(steps) for steps in evaluations.values() if steps), default=0)
    return rung, {number: steps[rung] for number, steps in evaluations.items() if rung in steps}


def _is_chosen(result: TuneResult, record: TrialRecord) -> bool:
    return record.candidate == result.verdict.candidate


def _name(result: TuneResult, record: TrialRecord) -> str:
    """What the figures call a trial; most have no name."""
    names = {comparison.candidate: comparison.name for comparison in result.verdict.comparisons}
    name = names.get(record.candidate, "")
    if record.role == "baseline" and not name:
        name = "untuned rule" if record.schedule.duration else "no warm-up"
    if _is_chosen(result, record):
        return f"{name} (chosen)" if name else "chosen"
    return name


def _back_to_front(result: TuneResult, records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """In drawing order: what matters most comes last, on top."""
    order = ["pruned", "failed", "unstable", "completed"]

    def place(record: TrialRecord) -> tuple[bool, bool, int, int]:
        named = bool(_name(result, record))
        return _is_chosen(result, record), named, order.index(record.outcome), record.number

    return sorted(records, key=place)


# --- Findings in words -------------------------------------------------------------------------------------


def _counted(records: Sequence[TrialRecord]) -> str:
    counts = Counter(record.outcome for record in records)
    named = ", ".join(f"{counts[name]} {name}" for name in COLOURS if counts[name])
    return f"{_several(len(records), 'schedule')} tried: {named}"


def _where_it_broke(records: Sequence[TrialRecord]) -> str:
    found = [record.instability for record in records if record.instability]
    if not found:
        return "No trial became unstable"
    lowest = min(instability.lr for instability in found)
    where = f"none below a rate of {lowest:.2g}" if len(found) > 1 else f"at a rate of {lowest:.2g}"
    return f"{len(found)} of {_several(len(records), 'trial')} became unstable, {where}"


def _stability_finding(result: TuneResult, records: Sequence[TrialRecord], boundary: Boundary | None) -> str:
    broken = sum(record.outcome == "unstable" for record in records)
    counted = f"{broken or 'None'} of {_several(len(records), 'trial')} became unstable"
    if boundary is None:
        return counted
    peaks = [record.schedule.peak for record in records]
    shares = [record.schedule.duration / result.config.horizon for record in records]
    middle = float(np.mean(np.sqrt(shares)) ** 2)
    usual, shortest, longest = (boundary.critical_peak(share) for share in (middle, min(shares), max(shares)))

    def seen(peak: float | None) -> bool:
        return peak is not None and min(peaks) <= peak <= max(peaks)

    if boundary.warmup_helps and seen(shortest) and seen(longest):
        short = "Without warm-up" if min(shares) == 0 else f"With {min(shares):.0%} warm-up"
        return f"{short} peaks above about {shortest:.2g} break, with {max(shares):.0%} above about {longest:.2g}"
    return f"Peaks above about {usual:.2g} break" if seen(usual) else counted


def _why_no_boundary(records: Sequence[TrialRecord]) -> str:
    broken = sum(record.outcome == "unstable" for record in records)
    if broken in (0, len(records)):
        return "everything broke" if broken else "nothing broke"
    if len(records) < LEAST_TOTAL or min(broken, len(records) - broken) < LEAST:
        return "too few trials"
    return "no line tells the two apart"


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


# --- Drawing ------------------------------------------------------------------------------------------------


def _colour(result: TuneResult, record: TrialRecord) -> str:
    if record.outcome == "completed":
        return BLUE if _is_chosen(result, record) else ORANGE if record.role == "baseline" else GREEN
    return COLOURS[record.outcome]


def _line(result: TuneResult, record: TrialRecord) -> dict[str, Any]:
    thick = bool(_name(result, record))
    width = 2.6 if thick else 0.7 if record.outcome == "pruned" else 1.1
    dash: Any = "dotted" if record.outcome == "failed" else "solid"
    if record.role == "baseline":
        dash = (0, (4, 1.5)) if record.schedule.duration else (0, (1, 0.8))
    alpha = 1.0 if thick else 0.75
    return {"color": _colour(result, record), "linewidth": width, "linestyle": dash, "alpha": alpha}


def _line_handles(result: TuneResult, records: Sequence[TrialRecord]) -> list[Line2D]:
    handles: dict[str, Line2D] = {}
    for record in reversed(_back_to_front(result, records)):
        label = _name(result, record) or f"{record.outcome}"
        if record.role == "baseline" and record.outcome != "completed":
            label += f", {record.outcome}"
        handles.setdefault(label, Line2D([], [], label=label, **_line(result, record)))
    return list(handles.values())


def _kind_handles(records: Sequence[TrialRecord]) -> list[Line2D]:
    counts = Counter(record.instability.kind for record in records if record.instability)
    return [
        Line2D([], [], label=f"{KINDS[kind][0]} began ({count})", **cross(kind)) for kind, count in counts.most_common()
    ]


def _mark_onset(axes: Axes, record: TrialRecord, height: float) -> None:
    if record.instability:
        style = {"zorder": 5, "clip_on": False, "gid": "onset", **cross(record.instability.kind)}
        axes.plot([record.instability.step], [height], **style)


def _value_at(curve: Array, record: TrialRecord, top: float) -> float:
    """The height of the onset's cross: on the curve, or at the top where the curve has left the picture."""
    if record.instability is None:
        return math.nan
    before = curve[: record.instability.step + 1]
    finite = before[np.isfinite(before)]
    return min(float(finite[-1]), top) if len(finite) else top


def _loss_limits(curves: Iterable[Array]) -> tuple[float, float]:
    """From just below the lowest loss to just above what most curves start from; what diverges leaves at the top."""
    finite = [curve[np.isfinite(curve)] for curve in curves]
    finite = [curve for curve in finite if len(curve)]
    lowest = min(float(curve.min()) for curve in finite)
    heights = np.array([curve.max() for curve in finite])
    usual = float(np.median(heights))
    highest = min(float(heights.max()), usual + 0.3 * (usual - lowest))
    if lowest > 0:
        return lowest / 1.05, max(highest, lowest * 1.05) * 1.05
    room = 0.05 * ((highest - lowest) or 1.0)
    return lowest - room, max(highest, lowest) + room


# --- The stability map ------------------------------------------------------------------------------------


def _cut(name: str, low: float, high: float) -> Colormap:
    """A part of a colour map: without the ends that can't be told from the background or the ink."""
    return LinearSegmentedColormap.from_list(f"{name}-cut", colormaps[name](np.linspace(low, high, 64)))


FINAL_COLOURS = _cut("viridis", 0.0, 0.95)
TINT = LinearSegmentedColormap.from_list("tint", ["white", "#f7d9c4"])
RUNG_COLOURS = _cut("gray", 0.2, 0.82)


def _map_axes(axes: Axes, result: TuneResult, records: Sequence[TrialRecord]) -> None:
    peaks = [record.schedule.peak for record in records]
    log_scale(axes, "x", min(peaks) / 1.5, max(peaks) * 1.5)
    axes.set(xlabel="peak learning rate")
    duration_scale(axes, "y", max(record.schedule.duration for record in records), result.config.horizon)


def _norm(values: Iterable[float]) -> Normalize:
    """Colours for losses: logarithmic where they span much, and not stretched by a few very bad ones."""
    losses = np.array(list(values))
    low, high = float(losses.min()), float(np.quantile(losses, 0.95 if len(losses) >= 10 else 1.0))
    if high <= low:
        high = low + max(abs(low) * 1e-3, 1e-9)
    return LogNorm(low, high) if low > 0 and high / low > 5 else Normalize(low, high)


def _colour_bar(figure: Figure, axes: Axes, losses: Iterable[float], colours: Colormap, label: str) -> None:
    values = list(losses)
    norm = _norm(values)
    over = norm.vmax is not None and max(values) > norm.vmax
    bar = figure.colorbar(ScalarMappable(norm, colours), cax=axes, extend="max" if over else "neither")
    bar.set_label(label, size=9.5, color=INK)
    bar.ax.tick_params(which="both", labelsize=8.5, color=GREY)
    bar.outline.set_visible(False)


def _draw_boundary(axes: Axes, boundary: Boundary) -> None:
    """The boundary as a line, and a red that deepens as instability grows more likely."""
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    peaks, shares = np.meshgrid(np.geomspace(left, right, 160), np.linspace(0, math.sqrt(top), 120) ** 2)
    chance = boundary.probability(peaks, shares / 100.0)
    axes.contour(peaks, shares, chance, levels=[0.5], colors=[INK], linewidths=1.5, zorder=1)
    shares[0] = bottom  # the tint goes down to the edge of the picture, below a duration of 0
    axes.pcolormesh(peaks, shares, chance, cmap=TINT, vmin=0, vmax=1, shading="gouraud", zorder=0)


def _boundary_handle(boundary: Boundary | None, records: Sequence[TrialRecord]) -> Line2D:
    if boundary is None:
        return Line2D([], [], linestyle="none", label="no boundary: " + _why_no_boundary(records))
    text = f"boundary (held-out accuracy {boundary.accuracy:.0%})"
    return Line2D([], [], color=INK, linewidth=1.5, label=text)


def _draw_stable(
    axes: Axes,
    stable: Sequence[TrialRecord],
    completed: Mapping[int, float],
    unfinished: Mapping[int, float],
    rung: int,
) -> list[Line2D]:
    """Discs for final losses, squares for those at a rung, empty circles for no loss."""
    groups: list[tuple[str, Mapping[int, float], Colormap, dict[str, Any]]] = [
        ("completed: final loss", completed, FINAL_COLOURS, {"marker": "o", "s": 95, "zorder": 4}),
        (f"pruned: loss at step {rung}", unfinished, RUNG_COLOURS, {"marker": "s", "s": 34, "zorder": 3}),
    ]
    handles = []
    for label, losses, colours, style in groups:
        drawn = [record for record in stable if record.number in losses]
        if not drawn:
            continue
        values, norm = [losses[record.number] for record in drawn], _norm(losses.values())
        style |= {"edgecolors": "white", "linewidths": 0.8, "clip_on": False, "gid": label.split(":")[0]}
        axes.scatter(_peaks(drawn), _shares(drawn), c=values, cmap=colours, norm=norm, **style)
        handles.append(point(label, style["marker"], colours(0.4), size=math.sqrt(style["s"])))
    bare = [record for record in stable if record.number not in completed and record.number not in unfinished]
    if bare:
        hollow: dict[str, Any] = {"facecolors": "none", "edgecolors": MUTED, "clip_on": False, "zorder": 3}
        axes.scatter(_peaks(bare), _shares(bare), s=40, gid="no loss", **hollow)
        handles.append(point("stable, no loss", "o", MUTED, markerfacecolor="none"))
    return handles


def _draw_unstable(axes: Axes, records: Sequence[TrialRecord]) -> list[Line2D]:
    by_kind: dict[str, list[TrialRecord]] = {}
    for record in records:
        if record.instability and record.outcome == "unstable":
            by_kind.setdefault(record.instability.kind, []).append(record)
    for kind, some in by_kind.items():
        axes.plot(_peaks(some), _shares(some), clip_on=False, zorder=3, gid="unstable", **cross(kind))
    return [Line2D([], [], label=f"{KINDS[kind][0]} ({len(some)})", **cross(kind)) for kind, some in by_kind.items()]


def _draw_landmarks(axes: Axes, result: TuneResult, records: Sequence[TrialRecord]) -> list[Line2D]:
    """Rings and names for the chosen schedule and the baselines, a line where the probe broke."""
    for record in records:
        name = _name(result, record)
        if name and record.role != "confirmation":
            at = (record.schedule.peak, _share(record))
            ring = BLUE if _is_chosen(result, record) else INK
            axes.scatter(*at, s=210, facecolors="none", edgecolors=ring, linewidths=2, zorder=5, clip_on=False)
            tag(axes, name, at, above=record.role == "baseline")
    left, right = axes.get_xlim()
    style: dict[str, Any] = {"color": PURPLE, "linestyle": (0, (1, 2)), "linewidth": 2}
    probes = [record.instability.lr for record in result.records if record.role == "probe" and record.instability]
    visible = [rate for rate in probes if left < rate < right]
    for rate in visible:
        axes.axvline(rate, zorder=1, **style)
    return [Line2D([], [], label="probe broke", **style)] if visible else []


def _peaks(records: Iterable[TrialRecord]) -> list[float]:
    return [record.schedule.peak for record in records]


def _share(record: TrialRecord | Comparison) -> float:
    """The warm-up's share of the horizon, in percent."""
    return 100.0 * record.schedule.duration / record.schedule.horizon


def _shares(records: Iterable[TrialRecord]) -> list[float]:
    return [_share(record) for record in records]


# --- Duration against final loss ------------------------------------------------------------------------


def _draw_finals(axes: Axes, completed: Sequence[TrialRecord]) -> list[Line2D]:
    """The search's completed trials, as circles."""
    if not completed:
        return []
    losses = [record.val_loss or 0.0 for record in completed]
    style: dict[str, Any] = {"facecolors": "none", "edgecolors": GREEN, "linewidths": 1.3, "clip_on": False}
    axes.scatter(_shares(completed), losses, s=36, gid="completed", **style)
    return [point("completed in the search (one seed)", "o", GREEN, markerfacecolor="none")]


def _draw_confirmed(axes: Axes, result: TuneResult) -> list[Line2D]:
    """Each confirmed schedule: its seeds as dots, its mean as a bar with its name."""
    comparisons = result.verdict.comparisons
    searched, _ = searched_and_rivals(result)
    for comparison in comparisons:
        losses = comparison.losses
        if not losses:
            continue
        best, chosen = comparison is searched, comparison.candidate == result.verdict.candidate
        colour, share = BLUE if chosen else GREEN if best else ORANGE, _share(comparison)
        style: dict[str, Any] = {"color": colour, "zorder": 4, "clip_on": False}
        axes.plot([share] * 2, [min(losses), max(losses)], linewidth=1.6, **style)
        axes.plot([share] * len(losses), losses, "o", markersize=5, gid="confirmed", **style)
        axes.plot([share], [np.mean(losses)], "_", markersize=18, markeredgewidth=3, **style)
        name = comparison.name + (" (chosen)" if chosen else "")
        at = (share, min(losses) if best else max(losses))
        tag(axes, name, at, above=not best, colour=colour, align="left" if share == 0.0 else "center")
    if not comparisons:
        return []
    text = f"confirmed on {len(comparisons[0].final_losses)} fresh seeds, with mean"
    return [Line2D([], [], marker="o", markersize=5, color=MUTED, linewidth=1.6, label=text)]


def _forest(axes: Axes, best: Comparison, rivals: Sequence[tuple[Comparison, Interval]]) -> None:
    """The paired differences: a bar for the interval, a dot for each seed."""
    for row, (rival, interval) in enumerate(reversed(rivals)):
        decided = interval.high < 0 or interval.low > 0
        colour, seeds = BLUE if decided else MUTED, interval.differences
        axes.plot([interval.low, interval.high], [row, row], color=colour, linewidth=3, gid="interval")
        axes.plot(seeds, [row] * len(seeds), "o", color=colour, markersize=5, alpha=0.6, gid="difference")
        axes.plot([interval.mean], [row], "|", color=colour, markersize=16, markeredgewidth=3)
        low, mean, high = (signed(value) for value in (interval.low, interval.mean, interval.high))
        text = f"{rival.name}: {mean} [{low}, {high}]"
        where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.annotate(text, (0.0, row), xytext=(0, 15), fontsize=9.5, color=INK, zorder=5, bbox=PLATE, **where)
    axes.axvline(0.0, color=INK, linewidth=1.2, zorder=1)
    axes.set_ylim(-0.6, len(rivals) - 0.3)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.25)
    confidence = f"{rivals[0][1].confidence:.0%} interval"
    axes.set(xlabel=f"{best.name} minus the other, final loss,\n{confidence} (below 0: {best.name} is better)")
    title(axes, _paired_finding(rivals))


def _paired_finding(rivals: Sequence[tuple[Comparison, Interval]]) -> str:
    if all(interval.high < 0 for _, interval in rivals):
        return "Better than every baseline" if len(rivals) > 1 else f"Better than {rivals[0][0].name}"
    even = [rival.name for rival, interval in rivals if interval.low <= 0 <= interval.high]
    if even:
        return "No clear gain over " + (even[0] if len(even) == 1 else "the baselines")
    return "Paired differences"
