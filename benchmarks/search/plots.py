"""The plots of docs/search.md, from the records of a comparison.

python -m benchmarks.search.plots [FILE]       # from benchmarks/results/search.json, or from FILE
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.search.merit import quantile
from benchmarks.search.methods import METHODS, OURS
from benchmarks.search.one_shot import ONE_SHOT

IMAGES = Path(__file__).parent.parent.parent / "docs" / "images"
RESULTS = Path(__file__).parent.parent / "results" / "search.json"
COLUMNS = 4

Record = dict[str, Any]


def plot(records: Sequence[Record], folder: Path = IMAGES) -> None:
    """Writes ``search.png``, regret against full runs with the fewest slots, a panel a table, and ``search_time.png``,
    regret against wall-clock, the median over the tables, a panel a number of slots."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    counts = sorted({record["slots"] for record in records})
    names = list(dict.fromkeys(record["table"] for record in records))
    rows = math.ceil(len(names) / COLUMNS)
    figure, grid = plt.subplots(
        rows, COLUMNS, figsize=(4 * COLUMNS, 3.3 * rows), sharex=True, squeeze=False, layout="constrained"
    )
    for panel, name in zip(grid.flat, names, strict=False):
        for record in records:
            if (record["table"], record["slots"]) == (name, counts[0]):
                curve = record["search"]["curve"]
                _draw(panel, record["method"], curve["runs"], curve["regret_at_runs"])
        _label(panel, name, "full runs spent")
    for panel in grid.flat[len(names) :]:
        panel.set_visible(False)
    _save(
        figure, grid.flat[0], "Regret of what each method would return: median of its searches", folder / "search.png"
    )

    figure, grid = plt.subplots(1, len(counts), figsize=(5 * len(counts), 4.2), squeeze=False, layout="constrained")
    for panel, slots in zip(grid.flat, counts, strict=True):
        for method in METHODS:
            curves = [r["search"]["curve"] for r in records if (r["method"], r["slots"]) == (method, slots)]
            if curves:
                regrets = zip(*(_infinite(curve["regret_at_time"]) for curve in curves), strict=True)
                _draw(panel, method, curves[0]["time"], [quantile(values, 0.5) for values in regrets])
        _label(panel, f"{slots} slot{'s' if slots > 1 else ''}", "wall-clock, in lengths of a run")
    title = "Regret of what each method would return: median over the tables"
    _save(figure, grid.flat[0], title, folder / "search_time.png")


def _draw(panel: Any, method: str, x: Sequence[float], y: Sequence[float | None]) -> None:
    style: dict[str, Any] = {"color": f"C{list(METHODS).index(method)}", "lw": 1.2}
    if method == OURS:
        style = {"color": "#c1272d", "lw": 2.5, "zorder": 3}
    elif method in ONE_SHOT:
        style |= {"ls": "--", "lw": 1.0}
    panel.plot(x, [math.nan if not math.isfinite(value) else value for value in _infinite(y)], label=method, **style)


def _label(panel: Any, title: str, x: str) -> None:
    panel.axhline(1.0, color="0.4", ls=":", lw=1)
    panel.set(title=title, xlabel=x, ylabel="regret, in seed noises", yscale="symlog", ylim=(-5, 60))


def _save(figure: Any, first: Any, title: str, path: Path) -> None:
    from matplotlib import pyplot as plt

    first.legend(fontsize=7)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _infinite(values: Sequence[float | None]) -> list[float]:
    """A record's figures, with what JSON has as null infinite again."""
    return [math.inf if value is None else value for value in values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=RESULTS)
    plot(json.loads(parser.parse_args().file.read_text()))


if __name__ == "__main__":
    main()
