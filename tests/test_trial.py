"""A trial: what it records, that trials of a seed are paired, that it goes on bit for bit, that it leaves no traces."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from autowarmup import Schedule
from autowarmup.errors import InputError
from autowarmup.training.settings import TrainSettings
from autowarmup.training.task import ModelTask
from autowarmup.training.trace import Trace
from autowarmup.training.trial import ModelTrial
from tests.tasks import digits, linear, loaders, mlp

SCHEDULE = Schedule(peak=0.01, horizon=30, warmup_steps=7, shape="linear")


def task(model_fn: Any = mlp, data: Any = None, **settings: Any) -> ModelTask:
    keywords = {key: settings.pop(key) for key in ("loss", "optimizer", "metrics") if key in settings}
    chosen = TrainSettings(**{"batch_size": 64, "device": "cpu"} | settings)
    return ModelTask(model_fn, digits() if data is None else data, settings=chosen, **keywords)


def trained(trained_task: ModelTask, schedule: Schedule = SCHEDULE, seed: int = 0) -> Trace:
    return Trace.join(list(trained_task.trial(schedule, seed, 10, None).run(schedule.horizon)))


def paused(trial: ModelTrial) -> io.BytesIO:
    """All that is kept of a trial that pauses."""
    file = io.BytesIO()
    assert trial.save(lambda: nullcontext(file))
    file.seek(0)
    return file


def same(first: Trace, second: Trace) -> bool:
    return first.to_bytes() == second.to_bytes()


def test_records_every_step_and_validates_at_evaluations() -> None:
    trace = trained(task(metrics={"accuracy": lambda output, target: (output.argmax(1) == target).float().mean()}))
    assert trace.lr.tolist() == SCHEDULE.curve().tolist()
    assert np.isfinite(trace.loss).all()
    assert (trace.grad_norm > 0).all()
    assert [evaluation.step for evaluation in trace.evaluations] == [10, 20, 30]
    last = trace.evaluations[-1]
    assert last.val_loss < trace.evaluations[0].val_loss
    assert last.metrics["accuracy"] > 0.6
    assert last.val_loss != last.val_loss_ema


def test_matches_a_loop_written_by_hand() -> None:
    """Plain PyTorch with the same weights and batches gives the same losses and validation loss."""
    trace = trained(task(linear))
    made = task(linear)
    model, batches = made.recipe.build_model(0), iter(made.trial(SCHEDULE, 0, 10, None)._batches)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = SCHEDULE.scheduler(optimizer)
    losses = []
    for _ in range(30):
        x, y = next(batches)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    x_val, y_val = map(torch.from_numpy, digits()[1])
    np.testing.assert_allclose(trace.loss, losses, rtol=1e-5)
    assert trace.evaluations[-1].val_loss == pytest.approx(nn.functional.cross_entropy(model(x_val), y_val).item())


class Noisy(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Augments with all three global generators."""

    def __init__(self) -> None:
        self.x, self.y = map(torch.from_numpy, digits()[0])

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[i] + 0.1 * torch.randn(64) + 0.1 * random.random() + 0.1 * np.random.rand(), self.y[i]


class Stream(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """Reads in order, through a buffer that shuffles with the global generator."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        buffer: list[tuple[torch.Tensor, torch.Tensor]] = []
        for item in zip(*map(torch.from_numpy, digits()[0]), strict=True):
            buffer.append(item)
            if len(buffer) == 100:
                yield buffer.pop(random.randrange(100))
        random.shuffle(buffer)
        yield from buffer


DATA = {
    "a loader over an iterable dataset": lambda: (DataLoader(Stream(), 64), loaders()[1]),
    "arrays": digits,
    "dataset with augmentation": lambda: (Noisy(), digits()[1]),
    "loaders": loaders,
    "loader with augmentation": lambda: (DataLoader(Noisy(), 64, shuffle=True, drop_last=True), loaders()[1]),
    "loader with its own generator": lambda: (
        DataLoader(Noisy(), 64, shuffle=True, generator=torch.Generator().manual_seed(5)),
        loaders()[1],
    ),
    "callable returning loaders": lambda: loaders,
    "callable returning generators": lambda: lambda: (iter(loaders()[0]), iter(loaders()[1])),
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_goes_on_bit_for_bit_wherever_it_pauses(data: Any) -> None:
    made = task(data=data())
    whole = trained(made)
    for pause in (3, 10, 19):
        parts = []
        first = made.trial(SCHEDULE, 0, 10, None)
        parts += list(first.run(pause))
        parts += list(made.trial(SCHEDULE, 0, 10, paused(first)).run(30))
        assert same(Trace.join(parts), whole)


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_trials_of_a_seed_see_the_same_weights_and_batches(data: Any) -> None:
    made = task(data=data())
    slow, fast = SCHEDULE.model_copy(update={"peak": 1e-12}), SCHEDULE.model_copy(update={"peak": 1e-11})
    np.testing.assert_allclose(trained(made, slow).loss, trained(made, fast).loss, rtol=1e-5)
    assert not np.allclose(trained(made, slow).loss, trained(made, slow, seed=1).loss, rtol=1e-3)


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_leaves_global_random_states_and_the_users_objects_alone(data: Any) -> None:
    given = data()
    loader = given[0] if isinstance(given, tuple) and isinstance(given[0], DataLoader) else None
    generator = loader.generator.get_state() if loader is not None and loader.generator else None
    before = random.random(), np.random.rand(), torch.rand(1)
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    made = task(data=given)
    blocks: Iterator[Trace] = made.trial(SCHEDULE, 0, 10, None).run(30)
    next(blocks)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected != before
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    list(blocks)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    if generator is not None and loader is not None and loader.generator is not None:
        assert torch.equal(loader.generator.get_state(), generator)


def test_accumulation_counts_optimizer_steps() -> None:
    """Two batches of 32 make the step that one of 64 makes; the rate follows optimizer steps."""
    whole, halves = trained(task(linear)), trained(task(linear, batch_size=32, accumulate=2))
    assert halves.lr.tolist() == whole.lr.tolist()
    np.testing.assert_allclose(halves.loss[:9], whole.loss[:9], rtol=1e-4)


def test_clipping_limits_the_step_and_records_the_norm_before_it() -> None:
    def sgd(params: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=1.0)

    free, clipped = trained(task(linear, optimizer=sgd)), trained(task(linear, optimizer=sgd, clip_norm=1e-9))
    assert clipped.grad_norm[0] == free.grad_norm[0] > 1e-3
    assert clipped.evaluations[-1].val_loss > free.evaluations[-1].val_loss


def test_arrays_have_the_type_that_models_have_by_default() -> None:
    (x, y), validation = digits()
    data = (x.astype("float64"), y), validation
    assert same(trained(task(linear, data)), trained(task(linear)))
    torch.set_default_dtype(torch.float64)
    try:
        trace = trained(task(linear, (data[0], (validation[0].astype("float64"), validation[1]))))
    finally:
        torch.set_default_dtype(torch.float32)
    assert trace.evaluations[-1].val_loss < trace.evaluations[0].val_loss


@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_sparse_gradients_are_as_good_as_dense_ones(clip_norm: float | None) -> None:
    """Two rows of a batch may have the same word, so that a gradient has several parts to be added up."""
    words = np.random.default_rng(0).integers(0, 30, (512, 6))
    data = (words, words.sum(1) % 3), (words[:64], words[:64].sum(1) % 3)

    def with_bag(sparse: bool) -> Trace:
        def model() -> nn.Module:
            return nn.Sequential(nn.EmbeddingBag(30, 8, sparse=sparse), nn.Linear(8, 3))

        return trained(task(model, data, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), clip_norm=clip_norm))

    sparse, dense = with_bag(sparse=True), with_bag(sparse=False)
    np.testing.assert_allclose(sparse.grad_norm, dense.grad_norm, rtol=1e-5)
    np.testing.assert_allclose(sparse.loss, dense.loss, rtol=1e-5)


def test_parameter_groups_keep_their_ratio() -> None:
    made: list[torch.optim.Optimizer] = []

    def groups(params: Any) -> torch.optim.Optimizer:
        weight, bias = params
        made.append(torch.optim.SGD([{"params": [weight], "lr": 0.01}, {"params": [bias], "lr": 0.1}]))
        return made[-1]

    trial = task(linear, optimizer=groups).trial(SCHEDULE, 0, 10, None)
    list(trial.run(10))
    assert [group["lr"] for group in made[-1].param_groups] == pytest.approx([0.1 * trial_lr(9), trial_lr(9)])


def trial_lr(step: int) -> float:
    return SCHEDULE.lr_at(step)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains(precision: str) -> None:
    trace = trained(task(precision=precision))
    assert trace.evaluations[-1].val_loss < trace.evaluations[0].val_loss


def test_a_step_that_the_scaler_skips_has_rate_zero() -> None:
    """An overflow in fp16 is no instability: the scaler leaves the weights alone and tries a smaller scale."""

    def huge(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output.float(), target) * 1e33

    made = task(linear, loss=huge, precision="fp16")
    trace = trained(made)
    skipped = trace.lr == 0.0
    assert skipped.any()
    assert np.isinf(trace.grad_norm[skipped]).all()
    assert np.isfinite(trace.grad_norm[~skipped]).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_models_train() -> None:
    trace = trained(task(linear, compile=True))
    np.testing.assert_allclose(trace.loss, trained(task(linear)).loss, rtol=1e-3)


class OwnLoss(nn.Module):
    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.head, self.wrap = nn.Linear(64, 10), wrap

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> Any:
        return self.wrap(nn.functional.cross_entropy(self.head(x), labels))


class Dictionaries:
    """Batches as dictionaries, as Hugging Face's collators make them."""

    def __init__(self, part: int) -> None:
        self.part = part

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        x, y = map(torch.from_numpy, digits()[self.part])
        yield from ({"x": a, "labels": b} for a, b in zip(x.split(64), y.split(64), strict=True))


@pytest.mark.parametrize(
    "wrap", [lambda loss: {"loss": loss}, lambda loss: type("Out", (), {"loss": loss})(), lambda loss: loss]
)
def test_models_that_return_their_loss(wrap: Any) -> None:
    made = task(lambda: OwnLoss(wrap), data=(Dictionaries(0), Dictionaries(1)))
    trace = trained(made)
    assert trace.evaluations[-1].val_loss < trace.evaluations[0].val_loss


def test_the_loss_of_the_trivial_predictor() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    x = np.zeros((100, 64), np.float32)
    entropy = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert task(linear, data=((x, labels), (x, labels))).trivial_loss == pytest.approx(entropy)
    values = np.random.default_rng(0).normal(3.0, 2.0, (100, 10)).astype(np.float32)
    assert task(linear, data=((x, values), (x, values))).trivial_loss == pytest.approx(values.var(0).mean(), rel=1e-5)
    assert task(linear, loss=lambda o, t: nn.functional.cross_entropy(o, t) * 2).trivial_loss is None


def test_averaged_weights_include_buffers() -> None:
    """With BatchNorm the averaged model's validation makes sense only with averaged statistics."""
    last = trained(task(mlp), SCHEDULE.model_copy(update={"peak": 0.03})).evaluations[-1]
    assert last.val_loss_ema < 2.0 * last.val_loss


class Masked(nn.Module):
    """Buffers of all kinds: a mask with minus infinity, one that a state dict leaves out; and complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)
        self.turn = nn.Parameter(torch.ones(10, dtype=torch.complex64))
        self.register_buffer("mask", torch.tensor([0.0] * 10 + [-torch.inf]))
        self.register_buffer("centre", torch.zeros(10), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.head(x)
        if self.training:
            self.centre.lerp_(logits.detach().mean(0), 0.1)
        return (logits * self.turn).real - self.centre + self.mask[:10]


def test_buffers_of_all_kinds_are_averaged_saved_and_restored() -> None:
    made = task(Masked)
    whole = trained(made)
    assert all(np.isfinite(evaluation.val_loss_ema) for evaluation in whole.evaluations)
    first = made.trial(SCHEDULE, 0, 10, None)
    parts = list(first.run(10))
    parts += list(made.trial(SCHEDULE, 0, 10, paused(first)).run(30))
    assert same(Trace.join(parts), whole)


def test_the_average_of_half_precision_weights_follows_them() -> None:
    from autowarmup.training.average import AveragedWeights

    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(1.0)
        average = AveragedWeights(model)
        model.weight.fill_(1.3)
        for step in range(2_000, 20_000):
            average.update(step)
    with average.swapped_in():
        assert model.weight.item() == pytest.approx(1.3, rel=0.01)


def test_only_parameters_that_are_trained_may_be_averaged() -> None:
    from autowarmup.training.average import AveragedWeights

    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Linear(1, 1))
    average = AveragedWeights(model, model[2].parameters())
    assert len(average.weights) == 4
    assert len(average.statistics) == 2
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
    with average.swapped_in():
        assert model[0].weight.item() == 3.0
        assert model[2].weight.item() != 3.0
    assert model[2].weight.item() == 3.0


class Augmented(TensorDataset):
    calls = 0

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        Augmented.calls += 1
        return super().__getitem__(index)


def test_a_dataset_that_extends_tensor_dataset_is_asked_for_its_items() -> None:
    x, y = map(torch.from_numpy, digits()[0])
    trained(task(data=(Augmented(x, y), digits()[1])), SCHEDULE.model_copy(update={"horizon": 10}))
    assert Augmented.calls >= 640


def test_a_sampler_of_a_batch_sampler_is_left_alone_and_paired() -> None:
    dataset = TensorDataset(*map(torch.from_numpy, digits()[0]))
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    sampler = BatchSampler(RandomSampler(dataset, generator=generator), 64, drop_last=False)
    made = task(data=(DataLoader(dataset, batch_sampler=sampler), loaders()[1]))
    still = SCHEDULE.model_copy(update={"peak": 1e-12})
    np.testing.assert_array_equal(trained(made, still).loss, trained(made, still).loss)
    assert torch.equal(generator.get_state(), before)


def test_steps_that_all_overflow_are_recorded_as_such() -> None:
    """With a scaler, gradients that are never finite mean that the run makes no step at all."""

    class Broken(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            if out.requires_grad and self.calls():
                out.register_hook(lambda gradient: gradient * torch.nan)
            return out

        def calls(self) -> bool:
            self.seen = getattr(self, "seen", 0) + 1
            return self.seen > 2

    trace = trained(task(lambda: Broken(64, 10), precision="fp16"))
    assert (trace.lr[2:] == 0.0).all()
    assert np.isinf(trace.grad_norm[2:]).all()


def test_the_trivial_loss_is_left_open_where_the_model_has_its_own() -> None:
    made = task(lambda: OwnLoss(lambda loss: loss), data=(Dictionaries(0), Dictionaries(1)))
    assert made.trivial_loss is None
    labels = (np.zeros((100, 64), np.float32), np.array([0, 1] * 50))
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.5)
    assert task(linear, data=(labels, labels), loss=smoothed).trivial_loss is None
    assert task(linear, data=(labels, labels), loss=nn.CrossEntropyLoss()).trivial_loss == pytest.approx(np.log(2))


def test_workers_read_an_iterable_dataset() -> None:
    made = task(data=(DataLoader(Stream(), 64, num_workers=2), DataLoader(Stream(), 64)))
    assert made.steps_per_epoch is None
    short = SCHEDULE.model_copy(update={"horizon": 22})
    trace = trained(made, short)
    assert np.isfinite(trace.loss).all()
    assert same(trace, trained(made, short))


def test_the_trivial_loss_of_soft_labels_is_the_entropy_of_their_mean() -> None:
    x, labels = np.zeros((100, 64), np.float32), np.array([0, 1] * 40 + [2] * 20)
    hard = np.eye(10, dtype=np.float32)[labels]
    mixed = 0.7 * hard + 0.3 * hard[::-1]
    entropy = -(2 * 0.4 * np.log(0.4) + 0.2 * np.log(0.2))
    for loss in (nn.CrossEntropyLoss(), nn.functional.cross_entropy):
        for targets in (hard, mixed, labels):
            made = task(linear, data=((x, targets), (x, targets)), loss=loss)
            assert made.trivial_loss == pytest.approx(entropy)
    padded = np.where(labels == 2, 7, labels)
    ignoring = task(linear, data=((x, padded), (x, padded)), loss=nn.CrossEntropyLoss(ignore_index=7))
    assert ignoring.trivial_loss == pytest.approx(np.log(2))
    weighted = nn.CrossEntropyLoss(weight=torch.ones(10))
    assert task(linear, data=((x, hard), (x, hard)), loss=weighted).trivial_loss is None


def muon_and_adam(model: nn.Module) -> list[torch.optim.Optimizer]:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    others = [parameter for parameter in model.parameters() if parameter.dim() != 2]
    return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=0.005, betas=(0.9, 0.95))]


def test_several_optimizers_train_one_model() -> None:
    made = task(mlp, optimizer=muon_and_adam)
    assert (made.current_peak, made.beta2) == (0.02, 0.95)
    assert made.describe()["optimizer"] == "Muon and AdamW"
    whole = trained(made)
    assert whole.evaluations[-1].val_loss < whole.evaluations[0].val_loss
    first = made.trial(SCHEDULE, 0, 10, None)
    parts = list(first.run(10))
    lrs = [optimizer.param_groups[0]["lr"] for optimizer in first._optimizers]
    assert lrs == pytest.approx([trial_lr(9), 0.25 * trial_lr(9)])
    parts += list(made.trial(SCHEDULE, 0, 10, paused(first)).run(30))
    assert same(Trace.join(parts), whole)


def test_an_optimizer_may_ask_for_names() -> None:
    def by_name(named_parameters: Any) -> torch.optim.Optimizer:
        decayed = [parameter for name, parameter in named_parameters if name.endswith("weight")]
        free = [parameter for name, parameter in named_parameters if not name.endswith("weight")]
        return torch.optim.AdamW([{"params": decayed}, {"params": free, "weight_decay": 0.0}])

    assert task(mlp, optimizer=by_name).describe()["groups"] == [[1e-3, 3], [1e-3, 3]]


class RaisesOnNaN(nn.Linear):
    """Like many models: refuses to go on where its numbers are too large."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(self.weight.square().sum()):
            raise ValueError("the weights are too large")
        return super().forward(x)


@pytest.mark.parametrize("eval_every", [10, 1], ids=["while training", "while validating"])
def test_code_that_raises_on_broken_weights_is_recorded_as_a_loss_of_nan(eval_every: int) -> None:
    made = task(lambda: RaisesOnNaN(64, 10), optimizer=lambda params: torch.optim.SGD(params, lr=1.0))
    trial = made.trial(Schedule(peak=1e38, horizon=30), 0, eval_every, None)
    trace = Trace.join([block for _, block in zip(range(3), trial.run(30), strict=False)])
    assert not np.isfinite(trace.loss).all() or not all(np.isfinite(e.val_loss) for e in trace.evaluations)


def test_code_that_raises_by_itself_fails() -> None:
    class Fails(nn.Linear):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Fails.calls += 1
            if Fails.calls > 20:
                raise RuntimeError("disk full")
            return super().forward(x)

    with pytest.raises(RuntimeError, match="disk full"):
        trained(task(lambda: Fails(64, 10)))


class OneBad(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The digits, one image of which is NaN."""

    def __init__(self, bad: int) -> None:
        self.x, self.y = (torch.tensor(part) for part in digits()[0])
        self.x[bad] = torch.nan

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index], self.y[index]


def test_a_train_batch_that_no_learning_rate_can_mend_fails_the_trial() -> None:
    made = task(data=(DataLoader(OneBad(500), 64), digits()[1]))
    with pytest.raises(
        InputError, match=r"a train batch \(\(64, 64\) float32.* gives a loss of nan before any step too"
    ):
        trained(made)


def test_a_validation_batch_beyond_the_check_fails_the_trial() -> None:
    made = task(data=(digits()[0], DataLoader(OneBad(550), 10)))
    with pytest.raises(InputError, match=r"a validation batch .* gives a loss of nan before any step too"):
        trained(made)


class Classified(Dataset[dict[str, Any]]):
    """Items as Hugging Face's datasets give them, with a ``label``."""

    def __init__(self, key: str = "label") -> None:
        self.key = key
        self.x, self.y = digits()[0]

    def __len__(self) -> int:
        return 128

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": torch.from_numpy(self.x[index]), self.key: int(self.y[index])}


class TakesX(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


@pytest.mark.parametrize("key", ["label", "labels"])
@pytest.mark.parametrize("loss", [None, nn.CrossEntropyLoss()])
def test_a_label_is_the_target_where_the_model_does_not_take_it(key: str, loss: Any) -> None:
    made = task(lambda: TakesX(64, 10), data=(Classified(key), Classified(key)), loss=loss)
    assert np.isfinite(trained(made, SCHEDULE.model_copy(update={"horizon": 10})).loss).all()
    assert made.trivial_loss is not None


def test_a_label_goes_in_as_labels_where_the_model_takes_these() -> None:
    made = task(lambda: OwnLoss(lambda loss: {"loss": loss}), data=(Classified(), Classified()))
    assert np.isfinite(trained(made, SCHEDULE.model_copy(update={"horizon": 10})).loss).all()


def test_arrays_with_negative_strides_and_devices_are_taken() -> None:
    (x, y), (x_val, y_val) = digits()
    made = task(linear, data=((x[::-1], y[::-1]), (x_val[:, ::-1], y_val)), device=torch.device("cpu"))
    assert np.isfinite(trained(made).loss).all()
