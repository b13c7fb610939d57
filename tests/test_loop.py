"""A training loop of the user's own, through ``train_fn``."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autowarmup import LoopRun, Schedule, TuneResult, autotune
from autowarmup.errors import InputError, TaskFailedError
from autowarmup.training.loop import LoopTask
from autowarmup.training.objective import LOSS
from autowarmup.training.trace import Trace
from tests.tasks import digits

(X, Y), (X_VAL, Y_VAL) = [tuple(map(torch.from_numpy, part)) for part in digits()]


def train(run: LoopRun, scale: float = 1.0) -> None:
    """A plain PyTorch loop, as in anyone's script."""
    torch.manual_seed(run.seed)
    model = nn.Linear(64, 10)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = run.schedule.scheduler(optimizer)
    for step in range(run.total_steps):
        part = torch.randint(0, len(X), (64,))
        loss = nn.functional.cross_entropy(model(X[part]), Y[part]) * scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        val_loss = None
        if (step + 1) % 5 == 0:
            with torch.no_grad():
                val_loss = nn.functional.cross_entropy(model(X_VAL), Y_VAL).item()
        if run.report(loss.item(), val_loss=val_loss):
            break


def tuned(train_fn: Any, study: Path, **settings: Any) -> TuneResult:
    return autotune(train_fn=train_fn, study=study, **{"total_steps": 40, "mlflow": False} | settings)


def test_a_loop_of_ones_own_is_tuned(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    result = tuned(train, tmp_path)
    assert result.verdict.kind == "tuned"
    assert torch.equal(torch.get_rng_state(), before)
    assert result.cost.steps <= result.budget
    trace = result.trace(2)
    assert trace.lr.tolist() == result.records[2].schedule.curve().tolist()
    assert np.isnan(trace.grad_norm).all()
    assert [evaluation.step for evaluation in trace.evaluations] == list(range(5, 41, 5))


def test_no_loop_is_left_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    tuned(train, tmp_path)
    assert threading.active_count() == before


def test_interrupted_it_catches_up_and_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tuned(train, tmp_path / "whole")
    steps = {"left": 100}

    def interrupting(run: LoopRun) -> None:
        report = run.report

        def counted(*args: Any, **keywords: Any) -> bool:
            steps["left"] -= 1
            if steps["left"] == 0:
                raise KeyboardInterrupt
            return report(*args, **keywords)

        run.report = counted  # type: ignore[method-assign]
        train(run)

    description = LoopTask(train, current_peak=1e-3).describe()
    monkeypatch.setattr(LoopTask, "describe", lambda self: description)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        tuned(interrupting, tmp_path / "killed")
    assert threading.active_count() == before
    result = tuned(train, tmp_path / "killed")
    assert result.verdict == expected.verdict
    assert [r.val_loss for r in result.records] == [r.val_loss for r in expected.records]


def test_a_loop_that_ignores_the_stop_is_ended(tmp_path: Path) -> None:
    endings = []

    def stubborn(run: LoopRun) -> None:
        try:
            for step in range(10 * run.total_steps):
                run.report(1.0 / (step + 1), lr=run.schedule.lr_at(step))
        finally:
            endings.append(run.seed)

    result = tuned(stubborn, tmp_path, total_steps=20)
    assert len(endings) == len(result.records) + 3  # the check before the study


def test_a_loop_that_diverges_is_told_to_stop(tmp_path: Path) -> None:
    lengths = []

    def diverging(run: LoopRun) -> None:
        for step in range(run.total_steps):
            if run.report(float("nan") if step == 7 else 1.0 / (step + 1), lr=run.schedule.lr_at(step)):
                break
        lengths.append(step)

    result = tuned(diverging, tmp_path, total_steps=20)
    assert result.verdict.kind == "nothing stable"
    assert max(lengths) == 8  # one step ahead of its trial


def test_a_loop_that_ends_early_fails_with_a_clear_message(tmp_path: Path) -> None:
    with pytest.raises(TaskFailedError, match="ended after 3 steps.*must report"):
        tuned(lambda run: [run.report(1.0, lr=run.schedule.lr_at(step)) for step in range(3)], tmp_path)


def test_a_loop_that_raises_fails_with_its_traceback(tmp_path: Path) -> None:
    def broken(run: LoopRun) -> None:
        run.report(1.0, lr=run.schedule.lr_at(0))
        raise OSError("the disk with the data is gone")

    with pytest.raises(TaskFailedError, match="(?s)in broken.*the disk with the data is gone"):
        tuned(broken, tmp_path)


def test_a_loss_that_is_no_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report\(loss='low'\): not a number"):
        tuned(lambda run: run.report("low", lr=run.schedule.lr_at(0)), tmp_path)


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"lr": float("nan")}, r"report\(lr=nan\): a learning rate must be at least 0"),
        ({"lr": -1.0}, r"report\(lr=-1.0\)"),
        ({"accuracy": 0.5}, r"report\(accuracy\): metrics belong to a validation"),
    ],
)
def test_reports_that_make_no_sense_are_named(report: dict[str, float], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        tuned(lambda run: run.report(1.0, **report), tmp_path)


def test_without_validation_the_training_loss_ranks(tmp_path: Path) -> None:
    def train_only(run: LoopRun) -> None:
        value = 3.0
        for step in range(run.total_steps):
            value -= min(run.schedule.lr_at(step), 0.02) * 2
            if run.report(value):
                break

    result = tuned(train_only, tmp_path, total_steps=20)
    assert result.schedule is not None


def test_the_current_schedule_has_the_benefit_of_the_doubt(tmp_path: Path) -> None:
    """Losses that climb end a proposal; the current schedule runs to its horizon, and what was seen is recorded."""

    def climbing(run: LoopRun) -> None:
        for step in range(run.total_steps):
            loss = 3.0 - 0.05 * step if step < 30 else 10.0 + step
            if run.report(loss + 0.01 * (step % 2), lr=run.schedule.lr_at(step)):
                break

    result = tuned(climbing, tmp_path, total_steps=100)
    (current,) = [record for record in result.records if record.role == "baseline"]
    assert (current.outcome, current.steps) == ("completed", 100)
    assert any(event.fatal for event in current.events)
    proposals = [record for record in result.records if record.role == "proposal"]
    assert {record.outcome for record in proposals} <= {"unstable", "pruned"}
    assert any(record.outcome == "unstable" for record in proposals)
    assert result.verdict.kind in ("tie", "leaning")


SCHEDULE = Schedule(peak=0.1, horizon=40, warmup_steps=8, shape="linear")


def traced(train_fn: Any, horizon: int = 40) -> Trace:
    """One trial to its horizon."""
    trial = LoopTask(train_fn, current_peak=0.1).trial(SCHEDULE.model_copy(update={"horizon": horizon}), 0, 5, None)
    try:
        return Trace.join(list(trial.run(horizon)))
    finally:
        trial.close()


def fit(
    run: LoopRun,
    *,
    applies: bool = True,
    every: int = 1,
    scheduler_steps: int = 1,
    lr: float | None = None,
    validates: Any = lambda step: False,
    after: Any = lambda run: None,
) -> None:
    """A straight line fitted by SGD, with what a loop can do wrong."""
    torch.manual_seed(run.seed)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = run.schedule.scheduler(optimizer) if applies else None
    for step in range(run.total_steps * every):
        x = torch.randn(16, 4)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for _ in range(scheduler_steps if scheduler is not None else 0):
            scheduler.step()
        if step % every == every - 1:
            stop = run.report(loss.item(), lr=lr, val_loss=0.5 if validates(step + 1) else None)
            if stop:
                break
    after(run)


def with_(**changes: Any) -> Any:
    return lambda run: fit(run, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"applies": False}, "train_fn doesn't use the schedule.*run.report\\(loss, lr=...\\)"),
        (
            {"scheduler_steps": 0},
            r"step 2 was made with a learning rate of 0.01111, the schedule's is 0.02222.*0 times",
        ),
        ({"scheduler_steps": 2}, r"step 2 was made with .* step\\(\\) was called 4 times"),
        ({"every": 2}, r"step 1 was made with a learning rate of 0.02222, the schedule's is 0.01111"),
        ({"applies": False, "lr": 0.1}, r"step 1 is reported with a learning rate of 0.1, the schedule's is 0.01111"),
    ],
    ids=["schedule not applied", "scheduler never stepped", "stepped twice", "every second step", "lr of its own"],
)
def test_a_schedule_that_is_not_applied_is_noticed(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message.replace("\\\\", "\\")):
        traced(with_(**changes))
    if changes.get("applies") is False:
        with pytest.raises(InputError):
            tuned(with_(**changes), tmp_path / "study")
        assert not (tmp_path / "study").exists()


def test_every_second_step_by_hand_is_noticed() -> None:
    def train(run: LoopRun) -> None:
        for step in range(2 * run.total_steps):
            run.schedule.lr_at(step)
            if step % 2 and run.report(1.0):
                break

    with pytest.raises(InputError, match="lr_at was last asked for step 5, and the loop reports step 2"):
        traced(train)


def test_batches_reported_as_steps_are_noticed() -> None:
    def train(run: LoopRun) -> None:
        weight = nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        scheduler = run.schedule.scheduler(optimizer)
        for batch in range(4 * run.total_steps):
            weight.square().backward()
            if batch % 4 == 3:
                optimizer.step()
                scheduler.step()
            run.report(1.0)

    with pytest.raises(InputError, match="reported 10 steps, and its optimizers made 2"):
        traced(train)


def test_steps_that_a_scaler_skips_are_no_mistake() -> None:
    def train(run: LoopRun) -> None:
        weight = nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        scheduler = run.schedule.scheduler(optimizer)
        for step in range(run.total_steps):
            if step >= 2:
                weight.grad = torch.ones(1)
                optimizer.step()
                scheduler.step()
            run.report(1.0)

    assert traced(train).lr[2:10] == pytest.approx(SCHEDULE.curve()[:8])


@pytest.mark.parametrize("base_lr", [None, 0.1])
def test_two_optimizers_with_one_schedule(base_lr: float | None) -> None:
    seen: list[float] = []

    def train(run: LoopRun) -> None:
        weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
        optimizers = [torch.optim.SGD([weight], lr=lr) for weight, lr in zip(weights, (0.1, 0.02), strict=True)]
        schedulers = [run.schedule.scheduler(optimizer, base_lr=base_lr) for optimizer in optimizers]
        for _ in range(run.total_steps):
            seen.append(optimizers[1].param_groups[0]["lr"])
            for optimizer, weight in zip(optimizers, weights, strict=True):
                weight.grad = torch.ones(1)
                optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
            run.report(1.0)

    if base_lr is None:
        with pytest.raises(
            InputError, match="learning rates of 0.1 and 0.02 would both get the schedule's.*base_lr=0.1"
        ):
            traced(train)
    else:
        assert traced(train).lr == pytest.approx(SCHEDULE.curve())
        assert seen == pytest.approx(0.2 * SCHEDULE.curve())


def test_a_loop_that_is_not_seeded_is_refused(tmp_path: Path) -> None:
    unseeded = np.random.default_rng()

    def train(run: LoopRun) -> None:
        for step in range(run.total_steps):
            if run.report(1.0 + unseeded.random(), lr=run.schedule.lr_at(step)):
                break

    with pytest.raises(InputError, match="under the same seed and schedule.*torch.manual_seed"):
        tuned(train, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_loop_that_ignores_the_seed_is_named(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    def train(run: LoopRun) -> None:
        generator = torch.Generator().manual_seed(0)
        for step in range(run.total_steps):
            lr = run.schedule.lr_at(step)
            if run.report(torch.rand((), generator=generator).item() + (1.0 - 100.0 * lr) ** 2, lr=lr):
                break

    result = tuned(train, tmp_path / "study")
    assert any("seems to ignore run.seed" in message for message in caplog.messages)
    assert "ignore its seed" in result.warnings[0]
    assert result.warnings[0] in result.summary()
    assert "ignore its seed" in result._repr_html_()
    assert "ignore its seed" in (tmp_path / "study" / "report.html").read_text()


def test_a_loop_that_takes_the_seed_is_not(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    assert tuned(with_(), tmp_path / "study").warnings == ()
    assert caplog.messages == []


def test_validations_may_come_after_their_steps() -> None:
    def train(run: LoopRun) -> None:
        for step in range(run.total_steps):
            run.report(1.0, lr=run.schedule.lr_at(step))
            if step % 10 == 9:
                run.report_validation(2.0 - step / 40, accuracy=0.5)

    trial = LoopTask(train, current_peak=0.1).trial(SCHEDULE, 0, 5, None)
    first, second = Trace.join(list(trial.run(20))), Trace.join(list(trial.run(40)))
    assert [e.step for e in first.evaluations] == [10, 20]
    assert [e.step for e in second.evaluations] == [30, 40]
    assert second.evaluations[-1].metrics == {"accuracy": 0.5}


@pytest.mark.parametrize(
    "after",
    [lambda run: run.report_validation(0.25), lambda run: run.report(1.0, val_loss=0.25)],
    ids=["own", "report"],
)
def test_a_validation_after_the_loop_counts(after: Any) -> None:
    trace = traced(with_(after=after))
    assert [(e.step, e.val_loss) for e in trace.evaluations] == [(40, 0.25)]
    assert LOSS.final(trace) == 0.25
    assert trace.final_evaluation is not None


@pytest.mark.parametrize(("every", "steps"), [(15, [15, 30, 40]), (40, [40]), (20, [20, 40])])
def test_a_loop_is_told_where_the_study_validates(every: int, steps: list[int]) -> None:
    def train(run: LoopRun) -> None:
        for step in range(run.total_steps):
            run.report(1.0, lr=run.schedule.lr_at(step), val_loss=0.5 if run.should_validate else None)

    trial = LoopTask(train, current_peak=0.1).trial(SCHEDULE, 0, every, None)
    trace = Trace.join(list(trial.run(40)))
    trial.close()
    assert [evaluation.step for evaluation in trace.evaluations] == steps


def test_the_study_s_validations_are_those_of_a_model(tmp_path: Path) -> None:
    def train(run: LoopRun) -> None:
        for step in range(run.total_steps):
            if run.report(1.0, lr=run.schedule.lr_at(step), val_loss=0.5 if run.should_validate else None):
                break

    result = tuned(train, tmp_path, total_steps=90)
    assert result.config.eval_every == 5
    trace = result.trace(1)
    assert [evaluation.step for evaluation in trace.evaluations] == list(range(5, trace.end + 1, 5))


def test_an_early_validation_is_not_the_final_one() -> None:
    early, never = traced(with_(validates=lambda step: step == 10)), traced(with_())
    assert LOSS.final(early) == pytest.approx(early.loss[-4:].mean())
    assert early.final_evaluation is None
    assert never.final_evaluation is None


def test_a_validation_before_any_step_is_refused() -> None:
    with pytest.raises(InputError, match="call report\\(\\) before it"):
        traced(lambda run: run.report_validation(1.0))


def test_an_exception_after_the_last_step_fails() -> None:
    def broken(run: LoopRun) -> None:
        raise OSError("no space for the weights")

    with pytest.raises(OSError, match="no space for the weights"):
        traced(with_(after=broken))


def test_an_exception_after_a_loss_that_is_not_finite_comes_after_that_loss() -> None:
    def train(run: LoopRun) -> None:
        run.report(float("nan"), lr=run.schedule.lr_at(0))
        raise ValueError("NaN in the logits")

    trial = LoopTask(train, current_peak=0.1).trial(SCHEDULE, 0, 5, None)
    assert np.isnan(next(trial.run(40)).loss[0])
    trial.close()


def test_sys_exit_is_the_trial_s_failure(tmp_path: Path) -> None:
    def leaving(run: LoopRun) -> None:
        run.report(1.0, lr=run.schedule.lr_at(0))
        sys.exit(3)

    with pytest.raises(InputError, match=r"called sys.exit\(3\) after 1 steps"):
        traced(leaving)
    with pytest.raises(TaskFailedError, match=r"called sys.exit\(3\)"):
        tuned(leaving, tmp_path)


def test_an_interrupt_does_not_wait_for_a_loop_that_blocks() -> None:
    blocked = threading.Event()

    def blocking(run: LoopRun) -> None:
        run.report(1.0, lr=run.schedule.lr_at(0))
        blocked.wait()

    def interrupt() -> None:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    trial = LoopTask(blocking, current_peak=0.1).trial(SCHEDULE, 0, 5, None)
    sender = threading.Thread(target=interrupt)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        list(trial.run(40))
    sender.join()
    trial.close()
    assert trial._thread.is_alive()
    blocked.set()
    trial._thread.join()


def test_epochs_of_a_loop_of_ones_own(tmp_path: Path) -> None:
    result = tuned(train, tmp_path, total_steps="2 epochs", steps_per_epoch=10)
    assert result.config.total_steps == 20
    with pytest.raises(InputError, match="steps_per_epoch must be a whole number of at least 1, got 0"):
        LoopTask(train, current_peak=0.1, steps_per_epoch=0)


def test_the_run_s_schedule_is_a_schedule() -> None:
    import copy
    import pickle

    seen: list[Schedule] = []
    traced(lambda run: [seen.append(run.schedule), *(run.report(1.0, lr=lr) for lr in run.schedule.curve())])
    (given,) = seen
    assert given == SCHEDULE

    assert hash(given) == hash(SCHEDULE)
    for same in (pickle.loads(pickle.dumps(given)), copy.deepcopy(given), given.model_copy()):  # noqa: S301
        assert type(same) is Schedule
        assert same == SCHEDULE
    assert given.model_copy(update={"peak": 1.0}).peak == 1.0
    assert given.peak == given.lr_at(8) == 0.1
