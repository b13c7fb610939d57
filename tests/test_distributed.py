"""Several processes train one model together: the same run as one process's, and the same in each to the bit."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autowarmup import AdaptiveWarmup, LoopRun, Schedule
from autowarmup.errors import InputError
from autowarmup.training.batch import part_of
from autowarmup.training.distributed import Group, found_store, opened_store
from autowarmup.training.loop import LoopTask
from autowarmup.training.settings import TrainSettings
from autowarmup.training.task import ModelTask
from autowarmup.training.trace import Trace
from tests.tasks import digits, linear, mlp

SCHEDULE = Schedule(shape="linear", peak=0.02, warmup_steps=5, horizon=24)


@pytest.fixture(scope="module")
def together() -> Iterator[Callable[..., list[Any]]]:
    """Calls a function in two processes that have joined: with the group and further arguments."""
    store = opened_store("127.0.0.1", 2)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(join, range(2), [store.port] * 2))
        yield lambda *call: [answer.result() for answer in [pool.submit(called, *call) for _ in range(2)]]


def join(rank: int, port: int) -> None:
    global group
    torch.set_num_threads(1)
    group = Group.joined(rank, 2, found_store("127.0.0.1", port, 2))


def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """A pool gives its calls to whoever is free: these two wait for one another."""
    group.all(None)
    return function(group, *arguments)


class Part(nn.Module):
    """A model that uses only some of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = linear(), linear()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


def accuracy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output.argmax(1) == target).float().mean()


def task(model_fn: Callable[[], nn.Module], accumulate: int, images: int) -> ModelTask:
    """In batches of 64: of 577 images the last one is alone."""
    (x, y), validation = digits()
    settings = TrainSettings(batch_size=64, accumulate=accumulate, clip_norm=1.0)
    data = ((x[:images], y[:images]), validation)
    return ModelTask(model_fn, data, metrics={"accuracy": accuracy}, settings=settings)


def whole_run(group: Group, *settings: Any) -> Trace:
    trained = task(*settings)
    trained.join(group)
    return Trace.join(list(trained.trial(SCHEDULE, 0, 8, None).run(24)))


def interrupted_run(group: Group, *settings: Any) -> Trace:
    """The same, paused after 16 steps."""
    trained = task(*settings)
    trained.join(group)
    first = trained.trial(SCHEDULE, 0, 8, None)
    parts = list(first.run(16))
    file = io.BytesIO()
    assert first.save(lambda: nullcontext(file))
    states = group.all(file.getvalue())
    second = trained.trial(SCHEDULE, 0, 8, io.BytesIO(states[0]))
    return Trace.join([*parts, *second.run(24)])


@pytest.mark.parametrize(("model_fn", "accumulate"), [(linear, 1), (linear, 3), (Part, 1)])
def test_two_processes_train_as_one(together: Any, model_fn: Callable[[], nn.Module], accumulate: int) -> None:
    alone = whole_run(Group(), model_fn, accumulate, 577)
    for trace in together(whole_run, model_fn, accumulate, 577):
        np.testing.assert_allclose(trace.loss, alone.loss, rtol=1e-4)
        np.testing.assert_allclose(trace.grad_norm, alone.grad_norm, rtol=1e-4)
        for ours, expected in zip(trace.evaluations, alone.evaluations, strict=True):
            assert (ours.val_loss, ours.val_loss_ema) == pytest.approx((expected.val_loss, expected.val_loss_ema), 1e-4)
            assert ours.metrics == pytest.approx(expected.metrics, abs=0.02)


def test_they_record_the_same_and_go_on_bit_for_bit(together: Any) -> None:
    """With dropout, which differs between them, and batch normalisation, whose statistics do."""
    whole = together(whole_run, mlp, 1, 600)
    resumed = together(interrupted_run, mlp, 1, 600)
    for trace in [*whole, *resumed]:
        np.testing.assert_array_equal(trace.loss, whole[0].loss)
        np.testing.assert_array_equal(trace.grad_norm, whole[0].grad_norm)
        assert trace.evaluations == whole[0].evaluations


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def frozen_run(group: Group, frozen: int) -> Trace:
    """With a layer that is frozen at first."""
    patterns = {"lower": ["0.*"], "upper": ["2.*"]}
    trained = ModelTask(two_layers, digits(), groups=patterns, settings=TrainSettings(batch_size=64))
    trained.join(group)
    groups = [{"name": "lower", "ratio": 0.5, "frozen_steps": frozen}, {"name": "upper"}]
    schedule = Schedule(shape="linear", peak=0.02, warmup_steps=5, horizon=24, groups=groups)
    return Trace.join(list(trained.trial(schedule, 0, 8, None).run(24)))


def test_groups_are_frozen_and_thaw_in_every_process(together: Any) -> None:
    alone, never = (frozen_run(Group(), frozen) for frozen in (9, 0))
    assert not np.allclose(alone.loss[2:], never.loss[2:])
    for trace in together(frozen_run, 9):
        np.testing.assert_allclose(trace.loss, alone.loss, rtol=1e-4)
        np.testing.assert_allclose(trace.grad_norm, alone.grad_norm, rtol=1e-4)


def own_loop(run: LoopRun) -> None:
    """Each process on data of its own; the first one validates."""
    rank = torch.distributed.get_rank()
    torch.manual_seed(run.seed)
    model = nn.parallel.DistributedDataParallel(nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = run.schedule.scheduler(optimizer)
    data = torch.Generator().manual_seed(rank)
    for step in range(run.total_steps):
        x = torch.randn(16, 4, generator=data)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if run.report(loss.item(), val_loss=loss.item() if rank == 0 and step % 8 == 7 else None):
            break


def loop(group: Group) -> Trace:
    looping = LoopTask(own_loop, current_peak=0.1)
    looping.join(group)
    return Trace.join(list(looping.trial(SCHEDULE, 0, 8, None).run(24)))


def test_a_loop_of_the_users_own_is_recorded_as_the_first_process_saw_it(together: Any) -> None:
    first, second = together(loop)
    assert len(first.evaluations) == 3
    assert [c.val_loss for c in second.evaluations] == [c.val_loss for c in first.evaluations]
    np.testing.assert_array_equal(first.loss, second.loss)
    assert first.loss[-1] < first.loss[0] / 2


def test_every_process_has_its_part_of_a_batch() -> None:
    batch = {"x": torch.arange(5), "y": (np.arange(5.0), [torch.arange(5)]), "scale": torch.tensor(2.0), "name": "a"}
    parts = [Group(rank, 2).share(batch) for rank in range(2)]
    assert [weight for _, weight in parts] == pytest.approx([0.8, 1.2])
    assert torch.equal(torch.cat([part["x"] for part, _ in parts]), torch.arange(5))
    np.testing.assert_array_equal(np.concatenate([part["y"][0] for part, _ in parts]), np.arange(5.0))
    assert all(part["scale"] == 2.0 and part["name"] == "a" for part, _ in parts)


def test_a_batch_that_cannot_be_divided() -> None:
    with pytest.raises(InputError, match="a batch with a object in it can't be divided among the processes of a trial"):
        part_of((torch.arange(2), object()), slice(0, 1), 2)


def adapted(group: Group, steps: int) -> list[float]:
    """The learning rates that a warm-up adapts to, where each process has data and weights
    of its own."""
    torch.manual_seed(0)
    model = linear()
    generator = torch.Generator().manual_seed(group.rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scheduler = AdaptiveWarmup(optimizer, steps)
    lrs = []
    for _ in range(steps):
        lrs += scheduler.get_last_lr()
        optimizer.zero_grad()
        x = torch.randn(8, 64, generator=generator)
        nn.functional.cross_entropy(model(x), x[:, :10].argmax(1)).backward()
        optimizer.step()
        scheduler.step()
    return lrs


def test_a_warmup_adapts_alike_in_all_processes(together: Callable[..., list[Any]]) -> None:
    """Although the gradients of these processes differ: their slopes are added up."""
    first, second = together(adapted, 60)
    assert first == second
    assert len(set(first)) > 30
