"""The search benchmark measures what it says: its lanes train as trials do, its tables are the stored ones, and the
search and its figures of merit do on them what the documentation claims."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from autowarmup import Schedule
from autowarmup.training.trace import Trace
from benchmarks.search.lanes import Lanes
from benchmarks.search.merit import Outcome, Standard, quantile
from benchmarks.search.objective import BudgetSpent, LiveObjective, TableObjective
from benchmarks.search.ours import autowarmup, verdict
from benchmarks.search.peers import PEERS
from benchmarks.search.tables import FOLDER, SUMS, Table, checksums, table_path
from benchmarks.search.tasks import TASKS


@cache
def standard(name: str) -> Standard:
    return Standard(Table.load(table_path(name)))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # attention has no vectorised kernel on the CPU
@pytest.mark.parametrize("name", ["mlp", "residual-cnn", "autoencoder", "post-norm-gpt"])
def test_lanes_train_as_trials_do(name: str) -> None:
    """AdamW and SGD, images and text: losses, norms and validations agree, whatever the other lanes do."""
    plan = TASKS[name]
    task = plan.task()
    schedules = [
        Schedule(peak=plan.peaks[4], horizon=20),
        Schedule(peak=plan.peaks[10], horizon=20, warmup_steps=3, shape="sqrt"),
        Schedule(peak=plan.peaks[5], horizon=20, warmup_steps=5, shape="linear", decay="linear"),
    ]
    lanes = Lanes(task, schedules, 3, 10).run()
    for schedule, lane in list(zip(schedules, lanes, strict=True))[:1]:
        trial = Trace.join(list(task.trial(schedule, 3, 10, None).run(20)))
        np.testing.assert_array_equal(lane.lr, trial.lr)
        np.testing.assert_allclose(lane.loss, trial.loss, rtol=1e-3)
        np.testing.assert_allclose(lane.grad_norm, trial.grad_norm, rtol=1e-2)
        for mine, theirs in zip(lane.evaluations, trial.evaluations, strict=True):
            assert (mine.val_loss, mine.val_loss_ema) == pytest.approx((theirs.val_loss, theirs.val_loss_ema), rel=1e-3)


def test_the_tables_are_those_of_the_checksums_and_cover_the_grid() -> None:
    assert dict(reversed(line.split()) for line in SUMS.read_text().splitlines()) == checksums()
    for name, plan in TASKS.items():
        table = standard(name).table
        assert list(table.grid) == plan.grid()
        assert len(table.grid) >= 150
        assert max(plan.peaks) / min(plan.peaks) > 10**2.49
        assert len(table.seeds) >= 3
        assert table.finals.shape == (len(table.grid), len(table.seeds))
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 20e6


def test_a_table_says_what_training_says() -> None:
    plan = TASKS["mlp"]
    table = standard("mlp").table
    schedule = table.grid[100]
    trace = Trace.join(list(plan.task().trial(schedule, 1, 10, None).run(plan.horizon)))
    assert trace.evaluations[-1].val_loss == pytest.approx(table.traces[schedule, 1].evaluations[-1].val_loss, rel=0.05)


def test_a_table_that_is_saved_and_read_is_the_same(tmp_path: Path) -> None:
    table = standard("mlp").table
    grid = table.grid[:2]
    known = {key: trace for key, trace in table.traces.items() if key[0] in (*grid, *table.ramps, *table.baselines)}
    replace(table, grid=grid, traces=known).save(tmp_path / "small.npz")
    read = Table.load(tmp_path / "small.npz")
    assert (read.name, read.grid, read.ramps, read.baselines, read.seeds) == (
        *(table.name, grid, table.ramps, table.baselines, table.seeds),
    )
    for key, trace in known.items():
        np.testing.assert_allclose(read.traces[key].loss, trace.loss, rtol=1e-3)
        assert read.traces[key].evaluations == trace.evaluations


def test_a_tuner_finds_a_schedule() -> None:
    """Of the others, the simplest one; `make bench-search` runs them all."""
    objective = TableObjective(standard("mlp").table, 0, 3 * standard("mlp").table.horizon)
    with suppress(BudgetSpent):
        PEERS["random"](objective, 0)
    assert objective.completions


def test_every_step_is_charged_once_and_the_budget_ends_it() -> None:
    table = standard("mlp").table
    objective = TableObjective(table, 0, 2 * table.horizon)
    schedule, other = table.grid[50], table.grid[60]
    for until in (50, 20, 50, 200, 200):
        objective.train(schedule, until)
    assert (objective.spent, len(objective.completions)) == (200, 1)
    objective.train(other, 200)
    with pytest.raises(BudgetSpent):
        objective.train(table.grid[70], 10)
    assert objective.train(other, 100).end == 100


def test_a_live_objective_counts_as_a_table_does() -> None:
    plan = TASKS["mlp"]
    table = standard("mlp").table
    live = LiveObjective(plan.task(), "mlp", table.grid, 0, 1000)
    stored = TableObjective(table, 0, 1000)
    for until in (50, 100, 200):
        found = [objective.train(table.grid[40], until) for objective in (live, stored)]
        assert found[0].evaluations[-1].val_loss == pytest.approx(found[1].evaluations[-1].val_loss, rel=0.05)
    assert live.spent == stored.spent == 200
    assert [done.schedule for done in live.completions] == [table.grid[40]]


def test_the_best_is_no_luckier_than_choosing_on_other_seeds() -> None:
    for name in TASKS:
        found = standard(name)
        assert found.table.means.min() <= found.best
        assert found.noise > 0.0
        assert 0.0 < np.mean([found.regret(schedule) <= 1.0 for schedule in found.table.grid]) < 0.5


def test_quantiles_and_regrets_know_infinity() -> None:
    assert quantile([1.0, math.inf, 2.0], 0.5) == 2.0
    assert quantile([1.0, math.inf, math.inf], 0.5) == math.inf
    done = Outcome(cost=2.0, regrets=((1.5, 3.0), (2.0, 0.5)), spent=4.0, unstable=0.0)
    assert [done.regret_at(budget) for budget in (1.0, 1.5, 1.9, 9.0)] == [math.inf, 3.0, 3.0, 0.5]


@pytest.mark.parametrize("name", list(TASKS))
def test_one_schedule_gets_to_its_end_for_little_more_than_its_own_run(name: str) -> None:
    table = standard(name).table
    for number, seed in enumerate(table.seeds):
        objective = TableObjective(table, seed, 3 * table.horizon)
        autowarmup(objective, number)
        assert objective.completions[0].spent <= 2.5 * table.horizon


def test_the_search_is_the_same_for_the_same_seed() -> None:
    table = standard("autoencoder").table
    runs = []
    for _ in range(2):
        objective = TableObjective(table, 0, 5 * table.horizon)
        autowarmup(objective, 7)
        runs.append((objective.completions, objective.spent, objective.trained))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", list(TASKS))
def test_a_study_keeps_to_its_budget_and_is_never_worse_than_the_better_baseline(name: str) -> None:
    """Never by more than the seed noise, in the mean over the seeds."""
    found = standard(name)
    table = found.table
    finals = {s: [table.traces[s, seed].evaluations[-1].val_loss for seed in table.seeds] for s in table.baselines}
    baselines = {schedule: float(np.mean(losses)) for schedule, losses in finals.items()}
    for number in range(len(table.seeds)):
        kind, schedule, runs = verdict(table, number)
        assert kind in ("tuned", "tie", "leaning")
        assert schedule is not None
        assert runs <= 12.0
        assert (found.mean | baselines)[schedule] <= min(baselines.values()) + found.noise


def test_verdicts_where_the_truth_is_plain() -> None:
    """Today's rate is far too low for the pre-norm GPT."""
    assert verdict(standard("pre-norm-gpt").table, 0)[0] == "tuned"
