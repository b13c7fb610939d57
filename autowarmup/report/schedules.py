"""The figure of the schedules that were tried."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from autowarmup.report.lines import back_to_front, handles, line_style, mark_onset
from autowarmup.report.style import COLOURS, GREY, canvas, legend, log_scale, notice, title
from autowarmup.report.trials import peaks, several
from autowarmup.study.forecast import Traces, searched
from autowarmup.study.result import TrialRecord, TuneResult

BELOW: dict[str, Any] = {"linestyle": ":"}
"""The lines of groups below the highest."""

POINTS = 1000
"""Points of a schedule's line: more than its pixels."""


def schedules(result: TuneResult, traces: Traces) -> Figure:
    """The schedules tried, each as far as it was trained, coloured by outcome. Those with groups have a line for each,
    dotted below the highest. Where a warm-up adapted, the line is what was applied."""
    tried = [record for record in searched(result) if record.steps]
    if not tried:
        return notice("No trial got past its first step.")
    figure, axes = canvas()
    for record in back_to_front(result, tried):
        steps = np.unique(np.linspace(0, record.steps - 1, POINTS).astype(int))
        style = line_style(result, record)
        if record.adapts and record.number in traces:
            applied = traces[record.number].lr
            axes.plot(steps, np.where(applied > 0.0, applied, math.nan)[steps], **style)
        else:
            axes.plot(steps, [record.schedule.lr_at(int(step)) for step in steps], **style)
        below = [record.schedule.rates_at(int(step)) for step in steps] if record.schedule.groups else []
        for group in record.schedule.groups[:-1]:  # 0 while it is frozen, which a logarithmic scale leaves out
            axes.plot(steps, [rates[group.name] or math.nan for rates in below], **style | BELOW)
        mark_onset(axes, record, record.instability.lr if record.instability else math.nan)
    ratios = [group.ratio for record in tried for group in record.schedule.groups]
    lowest = min(ratios, default=1.0)
    log_scale(axes, "y", min(peaks(tried)) * max(lowest, 1e-3) / 20, max(peaks(tried)) * 1.6)
    axes.set_xlim(-0.01 * result.config.horizon, result.config.horizon * 1.01)
    axes.set(xlabel="optimizer step", ylabel="learning rate")
    title(axes, _counted(tried))
    lower = [Line2D([], [], color=GREY, label="lower groups", **BELOW)] if ratios else []
    legend(figure, [*handles(result, tried), *lower])
    return figure


def _counted(records: Sequence[TrialRecord]) -> str:
    counts = Counter(record.outcome for record in records)
    named = ", ".join(f"{counts[name]} {name}" for name in COLOURS if counts[name])
    return f"{several(len(records), 'schedule')} tried: {named}"
