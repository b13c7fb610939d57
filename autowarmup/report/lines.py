"""What the two figures over optimizer steps share: a line for each trial, crosses where instability began."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from autowarmup.report.style import BLUE, COLOURS, GREEN, KINDS, ORANGE, cross
from autowarmup.report.trials import is_chosen, name_of
from autowarmup.study.result import TrialRecord, TuneResult


def back_to_front(result: TuneResult, records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """In drawing order: what matters most comes last, on top."""
    order = ["pruned", "failed", "unstable", "completed"]

    def place(record: TrialRecord) -> tuple[bool, bool, int, int]:
        named = bool(name_of(result, record))
        return is_chosen(result, record), named, order.index(record.outcome), record.number

    return sorted(records, key=place)


def colour_of(result: TuneResult, record: TrialRecord) -> str:
    if record.outcome == "completed":
        return BLUE if is_chosen(result, record) else ORANGE if record.role == "baseline" else GREEN
    return COLOURS[record.outcome]


def line_style(result: TuneResult, record: TrialRecord) -> dict[str, Any]:
    """Colour, width and dash of a trial's line."""
    thick = bool(name_of(result, record))
    width = 2.6 if thick else 0.7 if record.outcome == "pruned" else 1.1
    dash: Any = "dotted" if record.outcome == "failed" else "solid"
    if record.role == "baseline":
        dash = (0, (4, 1.5)) if record.schedule.duration else (0, (1, 0.8))
    alpha = 1.0 if thick else 0.75
    return {"color": colour_of(result, record), "linewidth": width, "linestyle": dash, "alpha": alpha}


def mark_onset(axes: Axes, record: TrialRecord, height: float) -> None:
    """A cross where instability began, where it did."""
    if record.instability:
        style = {"zorder": 5, "clip_on": False, "gid": "onset", **cross(record.instability.kind)}
        axes.plot([record.instability.step], [height], **style)


def handles(result: TuneResult, records: Sequence[TrialRecord]) -> list[Line2D]:
    """The legend: the named trials and the outcomes, then the kinds of instability."""
    lines: dict[str, Line2D] = {}
    for record in reversed(back_to_front(result, records)):
        label = name_of(result, record) or f"{record.outcome}"
        if record.role == "baseline" and record.outcome != "completed":
            label += f", {record.outcome}"
        lines.setdefault(label, Line2D([], [], label=label, **line_style(result, record)))
    counts = Counter(record.instability.kind for record in records if record.instability)
    crosses = [
        Line2D([], [], label=f"{KINDS[kind][0]} began ({count})", **cross(kind)) for kind, count in counts.most_common()
    ]
    return [*lines.values(), *crosses]
