"""Figures and one self-contained HTML page for a study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from autowarmup.study.folder import make_folder, write_file

if TYPE_CHECKING:
    from autowarmup.study.result import TuneResult
    from autowarmup.training.trace import Trace


def write_report(result: TuneResult, traces: Mapping[int, Trace], folder: str | Path) -> Path:
    """Writes ``report.html`` and ``figures/*.png`` into ``folder``.

    The page stands alone: its pictures are inside it, it loads nothing and runs no script.
    :mod:`autowarmup.report.figures` has the figures one by one.

    Args:
        result: what the study found.
        traces: each trial's trace by its number; a trial without one is left out of the figures.
        folder: the study's folder, or any other; it is created where it is missing.

    Returns:
        The page's path.
    """
    from autowarmup.report.backend import import_matplotlib

    import_matplotlib()
    from autowarmup.report.figures import draw_all
    from autowarmup.report.page import render

    folder = Path(folder)
    pictures = draw_all(result, traces)
    make_folder(folder / "figures")
    for name, png in pictures.items():
        write_file(folder / "figures" / f"{name}.png", png)
    page = folder / "report.html"
    write_file(page, render(result, pictures))
    return page


__all__ = ["write_report"]
