"""The comparison's records as Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.merit import RUNS, Standard, budget, quantile
from benchmarks.search.methods import ABOUT, METHODS

Record = dict[str, Any]


def page(records: Sequence[Record], standards: Sequence[Standard], folder: Path) -> str:
    """All tables.

    Args:
        records: of the comparison.
        standards: what the schedules of its tables are judged by.
        folder: where the tables are, and the stored results of the methods that need one run, if any.
    """
    lines = []
    for slots in dict.fromkeys(record["slots"] for record in records):
        chosen = [record for record in records if record["slots"] == slots]
        lines += [f"# {slots} slot{'s' if slots > 1 else ''}", "", *_searches(chosen, slots)]
        lines += _studies([record for record in chosen if "study" in record])
    lines += ["# The tables", "", *_tables(standards), *_one_run(standards, folder)]
    return "\n".join(lines).rstrip() + "\n"


def _searches(records: Sequence[Record], slots: int) -> list[str]:
    lines = [
        *_figure("Full runs until within the seed noise of the best", records, lambda s: s["runs_until_within"]),
    ]
    if slots > 1:
        title = "Wall-clock until within the seed noise of the best, in lengths of a run"
        lines += _figure(title, records, lambda s: s["time_until_within"])
    for runs in RUNS if slots == 1 else ():
        title = f"Regret at {runs:g} full runs, in units of the seed noise"
        lines += _figure(title, records, lambda s, key=f"{runs:g}": s["regret_at_runs"][key], shared=False)
    for time in records[0]["search"]["regret_at_time"] if slots > 1 else ():
        title = f"Regret at {time} lengths of a run, in units of the seed noise"
        lines += _figure(title, records, lambda s, key=time: s["regret_at_time"][key], shared=False)
    tables, methods = _names(records)
    found = _found(records)
    lines += ["## Share of the steps in unstable trials, and seconds a search takes by itself", ""]
    lines += header(["method", *tables, "seconds", "searches a table"])
    for method in methods:
        cells = [f"{found[method, table]['search']['unstable']:.0%}" for table in tables]
        slowest = max(found[method, table]["seconds"] for table in tables)
        searches = str(found[method, tables[0]]["searches"])
        lines.append(row([ABOUT[method], *cells, f"{slowest:.1f}", searches]))
    return [*lines, ""]


def _figure(
    title: str, records: Sequence[Record], figure: Callable[[dict[str, Any]], dict[str, float]], *, shared: bool = True
) -> list[str]:
    """One figure of merit: a row a method, a column a table, and where ``shared`` the median over the tables."""
    tables, methods = _names(records)
    found = _found(records)
    most = budget(records[0]["slots"])
    lines = [f"## {title}: median / 90th percentile", ""]
    lines += header(["method", *tables, *(["median over tables"] if shared else [])])
    for method in methods:
        figures = [figure(found[method, table]["search"]) for table in tables]
        cells = [f"{number(f['median'], most)} / {number(f['p90'], most)}" for f in figures]
        cells += [number(quantile([f["median"] for f in figures], 0.5), most)] if shared else []
        lines.append(row([ABOUT[method], *cells]))
    return [*lines, ""]


def _studies(records: Sequence[Record]) -> list[str]:
    if not records:
        return []
    lines = ["## Whole studies with the default budget: median / 90th percentile (/ worst)", ""]
    columns = ["table", "full runs", "lengths of a run", "true verdict", "verdicts", "right", "leaning, within"]
    columns += ["false *tuned*", "pairs", "intervals that cover", "regret", "regret to today's"]
    lines += header(columns)
    for record in records:
        found = record["study"]
        verdicts = ", ".join(f"{kind} {count}" for kind, count in found["verdicts"].items())
        cover = "-" if found["coverage"] is None else f"{found['coverage']:.0%} of {found['intervals']}"
        cells = [record["table"], *(_spread(found[key]) for key in ("runs", "time")), found["true_verdict"], verdicts]
        cells += [f"{found[key]:.0%}" for key in ("right", "leaning_within", "false_tuned")]
        cells += [str(found["pairs"]), cover, *(_spread(found[key]) for key in ("regret", "regret_to_current"))]
        lines.append(row(cells))
    return [*lines, ""]


def _tables(standards: Sequence[Standard]) -> list[str]:
    lines = header(["table", "about", "horizon", "schedules", "seeds", "best", "seed noise", "within it"])
    for standard in standards:
        table = standard.table
        within = float(np.mean([standard.regret(schedule) <= 1.0 for schedule in table.grid]))
        cells = [table.name, table.about, str(table.horizon), str(len(table.grid)), str(len(table.seeds))]
        lines.append(row([*cells, f"{standard.best:.4f}", f"{standard.noise:.4f}", f"{within:.0%}"]))
    return [*lines, ""]


def _one_run(standards: Sequence[Standard], folder: Path) -> list[str]:
    """The methods of :mod:`benchmarks.search.one_run`, where the folder has their results."""
    path = folder / "one_run.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    known = [standard for standard in standards if standard.table.name in stored]
    if not known:
        return []
    lines = ["# Methods that need one run: regret in units of the seed noise (cost in full runs)", ""]
    lines += header(["method", *(standard.table.name for standard in known)])
    for method in dict.fromkeys(name for standard in known for name in stored[standard.table.name]):
        cells = []
        for standard in known:
            runs = stored[standard.table.name].get(method)
            if runs is None:
                cells.append("-")
                continue
            losses = [math.inf if loss is None else loss for loss in runs["final_loss"]]
            regret = (float(np.mean(losses)) - standard.best) / standard.noise
            cells.append(f"{number(regret)} ({float(np.mean(runs['cost_steps'])) / standard.table.horizon:.2f})")
        lines.append(row([method, *cells]))
    return [*lines, ""]


def _names(records: Sequence[Record]) -> tuple[list[str], list[str]]:
    """The tables and the methods of records, methods in the order of ``METHODS``."""
    used = {record["method"] for record in records}
    return list(dict.fromkeys(r["table"] for r in records)), [method for method in METHODS if method in used]


def _found(records: Sequence[Record]) -> dict[tuple[str, str], Record]:
    return {(record["method"], record["table"]): record for record in records}


def _spread(found: dict[str, float]) -> str:
    return " / ".join(number(value) for value in found.values())


def number(value: float, most: float = 10.0) -> str:
    """A figure of merit; ``> most`` where it is infinite."""
    return f"{value:.1f}" if math.isfinite(value) else f"> {most:g}" if value > 0 else "-"


def header(cells: list[str]) -> list[str]:
    return [row(cells), row(["---"] * len(cells))]


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
