"""What the integrations share, without any framework."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import autowarmup.integrations
from autowarmup import LoopRun, Schedule
from autowarmup.errors import InputError
from autowarmup.integrations.current import current_settings, nearest_schedule, rates_of
from autowarmup.integrations.steps import Steps, check_function, check_optimizer, data_digest, numbers
from autowarmup.training.loop import DescribedLoop, LoopTask
from autowarmup.training.trace import Trace

PLAN = Schedule(peak=0.1, horizon=20, warmup_steps=5, shape="linear")


def test_an_unknown_name_is_no_integration() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'from_nowhere'"):
        autowarmup.integrations.from_nowhere  # noqa: B018


@pytest.mark.parametrize(
    ("start", "missing", "extra"),
    [
        (lambda: autowarmup.integrations.from_trainer(dict), "transformers", "transformers"),
        (lambda: autowarmup.integrations.from_trainer(dict), "accelerate", "accelerate"),
        (lambda: autowarmup.integrations.from_lightning(dict, dict), "lightning.pytorch", "lightning"),
    ],
)
def test_a_framework_that_is_not_installed_is_named(
    start: Any, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("accelerate", "transformers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, missing, None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"{missing} can't be imported .*: pip install 'autowarmup\[{extra}\]'"):
        start()


# --- The schedule of today ----------------------------------------------------------------------------------


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Those that schedulers of frameworks are like."""
    horizon = draw(st.integers(10, 200))
    warmup = draw(st.integers(0, horizon // 2))
    shape = draw(st.sampled_from(["linear", "cosine"])) if warmup else "none"
    start = draw(st.one_of(st.none(), st.floats(0.0, 0.9))) if warmup and shape == "linear" else None
    start = draw(st.floats(0.0, 0.9)) if shape == "cosine" else start
    wsd = {"kind": "wsd", "cooldown": draw(st.integers(2, horizon // 2)) / horizon}
    decay = draw(st.sampled_from(["linear", "cosine", "constant", "exponential", wsd]))
    final = draw(st.floats(0.01, 0.9) if decay == "exponential" else st.floats(0.0, 0.9))
    return Schedule(
        peak=draw(st.floats(1e-6, 10.0)), horizon=horizon, warmup_steps=warmup, shape=shape, start_factor=start,
        decay=decay, final_factor=final,
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(schedules())
def test_a_schedule_is_found_from_its_learning_rates(schedule: Schedule) -> None:
    found, off = nearest_schedule(schedule.curve().tolist())
    assert off < 1e-6
    assert found.curve() == pytest.approx(schedule.curve(), abs=1e-6 * schedule.peak)


def test_the_timescale_of_an_inverse_square_root_is_found() -> None:
    schedule = Schedule(peak=1.0, horizon=100, warmup_steps=10, shape="linear", decay="inverse-sqrt")
    found, off = nearest_schedule(schedule.curve().tolist())
    assert found.decay.timescale == 11  # type: ignore[union-attr]
    assert off < 1e-9


def test_a_staircase_has_a_nearest_schedule() -> None:
    found, off = nearest_schedule([1.0] * 10 + [0.1] * 10)
    assert off > 0.1
    assert (found.peak, found.warmup_steps, found.horizon) == (1.0, 0, 20)


def test_rates_are_those_of_the_highest_group() -> None:
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [weights[0]], "lr": 0.1}, {"params": [weights[1]], "lr": 0.4}])
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, total_iters=2)
    assert rates_of(optimizer, scheduler, 4) == pytest.approx([0.2, 0.3, 0.4, 0.4])
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    assert rates_of(optimizer, plateau, 3) == pytest.approx([0.4] * 3)  # type: ignore[arg-type]


def test_rates_of_0_cannot_be_tuned() -> None:
    with pytest.raises(InputError, match="the scheduler has a learning rate of 0 at every step"):
        current_settings([0.0] * 10, "the scheduler")


# --- Steps --------------------------------------------------------------------------------------------------


def traced(train_fn: Any, every: int = 5) -> Trace:
    trial = LoopTask(train_fn, current_peak=0.1).trial(PLAN, 0, every, None)
    try:
        return Trace.join(list(trial.run(PLAN.horizon)))
    finally:
        trial.close()


def fit(run: LoopRun, evaluate: Any, until: int = 20) -> None:
    """A weight that SGD moves by the learning rate, so that it is their sum."""
    weight = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(weight.weight)
    optimizer = torch.optim.SGD(weight.parameters(), lr=0.1)
    steps = Steps(run, weight, optimizer, lambda: evaluate(weight))
    for _ in range(until):
        weight.weight.grad = -torch.ones(1, 1)
        optimizer.step()
        steps.scheduler.step()
        if steps.made(1.0, 1.0):
            break
    steps.check_end("the loop")


def test_the_weights_and_their_average_are_validated_where_the_study_does() -> None:
    trace = traced(lambda run: fit(run, lambda model: {"loss": model.weight.item(), "twice": 2 * model.weight.item()}))
    weights = np.cumsum(PLAN.curve())
    average, expected = 0.0, []
    for step, weight in enumerate(weights, 1):
        average += 9.0 / (step + 10.0) * (weight - average)
        expected.append(average)
    assert [evaluation.step for evaluation in trace.evaluations] == [5, 10, 15, 20]
    for evaluation in trace.evaluations:
        assert evaluation.val_loss == pytest.approx(weights[evaluation.step - 1])
        assert evaluation.val_loss_ema == pytest.approx(expected[evaluation.step - 1], rel=1e-5)
        assert evaluation.metrics["twice"] == pytest.approx(2 * evaluation.val_loss)
        assert evaluation.metrics["twice_ema"] == pytest.approx(2 * evaluation.val_loss_ema)


def test_a_validation_that_raises_on_weights_that_are_not_finite_is_nan() -> None:
    def evaluate(model: nn.Linear) -> dict[str, float]:
        if not model.weight.isfinite().all():
            raise ValueError("NaN in the input of a metric")
        value = model.weight.item()
        with torch.no_grad():
            model.weight.fill_(float("nan"))
        return {"loss": value, "accuracy": 0.5}

    evaluations = traced(lambda run: fit(run, evaluate)).evaluations
    assert np.isnan(evaluations[1].val_loss)
    assert set(evaluations[1].metrics) == {"accuracy", "accuracy_ema"}


def test_an_engine_s_processes_must_be_the_framework_s() -> None:
    """Else each would train alone, on all of the data."""

    def train(run: LoopRun) -> None:
        model = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        Steps(run, model, optimizer, lambda: {"loss": 0.0}, processes=2)

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(InputError, match="trains each trial in 1 processes, and the framework knows of 2: leave"):
            traced(train)
    finally:
        dist.destroy_process_group()


def test_modules_are_in_their_modes_after_a_validation() -> None:
    """A frozen part may be in evaluation mode while the rest is trained."""
    modes: list[tuple[bool, bool]] = []

    def train(run: LoopRun) -> None:
        model = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
        model[1].eval()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        steps = Steps(run, model, optimizer, lambda: {"loss": model.eval()[0].bias.item()})
        for _ in range(run.total_steps):
            model[0].weight.grad = torch.ones(1, 1)
            optimizer.step()
            steps.scheduler.step()
            steps.made(1.0)
            modes.append((model[0].training, model[1].training))

    traced(train)
    assert modes == [(True, False)] * 20


def test_a_validation_that_raises_otherwise_fails() -> None:
    def evaluate(model: nn.Linear) -> dict[str, float]:
        raise OSError("the validation data are gone")

    with pytest.raises(OSError, match="the validation data are gone"):
        traced(lambda run: fit(run, evaluate))


def test_validations_leave_the_random_state_of_the_training() -> None:
    draws: list[float] = []

    def train(run: LoopRun) -> None:
        torch.manual_seed(0)
        fit(run, lambda model: {"loss": torch.rand(()).item()})
        draws.append(torch.rand(()).item())

    evaluations = traced(train).evaluations
    torch.manual_seed(0)
    nn.Linear(1, 1, bias=False)
    assert draws == [torch.rand(()).item()]
    assert len({evaluation.val_loss for evaluation in evaluations}) == 1


def test_steps_that_a_scaler_skips_have_no_learning_rate() -> None:
    def train(run: LoopRun) -> None:
        model = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        steps = Steps(run, model, optimizer, lambda: {"loss": 0.0})
        for step in range(run.total_steps):
            if skipped := step in (0, 3):
                steps.made(1.0, float("inf"), skipped=skipped)
                continue
            model.weight.grad = torch.ones(1, 1)
            optimizer.step()
            steps.scheduler.step()
            steps.made(1.0, 1.0)

    assert traced(train).lr[:6] == pytest.approx([0.0, *PLAN.curve()[:2], 0.0, *PLAN.curve()[2:4]])


def test_a_loop_that_ends_by_itself_is_named() -> None:
    with pytest.raises(InputError, match="the loop ended after 7 of 20 optimizer steps by itself"):
        traced(lambda run: fit(run, lambda model: {"loss": 0.0}, until=7))


# --- Checks -------------------------------------------------------------------------------------------------


def test_functions_are_checked() -> None:
    check_function("make_model", lambda size=3: nn.Linear(size, size), "a model")
    check_function("make_model", dict, "a model")
    with pytest.raises(InputError, match="make_model must be a function that builds a model, got Linear"):
        check_function("make_model", nn.Linear(2, 2), "a model")
    with pytest.raises(InputError, match="make_model must take no arguments: missing a required argument: 'size'"):
        check_function("make_model", lambda size: size, "a model")


@pytest.mark.parametrize("lr", [0.0, None])
def test_optimizers_are_checked(lr: float | None) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    check_optimizer(optimizer, "the loop")
    optimizer.param_groups[0]["lr"] = lr
    with pytest.raises(InputError, match=f"the SGD of the loop has no learning rate above 0.*{lr}"):
        check_optimizer(optimizer, "the loop")


class Drawn(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Examples that are augmented at random."""

    def __len__(self) -> int:
        return 1_000

    def __getitem__(self, index: int) -> Any:
        return torch.rand(3), index


def test_data_are_known_by_their_length_and_some_examples() -> None:
    rows = [{"x": torch.ones(3) * number, "labels": number % 2} for number in range(1_000)]
    other = [*rows[:-40], *({**row, "labels": 7} for row in rows[-40:])]
    assert data_digest(rows) == data_digest([*rows])
    assert len({data_digest(rows), data_digest(rows[:-1]), data_digest(other), data_digest({"one": rows})}) == 4
    assert data_digest(Drawn()) == data_digest(Drawn())
    assert data_digest(iter(rows)) == data_digest(iter([*rows])) != data_digest(rows)
    assert data_digest(None) == data_digest(None) != data_digest(rows)


def test_numbers_are_single_ones() -> None:
    values = {"a": 1, "b": np.float32(2.0), "c": torch.tensor(3.0), "d": "text", "e": np.ones(2), "f": None}
    assert numbers(values) == {"a": 1.0, "b": 2.0, "c": 3.0}


def test_a_described_loop_says_what_it_trains() -> None:
    task = LoopTask(DescribedLoop(lambda run: run.report(1.0), {"train_fn": "net", "data": "d"}), current_peak=0.1)
    assert task.describe() == {"train_fn": "net", "data": "d"}
