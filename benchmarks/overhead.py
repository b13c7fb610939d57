"""What a trial costs on top of a hand-written training loop of the same model.

    python benchmarks/overhead.py

The hand-written loop is what most scripts have: forward, backward, step, a scheduler, the loss fetched every ten
steps. The trial does that and records every step's rate, loss and gradient norm, averages the weights, watches for
instability and keeps its random state apart. Validation is left out of both. The two take turns, some steps each; the
figures are the ratios of their times, turn by turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from autowarmup import Detectors, Schedule
from autowarmup.engines.local import watched
from autowarmup.task import ModelTask, TrainSettings
from examples import char_gpt, digits

TURN = 20


def hand_written(task: ModelTask, schedule: Schedule) -> Iterator[None]:
    """A plain loop; each ``next`` trains ``TURN`` steps."""
    model = task.build_model(0)
    optimizer = task.build_optimizer(model)
    scheduler = schedule.scheduler(optimizer)
    batches = task.data.train.passes(0)
    losses = []
    while True:
        for _ in range(TURN):
            inputs, targets = next(batches)
            loss = nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.detach())
            if len(losses) == 10:
                torch.stack(losses).tolist()
                losses.clear()
        yield


def trial(task: ModelTask, schedule: Schedule) -> Iterator[None]:
    """A trial, watched; each ``next`` trains ``TURN`` steps."""
    running = task.trial(schedule, 0, schedule.horizon, None)
    monitor = Detectors().monitor(schedule.horizon, task.trivial_loss)
    while True:
        for block in running.run(running.step + TURN):
            watched(monitor, block)
        yield


def seconds(turn: Callable[[], None], clock: Callable[[], float]) -> float:
    start = clock()
    turn()
    return clock() - start


def compare(name: str, task: ModelTask, turns: int) -> None:
    schedule = Schedule(peak=1e-4, horizon=100 * TURN * turns, shape="linear", warmup_steps=10)
    plain, ours = hand_written(task, schedule), trial(task, schedule)
    for _ in range(3):
        next(plain), next(ours)
    ratios, steps = [], []
    for turn in range(turns):
        pair = {}
        order = [("plain", plain), ("ours", ours)]
        for label, loop in order if turn % 2 else reversed(order):
            pair[label] = seconds(lambda loop=loop: next(loop), time.process_time)
        ratios.append(pair["ours"] / pair["plain"])
        steps.append(pair["plain"] / TURN * 1e3)
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"| {name} | {statistics.median(steps):.1f} ms | {middle:.3f} | {low:.3f} to {high:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=30, help=f"turns of {TURN} steps for each of the two")
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    print("| model | a step by hand (CPU time) | trial / hand-written, median | quartiles |\n| --- | --- | --- | --- |")
    text, image = char_gpt.task(), digits.task()
    compare("GPT, 217k parameters, batch 32", built(text), turns)
    compare("GPT, 217k parameters, batch 8", built(text | {"batch_size": 8}), turns)
    compare("CNN, 29k parameters, batch 64", built(image), turns)
    compare("CNN, 29k parameters, batch 256", built(image | {"batch_size": 256}), turns)


def built(settings: dict[str, object]) -> ModelTask:
    batch_size = settings.pop("batch_size")
    return ModelTask(**settings, settings=TrainSettings(batch_size=batch_size))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
