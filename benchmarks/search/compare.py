"""Our search, whole studies, general tuners and one-shot rules, on every table of a folder.

    python -m benchmarks.search.compare                              # the stored tables, one slot
    python -m benchmarks.search.compare --tables FOLDER --slots 1 8 32 --json FILE
    python -m benchmarks.search.compare --methods autowarmup random --searches 20
    python -m benchmarks.search.compare --slots 1 8 32 --write       # figures, page and plots that docs/search.md shows

Every method searches the same grid under the same seeds, and is charged for every optimizer step that it trains. What
it would return is, at any time, its trial with the best final loss so far. docs/search.md describes the tables, the
simulated slots and the records that are written.
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
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch start

from autowarmup.seeds import derive_seed
from benchmarks.search.answers import study_summary
from benchmarks.search.merit import Standard, budget, outcome, summary
from benchmarks.search.methods import DEFAULT, METHODS, OURS
from benchmarks.search.objective import BudgetSpent, TableObjective
from benchmarks.search.ours import study
from benchmarks.search.pages import page
from benchmarks.search.peers import PEERS
from benchmarks.search.plots import plot
from benchmarks.search.slots import Slots
from benchmarks.search.tables import FOLDER, Table

RESULTS = Path(__file__).parent.parent / "results" / "search.json"
PAGE = Path(__file__).parent.parent / "results" / "search.md"
PROCESSES = 2
MANY = 8
"""Methods that fit a model to their trials take ten seconds a search and more where there are more slots than this;"""
FEWER = 4
"""they then make this many times fewer searches, at least one."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A method's searches on one table with so many slots."""

    method: str
    path: Path
    slots: int
    searches: int


def tables(folder: Path) -> list[Path]:
    """The tables of a folder. ``NAME@HORIZON.npz`` is left out where there is a ``NAME.npz``: the same task at another
    horizon."""
    paths = sorted(folder.glob("*.npz"))
    names = {path.stem for path in paths}
    return [path for path in paths if path.stem.rpartition("@")[0] not in names]


@lru_cache(maxsize=2)
def standard(path: Path) -> Standard:
    """What the schedules of the table in a file are judged by."""
    return Standard(Table.load(path))


def run(job: Job) -> Record:
    """Makes a job's searches, seeds in turn, and with our own method as many whole studies."""
    warnings.simplefilter("ignore")
    judged = standard(job.path)
    table = judged.table
    outcomes = []
    began = time.perf_counter()
    for number in range(job.searches):
        seed = table.seeds[number % len(table.seeds)]
        objective = TableObjective(table, seed, round(budget(job.slots) * table.horizon), Slots(job.slots))
        with suppress(BudgetSpent):
            METHODS[job.method](objective, derive_seed(job.path.stem, number))
        outcomes.append(outcome(judged, objective, seed))
    record = {
        "table": job.path.stem,
        "method": job.method,
        "slots": job.slots,
        "searches": job.searches,
        "seconds": (time.perf_counter() - began) / job.searches,
        "search": summary(outcomes, job.slots),
    }
    if job.method == OURS:
        answers = [study(table, number, job.slots) for number in range(job.searches)]
        record["study"] = study_summary(judged, answers)
    return record


def compared(paths: Sequence[Path], methods: Sequence[str], slots: Sequence[int], searches: int) -> list[Record]:
    """The records of all methods on all tables, in two processes."""
    jobs = [Job(method, path, n, _count(method, n, searches)) for path in paths for n in slots for method in methods]
    records = []
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        for record in pool.imap(run, jobs):
            records.append(record)
            told = f"{record['table']}, {record['method']}, slots: {record['slots']}"
            print(f"{told}: {record['seconds']:.2f} s a search", flush=True)
    return records


def _count(method: str, slots: int, searches: int) -> int:
    models = method == OURS or (method in PEERS and method != "random")
    return max(1, searches // FEWER) if models and slots > MANY else searches


def save(records: Sequence[Record], path: Path) -> None:
    """Writes records as JSON, one a line; what is infinite as null."""
    path.write_text("[\n" + ",\n".join(json.dumps(_finite(record), allow_nan=False) for record in records) + "\n]\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=FOLDER, metavar="FOLDER", help="with *.npz tables")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(DEFAULT))
    parser.add_argument("--slots", nargs="+", type=int, default=[1], metavar="N", help="trials at once, 1 or more")
    parser.add_argument("--searches", type=int, default=4, help="of each method on each table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    parser.add_argument("--write", action="store_true", help="write the stored records, the page and the plots")
    options = parser.parse_args(arguments)
    if min(options.slots) < 1 or options.searches < 1:
        parser.error("--slots and --searches must be 1 or more")
    paths = tables(options.tables)
    if not paths:
        parser.error(f"no *.npz tables in {options.tables}")
    records = compared(paths, options.methods, options.slots, options.searches)
    text = page(records, [standard(path) for path in paths], options.tables)
    print(text)
    for path in [*([options.json] if options.json else []), *([RESULTS] if options.write else [])]:
        save(records, path)
    if options.write:
        PAGE.write_text(text)
        plot(records)


if __name__ == "__main__":
    main()
