"""A trial beside a loop that is written out by hand: parameter groups, clipping, accumulation, precision, averages."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from autowarmup import Schedule
from autowarmup.errors import InputError
from autowarmup.training.recipe import TrainSettings
from autowarmup.training.task import ModelTask
from autowarmup.training.trace import Trace
from tests.tasks import digits, linear

SCHEDULE = Schedule(peak=0.5, horizon=24, warmup_steps=7, shape="linear")
SCALE = 65536.0
"""What a loss scaler begins with."""


def two_groups(weight_lr: float, bias_lr: float, *, tensors: bool = False) -> Any:
    """A factory of SGD that trains the bias at another rate than the weights."""

    def factory(parameters: Any) -> torch.optim.Optimizer:
        weight, bias = parameters
        lrs = [torch.tensor(lr) if tensors else lr for lr in (weight_lr, bias_lr)]
        return torch.optim.SGD([{"params": [weight], "lr": lrs[0]}, {"params": [bias], "lr": lrs[1]}])

    return factory


def task(model_fn: Any = linear, data: Any = None, **settings: Any) -> ModelTask:
    keywords = {key: settings.pop(key) for key in ("optimizer", "metrics", "loss") if key in settings}
    keywords = {"optimizer": two_groups(0.4, 0.1)} | keywords
    chosen = TrainSettings(**{"batch_size": 64, "device": "cpu"} | settings)
    return ModelTask(model_fn, digits() if data is None else data, settings=chosen, **keywords)


def trained(made: ModelTask, every: int = 10, schedule: Schedule = SCHEDULE) -> Trace:
    return Trace.join(list(made.trial(schedule, 0, every, None).run(schedule.horizon)))


@dataclass
class ByHand:
    """What the loop below records."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    validations: list[tuple[int, float, float]] = field(default_factory=list)


def loss_of(model: nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype | None) -> Tensor:
    with torch.autocast("cpu", dtype) if dtype else nullcontext():
        return nn.functional.cross_entropy(model(x), y)


def by_hand(
    made: ModelTask,
    ratios: tuple[float, float] = (1.0, 0.25),
    *,
    accumulate: int = 1,
    clip: float | None = None,
    dtype: torch.dtype | None = None,
    scale: float = 1.0,
) -> ByHand:
    """Gradient descent without an optimizer, from the same weights and on the same batches."""
    model, batches = made.recipe.build_model(0), iter(made.trial(SCHEDULE, 0, 10, None)._batches)
    parameters = list(model.parameters())
    averages = [parameter.detach().clone() for parameter in parameters]
    x_val, y_val = map(torch.from_numpy, digits()[1])
    record = ByHand()
    for step in range(SCHEDULE.horizon):
        gradients = [torch.zeros_like(parameter) for parameter in parameters]
        losses = []
        for _ in range(accumulate):
            x, y = next(batches)
            loss = loss_of(model, x, y, dtype)
            losses.append(loss.item())
            for sum_, gradient in zip(
                gradients, torch.autograd.grad(loss * scale / accumulate, parameters), strict=True
            ):
                sum_ += gradient / scale
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
        shrink = 1.0 if clip is None else min(1.0, clip / norm)
        with torch.no_grad():
            for parameter, gradient, ratio, average in zip(parameters, gradients, ratios, averages, strict=True):
                parameter -= SCHEDULE.lr_at(step) * ratio * shrink * gradient
                average += (parameter - average) * 9.0 / (step + 1 + 10.0)
        record.losses.append(sum(losses) / accumulate)
        record.norms.append(norm)
        if (step + 1) % 10 == 0 or step + 1 == SCHEDULE.horizon:
            own = [parameter.detach().clone() for parameter in parameters]
            values = []
            with torch.no_grad():
                for weights in (own, averages):
                    for parameter, weight in zip(parameters, weights, strict=True):
                        parameter.copy_(weight)
                    values.append(loss_of(model, x_val, y_val, dtype).item())
                for parameter, weight in zip(parameters, own, strict=True):
                    parameter.copy_(weight)
            record.validations.append((step + 1, values[0], values[1]))
    return record


def check(trace: Trace, expected: ByHand, rtol: float = 1e-5) -> None:
    np.testing.assert_array_equal(trace.lr, SCHEDULE.curve())
    np.testing.assert_allclose(trace.loss, expected.losses, rtol=rtol)
    np.testing.assert_allclose(trace.grad_norm, expected.norms, rtol=10 * rtol)
    found = [(evaluation.step, evaluation.val_loss, evaluation.val_loss_ema) for evaluation in trace.evaluations]
    np.testing.assert_allclose(found, expected.validations, rtol=rtol)


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize(
    ("lrs", "ratios"), [((0.4, 0.1), (1.0, 0.25)), ((0.1, 0.4), (0.25, 1.0)), ((0.3, 0.3), (1.0, 1.0))]
)
def test_the_schedule_is_the_highest_rate_and_groups_keep_their_ratio(
    lrs: tuple[float, float], ratios: tuple[float, float], tensors: bool
) -> None:
    made = task(optimizer=two_groups(*lrs, tensors=tensors))
    check(trained(made), by_hand(made, ratios))


@pytest.mark.parametrize("accumulate", [2, 3])
def test_a_step_takes_the_mean_of_the_batches_that_it_accumulates(accumulate: int) -> None:
    made = task(batch_size=16, accumulate=accumulate)
    check(trained(made), by_hand(made, accumulate=accumulate))


@pytest.mark.parametrize("clip", [0.3, 1e6])
def test_gradients_are_scaled_to_the_norm_that_is_allowed(clip: float) -> None:
    made = task(clip_norm=clip)
    expected = by_hand(made, clip=clip)
    check(trained(made), expected, rtol=1e-4)
    assert (min(expected.norms) > clip) == (clip == 0.3)


@pytest.mark.parametrize(
    ("precision", "dtype", "scale"),
    [("fp32", None, 1.0), ("bf16", torch.bfloat16, 1.0), ("fp16", torch.float16, SCALE)],
)
def test_the_precision_is_the_one_that_was_asked_for(precision: str, dtype: torch.dtype | None, scale: float) -> None:
    made = task(precision=precision)
    trace = trained(made)
    check(trace, by_hand(made, dtype=dtype, scale=scale), rtol=1e-4)
    dtypes = (None, torch.bfloat16, torch.float16)
    off = [np.abs(trace.loss - by_hand(made, dtype=other, scale=scale).losses).max() for other in dtypes]
    assert dtypes[int(np.argmin(off))] is dtype
    assert sorted(off)[1] > 10 * min(off)


def test_only_fp16_scales_its_loss() -> None:
    """A gradient of a million overflows where it is scaled and of half precision, and only there."""

    def huge(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output.float(), target) * 1e6

    schedule = SCHEDULE.model_copy(update={"peak": 1e-9})
    for precision in ("fp32", "bf16"):
        trace = trained(task(loss=huge, precision=precision), schedule=schedule)
        assert np.isfinite(trace.grad_norm).all()
        assert (trace.lr > 0.0).all()
    trace = trained(task(loss=huge, precision="fp16"), schedule=schedule)
    assert trace.lr[0] == 0.0
    assert trace.grad_norm[0] == math.inf


def test_a_gradient_that_is_not_a_number_is_recorded_as_infinite() -> None:
    class Broken(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            if out.requires_grad and self.training and self.bias.abs().max() > 0.5:
                out.register_hook(lambda gradient: gradient * torch.nan)
            return out

    model = lambda: Broken(64, 10)  # noqa: E731
    trace = trained(task(model), schedule=SCHEDULE.model_copy(update={"peak": 40.0}))
    (bad,) = np.flatnonzero(np.isinf(trace.grad_norm))[:1]
    assert bad > 0
    assert np.isfinite(trace.grad_norm[:bad]).all()
    assert trace.lr[bad] > 0.0  # applied, since there is no scaler


def test_validation_is_the_mean_over_examples_though_the_last_batch_is_smaller() -> None:
    x, y = map(torch.from_numpy, digits()[1])
    loader = DataLoader(TensorDataset(x, y), batch_size=70)

    def accuracy(output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(1) == target).float().mean()

    def width(output: Tensor, target: Tensor) -> float:
        return float(output.shape[1])

    train = DataLoader(TensorDataset(*map(torch.from_numpy, digits()[0])), batch_size=64, shuffle=True)
    made = task(data=(train, loader), metrics={"accuracy": accuracy, "width": width})
    trial = made.trial(SCHEDULE, 0, 10, None)
    last = list(trial.run(SCHEDULE.horizon))[-1].evaluations[0]
    output = trial._model(x)
    assert last.step == SCHEDULE.horizon
    assert last.val_loss == pytest.approx(nn.functional.cross_entropy(output, y).item(), rel=1e-5)
    assert last.metrics["accuracy"] == pytest.approx(accuracy(output, y).item(), abs=1e-6)
    assert (last.metrics["width"], last.metrics["width_ema"]) == (10.0, 10.0)
    assert set(last.metrics) == {"accuracy", "width", "accuracy_ema", "width_ema"}
    with trial._average.swapped_in():
        averaged = trial._model(x)
    assert last.metrics["accuracy_ema"] == pytest.approx(accuracy(averaged, y).item(), abs=1e-6)


@pytest.mark.parametrize(
    ("accumulate", "every", "until", "blocks"),
    [
        (1, 100, 24, [(0, 10), (10, 20), (20, 24)]),
        (1, 4, 11, [(0, 4), (4, 8), (8, 11)]),
        (3, 100, 7, [(0, 3), (3, 6), (6, 7)]),
        (10, 2, 3, [(0, 1), (1, 2), (2, 3)]),
        (20, 2, 2, [(0, 1), (1, 2)]),
    ],
)
def test_blocks_end_at_ten_batches_at_evaluations_and_at_the_end(
    accumulate: int, every: int, until: int, blocks: list[tuple[int, int]]
) -> None:
    trial = task(batch_size=8, accumulate=accumulate).trial(SCHEDULE, 0, every, None)
    found = list(trial.run(until))
    assert [(block.start, block.end) for block in found] == blocks
    marks = [[evaluation.step for evaluation in block.evaluations] for block in found]
    assert marks == [[end] if end % every == 0 or end == SCHEDULE.horizon else [] for _, end in blocks]


def test_dropout_is_on_in_training_and_off_in_validation() -> None:
    def dropping() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 10), nn.Dropout(0.9))

    made = task(dropping)
    trial = made.trial(SCHEDULE, 0, 10, None)
    blocks = list(trial.run(20))
    assert trial._model.training is False
    x, y = map(torch.from_numpy, digits()[1])
    expected = nn.functional.cross_entropy(trial._model(x), y).item()
    assert blocks[1].evaluations[0].val_loss == pytest.approx(expected, rel=1e-5)
    plain = trained(task())
    assert np.abs(blocks[0].loss - plain.loss[:10]).max() > 0.05
    assert np.abs(blocks[1].loss - plain.loss[10:20]).max() > 0.05  # after a validation, too


class Alternating(nn.Module):
    """Uses one of its two layers in every other step of the training."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 10), nn.Linear(64, 10)])
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return self.layers[self.calls % 2](x)


def test_a_parameter_that_a_step_does_not_use_stays_as_it_is() -> None:
    """Momentum moves it on in steps that use it only."""

    def momentum(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)

    trial = task(Alternating, optimizer=momentum).trial(SCHEDULE, 0, 1, None)
    weights: list[list[Tensor]] = []
    for _ in trial.run(8):
        weights.append([layer.weight.detach().clone() for layer in trial._model.layers])
    moved = [[not torch.equal(a, b) for a, b in zip(*pair, strict=True)] for pair in pairwise(weights)]
    assert moved == [[step % 2 == 0, step % 2 == 1] for step in range(7)]


class Guarded(nn.Linear):
    """Raises what many models raise: where its output is not finite; and where ``wrong`` says so."""

    def __init__(self, wrong: Any = lambda model: False) -> None:
        super().__init__(64, 10)
        self.wrong = wrong

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if self.wrong(self) or not torch.isfinite(out).all():
            raise ValueError("no good")
        return out


def test_what_the_user_s_code_raises_in_a_healthy_run_is_raised() -> None:
    calls = iter(range(1000))
    for wrong in (lambda model: next(calls) == 5, lambda model: not model.training):
        made = task(linear)
        made.recipe.model_fn = lambda wrong=wrong: Guarded(wrong)
        with pytest.raises(ValueError, match="no good"):
            trained(made)


def test_what_it_raises_once_the_weights_are_not_finite_is_a_loss_of_nan() -> None:
    schedule = SCHEDULE.model_copy(update={"peak": 3e38, "warmup_steps": 0, "shape": Schedule(peak=1, horizon=1).shape})
    trial = task(Guarded).trial(schedule, 0, 10, None)
    block = next(trial.run(24))
    assert np.isnan(block.loss[-1])
    assert np.isfinite(block.loss[0])
    assert len(block) < 10


def test_data_that_are_not_finite_are_told_from_training_that_is_not() -> None:
    """The mode is the one in which the loss was not finite: some models differ in it."""

    class NotFinite(nn.Linear):
        def __init__(self, in_training: bool) -> None:
            super().__init__(64, 10)
            self.in_training = in_training

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (torch.nan if self.training == self.in_training else 1.0)

    for in_training, name in ((True, "train"), (False, "validation")):
        made = task(linear)
        made.recipe.model_fn = lambda in_training=in_training: NotFinite(in_training)
        with pytest.raises(InputError, match=f"a {name} batch .* gives a loss of nan before any step too"):
            trained(made)
