"""A study in one run: its warm-up adapts, the trained model is kept, and what broke is tried once more, gentler."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from torch import nn

from autowarmup import AdaptiveWarmup, LoopRun, Schedule, SearchSpace, TuneResult, autotune
from autowarmup.adaptive.climb import FIRST, Climb, ClimbSettings
from autowarmup.cli.program import cli
from autowarmup.errors import InputError, TaskFailedError
from autowarmup.study.progress import Silent
from autowarmup.training.loop import LoopTask
from autowarmup.training.task import ModelTask
from autowarmup.training.trace import Trace
from tests.tasks import digits, mlp, settings
from tests.test_trial import paused

of_mlflow = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
STEPS = 40
DOWNHILL, UPHILL = -1.0, 1.0
OUTLINE = Schedule(peak=1e-3, horizon=STEPS)


def climb(**changes: Any) -> ClimbSettings:
    return ClimbSettings(**{"total_steps": STEPS, "first_lr": 1e-3} | changes)


def one_run(study: Path, **changes: Any) -> TuneResult:
    return autotune(**settings(mode="one-run", study=study) | changes)


def by_own_loop(study: Path, train_fn: Callable[[LoopRun], Any], **changes: Any) -> TuneResult:
    given = {"total_steps": STEPS, "mode": "one-run", "mlflow": False, "progress": False}
    return autotune(train_fn=train_fn, study=study, **given | changes)


def fit(
    run: LoopRun, scheduler_of: Callable[[LoopRun, torch.optim.Optimizer], Any] | None = None, calls: int = 1
) -> list[float]:
    """A loop of the user's own; ``calls`` is how often it steps its scheduler."""
    torch.manual_seed(run.seed)
    (x, y), (x_val, y_val) = [tuple(map(torch.from_numpy, part)) for part in digits()]
    model = nn.Linear(64, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = run.schedule.scheduler(optimizer) if scheduler_of is None else scheduler_of(run, optimizer)
    lrs = []
    for step in range(run.total_steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[step * 8 : step * 8 + 64]), y[step * 8 : step * 8 + 64])
        loss.backward()
        optimizer.step()
        for _ in range(calls):
            scheduler.step()
        with torch.no_grad():
            val_loss = float(nn.functional.cross_entropy(model(x_val), y_val)) if run.should_validate else None
        if run.report(loss.item(), val_loss=val_loss):
            break
    return lrs


# --- the schedule that was made ---------------------------------------------------------------------------


@given(
    slopes=st.lists(st.sampled_from([DOWNHILL, UPHILL, None]), min_size=STEPS, max_size=STEPS),
    peak=st.sampled_from([None, 5e-4, 1e-3, 4e-3]),
)
def test_the_learning_rates_tell_the_schedule_that_a_climb_made(slopes: list[float | None], peak: float | None) -> None:
    one, lrs = Climb(climb(peak=peak)), []
    for slope in slopes:
        lrs.append(one.lr)
        one.advance(slope)
    assert climb(peak=peak).schedule_of(lrs) == one.schedule


def test_steps_that_a_scaler_skipped_leave_the_schedule_as_it_is() -> None:
    one, lrs = Climb(climb()), []
    for step in range(STEPS):
        skipped = step % 5 == 0
        lrs.append(0.0 if skipped else one.lr)
        one.advance(None if skipped else DOWNHILL)
    assert climb().schedule_of(lrs) == one.schedule


def test_before_its_end_a_warmup_is_as_far_as_it_got() -> None:
    assert climb().schedule_of([]).describe() == "peak 0.001, no warm-up, linear decay to 0 at step 40"
    assert climb().schedule_of([1e-3, 2e-3, 4e-3]).peak == 4e-3
    assert climb().schedule_of([1e-3, 2e-3, 4e-3]).warmup_steps == 2


# --- trials -----------------------------------------------------------------------------------------------


def model_trial(state: io.BytesIO | None = None, **changes: Any) -> Any:
    task = ModelTask(mlp, digits(), optimizer=changes.pop("optimizer", None))
    return task.trial(OUTLINE, 0, 10, state, climb(**changes))


def several(model: nn.Module) -> list[torch.optim.Optimizer]:
    weights = list(model.parameters())
    return [torch.optim.SGD(weights[:2], lr=0.1), torch.optim.AdamW(weights[2:], lr=1e-2)]


@pytest.mark.parametrize("optimizer", [None, several])
@pytest.mark.parametrize("pause", [1, 10, 15, 30])
def test_a_paused_climb_goes_on_bit_for_bit(optimizer: Any, pause: int) -> None:
    whole = Trace.join(list(model_trial(optimizer=optimizer).run(STEPS)))
    first = model_trial(optimizer=optimizer)
    parts = list(first.run(pause))
    parts += list(model_trial(paused(first), optimizer=optimizer).run(STEPS))
    again = Trace.join(parts)
    assert np.array_equal(again.lr, whole.lr)
    assert np.array_equal(again.loss, whole.loss)


def test_a_loop_of_ones_own_climbs_as_the_scheduler_alone_does() -> None:
    own: list[float] = []

    def train(run: LoopRun) -> None:
        own.extend(fit(run))

    def alone(run: LoopRun) -> None:
        own.extend(fit(run, lambda _, optimizer: AdaptiveWarmup(optimizer, STEPS)))

    trial = LoopTask(train, current_peak=1e-3).trial(OUTLINE, 0, 10, None, climb(first_lr=1e-3 * FIRST))
    trace = Trace.join(list(trial.run(STEPS)))

    class Run:
        schedule, total_steps, seed, should_validate = OUTLINE, STEPS, 0, False

        def report(self, loss: float, **_: Any) -> bool:
            return False

    alone(Run())  # type: ignore[arg-type]
    assert own[:STEPS] == own[STEPS:] == trace.lr.tolist()
    assert max(own) > 2 * own[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda run: fit(run, calls=0), r"step 2, and its scheduler's step\(\) was called 0 times"),
        (lambda run: fit(run, calls=2), r"step 1, and its scheduler's step\(\) was called 2 times"),
        (lambda run: run.report(run.schedule.lr_at(0)), "can't tell a learning rate beforehand"),
        (lambda run: run.report(run.schedule.curve()[0]), "can't tell a learning rate beforehand"),
        (lambda run: run.report(1.0), "doesn't use the schedule"),
        (lambda run: run.report(1.0, lr=1e-3), "doesn't use the schedule"),
        (
            lambda run: fit(run, lambda run, o: [run.schedule.scheduler(o), run.schedule.scheduler(o)]),
            "second scheduler",
        ),
    ],
)
def test_a_loop_that_does_not_let_it_adapt_is_told(wrong: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises((InputError, TaskFailedError), match=message):
        by_own_loop(tmp_path / "study", wrong)


# --- the study --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    return one_run(tmp_path_factory.mktemp("one-run") / "study")


def test_one_run_is_trained_and_nothing_is_compared(result: TuneResult) -> None:
    assert result.verdict.kind == "not compared"
    assert result.cost.runs == 1.0
    assert [record.outcome for record in result.records] == ["completed"]
    trace = result.trace(0)
    assert trace.lr[0] == FIRST * 1e-3
    assert result.schedule is not None
    assert trace.lr[16:].tolist() == result.schedule.curve()[16:].tolist()
    assert (result.schedule.warmup_steps, result.schedule.decay.kind) == (16, "linear")
    assert "Nothing was compared" in result.summary()
    assert result.gain is None


def test_the_trained_model_is_kept(result: TuneResult) -> None:
    assert result.trained is not None
    assert str(result.trained) in result.summary()
    model, (x, y) = mlp(), map(torch.from_numpy, digits()[1])
    model.load_state_dict(torch.load(result.trained, weights_only=True)["model"])
    model.eval()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(x), y)
    assert result.records[0].final_loss == pytest.approx(float(loss), rel=1e-5)
    assert not list((result.trained.parent / "checkpoints").glob("*"))


def test_the_report_shows_what_there_is(result: TuneResult) -> None:
    page = (Path(result.study) / "report.html").read_text()
    assert "nothing was compared" in page
    assert page.count("<img") == 2
    assert TuneResult.load(result.study) == result


class Interrupts(Silent):
    """Stops the study at a step, as Ctrl-C would; counts what is trained."""

    def __init__(self, at: int) -> None:
        self.at, self.trained = at, 0

    def observe(self, spec: Any, block: Trace) -> None:
        self.trained += len(block)
        if block.end > self.at:
            raise KeyboardInterrupt


def test_killed_it_goes_on_where_it_was(result: TuneResult, tmp_path: Path) -> None:
    first, second = Interrupts(at=25), Interrupts(at=STEPS)
    with pytest.raises(KeyboardInterrupt):
        one_run(tmp_path / "study", progress=first)
    again = one_run(tmp_path / "study", progress=second)
    assert second.trained <= STEPS - 24
    assert again.schedule == result.schedule
    assert again.trace(0).to_bytes() == result.trace(0).to_bytes()
    assert again.trained is not None


def test_a_finished_one_is_not_trained_again(result: TuneResult) -> None:
    progress = Interrupts(at=STEPS)
    again = one_run(Path(result.study), progress=progress)
    assert (progress.trained, again.schedule) == (0, result.schedule)
    assert again.trained == result.trained


def breaking(above: float) -> Callable[[LoopRun], None]:
    def train(run: LoopRun) -> None:
        weight = nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        scheduler = run.schedule.scheduler(optimizer)
        for _ in range(run.total_steps):
            optimizer.zero_grad()
            (weight**2 / 200).sum().backward()
            lr = optimizer.param_groups[0]["lr"]
            optimizer.step()
            scheduler.step()
            loss = weight.item() ** 2 if lr <= above else math.nan
            if run.report(loss, val_loss=loss if run.should_validate else None):
                break

    return train


def test_a_run_that_breaks_is_made_once_more_with_a_cap(tmp_path: Path) -> None:
    found = by_own_loop(tmp_path / "study", breaking(above=0.3), current_peak=0.1)
    first, second = found.records
    assert (first.outcome, second.outcome) == ("unstable", "completed")
    assert found.verdict.kind == "not compared"
    highest = float(found.trace(0).lr.max())
    assert found.schedule is not None
    assert found.schedule.peak == pytest.approx(highest / 3)
    assert f"became unstable at learning rates of up to {highest:.3g}" in found.verdict.message
    assert found.cost.runs <= 2.0


def test_where_each_breaks_nothing_is_stable(tmp_path: Path) -> None:
    found = by_own_loop(tmp_path / "study", breaking(above=0.0), current_peak=0.1, budget="2 runs")
    assert (found.verdict.kind, found.schedule, found.trained) == ("nothing stable", None, None)
    assert "lower current_peak" in found.verdict.message


def test_the_budget_may_leave_no_second_run(tmp_path: Path) -> None:
    found = by_own_loop(tmp_path / "study", breaking(above=0.3), current_peak=0.1, budget="1 run")
    assert (found.verdict.kind, len(found.records)) == ("nothing stable", 1)


def test_a_model_that_learned_nothing_is_not_passed_over(tmp_path: Path) -> None:
    (x, y), validation = digits()
    shuffled = np.random.default_rng(0).permutation(y)
    found = one_run(tmp_path / "study", data=((x, shuffled), validation))
    assert len(found.records) == 2
    assert "no better than ignoring the input" in found.verdict.message


@pytest.mark.parametrize(("current_peak", "too_low"), [(1e-7, True), (1e-2, False)])
def test_a_learning_rate_that_is_far_too_low_shows(current_peak: float, too_low: bool, tmp_path: Path) -> None:
    found = one_run(tmp_path / "study", current_peak=current_peak)
    assert ("try a higher current_peak" in found.verdict.message) == too_low


def test_the_decay_is_today_s_and_the_space_s_peak_is_a_cap(tmp_path: Path) -> None:
    space = SearchSpace(peak={"low": 1e-5, "high": 5e-4})
    current = {"decay": "cosine", "final_factor": 0.1}
    found = one_run(tmp_path / "study", space=space, current=current)
    assert found.schedule is not None
    assert (found.schedule.peak, found.schedule.decay.kind, found.schedule.final_factor) == (5e-4, "cosine", 0.1)


@pytest.mark.parametrize(
    "given",
    [
        {"confirm_seeds": 2},
        {"tune_steps": 20},
        {"cohort": 2},
        {"margin": 0.1},
        {"groups": "optimizer"},
        {"service": "http://127.0.0.1:1"},
    ],
)
def test_what_compares_can_not_be_given(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{next(iter(given))} can't be given with mode='one-run'"):
        one_run(tmp_path / "study", **given)
    assert not (tmp_path / "study").exists()


def test_a_budget_below_the_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the run itself takes 40"):
        one_run(tmp_path / "study", budget=39)


def test_a_mode_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mode"):
        one_run(tmp_path / "study", mode="two-runs")


@of_mlflow
def test_mlflow_has_the_schedule_that_was_made(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    found = one_run(tmp_path / "study", mlflow=uri)
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = {run.data.tags.get("autowarmup.trial"): run for run in client.search_runs(experiments)}
    assert found.schedule is not None
    assert float(runs["0"].data.params["peak"]) == pytest.approx(found.schedule.peak, rel=1e-5)
    assert runs["0"].info.run_name == "adapts"
    assert runs[None].data.tags["verdict"] == "not compared"


def test_the_command_line_does_it(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("from tests.tasks import settings\ndef task():\n    return settings()\n")
    study = tmp_path / "study"
    command = ["tune", f"{tmp_path}/train.py:task", "--one-run", "--study", str(study), "--no-mlflow", "--json"]
    ran = CliRunner().invoke(cli, command)
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert (told["verdict"], told["cost"]["runs"]) == ("not compared", 1.0)
    assert told["paths"]["trained"] == str(study / "trained.pt")
