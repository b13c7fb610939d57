"""The four figures of a study: for the report, for notebooks, for papers.

Each takes a study's result and its traces by trial number, and returns a matplotlib ``Figure`` of its own: pyplot is
not involved, so no backend is chosen and no window opens. Colours are Okabe and Ito's, which colour-blind people can
tell apart; what a colour says, a line's dash or a marker's shape says too.
"""

from __future__ import annotations

import io
from collections.abc import Callable

from matplotlib.figure import Figure

from autowarmup.report.duration import duration
from autowarmup.report.loss_curves import loss_curves
from autowarmup.report.schedules import schedules
from autowarmup.report.stability_map import stability_map
from autowarmup.study.forecast import Traces
from autowarmup.study.result import TuneResult

FIGURES: dict[str, Callable[[TuneResult, Traces], Figure]] = {
    "schedules": schedules,
    "loss_curves": loss_curves,
    "stability_map": stability_map,
    "duration": duration,
}
"""Each figure by its name."""
OF_ONE_RUN = ("schedules", "loss_curves")
"""Those of a study in one run, which has nothing to forecast from."""


def draw_all(result: TuneResult, traces: Traces) -> dict[str, bytes]:
    """The figures as PNGs, by their names."""
    pictures = {}
    for name, draw in FIGURES.items():
        if result.config.mode == "one-run" and name not in OF_ONE_RUN:
            continue
        buffer = io.BytesIO()
        draw(result, traces).savefig(buffer, format="png", dpi=160)
        pictures[name] = buffer.getvalue()
    return pictures
