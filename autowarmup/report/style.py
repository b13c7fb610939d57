"""What the figures have in common: colours, markers, axes, titles and legends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from autowarmup.training.trace import Outcome

INK, MUTED, GREY = "#222222", "#666666", "#9a9a9a"
BLUE, ORANGE, GREEN, RED, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
COLOURS: dict[Outcome, str] = {"completed": GREEN, "pruned": GREY, "unstable": RED, "failed": PURPLE}
KINDS: dict[str, tuple[str, Any]] = {
    "divergence": ("divergence", "x"),
    "silent-failure": ("silent failure", (3, 2, 0)),
    "non-finite": ("non-finite loss", "+"),
    "gradient-explosion": ("gradient explosion", (8, 2, 0)),
    "spike": ("unrecovered spike", (3, 2, 180)),
    "stall": ("stall", (5, 2, 0)),
}
"""What a kind of instability is called, and its cross."""
DURATION_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 50, 75, 100)
TEXT = {ORANGE: "#8a5f00"}
"""Colours that text needs darker."""
PLATE = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
"""What keeps text readable on top of markers."""


def figure_of(width: float, height: float) -> Figure:
    """An empty figure, in inches, that leaves some air around what will be drawn."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))


def canvas(height: float = 4.6) -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    figure = figure_of(8.4, height)
    axes = figure.subplots()
    plain(axes)
    return figure, axes


def notice(text: str) -> Figure:
    """A picture that has nothing to show says so."""
    figure = figure_of(8.4, 1.2)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=12, color=MUTED, transform=axes.transAxes)
    return figure


def plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(which="both", color=GREY, labelcolor=INK, labelsize=9.5)
    axes.grid(color="#e9e9e9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set(color=INK, size=10.5)
    axes.yaxis.label.set(color=INK, size=10.5)


def title(axes: Axes, text: str, below: str = "") -> None:
    """A title, and a line of smaller text below it."""
    axes.set_title(text, loc="left", fontsize=12, fontweight="bold", color=INK, pad=26 if below else 12)
    if below:
        style: dict[str, Any] = {"fontsize": 9.5, "color": MUTED, "va": "bottom", "in_layout": False}
        axes.annotate(below, (0.0, 1.0), xytext=(0, 8), xycoords="axes fraction", textcoords="offset points", **style)


def log_scale(axes: Axes, side: str, low: float, high: float) -> None:
    """A logarithmic axis with its numbers written out."""
    axis, scale, limit = _side(axes, side)
    scale("log")
    limit(low, high)
    axis.set_major_locator(FixedLocator(_round_ticks(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _side(axes: Axes, side: str) -> tuple[Axis, Callable[..., Any], Callable[..., Any]]:
    if side == "x":
        return axes.xaxis, axes.set_xscale, axes.set_xlim
    return axes.yaxis, axes.set_yscale, axes.set_ylim


def legend(figure: Figure, handles: Sequence[Artist], columns: int = 4) -> None:
    style: dict[str, Any] = {"frameon": False, "fontsize": 9.5, "labelcolor": INK, "handlelength": 1.6}
    columns = min(columns, max(1, len(handles)))
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns, **style)


def _round_ticks(bottom: float, top: float) -> list[float]:
    """1, 2, 5, 10, ... between two limits."""
    first, last = math.floor(math.log10(bottom)), math.ceil(math.log10(top))
    decades = range(first, last + 1, 1 + (last - first) // 9)
    fine: tuple[float, ...] = (1.0,)
    if top / bottom < 1e3:
        fine = (1.0, 2.0, 5.0) if top / bottom > 12 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    return [value for decade in decades for step in fine if bottom <= (value := step * 10.0**decade) <= top]


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names beside the right ends of curves, pushed apart where they would overlap."""
    lower = -1.0
    style: dict[str, Any] = {"va": "center", "fontsize": 9.5, "fontweight": "bold"}
    for height, name, colour in sorted(ends):
        at = float(axes.transAxes.inverted().transform(axes.transData.transform((0.0, height)))[1])
        lower = max(min(max(at, 0.0), 1.0), lower + 0.055)
        axes.text(1.01, lower, name, transform=axes.transAxes, color=TEXT.get(colour, colour), **style)


def cross(kind: str) -> dict[str, Any]:
    """The style of a kind's cross."""
    size = {"markersize": 8, "markeredgewidth": 1.8}
    return {"marker": KINDS[kind][1], "linestyle": "none", "color": RED, **size}


def duration_scale(axes: Axes, side: str, longest: int, horizon: int) -> None:
    """Durations as a share of the horizon on a square-root scale, as they are searched."""
    share = 100.0 * max(longest, 1) / horizon
    axis, scale, limit = _side(axes, side)
    scale(
        "function",
        functions=(lambda v: np.sign(v) * np.sqrt(np.abs(v)), lambda v: np.sign(v) * np.square(v)),
    )
    limit((-0.03 if side == "x" else -0.008) * share, 1.25 * share)
    axis.set_major_locator(FixedLocator(_duration_ticks(1.25 * share)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    axis.set_minor_locator(NullLocator())
    axis.set_label_text(f"warm-up duration (share of {horizon:,} steps)")


def _duration_ticks(limit: float) -> list[float]:
    """Round percentages that don't crowd one another on a square-root scale."""
    ticks: list[float] = [0.0]
    for tick in DURATION_TICKS:
        if tick <= limit and math.sqrt(tick) - math.sqrt(ticks[-1]) > 0.08 * math.sqrt(limit):
            ticks.append(tick)
    return ticks


def tag(
    axes: Axes, text: str, at: tuple[float, float], *, above: bool, colour: str = INK, align: str = "center"
) -> None:
    """A name above or below a point."""
    style: dict[str, Any] = {"ha": align, "fontsize": 9.5, "fontweight": "bold", "zorder": 6}
    where: dict[str, Any] = {"xytext": (0, 12 if above else -21), "textcoords": "offset points"}
    axes.annotate(text, at, color=TEXT.get(colour, colour), bbox=PLATE, **where, **style)


def point(text: str, marker: Any, colour: Any, size: float = 6.0, **style: Any) -> Line2D:
    """A marker for the legend."""
    return Line2D([], [], linestyle="none", marker=marker, color=colour, markersize=size, label=text, **style)
