"""What a trial costs on top of a hand-written training loop of the same model.

    python benchmarks/overhead.py

The hand-written loop is what most scripts have: a DataLoader (arrays are indexed by a permutation, which is faster),
forward, backward, step, a scheduler, the loss fetched every ten steps. A trial does that and records every step's rate,
loss and gradient norm, averages the weights, watches for instability and keeps its random state apart. The same loop
through ``train_fn`` reports each step's loss. Validation is left out of all. They take turns, some steps each; the
figures are the ratios of their CPU times, turn by turn, on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parent.parent))

from autowarmup import Detectors, LoopRun, Schedule
from autowarmup.engines.segment import first_fatal
from autowarmup.training.base import Task
from autowarmup.training.loop import LoopTask
from autowarmup.training.settings import TrainSettings
from autowarmup.training.task import ModelTask
from examples import char_gpt, digits

TURN = 20


def batches(data: Any, batch_size: int) -> Iterator[Any]:
    """Shuffled batches without end, as a script makes them."""
    while True:
        if isinstance(data, Dataset):
            yield from DataLoader(data, batch_size=batch_size, shuffle=True)
        else:
            images, labels = map(torch.from_numpy, data)
            for part in torch.randperm(len(labels)).split(batch_size):
                yield images[part], labels[part]


def hand_written(
    task: dict[str, Any], schedule: Schedule, report: Callable[[float], Any] | None = None
) -> Iterator[None]:
    """A plain loop; each ``next`` trains ``TURN`` steps. With ``report`` each step's loss is fetched and reported."""
    model = task["model_fn"]()
    optimizer = task.get("optimizer", torch.optim.AdamW)(model.parameters())
    scheduler = schedule.scheduler(optimizer)
    losses: list[torch.Tensor] = []
    for step, (inputs, targets) in enumerate(batches(task["data"][0], task["batch_size"])):
        if step and step % TURN == 0:
            yield
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if report is not None:
            report(loss.item())
            continue
        losses.append(loss.detach())
        if len(losses) == 10:
            torch.stack(losses).tolist()
            losses.clear()


def trial(task: Task, schedule: Schedule) -> Iterator[None]:
    """A trial, watched; each ``next`` trains ``TURN`` steps."""
    running = task.trial(schedule, 0, schedule.horizon, None)
    monitor = Detectors().monitor(schedule.horizon, task.trivial_loss)
    while True:
        for block in running.run(running.step + TURN):
            first_fatal(monitor, block)
        yield


def reported(task: dict[str, Any], schedule: Schedule) -> Iterator[None]:
    """The hand-written loop as a ``train_fn``, watched."""

    def train(run: LoopRun) -> None:
        for _ in hand_written(task, run.schedule, run.report):
            pass

    return trial(LoopTask(train, current_peak=1e-3), schedule)


def seconds(turn: Callable[[], None], clock: Callable[[], float]) -> float:
    start = clock()
    turn()
    return clock() - start


def compare(name: str, task: dict[str, Any], turns: int) -> None:
    schedule = Schedule(peak=1e-4, horizon=100 * TURN * turns, shape="linear", warmup_steps=10)
    settings = TrainSettings(batch_size=task["batch_size"])
    others = {key: value for key, value in task.items() if key != "batch_size"}
    loops = {
        "by hand": hand_written(task, schedule),
        "trial": trial(ModelTask(**others, settings=settings), schedule),
        "train_fn": reported(task, schedule),
    }
    for loop in loops.values():
        next(loop), next(loop)
    times: dict[str, list[float]] = {label: [] for label in loops}
    for turn in range(turns):
        for label in sorted(loops, reverse=bool(turn % 2)):
            times[label].append(seconds(lambda label=label: next(loops[label]), time.process_time))
    step = statistics.median(times["by hand"]) / TURN * 1e3
    print(f"| {name} | {step:.1f} ms | {ratio(times, 'trial')} | {ratio(times, 'train_fn')} |", flush=True)


def ratio(times: dict[str, list[float]], label: str) -> str:
    """The median of the ratios turn by turn, and their quartiles."""
    ratios = [ours / plain for ours, plain in zip(times[label], times["by hand"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=30, help=f"turns of {TURN} steps for each of them")
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    print("| model | a step by hand | trial / by hand (quartiles) | train_fn / by hand (quartiles) |")
    print("| --- | --- | --- | --- |")
    text, image = char_gpt.task(), digits.task()
    wide = text | {"model_fn": lambda: char_gpt.GPT(char_gpt.corpus()[1], width=64, layers=4, heads=4)}
    compare("GPT, 217k parameters, batch 8", wide, turns)
    compare("GPT, 110k parameters, 8 layers, batch 8", text, turns)
    compare("CNN on 8 x 8 images, 29k parameters, batch 64", image, turns)


if __name__ == "__main__":
    main()
