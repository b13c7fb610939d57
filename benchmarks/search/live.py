"""The same comparison by real training: every method on two tasks, in one process and one run.

    python -m benchmarks.search.live            # some minutes; --write stores the page

Methods take turns seed by seed. Seconds include what the method itself takes; steps are what it is charged for. Every
trial that got to its end is compared with the table's entry for its schedule and seed.
"""

from __future__ import annotations

import argparse
import math
import os
import time
import warnings
from contextlib import suppress
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch start

import numpy as np
import torch

from benchmarks.search.merit import Standard, outcome, quantile
from benchmarks.search.methods import ABOUT, DEFAULT, METHODS
from benchmarks.search.objective import BudgetSpent, LiveObjective
from benchmarks.search.one_shot import ONE_SHOT
from benchmarks.search.pages import header, number, row
from benchmarks.search.tables import Table, table_path
from benchmarks.search.tasks import TASKS

LIVE = ("pre-norm-gpt", "residual-cnn")
BUDGET = 4.0
"""Full runs that a search may spend."""
PAGE = Path(__file__).parent.parent / "results" / "search_live.md"


def compared(name: str, methods: list[str], searches: int) -> list[str]:
    """A task's rows."""
    plan = TASKS[name]
    task, standard = plan.task(), Standard(Table.load(table_path(name)))
    table = standard.table
    results = {method: ([], [], [], []) for method in methods}  # type: ignore[var-annotated]
    for turn in range(searches):
        seed = table.seeds[turn % len(table.seeds)]
        for method in methods:
            objective = LiveObjective(task, table, seed, round(BUDGET * table.horizon))
            began = time.perf_counter()
            with suppress(BudgetSpent):
                METHODS[method](objective, turn)
            steps, seconds, outcomes, errors = results[method]
            seconds.append(time.perf_counter() - began)
            steps.append(objective.spent / table.horizon)
            outcomes.append(outcome(standard, objective, seed))
            errors += [
                (done.loss - table.traces[done.schedule, seed].evaluations[-1].val_loss) / standard.noise
                for done in objective.completions
                if math.isfinite(done.loss)
            ]
    rows = []
    for method in methods:
        steps, seconds, outcomes, errors = results[method]
        cost = quantile([item.runs_until_within for item in outcomes], 0.5)
        regret = quantile([item.regret_at_runs(BUDGET + 1) for item in outcomes], 0.5)
        agreement = f"{np.median(np.abs(errors)):.2f} ({len(errors)})" if errors else "-"
        spent = f"{np.median(steps):.1f}"
        rows.append(
            row(
                [
                    ABOUT[method],
                    name,
                    number(cost, BUDGET),
                    number(regret, BUDGET),
                    spent,
                    f"{np.median(seconds):.1f}",
                    agreement,
                ]
            )
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    quick = [method for method in DEFAULT if method not in ONE_SHOT]
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=quick)
    parser.add_argument("--searches", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    columns = ["method", "task", f"cost (budget {BUDGET:g})", "regret", "full runs spent", "seconds"]
    lines = header([*columns, "live minus table, in seed noises: median size (trials)"])
    for name in LIVE:
        lines += compared(name, arguments.methods, arguments.searches)
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
