"""The charts of a study's page, as what is drawn where: the templates write the SVG.

Outcomes differ by marker and dash, not by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from autowarmup.report.boundary import Boundary
from autowarmup.search.trials import COMPARED
from autowarmup.service.page.axes import SHARES, Axis, Tick, even_steps, log_steps
from autowarmup.service.page.views import StudyView

WIDTH, HEIGHT = 480, 330
LEFT, RIGHT, TOP, BOTTOM = 66, 16, 16, 50
BELOW = 10
"""Room for the markers of schedules without warm-up."""

POINTS = 100
"""Points of a loss curve: each is the mean of a hundredth of the run."""

LARGEST = 1e30
"""Losses beyond this are drawn there."""

ON_TOP = ("pruned", "failed", "unstable", "completed", "open")
"""Outcomes in the order in which they are drawn."""


class Mark(NamedTuple):
    """A marker: where, which one, what is said of it, and the name beside it."""

    x: float
    y: float
    kind: str
    text: str
    name: str = ""

    @property
    def anchor(self) -> str:
        """Names stay within the chart."""
        return "start" if self.x < LEFT + 60 else "end" if self.x > WIDTH - RIGHT - 60 else "middle"

    @property
    def name_y(self) -> float:
        return self.y + 24 if self.y < TOP + 24 else self.y - 13


class Line(NamedTuple):
    """A line: its path, which one, and what is said of it."""

    path: str
    kind: str
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart.

    Args:
        title: what it shows, in a few words.
        x_label, y_label: what its axes are.
        x_ticks, y_ticks: the values beside them.
        marks, lines: what is drawn, the last one on top.
    """

    title: str
    x_label: str
    y_label: str
    x_ticks: list[Tick] = field(default_factory=list)
    y_ticks: list[Tick] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def stability_map(study: StudyView) -> Chart | None:
    """Peak against warm-up duration, a marker a schedule; the line at which half of the schedules are expected to
    become unstable, once some have. None before the first trial."""
    shown = [trial for trial in study.trials if trial.role in COMPARED]
    if not shown:
        return None
    peaks, shares = [trial.schedule.peak for trial in shown], [trial.share for trial in shown]
    x = Axis(min(peaks) / 1.5, max(peaks) * 1.5, LEFT, WIDTH - RIGHT, math.log)
    y = Axis(0.0, min(1.0, max(*shares, 0.1) * 1.15), HEIGHT - BOTTOM - BELOW, TOP, math.sqrt)
    marks = [
        Mark(x.at(trial.schedule.peak), y.at(trial.share), trial.shown_outcome, trial.text, study.name_of(trial))
        for trial in sorted(shown, key=lambda trial: ON_TOP.index(trial.shown_outcome))
    ]
    broke = sum(trial.outcome == "unstable" for trial in shown)
    return Chart(
        title=f"{broke or 'None'} of {_several(len(shown), 'schedule')} became unstable",
        x_label="peak learning rate",
        y_label="warm-up, share of the run",
        x_ticks=x.ticks(log_steps(x.low, x.high)),
        y_ticks=y.ticks([*SHARES], "{:.0%}"),
        marks=marks,
        lines=_boundary(study, x, y),
    )


def loss_curves(study: StudyView) -> Chart | None:
    """Training losses of the trials on the search's seed, and where instability began. None before the first one."""
    shown = [trial for trial in study.trials if trial.role in COMPARED and np.isfinite(trial.trace.loss).any()]
    if not shown or study.horizon is None:
        return None
    width = math.ceil(study.horizon / POINTS)
    curves = {trial.number: _means(trial.trace.loss, width) for trial in shown}
    low, high = _limits([*curves.values()])
    x = Axis(0.0, float(study.horizon), LEFT, WIDTH - RIGHT)
    y = Axis(low, high, HEIGHT - BOTTOM, TOP, math.log if low > 0 and high / low > 4 else float)
    lines, marks = [], []
    for trial in sorted(shown, key=lambda trial: (bool(study.name_of(trial)), ON_TOP.index(trial.shown_outcome))):
        curve = curves[trial.number]
        kind = study.name_of(trial) or trial.shown_outcome
        lines.append(Line(_path(curve, width, x, y, len(trial.trace)), kind, trial.text))
        if trial.began is not None:
            height = _before(curve, trial.began // width, high)
            marks.append(Mark(x.at(trial.began), y.at(height), "unstable", trial.text))
    steps = log_steps(low, high) if y.warp is math.log else even_steps(low, high)
    return Chart(
        title="Training loss" if width == 1 else f"Training loss, means of {width:,} steps",
        x_label="optimizer step",
        y_label="training loss",
        x_ticks=x.ticks(even_steps(x.low, x.high), "{:,.0f}"),
        y_ticks=y.ticks(steps),
        marks=marks,
        lines=lines,
    )


def _means(loss: np.ndarray[Any, Any], width: int) -> np.ndarray[Any, Any]:
    """Means of so many steps each, of those losses that are finite; NaN where none is."""
    starts, finite = np.arange(0, len(loss), width), np.isfinite(loss)
    loss = np.clip(loss, -LARGEST, LARGEST)
    counts = np.add.reduceat(finite.astype(float), starts)
    sums = np.add.reduceat(np.where(finite, loss, 0.0), starts)
    return np.where(counts > 0, sums / np.maximum(counts, 1.0), np.nan)


def _limits(curves: Sequence[np.ndarray[Any, Any]]) -> tuple[float, float]:
    """From just below the lowest loss to just above what most curves start from; what diverges leaves at the top."""
    lowest = min(float(np.nanmin(curve)) for curve in curves)
    heights = [float(np.nanmax(curve)) for curve in curves]
    usual = float(np.median(heights))
    highest = min(max(heights), usual + 0.3 * (usual - lowest))
    room = 0.05 * (highest - lowest) or 0.05 * abs(lowest) or 1.0
    return (lowest / 1.05 if lowest > 0 else lowest - room), highest + room


def _path(curve: np.ndarray[Any, Any], width: int, x: Axis, y: Axis, steps: int) -> str:
    """A curve as an SVG path; a hole where nothing is finite."""
    parts, is_down = [], False
    for index, value in enumerate(curve):
        if not math.isfinite(value):
            is_down = False
            continue
        middle = min((index + 0.5) * width, float(steps))
        parts.append(f"{'L' if is_down else 'M'}{x.at(middle):g} {y.at(float(value)):g}")
        is_down = True
    return "".join(parts)


def _before(curve: np.ndarray[Any, Any], index: int, top: float) -> float:
    """The last finite value up to there; the chart's top where there is none."""
    finite = [float(value) for value in curve[: index + 1] if math.isfinite(value)]
    return finite[-1] if finite else top


def _boundary(study: StudyView, x: Axis, y: Axis) -> list[Line]:
    told = tuple(
        (trial.schedule.peak, trial.share, trial.outcome == "unstable")
        for trial in study.trials
        if trial.role != "probe" and (trial.outcome == "unstable" or trial.outlived)
    )
    points = [(x.at(peak), y.at(share)) for share, peak in _critical_peaks(told, y.high) if x.low < peak < x.high]
    if len(points) < 2:
        return []
    path = "M" + "L".join(f"{across:g} {up:g}" for across, up in points)
    return [Line(path, "boundary", "half of the schedules to its right are expected to become unstable")]


@lru_cache(maxsize=64)
def _critical_peaks(told: tuple[tuple[float, float, bool], ...], highest: float) -> list[tuple[float, float]]:
    """Shares of the run with the peaks at which half of the schedules become unstable; empty where that is unknown."""
    if not told:
        return []
    peaks, shares, broke = (np.array(column) for column in zip(*told, strict=True))
    boundary = Boundary.fit(peaks, shares, broke)
    if boundary is None:
        return []
    return [(root**2, boundary.critical_peak(root**2)) for root in np.linspace(0.0, math.sqrt(highest), 9).tolist()]


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
