"""The figure of the training losses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from autowarmup.report.lines import back_to_front, colour_of, handles, line_style, mark_onset
from autowarmup.report.style import canvas, label_ends, legend, log_scale, notice, title
from autowarmup.report.trials import name_of, several
from autowarmup.study.forecast import Traces, searched
from autowarmup.study.result import TrialRecord, TuneResult

Array = np.ndarray[Any, np.dtype[np.float64]]


def loss_curves(result: TuneResult, traces: Traces) -> Figure:
    """Smoothed training losses of the search, and where instability began."""
    recorded = [record for record in searched(result) if len(traces.get(record.number, ()))]
    curves = {record.number: smooth(traces[record.number].loss, result.config.horizon) for record in recorded}
    if not any(np.isfinite(curve).any() for curve in curves.values()):
        return notice("No trial recorded a finite training loss.")
    figure, axes = canvas()
    bottom, top = _limits(curves.values())
    ends = []
    for record in back_to_front(result, recorded):
        curve, steps = curves[record.number], traces[record.number].steps
        axes.plot(steps, np.minimum(curve, 2 * top - bottom), **line_style(result, record))
        mark_onset(axes, record, _value_at(curve, record, top))
        name, finite = name_of(result, record), curve[np.isfinite(curve)]
        if record.outcome == "completed" and name and len(finite):
            ends.append((float(finite[-1]), name, colour_of(result, record)))
    if bottom > 0 and top / bottom > 4:
        log_scale(axes, "y", bottom, top)
    else:
        axes.set_ylim(bottom, top)
    axes.set_xlim(-0.01 * result.config.horizon, result.config.horizon * 1.01)
    axes.set(xlabel="optimizer step", ylabel="training loss, smoothed")
    label_ends(axes, ends)
    title(axes, _where_it_broke(recorded))
    legend(figure, handles(result, recorded))
    return figure


def smooth(loss: Array, horizon: int) -> Array:
    """An exponential moving average over about 3% of the run and 5 steps at least, without the start's bias; a loss
    that is not finite leaves a hole and counts for nothing."""
    keep = 1.0 - 1.0 / max(5.0, 0.03 * horizon)
    average, weight = 0.0, 0.0
    out = np.full(len(loss), np.nan)
    for step, value in enumerate(loss):
        if math.isfinite(value):
            average, weight = keep * average + (1.0 - keep) * value, keep * weight + (1.0 - keep)
            out[step] = average / weight
    return out


def _where_it_broke(records: Sequence[TrialRecord]) -> str:
    found = [record.instability for record in records if record.instability]
    if not found:
        return "No trial became unstable"
    lowest = min(instability.lr for instability in found)
    where = f"none below a learning rate of {lowest:.2g}" if len(found) > 1 else f"at a learning rate of {lowest:.2g}"
    return f"{len(found)} of {several(len(records), 'trial')} became unstable, {where}"


def _value_at(curve: Array, record: TrialRecord, top: float) -> float:
    """The height of the onset's cross: on the curve, or at the top where the curve has left the picture."""
    if record.instability is None:
        return math.nan
    before = curve[: record.instability.step + 1]
    finite = before[np.isfinite(before)]
    return min(float(finite[-1]), top) if len(finite) else top


def _limits(curves: Iterable[Array]) -> tuple[float, float]:
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
