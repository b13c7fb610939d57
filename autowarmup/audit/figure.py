"""The figure of a recording: the planned learning rates and the applied ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from autowarmup.audit.recording import Part, every_step, first_finding, thinned
from autowarmup.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, canvas, legend, point, title

GROUPS = (BLUE, ORANGE, GREEN, PURPLE)
"""Colours of parameter groups."""

Point = tuple[int, float, float]
"""A step, its planned learning rate and the applied one."""


def draw(parts: Sequence[Part]) -> Figure:
    """The learning rates of every parameter group over the optimizer steps, applied and planned, with a cross at the
    first step that was off."""
    figure, axes = canvas()
    finding, steps = first_finding(parts), thinned(list(every_step(parts)))
    names = list(dict.fromkeys(name for part in parts for name in part.names))
    handles = [Line2D([], [], color=GREY, linewidth=4, alpha=0.5, label="planned")]
    for number, name in enumerate(names):
        at, planned, applied = zip(*_points(steps, name), strict=True)
        colour = GROUPS[number % len(GROUPS)]
        axes.plot(at, planned, color=GREY, linewidth=4, alpha=0.5)
        axes.plot(at, applied, color=colour, linewidth=1.4)
        label = "applied" if len(names) == 1 else f"applied in group {name}"
        handles.append(Line2D([], [], color=colour, linewidth=1.4, label=label))
    if finding:
        cross: dict[str, Any] = {"markeredgewidth": 2.0, "clip_on": False}
        axes.plot([finding.step], [finding.applied], "x", color=RED, markersize=9, zorder=5, **cross)
        handles.append(point(f"first step that is off: {finding.step:,}", "x", RED, 9, markeredgewidth=2))
    axes.set(xlabel="optimizer step", ylabel="learning rate")
    axes.set_ylim(bottom=0.0)
    headline = "Another learning rate was applied than planned" if finding else "The schedule was applied as planned"
    title(axes, headline, f"likely cause: {finding.cause.replace('-', ' ')}" if finding else "")
    legend(figure, handles)
    return figure


def _points(steps: Sequence[tuple[Part, int, list[float]]], name: str) -> Iterator[Point]:
    """Those of one parameter group."""
    for part, step, rates in steps:
        if name in part.names:
            group = part.names.index(name)
            yield step, part.planned(step)[group], rates[group]
