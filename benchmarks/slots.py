"""Whole studies on a Ray cluster with 1, 2, 4 and 8 slots: how long the answer takes, what it costs, what it is.

    python -m benchmarks.slots            # 10 minutes; --write stores the page

Tasks of the search benchmark are really trained. Their steps take a few milliseconds, so each is made to last as long
as a step of a larger model: a run takes ``--seconds``, in which the processor mostly waits, as it does for an
accelerator. So eight trials run beside each other also on a machine with two cores. Lengths of a run are those that the
study's own trials took. What a study hands back is judged by the schedule of the task's table that is most like it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch start

from autowarmup.engines.base import MonitorSettings
from autowarmup.engines.ray import RayEngine
from autowarmup.engines.settings import RaySettings
from autowarmup.schedule import Schedule
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.config import TuneConfig
from autowarmup.search.trials import SegmentResult
from autowarmup.study.driver import conduct, opened_study
from autowarmup.study.progress import Silent
from autowarmup.study.store import StudyStore
from autowarmup.training.base import RunningTrial, Task
from autowarmup.training.trace import Trace
from benchmarks.search.merit import Standard
from benchmarks.search.pages import header, row
from benchmarks.search.snapping import nearest
from benchmarks.search.tables import Table, table_path
from benchmarks.search.tasks import TASKS

LIVE = ("rows", "residual-mlp")
SLOTS = (1, 2, 4, 8)
PAGE = Path(__file__).parent / "results" / "slots.md"
COLUMNS = ["task", "slots", "run lengths", "with the cluster's start", "whole runs", "verdict", "schedule", "regret"]


class Paced:
    """A task whose steps last ``seconds`` at least."""

    def __init__(self, task: Task, seconds: float) -> None:
        self.task, self.seconds = task, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["task"], name)

    def __reduce__(self) -> Any:
        return Paced, (self.task, self.seconds)

    def trial(self, schedule: Schedule, seed: int, eval_every: int, state: Any, climb: Any) -> PacedTrial:
        return PacedTrial(self.task.trial(schedule, seed, eval_every, state, climb), self.seconds)


class PacedTrial:
    """A trial of :class:`Paced`."""

    def __init__(self, trial: RunningTrial, seconds: float) -> None:
        self.trial, self.seconds = trial, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trial, name)

    def run(self, until: int) -> Iterator[Trace]:
        began = time.perf_counter()
        for block in self.trial.run(until):
            time.sleep(max(0.0, len(block) * self.seconds - (time.perf_counter() - began)))
            yield block
            began = time.perf_counter()


def measured(name: str, slots: int, seconds: float) -> str:
    """One study's row."""
    plan, standard = TASKS[name], Standard(Table.load(table_path(name)))
    task, table = plan.task(), standard.table
    config = TuneConfig(
        total_steps=table.horizon,
        space=SearchSpace.load("default"),
        current_peak=task.current_peak,
        beta2=task.beta2,
        trivial_loss=task.trivial_loss,
        task=task.describe(),
    )
    paced = Paced(task, seconds / table.horizon)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        began = time.time()
        trials = RayEngine(paced, folder / "checkpoints", MonitorSettings.of(config), RaySettings(workers=slots))
        with (
            closing(trials) as engine,
            opened_study(folder / "study", config, None) as store,
        ):
            result = conduct(store, config, engine, Silent())
            ended = time.time()
            trained = segments(store)
    regret = "none" if result.schedule is None else f"{standard.regret(nearest(result.schedule, standard.mean)):.1f}"
    chosen = "none" if result.schedule is None else result.schedule.describe()
    length = table.horizon * sum(item.seconds for item in trained) / sum(len(item.trace) for item in trained)
    lengths = [f"{(ended - since) / length:.2f}" for since in (min(item.started_at for item in trained), began)]
    return row([name, str(slots), *lengths, f"{result.cost.runs:.1f}", result.verdict.kind, chosen, regret])


def segments(store: StudyStore) -> list[SegmentResult]:
    """All segments that were trained."""
    found = [store.segment(item.number, item.until) for item in store.arrivals()]
    return [item for item in found if item is not None]


def main() -> None:
    import ray

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="that a run takes")
    parser.add_argument("--write", action="store_true", help="store the page")
    options = parser.parse_args()
    lines = header(COLUMNS)
    for name in LIVE:
        for slots in SLOTS:
            ray.init(
                address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False,
                object_store_memory=100 * 2**20,
            )  # fmt: skip
            lines.append(measured(name, slots, options.seconds))
            print(lines[-1], flush=True)
            ray.shutdown()
    about = (
        f"Whole studies, verdict included, on Ray {ray.__version__}; runs of {options.seconds:g} s, seed 0, "
        f"{os.cpu_count()} CPU cores. `python -m benchmarks.slots --write`."
    )
    text = "\n".join(["# Slots, live on Ray", "", about, "", *lines, ""])
    print(text)
    if options.write:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
