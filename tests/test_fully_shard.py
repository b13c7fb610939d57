"""A model whose weights are divided among processes by ``fully_shard``: what is done with whole copies of the model in
each process (DistributedDataParallel) is done with its parts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from autowarmup import AdaptiveWarmup, Guard, Schedule
from autowarmup.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HORIZON = 90
FAULTS = ["batch", "gradient", "peak", "state"]
DIVISIONS = ["copies", "parts"]


class Run:
    """A training in one of several processes. Its model has a layer that doesn't divide evenly."""

    def __init__(self, division: str, rank: int, peak: float = 0.05) -> None:
        torch.manual_seed(0)
        model: nn.Module = nn.Sequential(nn.Linear(8, 17), nn.ReLU(), nn.Linear(17, 3))
        if division == "copies":
            self.model = DistributedDataParallel(model)
        else:
            self.model = fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=peak, momentum=0.9)
        self.schedule = Schedule(peak=peak, horizon=HORIZON, warmup_steps=20, shape="linear")
        self._rank = rank

    def losses(self, first: int, until: int, fault: str = "") -> Any:
        """Yields the loss of each step, with gradients that were computed."""
        for step in range(first, until):
            draw = torch.Generator().manual_seed(1000 * step + self._rank)
            x = torch.randn(16, 8, generator=draw)
            y = x[:, :3].argmax(1)
            if fault == "batch" and step == 40 and self._rank == 0:
                x = 300.0 * x
            if fault == "state" and step == 60:
                self.optimizer.state.clear()
            loss = nn.functional.cross_entropy(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            if fault == "gradient" and step == 40:
                for one in self.model.parameters():
                    assert one.grad is not None
                    one.grad.mul_(float("nan"))
            yield loss

    def weights(self) -> list[float]:
        whole = [one.full_tensor() if isinstance(one, DTensor) else one for one in self.model.parameters()]
        return torch.cat([one.detach().flatten() for one in whole]).tolist()


def guarded(run: Run, folder: Path | None, fault: str = "", until: int = HORIZON) -> Guard:
    guard = Guard(run.schedule, run.optimizer, mode="protect", model=run.model, folder=folder)
    first = guard.resume() if folder else 0
    for loss in run.losses(first, until, fault):
        if guard.step(loss):
            run.optimizer.step()
    return guard


def with_fault(rank: int, folder: Path, division: str, fault: str, on_disk: bool) -> Any:
    run = Run(division, rank, peak=3.0 if fault == "peak" else 0.05)
    guard = guarded(run, folder if on_disk else None, fault)
    return [event.describe() for event in guard.events], run.weights()


def resumed(rank: int, folder: Path, division: str) -> Any:
    """A run that ended early, whose newest snapshot is damaged, and one that goes on where the one before it was."""
    guarded(Run(division, rank), folder, until=70)
    dist.barrier()
    if rank == 1:
        newest = max((folder / "2-of-2" if division == "parts" else folder).glob("*.pt"))
        newest.write_bytes(newest.read_bytes()[:-9])
    dist.barrier()
    later = Run(division, rank)
    first = Guard(later.schedule, later.optimizer, mode="protect", model=later.model, folder=folder).resume()
    guarded(later, folder)
    return first, later.weights()


def resumed_by_copies(rank: int, folder: Path) -> str:
    guarded(Run("parts", rank), folder, until=40)
    with pytest.raises(InputError) as raised:
        guarded(Run("copies", rank), folder)
    return str(raised.value)


def adapting(rank: int, folder: Path, division: str) -> Any:
    run = Run(division, rank, peak=1e-3)
    scheduler = AdaptiveWarmup(run.optimizer, HORIZON)
    rates = []
    for _ in run.losses(0, HORIZON):
        rates.append(scheduler.get_last_lr()[0])
        run.optimizer.step()
        scheduler.step()
    return rates


def wrapped(rank: int, folder: Path) -> str:
    """The older kind, whose parameters don't say that they are parts."""
    model = FullyShardedDataParallel(nn.Linear(8, 4), device_id=torch.device("cpu"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = Schedule(peak=0.1, horizon=9)
    Guard(schedule, optimizer, model=model)
    with pytest.raises(InputError) as raised:
        Guard(schedule, optimizer, mode="protect", model=model)
    return str(raised.value)


def process(rank: int, size: int, folder: Path, works: list[Callable[[int, Path], Any]]) -> list[Any]:
    torch.set_num_threads(1)
    logging.getLogger("autowarmup.guard").setLevel(logging.CRITICAL)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    found = [work(rank, folder / f"work{number}") for number, work in enumerate(works)]
    dist.destroy_process_group()
    return found


def in_two_processes(folder: Path, *works: Callable[[int, Path], Any]) -> list[Any]:
    """What each call gives, which must be the same in both."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        calls = [pool.submit(process, rank, 2, folder, [*works]) for rank in range(2)]
        first, second = (call.result(timeout=240) for call in calls)
    assert first == second
    return first  # type: ignore[no-any-return]


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_guard_does_the_same_with_parts_as_with_whole_copies(on_disk: bool, tmp_path: Path) -> None:
    cases = [(fault, division) for fault in FAULTS for division in DIVISIONS]
    works = [partial(with_fault, division=division, fault=fault, on_disk=on_disk) for fault, division in cases]
    found = dict(zip(cases, in_two_processes(tmp_path, *works), strict=True))
    for fault, action in zip(FAULTS, ["skip", "skip", "rewind", "rewind"], strict=True):
        (copies, whole), (parts, divided) = found[fault, "copies"], found[fault, "parts"]
        assert [event.split(":")[:2] for event in parts] == [event.split(":")[:2] for event in copies], fault
        assert any(f": {action}:" in event for event in parts), (fault, parts)
        np.testing.assert_allclose(divided, whole, rtol=1e-2, atol=1e-3, err_msg=fault)


def test_a_run_goes_on_from_parts_that_are_all_intact(tmp_path: Path) -> None:
    works = [partial(resumed, division=division) for division in DIVISIONS]
    (first, whole), (same, divided) = in_two_processes(tmp_path, *works)
    assert first == same > 0
    np.testing.assert_allclose(divided, whole, rtol=1e-2, atol=1e-3)


def test_parts_are_not_taken_for_whole_snapshots(tmp_path: Path) -> None:
    (message,) = in_two_processes(tmp_path, resumed_by_copies)
    assert "divided among another number of processes" in message


def test_a_warmup_adapts_with_parts_as_with_whole_copies(tmp_path: Path) -> None:
    works = [partial(adapting, division=division) for division in DIVISIONS]
    copies, parts = in_two_processes(tmp_path, *works)
    np.testing.assert_allclose(parts, copies, rtol=1e-9)


def test_the_older_kind_of_division_is_only_observed(tmp_path: Path) -> None:
    (message,) = in_two_processes(tmp_path, wrapped)
    assert "divide it by fully_shard" in message
