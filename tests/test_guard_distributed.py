"""Several processes that train one model with DistributedDataParallel take the same action at each step."""

from __future__ import annotations

import logging
import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from autowarmup import Guard, Schedule

HORIZON = 90


Outcome = tuple[list[str], list[float], int]


def work(rank: int, size: int, folder: str, faults: list[tuple[str, bool]]) -> list[Outcome]:
    """One process: what comes of each fault."""
    torch.set_num_threads(1)
    logging.getLogger("autowarmup.guard").setLevel(logging.ERROR)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    found = [train(rank, size, fault, Path(folder) / fault if on_disk else None) for fault, on_disk in faults]
    dist.destroy_process_group()
    return found


def train(rank: int, size: int, fault: str, folder: Path | None) -> Outcome:
    """One training: its events, the first weights at the end, and how many snapshots there are."""
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)))
    peak = 3.0 if fault == "peak" else 0.05
    optimizer = torch.optim.SGD(model.parameters(), lr=peak, momentum=0.9)
    schedule = Schedule(peak=peak, horizon=HORIZON, warmup_steps=20, shape="linear")
    guard = Guard(schedule, optimizer, mode="protect", model=model, folder=folder)
    draw = torch.Generator().manual_seed(rank)
    for step in range(HORIZON):
        x = torch.randn(16, 8, generator=draw)
        y = (x[:, :3]).argmax(1)
        if fault == "batch" and step == 40 and rank == size - 1:
            x = 300.0 * torch.randn(16, 8, generator=draw)
        if fault == "nan" and step == 40 and rank == size - 1:
            x[0, 0] = math.nan
        if fault == "state" and step == 60:
            optimizer.state.clear()
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        if guard.step(loss):
            optimizer.step()
        if guard.should_stop:
            break
    weights = [float(one) for one in next(model.parameters()).detach().flatten()]
    return [event.describe() for event in guard.events], weights, len(guard.snapshots)


def check(size: int, folder: Path, faults: list[tuple[str, bool]]) -> None:
    with ProcessPoolExecutor(size, get_context("spawn")) as pool:
        calls = [pool.submit(work, rank, size, str(folder), faults) for rank in range(size)]
        found = [call.result(timeout=240) for call in calls]
    for (fault, _), outcomes in zip(faults, zip(*found, strict=True), strict=True):
        events, weights, _ = outcomes[0]
        assert all(one == outcomes[0] for one in outcomes), fault
        assert any(f": {ACTIONS[fault]}:" in event for event in events), (fault, events)
        assert all(map(math.isfinite, weights))


ACTIONS = {"batch": "skip", "nan": "skip", "peak": "rewind", "state": "rewind"}


def test_two_processes_skip_a_batch_that_only_one_of_them_has(tmp_path: Path) -> None:
    check(2, tmp_path, [("batch", False)])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("size", [2, 4])
def test_all_processes_take_the_same_action(size: int, tmp_path: Path) -> None:
    check(size, tmp_path, [(fault, on_disk) for fault in ACTIONS for on_disk in (False, True)])
