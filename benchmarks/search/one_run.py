"""Methods that need one run or little more, really trained on the benchmark's tasks.

    python -m benchmarks.search.one_run              # all tasks: minutes
    python -m benchmarks.search.one_run mlp

Each follows its authors' paper and defaults; where those don't fit runs of a few hundred steps, the function says what
stands in. Writes ``tables/one_run.json``: for each task and method the steps spent, the final validation loss (null
where it isn't finite) and the highest learning rate, seed by seed.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import norm

from autowarmup.schedule import Schedule
from autowarmup.seeds import derive_seed
from autowarmup.training.batch import Batch, size_of
from autowarmup.training.rng import borrowed
from autowarmup.training.task import ModelTask
from benchmarks.search.tables import FOLDER, SEEDS, Table, table_path
from benchmarks.search.tasks import TASKS

RESULTS = FOLDER / "one_run.json"
TWO_OPTIMIZERS = ("muon-gpt",)
"""Tasks that :class:`Loop` can't train."""

Column = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Outcome:
    """What a method cost, in steps; the final validation loss of its run; the highest rate of that run."""

    cost: int
    loss: float
    peak: float


class Loop:
    """A training loop whose rate is chosen step by step. Initial weights and batches are those of a trial of the seed
    (and so are the losses)."""

    def __init__(self, task: ModelTask, seed: int) -> None:
        self.task = task
        with borrowed():
            self.model = task.recipe.build_model(seed)
            (self.optimizer,) = task.recipe.build_optimizers(self.model)
        self._batches = task.recipe.data.train.passes(derive_seed(seed, "data"))
        self.batch: Batch = ()
        self.step = 0

    def train(self, rate: Callable[[float], float]) -> float:
        """One step; ``rate`` gives the learning rate and may look at the batch's loss. Returns that loss."""
        with borrowed():
            self.batch = next(self._batches)
        self.model.train()
        loss, _ = self.task.recipe.forward(self.model, self.batch)
        loss.backward()
        value = float(loss.detach())
        for group in self.optimizer.param_groups:
            group["lr"] = rate(value)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return value

    @torch.no_grad()
    def validate(self) -> float:
        self.model.eval()
        total, examples = 0.0, 0
        for batch in self.task.recipe.data.validation.one_pass():
            total += float(self.task.recipe.forward(self.model, batch)[0]) * size_of(batch)
            examples += size_of(batch)
        return total / examples


def run_schedule(task: ModelTask, seed: int, schedule: Schedule) -> float:
    """The final validation loss of a schedule."""
    loop = Loop(task, seed)
    for rate in schedule.curve().tolist():
        if not math.isfinite(loop.train(lambda _, rate=rate: rate)):
            return math.nan
    return loop.validate()


def untuned_rule(task: ModelTask, horizon: int, seed: int, loss_star: float) -> Outcome:
    """Today's rate with the untuned linear warm-up of Ma & Yarats 2019, arXiv 1910.04209, and cosine decay."""
    schedule = Schedule.untuned_linear(task.current_peak, horizon, task.beta2)
    return Outcome(horizon, run_schedule(task, seed, schedule), task.current_peak)


def lr_range_test_10(task: ModelTask, horizon: int, seed: int, loss_star: float) -> Outcome:
    """LR range test, then a linear warm-up over 10% and cosine decay at the rate that it suggests.

    The recipe of fastai and torch-lr-finder: the rate grows from 1e-7 to 10 over 100 iterations (here at most a third
    of the horizon), the loss is smoothed with 0.98, the test ends once it is above 4 times its best, and the suggestion
    is the rate where it falls most steeply, the first 10 and the last 5 iterations left out.
    """
    iterations = min(100, horizon // 3)
    rates, losses = np.geomspace(1e-7, 10.0, iterations), []
    loop, average = Loop(task, seed), 0.0
    for rate in rates.tolist():
        loss = loop.train(lambda _, rate=rate: rate)
        average = 0.98 * average + 0.02 * loss
        smoothed = average / (1.0 - 0.98**loop.step)
        if not math.isfinite(smoothed) or (losses and smoothed > 4.0 * min(losses)):
            break
        losses.append(smoothed)
    slopes = np.gradient(np.array(losses[10:-5]))
    peak = float(rates[10 + int(slopes.argmin())])
    schedule = Schedule(peak=peak, horizon=horizon, warmup_steps=round(0.1 * horizon), shape="linear")
    return Outcome(loop.step + horizon, run_schedule(task, seed, schedule), peak)


def autowu(task: ModelTask, horizon: int, seed: int, loss_star: float) -> Outcome:
    """AutoWU, Kim et al. 2021, arXiv 2107.05855.

    The rate grows exponentially from 1e-5 towards 1 over half the run. A Gaussian process is fitted to the losses, and
    once it says three times running that their minimum is in the past, with a probability above 0.95, the rate goes
    back to where the minimum was and decays from there by a cosine. The authors look once an epoch, in runs of about
    100 epochs; these runs have only a few passes, so it looks every hundredth of the run.
    """
    lowest, highest, limit = 1e-5, 1.0, horizon // 2
    every = max(1, round(horizon / 100))
    loop, losses, votes = Loop(task, seed), [], 0
    rate = lowest
    while loop.step < limit and votes < 3:
        rate = lowest * (highest / lowest) ** (loop.step / limit)
        losses.append(loop.train(lambda _, rate=rate: rate))
        if loop.step % every == 0:
            place, past = minimum(np.array(losses))
            votes = votes + 1 if past > 0.95 else 0
            if votes == 3:
                rate = lowest * (rate / lowest) ** place
    peak, start = rate, loop.step
    while loop.step < horizon:
        rate = peak * (1.0 + math.cos(math.pi * (loop.step - start) / (horizon - start))) / 2.0
        if not math.isfinite(loop.train(lambda _, rate=rate: rate)):
            return Outcome(loop.step, math.nan, peak)
    return Outcome(horizon, loop.validate(), peak)


def minimum(losses: Column) -> tuple[float, float]:
    """Where a Gaussian process sees the minimum of a loss curve, as a share of it, and how likely it is in the past.

    Zero-mean noise, a constant mean and a squared exponential kernel of length 0.2 of the curve; mean, scale and noise
    by maximum likelihood. The probability is the highest, over all earlier places, of being below the last one.
    """
    finite = np.flatnonzero(np.isfinite(losses))
    if len(finite) < 3:
        return 1.0, 0.0
    x, y = finite / len(losses), losses[finite]
    kernel = _kernel(x, x)
    values, vectors = np.linalg.eigh(kernel)
    turned, ones = vectors.T @ y, vectors.T @ np.ones(len(y))

    def fit(logs: Column) -> tuple[float, float, Column]:
        spread = np.exp(logs[0]) * np.maximum(values, 0.0) + np.exp(logs[1])
        mean = float((ones / spread) @ turned / ((ones / spread) @ ones))
        cost = float(np.log(spread).sum() + ((turned - mean * ones) ** 2 / spread).sum())
        return cost, mean, spread

    bounds = [(-12.0, 12.0), (math.log(1e-4), 6.0)]
    found = minimize(lambda logs: fit(logs)[0], [math.log(0.7), math.log(1e-3)], bounds=bounds)
    _, mean, spread = fit(found.x)
    scale = math.exp(found.x[0])
    places = np.linspace(0.0, 1.0, 500)
    cross = scale * _kernel(places, x) @ vectors
    means = mean + cross @ ((turned - mean * ones) / spread)
    weighted = cross / spread
    last = -1
    variance = scale - (weighted * cross).sum(1)
    shared = scale * _kernel(places, places[last:])[:, 0] - weighted @ cross[last]
    spread_of_difference = np.sqrt(np.maximum(0.0, variance + variance[last] - 2.0 * shared) + 1e-4)
    below = norm.cdf((means[last] - means) / spread_of_difference)[:-1]
    return float(places[int(means.argmin())]), float(below.max())


def _kernel(a: Column, b: Column) -> Column:
    return np.exp(-0.5 * ((a[:, None] - b) / 0.2) ** 2)


def lipschitz_scheduler(task: ModelTask, horizon: int, seed: int, loss_star: float) -> Outcome:
    """LipschitzScheduler, Riabinin et al. 2026, arXiv 2602.05813, algorithm 1.

    The rate is ``D / (K0 + K1 D + K2 D^2)`` with ``D`` the batch's loss less ``loss*``, until the rate has got to its
    maximum; then it decays from there by a cosine. The maximum is today's rate: the method takes it for given.
    ``loss*`` is set by hand in the paper, to about what such models reach; here it is the best final loss of the task's
    table, which nobody knows beforehand. The first rate is a tenth of the maximum. The authors' scripts have a
    hundredth, in runs of 8,000 steps and more; in these runs of a few hundred, that never takes off.
    """
    loop, peak = Loop(task, seed), task.current_peak
    constants: tuple[float, float, float, float] | None = None
    tensors = len(list(loop.model.parameters()))
    decaying: int | None = None
    highest = 0.0

    def rate(loss: float) -> float:
        nonlocal constants, decaying, highest
        gap = max(loss - loss_star, 1e-8)
        if constants is None:
            constants = smoothness(gap, peak, peak / 10.0, tensors)
        k0, k1, k2, turn = constants
        if decaying is None and gap <= turn:
            decaying = loop.step
        if decaying is None:
            chosen = min(peak, gap / (k0 + k1 * gap + k2 * gap**2))
        else:
            chosen = peak * (1.0 + math.cos(math.pi * (loop.step - decaying) / (horizon - decaying))) / 2.0
        highest = max(highest, chosen)
        return chosen

    while loop.step < horizon:
        if not math.isfinite(loop.train(rate)):
            return Outcome(loop.step, math.nan, highest)
    return Outcome(horizon, loop.validate(), highest)


def smoothness(first: float, peak: float, start: float, tensors: int) -> tuple[float, float, float, float]:
    """``K0``, ``K1``, ``K2`` and the gap at which the rate is at its peak, from the first gap and the first rate.

    The rate must be ``start`` at the first gap and ``peak``, its maximum, at the turning point, which fixes all three
    for a given turning point. That is the one where the rate is nearest to a straight line down to the first gap and
    half a cosine wave to 0, by squares weighted with a Gaussian around the turning point. Its inverse variance is 0.001
    times the largest ratio of the dual norm to the norm of the optimizer's steps; of the paper's three it is that of
    normalised gradients, the number of tensors. (The others narrow the Gaussian with the size of the model and, at the
    smaller losses here, would put the turning point below what most runs ever reach.)
    """
    gaps = np.linspace(0.0, first, 1001)
    best, answer = math.inf, (0.0, 0.0, 0.0, 0.0)
    for turn in first * np.linspace(0.002, 0.998, 499):
        k2 = first * (peak / start - 1.0) / (peak * (first - turn) ** 2)
        k0, k1 = k2 * turn**2, 1.0 / peak - 2.0 * k2 * turn
        rates = gaps / (k0 + k1 * gaps + k2 * gaps**2)
        rising = peak * (1.0 - np.cos(np.pi * np.minimum(gaps / turn, 1.0))) / 2.0
        falling = peak + (start - peak) * (gaps - turn) / (first - turn)
        target = np.where(gaps < turn, rising, falling)
        weights = np.exp(-0.5 * 0.001 * tensors * (gaps - turn) ** 2)
        error = float((weights * (rates - target) ** 2).mean())
        if error < best:
            best, answer = error, (float(k0), float(k1), float(k2), float(turn))
    return answer


METHODS: dict[str, Callable[[ModelTask, int, int, float], Outcome]] = {
    "untuned_rule": untuned_rule,
    "lr_range_test_10": lr_range_test_10,
    "autowu": autowu,
    "lipschitz_scheduler": lipschitz_scheduler,
}

ABOUT = {
    "untuned_rule": "today's rate, untuned linear warm-up (Ma & Yarats 2019), cosine decay",
    "lr_range_test_10": "LR range test (fastai, torch-lr-finder), 10% linear warm-up, cosine decay",
    "autowu": "AutoWU (Kim et al. 2021): exponential ramp ended by a Gaussian process, cosine decay",
    "lipschitz_scheduler": "LipschitzScheduler (Riabinin et al. 2026) to today's rate and told the best loss, cosine",
}


def measure(name: str, seeds: Sequence[int] = SEEDS) -> dict[str, dict[str, list[float | int | None]]]:
    """Every method on a task."""
    plan, task = TASKS[name], TASKS[name].task()
    loss_star = float(Table.load(table_path(name)).means.min())
    results: dict[str, dict[str, list[float | int | None]]] = {}
    for method, function in METHODS.items():
        began = time.monotonic()
        outcomes = [function(task, plan.horizon, seed, loss_star) for seed in seeds]
        results[method] = {
            "cost_steps": [outcome.cost for outcome in outcomes],
            "final_loss": [outcome.loss if math.isfinite(outcome.loss) else None for outcome in outcomes],
            "peak": [float(f"{outcome.peak:.6g}") for outcome in outcomes],
        }
        print(f"{name}, {method}: {results[method]}, {time.monotonic() - began:.1f} s", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="task", help="of the benchmark; all where left out")
    names = parser.parse_args().names or [name for name in TASKS if table_path(name).exists()]
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for name in names:
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[name] = measure(name)
        ordered = {name: results[name] for name in TASKS if name in results}
        RESULTS.write_text(json.dumps(ordered, indent=2) + "\n")


if __name__ == "__main__":
    main()
