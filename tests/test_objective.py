"""The objective: what schedules are judged by, the validation loss or another metric."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from autowarmup import LoopRun, TuneResult, autotune
from autowarmup.cli.program import cli
from autowarmup.errors import InputError
from autowarmup.report import write_report
from autowarmup.report.duration import duration
from autowarmup.report.stability_map import stability_map
from autowarmup.search.surrogate import scores
from autowarmup.study.store import StudyStore
from autowarmup.training.objective import LOSS, Objective
from autowarmup.training.trace import Evaluation, Trace

ACCURACY = Objective(name="accuracy", direction="maximize")
STEPS = 40


def disagreeing(run: LoopRun) -> None:
    """The loss is lowest at a peak of 0.001, the accuracy highest at a peak of 0.1. Schedules don't share noise."""
    rng = np.random.default_rng([run.seed, round(1e9 * run.schedule.peak), run.schedule.duration])
    highest = math.log10(run.schedule.peak)
    ends = 1.0 + 0.3 * (highest + 3.0) ** 2, 0.9 - 0.1 * (highest + 1.0) ** 2
    for step in range(run.total_steps):
        way = (step + 1) / run.total_steps
        loss, accuracy = 3.0 + way * (ends[0] - 3.0), way * ends[1] + 0.015 * rng.standard_normal()
        validates = {} if (step + 1) % 2 else {"val_loss": loss, "val_loss_ema": loss, "accuracy": accuracy}
        run.report(loss + 1e-3 * rng.standard_normal(), lr=run.schedule.lr_at(step), **validates)


def tuned(folder: Path, train: Any = disagreeing, **settings: Any) -> TuneResult:
    return autotune(
        train_fn=train, total_steps=STEPS, current_peak=0.01, study=folder, mlflow=False, progress=False, **settings
    )


@pytest.fixture(scope="module")
def by_accuracy(tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    return tuned(tmp_path_factory.mktemp("accuracy") / "study", objective="accuracy", direction="maximize")


def test_the_objective_decides_which_schedule_is_best(by_accuracy: TuneResult, tmp_path: Path) -> None:
    by_loss = tuned(tmp_path / "loss")
    assert by_loss.verdict.schedule is not None
    assert by_accuracy.verdict.schedule is not None
    assert by_loss.verdict.schedule.peak < 0.01 < by_accuracy.verdict.schedule.peak


def test_a_metric_is_shown_in_its_own_sign_with_its_direction(by_accuracy: TuneResult) -> None:
    assert by_accuracy.loss_name == "accuracy"
    finals = [record.final_loss for record in by_accuracy.records if record.outcome == "completed"]
    assert all(final is not None and final > 0 for final in finals)
    summary = by_accuracy.summary()
    assert "tuned: final accuracy (higher is better) 0." in summary
    assert "tuned minus this: +0." in summary
    shown = by_accuracy._repr_html_()
    assert "accuracy (higher is better)" in shown
    assert ">+0." in shown


def test_comparisons_are_in_the_metrics_own_sign(by_accuracy: TuneResult) -> None:
    tuned_one, current = by_accuracy.verdict.comparisons
    assert all(0.0 < loss < 1.0 for loss in (*tuned_one.losses, *current.losses))
    assert current.interval is not None
    assert 0.0 < current.interval.low < current.interval.mean < current.interval.high
    pairs = zip(tuned_one.final_losses, current.final_losses, strict=True)
    ended = [tuned - now for tuned, now in pairs if tuned is not None and now is not None]
    assert current.interval.differences == pytest.approx(ended)


def test_figures_are_in_the_metrics_own_sign(by_accuracy: TuneResult) -> None:
    with closing(StudyStore(Path(by_accuracy.study))) as store:
        traces = {trial.spec.number: trial.trace for trial in store.trials()}
    by_duration = duration(by_accuracy, traces)
    left, right = by_duration.axes
    assert left.get_ylabel() == "final accuracy"
    assert all(height > 0 for height in left.get_ylim())
    forecast = next(line for line in left.lines if line.get_gid() == "forecast")
    assert all(0.0 < value < 1.5 for value in forecast.get_ydata())
    assert "above 0: tuned is better" in right.get_xlabel()
    assert right.get_title(loc="left") == "Better than the current schedule"
    bar = stability_map(by_accuracy, traces).axes[-1]
    assert bar.get_ylabel() == "final accuracy"
    low, high = bar.get_ylim()
    assert low < high < 0.0  # the best, the highest accuracy, is at the bottom
    assert bar.yaxis.get_major_formatter()(low, 0) == f"{-low:.4g}"


def test_the_report_names_the_metric(by_accuracy: TuneResult, tmp_path: Path) -> None:
    with closing(StudyStore(Path(by_accuracy.study))) as store:
        write_report(by_accuracy, {trial.spec.number: trial.trace for trial in store.trials()}, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Final accuracy (higher is better)" in page
    assert "above 0 the tuned schedule is better" in page
    assert "Warm-up duration and final accuracy" in page
    assert "final accuracy</th>" in page


def test_the_table_of_trials_shows_the_metric(by_accuracy: TuneResult) -> None:
    shown = CliRunner().invoke(cli, ["show", by_accuracy.study]).output.splitlines()
    assert shown[0].split()[-3:] == ["accuracy", "what", "happened"]
    number, last = next((r.number, r.final_loss) for r in by_accuracy.records if r.role == "confirmation")
    assert shown[1 + number].split()[-1] == f"{last:.4g}"
    assert by_accuracy.trials.value[number] == last


def test_an_optuna_study_has_the_objectives_direction(by_accuracy: TuneResult) -> None:
    study = by_accuracy.optuna_study()
    assert study.direction.name == "MAXIMIZE"
    assert study.best_value > 0.5


def test_another_metric_can_be_minimized(tmp_path: Path) -> None:
    x = torch.randn(128, 3, generator=torch.Generator().manual_seed(0))
    data = (x[:96], x[:96].sum(1, keepdim=True)), (x[96:], x[96:].sum(1, keepdim=True))
    result = autotune(
        lambda: torch.nn.Linear(3, 1),
        data,
        total_steps=20,
        metrics={"mae": torch.nn.functional.l1_loss},
        objective="mae",
        direction="minimize",
        study=tmp_path / "study",
        mlflow=False,
        progress=False,
    )
    completed = next(record for record in result.records if record.outcome == "completed" and record.role != "probe")
    assert completed.final_loss == result.trace(completed.number).evaluations[-1].metrics["mae"]
    assert "final mae" in result.summary()


# --- Scores ----------------------------------------------------------------------------------------------


def trace(*evaluations: Evaluation, steps: int = STEPS) -> Trace:
    return Trace(*[np.ones(steps)] * 3, evaluations)


def test_unfinished_trials_are_ranked_by_the_metric_of_averaged_weights() -> None:
    early = Evaluation(20, 1.0, 1.0, {"accuracy": 0.5, "accuracy_ema": 0.7})
    last = Evaluation(40, 1.0, 1.0, {"accuracy": 0.8, "accuracy_ema": 0.6})
    assert scores(trace(early, last), STEPS, 2, None, ACCURACY) == ((20, -0.7), (40, -0.8))
    assert ACCURACY.final(trace(early, last)) == -0.8


def test_without_averaged_weights_the_raw_metric_ranks_and_what_is_not_finite_is_left_out() -> None:
    raw = Evaluation(20, 1.0, 1.0, {"accuracy": 0.5})
    odd = Evaluation(40, 1.0, 1.0, {"accuracy": math.nan})
    assert scores(trace(raw, odd), STEPS, 2, 2.3, ACCURACY) == ((20, -0.5),)
    assert ACCURACY.final(trace(raw, odd)) == math.inf


def test_the_loss_is_judged_as_before() -> None:
    assert LOSS.final(trace(Evaluation(40, 0.5, 0.4))) == 0.5
    assert LOSS.final(trace(Evaluation(20, 0.5, 0.4))) == 1.0


# --- Bad input -------------------------------------------------------------------------------------------


def test_a_metric_that_a_loop_never_reports_is_told_at_its_first_validation(tmp_path: Path) -> None:
    runs = []

    def train(run: LoopRun) -> None:
        runs.append(run.total_steps)
        disagreeing(run)

    with pytest.raises(InputError, match=r"objective='f1': no validation .* reported it; reported are: loss, accuracy"):
        tuned(tmp_path / "study", train, objective="f1", direction="maximize")
    assert runs.count(STEPS) <= 3  # the check of its first steps; then the short probe stopped it


def test_a_misspelt_metric_of_a_loop_is_told_with_the_nearest_name() -> None:
    misspelt = Objective(name="acuracy", direction="maximize")
    reported = trace(Evaluation(20, 1.0, 1.0, {"accuracy": 0.8, "accuracy_ema": 0.8}))
    with pytest.raises(
        InputError, match=r"up to step 40 reported it \(did you mean 'accuracy'\?\); reported are: loss,"
    ):
        misspelt.check(reported, ended=False, current=False)


def test_a_loop_that_never_validates_is_told_at_the_end_of_its_first_run(tmp_path: Path) -> None:
    def train(run: LoopRun) -> None:
        rng = np.random.default_rng(run.seed)
        for step in range(run.total_steps):
            run.report(rng.random(), lr=run.schedule.lr_at(step))

    with pytest.raises(InputError, match="ended without it, as every run must report it with a validation"):
        tuned(tmp_path / "study", train, objective="accuracy", direction="maximize")


def test_a_loop_may_validate_more_rarely_than_the_probe_is_long(tmp_path: Path) -> None:
    def train(run: LoopRun) -> None:
        rng = np.random.default_rng(run.seed)
        for step in range(run.total_steps):
            validates = {} if (step + 1) % 20 else {"val_loss": 1.0, "accuracy": rng.random()}
            run.report(1.0 + rng.random(), lr=run.schedule.lr_at(step), **validates)

    result = tuned(tmp_path / "study", train, objective="accuracy", direction="maximize")
    assert result.records[0].role == "probe"
    assert result.records[0].steps < 20


def test_a_metric_that_is_never_finite_is_told_at_the_end_of_the_current_schedules_run(tmp_path: Path) -> None:
    def train(run: LoopRun) -> None:
        for step in range(run.total_steps):
            run.report(2.0 + 1e-6 * run.seed, lr=run.schedule.lr_at(step), val_loss=2.0, f1=math.nan)

    with pytest.raises(InputError, match=r"objective='f1': with the current schedule all 40 validations reported nan"):
        tuned(tmp_path / "study", train, objective="f1", direction="maximize")


def test_a_metric_that_is_not_finite_now_and_then_is_judged_where_it_is(tmp_path: Path) -> None:
    early = trace(Evaluation(20, 1.0, 1.0, {"accuracy": math.nan}), Evaluation(40, 1.0, 1.0, {"accuracy": 0.8}))
    ACCURACY.check(early, ended=True, current=True)
    assert ACCURACY.marks(early, 2) == [(40, -0.8, -0.8)]


def test_a_metric_that_a_model_task_lacks_is_refused_before_anything_runs(tmp_path: Path) -> None:
    x = torch.ones(8, 1)
    with pytest.raises(
        InputError, match=r"objective='acuracy': no such validation metric.*'accuracy'.*: loss, accuracy"
    ):
        autotune(
            lambda: torch.nn.Linear(1, 1),
            ((x, x), (x, x)),
            total_steps=20,
            metrics={"accuracy": torch.nn.functional.l1_loss},
            objective="acuracy",
            study=tmp_path / "study",
        )
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"direction": "maximize"}, "the loss can't be maximized"),
        ({"objective": "accuracy"}, "direction is missing: say 'maximize' if accuracy is better high, 'minimize'"),
        ({"objective": ""}, "objective"),
        ({"objective": 3}, "objective"),
        ({"objective": "accuracy", "direction": "up"}, "direction"),
        ({"trivial_loss": math.nan}, "trivial_loss"),
        ({"trivial_loss": math.inf}, "trivial_loss"),
        ({"trivial_loss": "2.3"}, "trivial_loss"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        tuned(tmp_path / "study", **settings)
    assert not (tmp_path / "study").exists()


# --- The trivial loss ------------------------------------------------------------------------------------


def test_a_trivial_loss_that_is_given_is_used_by_loops_and_goes_before_that_of_the_data(tmp_path: Path) -> None:
    assert tuned(tmp_path / "loop", trivial_loss=3.2).config.trivial_loss == 3.2
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    data = (x[:48], x[:48].sum(1, keepdim=True)), (x[48:], x[48:].sum(1, keepdim=True))
    settings: dict[str, Any] = {"total_steps": 20, "mlflow": False, "progress": False}
    own = autotune(lambda: torch.nn.Linear(2, 1), data, study=tmp_path / "own", **settings)
    given = autotune(lambda: torch.nn.Linear(2, 1), data, study=tmp_path / "given", trivial_loss=7.0, **settings)
    assert own.config.trivial_loss == pytest.approx(float(x[48:].sum(1).var(unbiased=False)), rel=0.5)
    assert given.config.trivial_loss == 7.0
