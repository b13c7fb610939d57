"""A training loop of the user's own, through ``train_fn``."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autowarmup import LoopRun, TuneResult, autotune
from autowarmup.errors import InputError, TaskFailedError
from autowarmup.training.loop import LoopTask
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
    assert result.cost.steps <= result.config.budget
    trace = result.trace(1)
    assert trace.lr.tolist() == result.records[1].schedule.curve().tolist()
    assert np.isnan(trace.grad_norm).all()
    assert [evaluation.step for evaluation in trace.evaluations] == list(range(5, 41, 5))


def test_no_loop_is_left_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    tuned(train, tmp_path)
    assert threading.active_count() == before


def test_interrupted_it_catches_up_and_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tuned(train, tmp_path / "whole")
    steps = {"left": 300}

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


def test_a_baseline_has_the_benefit_of_the_doubt(tmp_path: Path) -> None:
    """Losses that climb end a proposal; a baseline runs to its horizon, and what was seen is recorded."""

    def climbing(run: LoopRun) -> None:
        for step in range(run.total_steps):
            loss = 3.0 - 0.05 * step if step < 30 else 10.0 + step
            if run.report(loss + 0.01 * (step % 2), lr=run.schedule.lr_at(step)):
                break

    result = tuned(climbing, tmp_path, total_steps=100)
    baselines = [record for record in result.records if record.schedule in result.config.baselines]
    assert {(record.outcome, record.steps) for record in baselines} == {("completed", 100)}
    assert all(any(event.fatal for event in record.events) for record in baselines)
    proposals = [record for record in result.records if record.role == "proposal"]
    assert {record.outcome for record in proposals} <= {"unstable", "pruned"}
    assert any(record.outcome == "unstable" for record in proposals)
    assert result.verdict.kind == "tie"
