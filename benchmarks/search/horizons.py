"""How the best peak changes with the horizon, on the tables that were made at several.

    python -m benchmarks.search.horizons

The best peak of a table is the vertex of the parabola through the logarithms of the losses of the best peak of the grid
and its two neighbours; a peak's loss is the mean of its six best schedules, seeds averaged.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from benchmarks.search.tables import FOLDER, Table


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


def main() -> None:
    tables = [Table.load(path) for path in sorted(FOLDER.glob("*.npz"))]
    print("| task | horizons | best peaks | exponent |\n| --- | --- | --- | --- |")
    for name in sorted({table.name for table in tables}):
        same = sorted((table for table in tables if table.name == name), key=lambda table: table.horizon)
        for short, long in pairwise(same):
            first, second = best_peak(short), best_peak(long)
            exponent = (first - second) / math.log10(long.horizon / short.horizon)
            horizons = f"{short.horizon} to {long.horizon}"
            print(f"| {name} | {horizons} | {10**first:.3g} to {10**second:.3g} | {exponent:.2f} |")


if __name__ == "__main__":
    main()
