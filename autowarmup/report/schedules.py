"""The figure of the schedules that were tried."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from autowarmup.report.lines import back_to_front, handles, line_style, mark_onset
from autowarmup.report.style import COLOURS, canvas, legend, log_scale, notice, title
from autowarmup.report.trials import peaks, several
from autowarmup.study.forecast import Traces, searched
from autowarmup.study.result import TrialRecord, TuneResult

POINTS = 1000
"""Points of a schedule's line: more than its pixels."""


def schedules(result: TuneResult, traces: Traces) -> Figure:
    """The schedules tried, each as far as it was trained, coloured by outcome."""
    tried = [record for record in searched(result) if record.steps]
    if not tried:
        return notice("No trial got past its first step.")
    figure, axes = canvas()
    for record in back_to_front(result, tried):
        steps = np.unique(np.linspace(0, record.steps - 1, POINTS).astype(int))
        axes.plot(steps, [record.schedule.lr_at(int(step)) for step in steps], **line_style(result, record))
        mark_onset(axes, record, record.instability.lr if record.instability else math.nan)
    log_scale(axes, "y", min(peaks(tried)) / 20, max(peaks(tried)) * 1.6)
    axes.set_xlim(-0.01 * result.config.horizon, result.config.horizon * 1.01)
    axes.set(xlabel="optimizer step", ylabel="learning rate")
    title(axes, _counted(tried))
    legend(figure, handles(result, tried))
    return figure


def _counted(records: Sequence[TrialRecord]) -> str:
    counts = Counter(record.outcome for record in records)
    named = ", ".join(f"{counts[name]} {name}" for name in COLOURS if counts[name])
    return f"{several(len(records), 'schedule')} tried: {named}"
