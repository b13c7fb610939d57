"""The score of silent failure: fitted to labelled runs, and judged on tasks that it was not fitted to.

    python -m benchmarks.silent_failure fit      # writes autowarmup/instability/silent_failure.json: five minutes
    python -m benchmarks.silent_failure judge    # writes benchmarks/results/silent_failure.md: ten minutes on two cores

The runs are those of ``benchmarks/detectors.py`` and the schedules of the search's tables.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from autowarmup.instability import Detectors, Monitor
from autowarmup.instability.forest import Forest, Node
from autowarmup.instability.history import History, Settled, Step
from autowarmup.instability.signs import NAMES, Signs
from benchmarks import detectors
from benchmarks.search.merit import Standard
from benchmarks.search.tables import FOLDER, Table

ROOT = Path(__file__).resolve().parent.parent
FOREST = ROOT / "autowarmup" / "instability" / "silent_failure.json"
PAGE = ROOT / "benchmarks" / "results" / "silent_failure.md"
Column = np.ndarray[Any, np.dtype[np.float64]]

GROUPS = {
    "post-norm": ("post-norm-gpt", "post-norm GPT 64x4", "post-norm GPT 32x3", "post-norm GPT 32x2, long"),
    "pre-norm": ("pre-norm-gpt", "pre-norm GPT 64x4"),
    "MLP": ("mlp", "deep-mlp", "residual-mlp", "MLP on digits"),
    "CNN": ("residual-cnn", "batch-norm-cnn", "group-norm-cnn", "CNN on digits"),
    "tabular": ("tabular", "MLP on breast cancer"),
    "diabetes": ("diabetes", "MLP on diabetes"),
    "rows": ("rows", "post-norm-rows", "sgd-rows"),
    "text": ("gru", "lstm", "n-gram", "muon-gpt"),
    "denoising": ("autoencoder", "denoising", "autoencoder on digits"),
    "transfer": ("transfer", "fine-tuning"),
}
"""Tasks that are left out together, since they have the same kind of model and data. Any other is left out alone."""
MOST = {"stable": 60, "failed": 60}
"""Runs of a table that the score is fitted to, at most: neighbouring schedules tell nearly the same."""
JUDGED = 3
"""One in so many of them is judged; of the runs of ``benchmarks/detectors.py`` all are."""
HIDDEN = {
    "known": (),
    "known, no gradients": (8, 9),
    "hidden": (15, 16, 17),
    "hidden, no gradients": (8, 9, 15, 16, 17),
}
"""Signs that are not known, by what is known of a run."""
WITHOUT = {"hidden": "hidden, without the score", "hidden, no gradients": "hidden, no gradients, without the score"}
"""What is judged by the other detectors alone, too."""
NEVER = Forest(-math.inf, [])
STEPS = 40
"""Steps of each run that the score is fitted to."""
TREES, LEAVES, RATE, LEAST = 60, 8, 0.15, 200


@dataclass(frozen=True)
class Run:
    """A run with its label, ``stable`` or ``failed``, and where its failure began."""

    task: str
    source: str
    horizon: int
    rate: Column
    loss: Column
    grad_norm: Column
    trivial: float
    label: str
    onset: int
    for_fitting: bool

    @property
    def group(self) -> str:
        name = self.task.split("@")[0]
        return next((group for group, tasks in GROUPS.items() if name in tasks), name)

    def steps(self) -> Iterator[Step]:
        columns = zip(self.rate.tolist(), self.loss.tolist(), self.grad_norm.tolist(), strict=True)
        return (Step(number, *values) for number, values in enumerate(columns))


def runs() -> list[Run]:
    """All labelled runs. Of ``benchmarks/detectors.py``, the score is fitted to those of the tuning seeds alone."""
    found = [
        Run(
            t.run.task, "detectors", t.run.horizon, t.rate, t.loss, t.grad_norm, t.trivial, t.label, t.onset or 0,
            t.split == "tuning seeds",
        )
        for t in detectors.load()
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    for path in sorted(FOLDER.glob("*.npz")):
        whole = [*of_table(Table.load(path), path.stem)]
        for label, most in MOST.items():
            alike = [run for run in whole if run.label == label]
            found += [alike[index] for index in sorted(rng.permutation(len(alike))[:most])]
    return [run for run in found if run.label in MOST]


def of_table(table: Table, name: str) -> Iterator[Run]:
    """A table's runs. Failed are those that :attr:`benchmarks.search.merit.Standard.unstable` says; the onset is found
    as for the other runs."""
    standard = Standard(table)
    best = table.grid[int(np.argmin(table.means))]
    trivial = table.trivial_loss
    if trivial is None:
        return
    reachable = float(np.median([detectors.tail_level(table.traces[best, seed].loss) for seed in table.seeds]))
    failing = trivial - detectors.FAILED_SHARE * (trivial - reachable)
    for schedule in table.grid:
        for seed in table.seeds:
            trace = table.traces[schedule, seed]
            label, onset = "stable", 0
            unstable = (schedule, seed) in standard.unstable
            borderline = trivial - detectors.BORDERLINE_SHARE * (trivial - standard.best)
            if not np.isfinite(trace.loss).all():
                label = "non-finite"
            elif unstable and detectors.tail_level(trace.loss) < failing:
                label = "borderline"  # it has learnt what it was trained on
            elif unstable:
                bare: Any = None
                whole = detectors.Trial(bare, trace.lr, trace.loss, trace.grad_norm, trivial, "")
                judged = detectors.failed_or_slow(whole, failing, best.peak)
                label, onset = ("failed", judged.onset or 0) if judged.label == "failed" else ("borderline", 0)
            elif schedule.peak >= best.peak and not trace.evaluations[-1].val_loss < borderline:
                label = "borderline"
            yield Run(name, "tables", table.horizon, trace.lr, trace.loss, trace.grad_norm, trivial, label, onset, True)


def signs_of(run: Run) -> Column:
    """The signs at each step, shape ``(steps, signs)``."""
    history = History()
    settled = Settled(history)
    signs = Signs(history, settled, run.horizon, run.trivial)
    rows = []
    for step in run.steps():
        history.add(step)
        settled.add(step)
        rows.append(signs.of(step))
    return np.array(rows)


def fit(chosen: Sequence[tuple[Run, Column]]) -> Forest:
    """The score of these runs, each with its signs. A failed run counts from its onset on, a stable one throughout;
    tasks count alike, and every run comes with more and with less known."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(0)
    counts = Counter((run.group, run.label) for run, _ in chosen)
    rows, failed, weights = [], [], []
    for run, signs in chosen:
        steps = np.arange(max(15, run.onset), len(signs))
        steps = rng.choice(steps, min(len(steps), STEPS), replace=False)
        for hidden in HIDDEN.values():
            part = signs[steps]
            part[:, list(hidden)] = np.nan
            rows.append(part)
            failed += [run.label == "failed"] * len(steps)
            weights += [1.0 / math.sqrt(counts[run.group, run.label])] * len(steps)
    model = HistGradientBoostingClassifier(
        max_iter=TREES,
        max_leaf_nodes=LEAVES,
        learning_rate=RATE,
        min_samples_leaf=LEAST,
        early_stopping=False,
        random_state=0,
    )
    model.fit(np.concatenate(rows), np.array(failed), sample_weight=np.array(weights) / np.mean(weights))
    trees = [_node(tree[0].nodes, 0) for tree in model._predictors]
    return Forest(float(model._baseline_prediction.item()), trees)


def _node(nodes: Any, index: int) -> Node:
    node = nodes[index]
    if node["is_leaf"]:
        return float(f"{node['value']:.4g}")
    below, above = _node(nodes, node["left"]), _node(nodes, node["right"])
    return [
        int(node["feature_idx"]), float(f"{node['num_threshold']:.6g}"), bool(node["missing_go_to_left"]), below, above
    ]  # fmt: skip


def stopped_at(run: Run, forest: Forest, known: str) -> int | None:
    """The step at which the run is stopped, with all detectors and so much known; None where it is not."""
    monitor = Monitor(Detectors(), run.horizon, run.trivial if known.startswith("known") else None, forest)
    for step in run.steps():
        norm = math.nan if known.endswith("no gradients") else step.grad_norm
        found = monitor.observe(step.number, step.lr, step.loss, norm)
        if found is not None and found.fatal:
            return found.detected
    return None


def judge() -> str:
    """The page: every group of tasks judged by a score that was fitted to the others, in a process a core."""
    chosen = runs()
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        signs = [*pool.map(signs_of, chosen, chunksize=20)]
    judged = Judged([*zip(chosen, signs, strict=True)], good_runs(chosen))
    with ProcessPoolExecutor(mp_context=get_context("fork"), initializer=Judged.share, initargs=(judged,)) as pool:
        return page([stop for stops in pool.map(Judged.group, judged.groups) for stop in stops])


class Stop(NamedTuple):
    """A run, what was known of it, the step at which it was stopped if it was, and whether it ends among the good."""

    run: Run
    known: str
    detected: int | None
    good: bool


@dataclass(frozen=True)
class Judged:
    """All runs with their signs, and the positions of the good ones."""

    runs: list[tuple[Run, Column]]
    good: set[int]
    shared: ClassVar[Judged]
    """That of this process."""

    @property
    def groups(self) -> list[str]:
        return sorted({run.group for run, _ in self.runs})

    @classmethod
    def share(cls, judged: Judged) -> None:
        cls.shared = judged

    @classmethod
    def group(cls, group: str) -> list[Stop]:
        """The runs of one group of tasks, judged by a score that was fitted to the other groups."""
        judged = cls.shared
        forest = fit([(run, signs) for run, signs in judged.runs if run.group != group])
        stops = []
        for index, (run, _) in enumerate(judged.runs):
            if run.group != group or (run.source == "tables" and index % JUDGED):
                continue
            for known in HIDDEN:
                stops.append(Stop(run, known, stopped_at(run, forest, known), index in judged.good))
            for known, name in WITHOUT.items():
                stops.append(Stop(run, name, stopped_at(run, NEVER, known), index in judged.good))
        print(f"{group}: judged", flush=True)
        return stops


GOOD = 0.8
"""A healthy run is good that gets this share of the way from the trivial loss to that of the best of its task: the
twentieth part that ends lowest."""


def good_runs(chosen: Sequence[Run]) -> set[int]:
    """The positions of the good runs."""
    tails: dict[tuple[str, str, int], list[tuple[int, float]]] = {}
    for index, run in enumerate(chosen):
        if run.label == "stable":
            tail = detectors.tail_level(run.loss)
            tails.setdefault((run.source, run.task, run.horizon), []).append((index, tail))
    good = set()
    for alike in tails.values():
        best = float(np.percentile([tail for _, tail in alike], 5))
        good |= {i for i, tail in alike if chosen[i].trivial - tail >= GOOD * (chosen[i].trivial - best)}
    return good


def page(stops: Sequence[Stop]) -> str:
    """The tables."""
    lines = [HEAD, *columns("trivial loss and gradients")]
    for known in (*HIDDEN, *WITHOUT.values()):
        for source in ("detectors", "tables"):
            chosen = [one for one in stops if one.known == known and one.run.source == source]
            lines.append(row(f"{known}; {source}", chosen))
    lines += ["", "## Trivial loss hidden, by group of tasks", "", *columns("tasks")]
    chosen = [one for one in stops if one.known == "hidden"]
    for group in sorted({one.run.group for one in chosen}):
        lines.append(row(group, [one for one in chosen if one.run.group == group]))
    return "\n".join(lines) + "\n"


def columns(first: str) -> tuple[str, str]:
    return (
        f"| {first} | collapses | caught | delay, median | within a tenth | healthy runs stopped | good runs stopped |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    )


HEAD = """# Silent failures, with and without a known trivial loss

Command: `python -m benchmarks.silent_failure judge`. Where the trivial loss is known, a rule tells silent failures.
Where it is hidden, a score does; each group of tasks with the same kind of model and data is judged by a score that
was fitted to the other groups. Its threshold and patience were chosen on all groups together, so that it stops no
more healthy runs than the rule. All detectors run; a run is stopped by the first fatal verdict, of whatever kind.
*Delay*: from where the collapse begins to where it is stopped, as a share of the horizon. *Within a tenth*: share of
all collapses that are stopped at most a tenth of the horizon after they begin. *Good*: healthy, and among the best of
its task at the end. The label and its onset know the whole run. *Detectors*: the runs of `benchmarks/detectors.py`;
*tables*: those of the search's tables, one in three of those that the score is fitted to. *Without the score*: by the
other detectors alone.
"""


def row(name: str, chosen: Sequence[Stop]) -> str:
    failed = [one for one in chosen if one.run.label == "failed"]
    healthy = [one for one in chosen if one.run.label == "stable"]
    delays = [max(0, one.detected - one.run.onset) / one.run.horizon for one in failed if one.detected is not None]
    cells = [
        name,
        str(len(failed)),
        f"{len(delays) / len(failed):.0%}" if failed else "-",
        f"{np.median(delays):.0%}" if delays else "-",
        f"{sum(delay <= 0.1 for delay in delays) / len(failed):.0%}" if failed else "-",
        stopped_of(healthy),
        stopped_of([one for one in healthy if one.good]),
    ]
    return "| " + " | ".join(cells) + " |"


def stopped_of(chosen: Sequence[Stop]) -> str:
    stopped = sum(one.detected is not None for one in chosen)
    return f"{stopped} of {len(chosen)} ({stopped / len(chosen):.1%})" if chosen else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["fit", "judge"])
    if parser.parse_args().command == "judge":
        PAGE.write_text(judge())
        return
    forest = fit([(run, signs_of(run)) for run in runs() if run.for_fitting])
    stored = {"signs": NAMES, "base": round(forest.base, 4), "trees": forest.trees}
    FOREST.write_text(json.dumps(stored, separators=(",", ":")) + "\n")
    print(f"{FOREST}: {FOREST.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
