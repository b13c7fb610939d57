"""The search benchmark measures what it says: its lanes train as trials do, its tables are the stored ones, and the
search and its figures of merit do on them what the documentation claims."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autowarmup import Schedule
from autowarmup.search.config import validation_interval
from autowarmup.search.decisions import Conclusion, Decisions, Start, Wait
from autowarmup.search.probe import ramp
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.training.trace import Evaluation, Trace
from benchmarks.search.answers import study_summary
from benchmarks.search.compare import main, tables
from benchmarks.search.lanes import Lanes
from benchmarks.search.merit import Change, Outcome, Standard, outcome, quantile
from benchmarks.search.methods import METHODS
from benchmarks.search.objective import BudgetSpent, LiveObjective, TableObjective
from benchmarks.search.one_shot import ramp_15, today_10
from benchmarks.search.ours import autowarmup, carry_out, study
from benchmarks.search.plots import plot
from benchmarks.search.slots import Slots
from benchmarks.search.tables import FOLDER, MANTISSA_BITS, RAMPS, SUMS, Table, checksums, table_path
from benchmarks.search.tasks import TASKS


@cache
def standard(name: str) -> Standard:
    return Standard(Table.load(table_path(name)))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # attention has no vectorised kernel on the CPU
@pytest.mark.parametrize(
    "name", ["mlp", "residual-cnn", "autoencoder", "post-norm-gpt", "gru", "batch-norm-cnn", "residual-mlp", "muon-gpt"]
)
def test_lanes_train_as_trials_do(name: str) -> None:
    """Every optimizer, images and text: losses, norms and validations agree, whatever the other lanes do."""
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
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 40e6


def test_a_table_says_what_training_says() -> None:
    plan = TASKS["mlp"]
    table = standard("mlp").table
    schedule = table.grid[100]
    trace = Trace.join(list(plan.task().trial(schedule, 1, 10, None).run(plan.horizon)))
    assert trace.evaluations[-1].val_loss == pytest.approx(table.traces[schedule, 1].evaluations[-1].val_loss, rel=0.05)


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
    live = LiveObjective(plan.task(), table, 0, 1000)
    stored = TableObjective(table, 0, 1000)
    for until in (50, 100, 200):
        found = [objective.train(table.grid[40], until) for objective in (live, stored)]
        assert found[0].evaluations[-1].val_loss == pytest.approx(found[1].evaluations[-1].val_loss, rel=0.05)
    assert live.spent == stored.spent == 200
    assert [done.schedule for done in live.completions] == [table.grid[40]]


@pytest.mark.slow
def test_the_best_is_no_luckier_than_choosing_on_other_seeds() -> None:
    for name in TASKS:
        found = standard(name)
        assert found.table.means.min() <= found.best
        assert found.noise > 0.0
        assert 0.0 < np.mean([found.regret(schedule) <= 1.0 for schedule in found.table.grid]) < 0.5


def test_quantiles_and_regrets_know_infinity() -> None:
    assert quantile([1.0, math.inf, 2.0], 0.5) == 2.0
    assert quantile([1.0, math.inf, math.inf], 0.5) == math.inf
    done = Outcome((Change(1.5, 0.5, 3.0), Change(2.0, 1.0, 0.5)), spent=4.0, unstable=0.0)
    assert [done.regret_at_runs(runs) for runs in (1.0, 1.5, 1.9, 9.0)] == [math.inf, 3.0, 3.0, 0.5]
    assert [done.regret_at_time(time) for time in (0.4, 0.5, 9.0)] == [math.inf, 3.0, 0.5]
    assert (done.runs_until_within, done.time_until_within) == (2.0, 1.0)


@pytest.mark.parametrize("name", list(TASKS))
def test_one_schedule_gets_to_its_end_for_little_more_than_its_own_run(name: str) -> None:
    """The autoencoder's runs are on a plateau a quarter into them, so that three may be looked at until their half."""
    table = standard(name).table
    most = 2.7 if name == "autoencoder" else 2.5
    for number, seed in enumerate(table.seeds):
        objective = TableObjective(table, seed, 3 * table.horizon)
        autowarmup(objective, number)
        assert objective.completions[0].time <= most * table.horizon


def test_the_search_is_the_same_for_the_same_seed() -> None:
    table = standard("autoencoder").table
    runs = []
    for _ in range(2):
        objective = TableObjective(table, 0, 5 * table.horizon)
        autowarmup(objective, 7)
        runs.append((objective.completions, objective.spent, objective.trained))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", list(TASKS))
def test_a_study_keeps_to_its_budget_and_is_never_worse_than_the_current_schedule(name: str) -> None:
    """Never by more than the seed noise, in the mean over the seeds."""
    found = standard(name)
    table = found.table
    for number in range(len(table.seeds)):
        answer = study(table, number)
        assert answer.verdict.kind in ("tuned", "tie", "leaning")
        assert answer.schedule is not None
        assert answer.runs <= 10.7
        assert found.mean[answer.schedule] <= found.mean[found.current] + found.noise


def test_verdicts_where_the_truth_is_plain() -> None:
    """Today's rate is far too low for the pre-norm GPT."""
    found = standard("pre-norm-gpt")
    assert found.truth == study(found.table, 0).verdict.kind == "tuned"


# --- Any table ------------------------------------------------------------------------------------------------


def small_table(horizon: int = 80) -> Table:
    """A table of 32 schedules under two seeds, computed: the best peak is 0.1, a warm-up helps a little, a peak of 10
    diverges."""
    rng = np.random.default_rng(0)
    shifts = rng.normal(0.0, 0.01, 2)
    plans: list[dict[str, Any]] = [{}]
    plans += [{"warmup_steps": round(share * horizon), "shape": "linear"} for share in (0.1, 0.2, 0.4)]
    grid = [
        Schedule(peak=peak, horizon=horizon, decay=decay, **plan)
        for peak in (0.01, 0.1, 1.0, 10.0)
        for decay in ("linear", "cosine")
        for plan in plans
    ]
    ramps = [ramp(0.003, round(share * horizon)) for share in RAMPS]
    baselines = Schedule(peak=0.003, horizon=horizon), Schedule.untuned_linear(0.003, horizon, 0.9)
    every = validation_interval(horizon)

    def trace(schedule: Schedule, seed: int) -> Trace:
        off = abs(math.log10(schedule.peak / 0.1))
        final = 0.5 + 0.3 * off - 0.2 * schedule.duration / horizon + shifts[seed] + rng.normal(0.0, 0.01)
        steps = np.arange(1, schedule.horizon + 1)
        loss = final + (2.0 - final) * np.exp(-5.0 * steps / schedule.horizon)
        if schedule in ramps:
            loss = 2.0 - np.log1p(100 * schedule.curve()) + (schedule.curve() / 0.3) ** 2
        elif schedule.peak == 10.0:
            loss[schedule.horizon // 2 :] = math.nan
        marks = [*range(every, schedule.horizon, every), schedule.horizon]
        evaluations = tuple(Evaluation(step, float(loss[step - 1]), float(loss[step - 1])) for step in marks)
        return Trace(schedule.curve(), loss, np.ones(schedule.horizon), evaluations)

    traces = {(s, seed): trace(s, seed) for s in (*grid, *ramps, *baselines) for seed in (0, 1)}
    return Table(
        "bowl", "computed", horizon, 0.003, 0.9, None, tuple(grid), tuple(ramps), baselines, (0, 1), traces
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One table at two horizons, and one whose name has an @ though there is no other of its task."""
    small_table().save(tmp_path / "bowl.npz")
    small_table(40).save(tmp_path / "bowl@40.npz")
    small_table(40).save(tmp_path / "lone@40.npz")
    return tmp_path


def test_a_table_comes_back_from_its_file(folder: Path) -> None:
    table, stored = small_table(), Table.load(folder / "bowl.npz")
    for field in ("name", "about", "horizon", "current_peak", "beta2", "trivial_loss", "grid", "ramps", "baselines"):
        assert getattr(stored, field) == getattr(table, field)
    assert stored.seeds == table.seeds
    assert stored.traces.keys() == table.traces.keys()
    for key, trace in table.traces.items():
        np.testing.assert_array_equal(stored.traces[key].lr, trace.lr)
        np.testing.assert_allclose(stored.traces[key].loss, trace.loss, rtol=2.0**-MANTISSA_BITS)
        assert [e.step for e in stored.traces[key].evaluations] == [e.step for e in trace.evaluations]
    np.testing.assert_allclose(stored.finals, table.finals, rtol=1e-6)


def test_a_file_has_the_documented_fields(folder: Path) -> None:
    documentation = (Path(__file__).parent.parent / "docs" / "search.md").read_text()
    with np.load(folder / "bowl.npz") as stored:
        fields = [*stored.files, *json.loads(str(stored["meta"]))]
    assert "checkpoints" in fields
    assert [field for field in fields if f"| `{field}` |" not in documentation] == []


def test_other_horizons_of_a_task_are_left_out(folder: Path) -> None:
    assert [path.name for path in tables(folder)] == ["bowl.npz", "lone@40.npz"]


def test_a_folder_of_unknown_tables_is_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "records.json"
    options = ["--tables", folder, "--slots", 1, 8, "--searches", 2, "--json", file]
    main([str(option) for option in [*options, "--methods", "autowarmup", "random", "ramp_15"]])
    page = capsys.readouterr().out

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    records = json.loads(file.read_text(), parse_constant=refuse)
    assert {(r["table"], r["method"], r["slots"]) for r in records} == {
        (table, method, slots)
        for table in ("bowl", "lone@40")
        for method in ("autowarmup", "random", "ramp_15")
        for slots in (1, 8)
    }
    documentation = (Path(__file__).parent.parent / "docs" / "search.md").read_text()
    for record in records:
        fields = [*record, *record["search"], *record.get("study", {}), *record["search"]["curve"]]
        assert [field for field in fields if f"`{field}`" not in documentation] == []
        assert ("study" in record) == (record["method"] == "autowarmup")
        assert list(record["search"]["regret_at_runs"]) == ["1", "1.5", "2", "5", "10"]
        marks = {1: ["1", "1.5", "2", "5", "10"], 8: ["1", "1.5", "2"]}
        assert list(record["search"]["regret_at_time"]) == marks[record["slots"]]
        assert sum(record.get("study", {"verdicts": {"": 2}})["verdicts"].values()) == record["searches"] == 2
        if record["method"] == "ramp_15":
            assert record["search"]["regret_at_runs"]["1"] == {"median": None, "p90": None}
    assert "bowl" in page
    assert "lone@40" in page

    plot(records, folder)
    assert (folder / "search.png").exists()
    assert (folder / "search_time.png").exists()


def test_a_folder_without_tables_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--tables", str(tmp_path)])
    assert f"no *.npz tables in {tmp_path}" in capsys.readouterr().err


def test_a_study_takes_the_pairs_that_a_table_has() -> None:
    table = small_table()
    answers = [study(table, number) for number in range(2)]
    figures = study_summary(Standard(table), answers)
    assert figures["true_verdict"] == "tuned"
    assert figures["regret"]["worst"] >= figures["regret"]["median"]
    assert all(answer.schedule in Standard(table).mean for answer in answers)
    assert all(answer.time <= answer.runs for answer in answers)


# --- Slots ----------------------------------------------------------------------------------------------------


def test_segments_arrive_in_the_order_of_their_ends() -> None:
    """Two slots, four segments: 5 and 3 steps start at once, 3 more when the second ends, 1 when the first does."""
    schedule = Schedule(peak=0.1, horizon=100)
    lengths, arrived = (5, 3, 3, 1), []
    slots: Slots[SegmentResult] = Slots(2)

    def decisions() -> Decisions:
        for number, length in enumerate(lengths):
            yield Start(TrialSpec(number=number, candidate=0, role="proposal", seed=0, schedule=schedule), length)
        for _ in lengths:
            arrival = yield Wait()
            assert arrival is not None
            arrived.append((arrival.result.number, slots.now, arrival.slots))
        return Conclusion(None, None)  # type: ignore[arg-type]

    def answer(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        return SegmentResult(spec.number, until, Trace(np.ones(until), np.ones(until), np.ones(until)))

    carry_out(decisions(), answer, slots)
    assert arrived == [(1, 3, 2), (0, 5, 2), (2, 6, 2), (3, 6, 2)]  # of two that end at 6, the one that started first


@pytest.mark.parametrize("method", ["random", "optuna_tpe_hyperband", "ray_asha_optuna_grace"])
@pytest.mark.parametrize("slots", [1, 8])
def test_general_tuners_fill_their_slots(method: str, slots: int) -> None:
    found = Standard(small_table())
    objective = TableObjective(found.table, 0, 10 * found.table.horizon, Slots(slots))
    with suppress(BudgetSpent):
        METHODS[method](objective, 0)
    first = min(objective.completions, key=lambda done: done.time)
    begun = objective.spent_by(first.time)
    assert begun <= slots * first.time
    assert begun > first.time if slots > 1 else begun == first.time
    assert outcome(found, objective, 0).changes[0].time >= 1.0


def test_eight_slots_are_faster_than_one() -> None:
    """The same eight schedules, one after the other and beside each other."""
    table = small_table()
    times = {}
    for slots in (1, 8):
        objective = TableObjective(table, 0, 8 * table.horizon, Slots(slots))
        with pytest.raises(BudgetSpent):
            METHODS["random"](objective, 3)
        times[slots] = max(done.time for done in objective.completions)
    assert times[8] <= 2 * table.horizon < 6 * table.horizon <= times[1]


def test_one_shot_rules_cost_one_run_and_their_probe() -> None:
    table = small_table()
    for rule, cost in ((today_10, 80), (ramp_15, 88)):  # the ramp nearest to a tenth of the run has 8 steps
        objective = TableObjective(table, 0, 800)
        rule(objective, 0)
        (done,) = objective.completions
        assert (objective.spent, objective.slots.number) == (cost, 1)
        assert (done.time, done.schedule.decay.kind) == (cost, "linear")


def test_trials_that_are_told_apart_are_charged_each() -> None:
    objective = TableObjective(small_table(), 0, 800)
    schedule = objective.grid[0]
    for trial in (1, 2):
        objective.train(schedule, 80, trial=trial)
    assert (objective.spent, objective.trained[schedule], len(objective.completions)) == (160, 160, 2)
