"""The figure of a run that was watched: its loss, its learning rate, and what was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from autowarmup.guard.expected import WIDTH
from autowarmup.guard.watching import Watch
from autowarmup.instability.history import Step
from autowarmup.report.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    figure_of,
    legend,
    log_scale,
    notice,
    plain,
    title,
)

POINTS = 2000
"""Most steps that are drawn."""
COLOURS = {"ok": GREY, "skip": ORANGE, "hold": GREEN, "lower": PURPLE, "rewind": RED, "stop": RED}
STYLES = {"stop": "solid", "rewind": "dashed"}


def draw(watched: Watch) -> Figure:
    """The loss over the optimizer steps, on a logarithmic axis where all of it is positive, with the band that the
    study expects where there is one; the learning rate below; and a line at each step where something was found."""
    if not watched.steps:
        return notice("There are no steps yet.")
    figure = figure_of(8.4, 5.6 if watched.knows_lr else 4.2)
    if watched.knows_lr:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        _learning_rate(lower, watched)
    else:
        upper = lower = figure.subplots()
    plain(upper)
    lower.set_xlabel("optimizer step")
    handles = [*_loss(upper, watched), *_events([upper, lower] if watched.knows_lr else [upper], watched)]
    title(upper, "The run is damaged" if watched.damaged else "The run", watched.verdict())
    legend(figure, handles)
    return figure


def _loss(axes: Axes, watched: Watch) -> list[Artist]:
    steps = [step for step in watched.steps if math.isfinite(step.loss)]
    positive = all(step.loss > 0 for step in steps)
    axes.set_ylabel("training loss")
    handles: list[Artist] = []
    if watched.begin is not None and watched.begin.band is not None:
        handles.append(_band(axes, *watched.begin.band, positive=positive))
    shown = _thinned(steps)
    axes.plot([step.number for step in shown], [step.loss for step in shown], color=BLUE, linewidth=1.2)
    if positive and steps:
        log_scale(axes, "y", 0.9 * min(step.loss for step in steps), 1.1 * max(step.loss for step in steps))
    return [Line2D([], [], color=BLUE, linewidth=1.2, label="loss"), *handles]


def _band(axes: Axes, level: Sequence[float], spread: Sequence[float], positive: bool) -> Artist:
    """What the study expects: above its upper edge a run has left it."""
    least = min(level) / 10 if positive else -math.inf
    low = [max(one - WIDTH * width, least) for one, width in zip(level, spread, strict=True)]
    high = [one + WIDTH * width for one, width in zip(level, spread, strict=True)]
    style: dict[str, Any] = {"color": GREY, "alpha": 0.25, "linewidth": 0}
    axes.fill_between(range(len(level)), low, high, **style)
    return Patch(label="expected by the study", **style)


def _learning_rate(axes: Axes, watched: Watch) -> None:
    plain(axes)
    shown = _thinned([step for step in watched.steps if math.isfinite(step.lr)])
    axes.plot([step.number for step in shown], [step.lr for step in shown], color=GREEN, linewidth=1.4)
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0.0)


def _events(axes: Sequence[Axes], watched: Watch) -> list[Artist]:
    """A line where each began, in the colour of what was done, or would have been."""
    for event in watched.events:
        for one in axes:
            one.axvline(event.began, color=COLOURS[event.action], linewidth=1.0, alpha=0.8, **_style(event.action))
    done = {event.action: event.applied for event in watched.events}
    return [
        Line2D([], [], color=COLOURS[action], linewidth=1.0, label=_label(action, applied), **_style(action))
        for action, applied in done.items()
    ]


def _style(action: str) -> dict[str, Any]:
    return {"linestyle": STYLES.get(action, "dotted")}


def _label(action: str, applied: bool) -> str:
    if action == "ok":
        return "noted"
    return action if applied else f"would {action}"


def _thinned(steps: Sequence[Step]) -> list[Step]:
    """At most about so many steps, evenly spaced, the last one included; of each stretch the highest loss, so that no
    spike is lost."""
    stride = math.ceil(len(steps) / POINTS)
    if stride <= 1:
        return list(steps)
    return [max(steps[at : at + stride], key=lambda step: step.loss) for at in range(0, len(steps), stride)]
