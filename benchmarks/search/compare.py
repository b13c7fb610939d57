"""Our search against general tuners, on the stored tables.

    python -m benchmarks.search.compare                 # all methods, some minutes on two cores (make bench-search)
    python -m benchmarks.search.compare --methods autowarmup random --searches 20
    python -m benchmarks.search.compare --write         # writes the figures and the table that docs/search.md shows

Every method searches the same grid under the same seeds, and is charged for every optimizer step that it trains. What
it would return is, at any time, its trial with the best final loss so far.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch start

import numpy as np

from benchmarks.search.merit import BUDGETS, MOST, Outcome, Standard, outcome, quantile, summary
from benchmarks.search.objective import BudgetSpent, TableObjective
from benchmarks.search.ours import autowarmup, verdict
from benchmarks.search.peers import ABOUT, PEERS, SLOW
from benchmarks.search.tables import FOLDER, Table, table_path

TASKS = ("post-norm-gpt", "pre-norm-gpt", "fine-tuning", "residual-cnn", "mlp", "autoencoder", "tabular", "rows")
"""The last two were made, and looked at, when the search was final."""
OURS = "autowarmup"
METHODS = {OURS: autowarmup} | PEERS
RESULTS = Path(__file__).parent.parent / "results" / "search.json"
PAGE = Path(__file__).parent.parent / "results" / "search.md"
FIGURE = Path(__file__).parent.parent.parent / "docs" / "images" / "search.png"
FEWER = 10
"""Methods that take a minute a search make this many times fewer searches, and are left out unless asked for: their
stored results are shown."""


def searches(job: tuple[str, str, int]) -> tuple[str, str, list[Outcome], float]:
    """A method's searches over one task's table: seeds in turn."""
    method, task, count = job
    warnings.simplefilter("ignore")
    standard = Standard(Table.load(table_path(task)))
    seeds = standard.table.seeds
    outcomes = []
    began = time.perf_counter()
    for number in range(count):
        seed = seeds[number % len(seeds)]
        objective = TableObjective(standard.table, seed, round(MOST * standard.table.horizon))
        with suppress(BudgetSpent):
            METHODS[method](objective, number)
        outcomes.append(outcome(standard, objective, seed))
    return method, task, outcomes, (time.perf_counter() - began) / count


def one_run(standard: Standard) -> dict[str, dict[str, float]]:
    """The methods that need one run: their cost and their mean regret, from the stored runs."""
    path = FOLDER / "one_run.json"
    stored = json.loads(path.read_text()).get(standard.table.name, {})
    figures = {}
    for method, runs in stored.items():
        losses = [math.inf if loss is None else loss for loss in runs["final_loss"]]
        figures[method] = {
            "cost": float(np.mean(runs["cost_steps"])) / standard.table.horizon,
            "regret": (float(np.mean(losses)) - standard.best) / standard.noise,
        }
    return figures


def page(figures: dict[tuple[str, str], dict[str, Any]]) -> str:
    """The tables as Markdown."""
    standards = {task: Standard(Table.load(table_path(task))) for task in TASKS}
    methods = [method for method in METHODS if any(key[0] == method for key in figures)]
    lines = ["## Full runs until within the seed noise of the best: median / 90th percentile", ""]
    lines += _header(["method", *TASKS, "median over tasks"])
    for method in methods:
        costs = [figures[method, task] for task in TASKS]
        cells = [f"{_number(f['cost_median'])} / {_number(f['cost_p90'])}" for f in costs]
        lines.append(_row([_name(method), *cells, _number(float(np.median([f["cost_median"] for f in costs])))]))
    for budget in BUDGETS:
        lines += ["", f"## Regret at {budget:g} full runs, in units of the seed noise: median / 90th percentile", ""]
        lines += _header(["method", *TASKS])
        for method in methods:
            key = str(budget)
            cells = [
                f"{_number(figures[method, t]['regret'][key])} / {_number(figures[method, t]['regret_p90'][key])}"
                for t in TASKS
            ]
            lines.append(_row([_name(method), *cells]))
    lines += ["", "## Methods that need one run: regret in units of the seed noise (cost in full runs)", ""]
    singles = {task: one_run(standards[task]) for task in TASKS}
    lines += _header(["method", *TASKS])
    for method in dict.fromkeys(name for task in TASKS for name in singles[task]):
        cells = [
            f"{_number(singles[t][method]['regret'])} ({singles[t][method]['cost']:.2f})"
            if method in singles[t]
            else "-"
            for t in TASKS
        ]
        lines.append(_row([method, *cells]))
    lines += ["", "## Share of the steps in unstable trials, and seconds a search takes by itself", ""]
    lines += _header(["method", *TASKS, "seconds", "searches a task"])
    for method in methods:
        cells = [f"{figures[method, task]['unstable']:.0%}" for task in TASKS]
        slowest = max(figures[method, task]["seconds"] for task in TASKS)
        lines.append(_row([_name(method), *cells, f"{slowest:.1f}", str(figures[method, TASKS[0]]["searches"])]))
    lines += ["", "## The tasks", ""]
    lines += _header(["task", "about", "horizon", "schedules", "seeds", "best", "seed noise", "within it"])
    for task, standard in standards.items():
        table = standard.table
        within = float(np.mean([standard.regret(schedule) <= 1.0 for schedule in table.grid]))
        cells = [task, table.about, str(table.horizon), str(len(table.grid)), str(len(table.seeds))]
        lines.append(_row([*cells, f"{standard.best:.4f}", f"{standard.noise:.4f}", f"{within:.0%}"]))
    return "\n".join(lines) + "\n"


def verdicts(count: int) -> str:
    """How often a study's verdict is right, on the tables: one seed for the search, the others confirm."""
    lines = ["", "## Verdicts: whole studies with the default budget", ""]
    lines += _header(
        ["task", "true verdict", "right", "tuned / tie / leaning / nothing stable", "full runs, median", "made worse"]
    )
    for task in TASKS:
        standard = Standard(Table.load(table_path(task)))
        table = standard.table
        baseline = min(float(np.mean([_final(table, s, seed) for seed in table.seeds])) for s in table.baselines)
        truth = "tuned" if standard.best < baseline - standard.noise else "tie"
        kinds, spent, worse = [], [], 0
        for number in range(count):
            kind, schedule, runs = verdict(table, number)
            kinds.append(kind)
            spent.append(runs)
            mean = standard.mean.get(schedule, baseline) if schedule else math.inf
            worse += mean > baseline + standard.noise
        shares = " / ".join(
            f"{kinds.count(kind) / count:.0%}" for kind in ("tuned", "tie", "leaning", "nothing stable")
        )
        lines.append(
            _row([task, truth, f"{kinds.count(truth) / count:.0%}", shares, f"{quantile(spent, 0.5):.1f}",
                  f"{worse / count:.0%}"])
        )  # fmt: skip
    return "\n".join(lines) + "\n"


def _final(table: Table, schedule: Any, seed: int) -> float:
    loss = table.traces[schedule, seed].evaluations[-1].val_loss
    return loss if math.isfinite(loss) else math.inf


def figure(found: dict[tuple[str, str], list[Outcome]]) -> None:
    """Regret against cost, medians and quartiles, a panel a task."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    methods = [method for method in METHODS if any(key[0] == method for key in found)]
    colours = dict(
        zip(methods, ["#c1272d", *(plt.get_cmap("tab20")(i) for i in (0, 2, 4, 8, 9, 10, 12, 14, 18))], strict=False)
    )
    grid, panels = plt.subplots(2, 4, figsize=(16, 7), sharex=True, layout="constrained")
    budgets = np.linspace(0.5, MOST, 96)
    for panel, task in zip(panels.flat, TASKS, strict=True):
        for method in methods:
            curves = np.array([[item.regret_at(b) for b in budgets] for item in found[method, task]])
            low, middle, high = (
                [quantile(column.tolist(), share) for column in curves.T] for share in (0.25, 0.5, 0.75)
            )
            ours = method == OURS
            panel.plot(
                budgets, middle, color=colours[method], lw=2.5 if ours else 1.2, label=method, zorder=3 if ours else 2
            )
            if ours or method == "ray_asha_optuna":
                high = [min(value, 1e3) for value in high]
                panel.fill_between(budgets, low, high, color=colours[method], alpha=0.15, lw=0)
        panel.axhline(1.0, color="0.4", ls=":", lw=1)
        panel.set(title=task, yscale="symlog", ylim=(-5, 60))
    for panel in panels[1]:
        panel.set_xlabel("full runs spent")
    for panel in panels[:, 0]:
        panel.set_ylabel("regret, in units of the seed noise")
    panels[0, 3].legend(fontsize=7)
    grid.suptitle(
        "Regret of the schedule that each method would return: median of its searches, quartiles for two", y=1.03
    )
    FIGURE.parent.mkdir(exist_ok=True)
    grid.savefig(FIGURE, dpi=110, bbox_inches="tight")


def _name(method: str) -> str:
    return f"**{method}**" if method == OURS else ABOUT[method]


def _number(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else f"> {MOST:g}" if value > 0 else "-"


def _header(cells: list[str]) -> list[str]:
    return [_row(cells), _row(["---"] * len(cells))]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def stored(methods: Sequence[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """The stored figures of methods."""
    return {(f["method"], f["task"]): f for f in json.loads(RESULTS.read_text()) if f["method"] in methods}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    quick = [method for method in METHODS if method not in SLOW]
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=quick)
    parser.add_argument("--searches", type=int, default=20, help="of each method on each task")
    parser.add_argument("--write", action="store_true", help="write the results, the page and the figure")
    arguments = parser.parse_args()
    jobs = [
        (method, task, max(1, arguments.searches // (FEWER if method in SLOW else 1)))
        for method in arguments.methods
        for task in TASKS
    ]
    found: dict[tuple[str, str], list[Outcome]] = {}
    figures = stored([method for method in SLOW if method not in arguments.methods])
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for method, task, outcomes, took in pool.imap_unordered(searches, jobs):
            found[method, task] = outcomes
            figures[method, task] = {"method": method, "task": task, "seconds": took} | summary(outcomes)
            print(f"{method}, {task}: {took:.2f} s a search", flush=True)
    text = page(figures)
    if OURS in arguments.methods:
        text += verdicts(arguments.searches)
    print(text)
    if arguments.write:
        RESULTS.write_text(json.dumps(list(figures.values()), indent=1) + "\n")
        PAGE.write_text(text)
        figure(found)


if __name__ == "__main__":
    main()
