"""Whole studies that are really trained, with and without a warm-up that adapts among their candidates.

    python -m benchmarks.studies                    # all tasks, two studies each: a quarter of an hour
    python -m benchmarks.studies mlp rows --seeds 1
    python -m benchmarks.studies --write            # writes benchmarks/results/studies.md

A study here is what `autotune(model_fn, data, total_steps=...)` makes with its defaults and both decays in its space:
today's learning rate without a warm-up is the current schedule, any schedule may be proposed, and one trial runs at a
time. What it hands back is trained again on two fresh seeds, and compared there with the best schedule of the task's
table, which was trained on other seeds: regret is the difference in seed noises. The prior has not seen the task.

*With an adaptive candidate* one of the first two proposals is a run whose warm-up adapts. It is trained to half its
length, where its schedule is known, and then goes on or not like every other; what is confirmed is its schedule.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autowarmup.adaptive.climb import FIRST, ClimbSettings
from autowarmup.engines.base import MonitorSettings
from autowarmup.engines.local import LocalEngine
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.config import TuneConfig
from autowarmup.search.search import Search, Stage
from autowarmup.search.trial_state import TrialState
from autowarmup.study.driver import opened_study
from autowarmup.study.execution import carry_out
from autowarmup.study.progress import Silent
from autowarmup.training.task import ModelTask
from benchmarks.search.merit import Standard
from benchmarks.search.one_run import TWO_OPTIMIZERS, run_schedule
from benchmarks.search.pages import header, row
from benchmarks.search.prior import prior_for
from benchmarks.search.tables import Table, table_path
from benchmarks.search.tasks import TASKS

PAGE = Path(__file__).parent / "results" / "studies.md"
FIRST_SEED = 11
FRESH = (901, 902)
"""Seeds of no table and of no study."""
WORST = 25.0
"""More noises of regret than these count as so many in the means."""


class WithAdaptive(Search):
    """The search with a warm-up that adapts as one of its first proposals."""

    _adaptive: TrialState | None = None

    @property
    def _looks(self) -> int:
        return super()._looks - 1

    @property
    def _on_search_seed(self) -> list[TrialState]:
        """Its schedule is known once it has trained."""
        return [trial for trial in super()._on_search_seed if trial is not self._adaptive or trial.end]

    def _exploring_stage(self) -> Stage | None:
        if self._exploration is None:
            self._exploration = self._begin_exploration()
        if self._adaptive is None:
            self._adaptive = self._new_adaptive()
            return self._adaptive, self.config.rungs[1]
        return super()._exploring_stage()

    def _new_adaptive(self) -> TrialState:
        climb = ClimbSettings(
            total_steps=self.config.horizon,
            first_lr=FIRST * min(self.config.current_peak, self._expected_peak()),
            peak=self.peaks.high,
        )
        trial = self._new(climb.schedule_of([]), "proposal", self.config.seed)
        trial.spec = trial.spec.model_copy(update={"climb": climb})
        return trial


ARMS: dict[str, type[Search]] = {"as it is": Search, "with an adaptive candidate": WithAdaptive}


def whole_study(name: str, seed: int, arm: str) -> dict[str, Any]:
    """One study: its verdict, its cost in whole runs, its regret in seed noises."""
    plan, task, table = TASKS[name], TASKS[name].task(), Table.load(table_path(name))
    config = TuneConfig(
        total_steps=plan.horizon,
        space=SearchSpace(shapes=plan.shapes, warmup={"low": 0, "high": "40%"}, decay=("cosine", "linear")),
        seed=seed,
        current_peak=task.current_peak,
        beta2=task.beta2,
        trivial_loss=task.trivial_loss,
        task=task.describe(),
    )
    search = ARMS[arm](config, prior=prior_for(name))
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path) / "study"
        engine = LocalEngine(task, folder / "checkpoints", MonitorSettings.of(config))
        with opened_study(folder, config, None) as store:
            verdict = carry_out(search.decisions(), store, engine, Silent()).verdict
    tuned = table.grid[int(np.argmin(table.means))]
    regret = math.inf if verdict.schedule is None else _regret(task, verdict.schedule, tuned) / Standard(table).noise
    return {"verdict": verdict.kind, "runs": search.spent / plan.horizon, "regret": regret}


def _regret(task: ModelTask, schedule: Schedule, tuned: Schedule) -> float:
    return float(np.mean([run_schedule(task, seed, schedule) - run_schedule(task, seed, tuned) for seed in FRESH]))


def page(found: dict[str, dict[str, list[dict[str, Any]]]], seeds: int) -> str:
    """The table, and what it comes to."""
    about = __doc__.partition("\n\n")[2].partition("\n\n")[2].strip()
    lines = ["# Whole studies, really trained", "", "Made by `python -m benchmarks.studies --write`.", "", about, ""]
    lines += [
        f"Seeds {FIRST_SEED} to {FIRST_SEED + seeds - 1}; torch {torch.__version__}. Cells: runs; regrets; verdicts.",
        "",
    ]
    lines += header(["task", *ARMS])
    for name, arms in found.items():
        lines.append(row([name, *("; ".join(_told(studies)) for studies in arms.values())]))
    every = {arm: [study for arms in found.values() for study in arms[arm]] for arm in ARMS}
    for what, key, figure in (
        ("median regret", "regret", np.median),
        (f"mean regret, {WORST:g} at most", "regret", np.mean),
        ("mean of runs", "runs", np.mean),
    ):
        lines.append(row([what, *(f"{figure([min(one[key], WORST) for one in every[arm]]):.2f}" for arm in ARMS)]))
    return "\n".join([*lines, ""])


def _told(studies: list[dict[str, Any]]) -> list[str]:
    return [
        ", ".join(f"{study['runs']:.1f}" for study in studies),
        ", ".join(f"{study['regret']:.1f}" for study in studies),
        ", ".join(study["verdict"] for study in studies),
    ]


def main() -> None:
    known = [name for name in TASKS if table_path(name).exists() and name not in TWO_OPTIMIZERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=known)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name in options.tasks:
        found[name] = {arm: [] for arm in ARMS}
        for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
            for arm in ARMS:
                found[name][arm].append(whole_study(name, seed, arm))
                print(f"{name}, seed {seed}, {arm}: {found[name][arm][-1]}", flush=True)
    text = page(found, options.seeds)
    print(text)
    if options.write:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
