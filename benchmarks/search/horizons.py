"""How the best peak changes with the horizon, and what a study of shorter runs is worth, on tables of several horizons.

    python -m benchmarks.search.horizons        # two minutes

A study of short runs is a whole one, verdict included, on the table of the short horizon; what it hands back is
extrapolated to the task's longest horizon and judged there by the schedule of that table that is most like it.

The best peak of a table is the vertex of the parabola through the logarithms of the losses of the best peak of the grid
and its two neighbours; a peak's loss is the mean of its six best schedules, seeds averaged.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from autowarmup.schedule.extrapolation import extrapolated
from benchmarks.search.merit import Standard, quantile
from benchmarks.search.ours import study
from benchmarks.search.pages import header, number, row
from benchmarks.search.snapping import nearest
from benchmarks.search.tables import FOLDER, Table

STUDIES = 6
"""Studies of each short horizon."""


def best_peak(table: Table) -> float:
    """The best peak of a table, as a decimal logarithm."""
    peaks = sorted({schedule.peak for schedule in table.grid})
    losses = [
        math.log(np.mean(sorted(table.means[[s.peak == peak for s in table.grid]])[:6])) for peak in peaks
    ]  # fmt: skip
    middle = min(max(int(np.argmin(losses)), 1), len(peaks) - 2)
    left, centre, right = losses[middle - 1 : middle + 2]
    shift = (left - right) / (2.0 * (left - 2.0 * centre + right))
    return math.log10(peaks[middle]) + shift * math.log10(peaks[middle + 1] / peaks[middle])


def extrapolation(short: Table, judged: Standard) -> str:
    """A row: studies of a short horizon, judged at a long one."""
    long = judged.table
    answers = [study(short, turn) for turn in range(STUDIES)]
    found = [extrapolated(a.schedule, long.horizon).schedule for a in answers if a.schedule is not None]
    regrets = [judged.regret(nearest(schedule, judged.mean)) for schedule in found]
    cost = quantile([answer.runs for answer in answers], 0.5) * short.horizon / long.horizon
    horizons = f"{short.horizon} to {long.horizon}"
    cells = [short.name, horizons, f"{cost:.2f}", number(quantile(regrets, 0.5), 100.0), number(max(regrets), 100.0)]
    return row([*cells, number(judged.regret(judged.current))])


def main() -> None:
    tables = [Table.load(path) for path in sorted(FOLDER.glob("*.npz"))]
    names = sorted({table.name for table in tables})
    families = [sorted((t for t in tables if t.name == name), key=lambda table: table.horizon) for name in names]
    families = [family for family in families if len(family) > 1]
    print(*header(["task", "horizons", "best peaks", "exponent"]), sep="\n")
    for family in families:
        for short, long in pairwise(family):
            first, second = best_peak(short), best_peak(long)
            exponent = (first - second) / math.log10(long.horizon / short.horizon)
            horizons = f"{short.horizon} to {long.horizon}"
            print(row([short.name, horizons, f"{10**first:.3g} to {10**second:.3g}", f"{exponent:.2f}"]))
    print()
    print(*header(["task", "horizons", "whole runs", "regret, median", "worst", "of the current schedule"]), sep="\n")
    for family in families:
        judged = Standard(family[-1])
        for short in family[:-1]:
            print(extrapolation(short, judged), flush=True)


if __name__ == "__main__":
    main()
