"""Do the instability detectors catch what breaks, soon, and leave healthy runs alone? And the rules in use elsewhere?

python benchmarks/detectors.py            # judges the stored traces: prints and writes the table
python benchmarks/detectors.py --train    # trains all runs again first: 20 minutes on one CPU core
python benchmarks/detectors.py --fresh    # trains those of the last fresh seed only: 2 minutes
python benchmarks/detectors.py --before FOLDER   # judges an older checkout's detectors, too
"""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from autowarmup.instability import Detectors  # noqa: E402
from autowarmup.schedule import Schedule  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
TRACES = RESULTS / "detectors.npz"
Column = np.ndarray[Any, np.dtype[np.float64]]

# --- Training --------------------------------------------------------------------------------------------

SEEDS = (0, 1, 2, 3)
TUNING_SEEDS = (0, 1)
FRESH_SEED, LAST_SEED = 7, 11
"""Their runs, drawn anew, were trained and judged once, after the last setting was chosen: that of the first detectors,
and that of those of today."""
FRESH_SHARE = 0.3
"""How many runs of each task the fresh seed has, as a share of the others."""
AFTER_NON_FINITE = 30
"""Steps that a run is continued for after its first non-finite loss."""
MANTISSA_BITS = 13
"""Traces are stored with this many bits of mantissa (1 part in 16,000): a third of the bytes, no visible difference."""


@dataclass(frozen=True)
class Task:
    """A model on real data and the grid that its runs are drawn from."""

    name: str
    held_out: bool
    runs: int
    peaks: tuple[float, float]
    horizons: tuple[int, ...]
    batches: tuple[int, ...]
    optimizers: tuple[str, ...] = ("adamw-0.95", "adamw-0.999")
    warmups: tuple[float, ...] = (0.0, 0.02, 0.1, 0.3, 0.6)
    clips: tuple[float | None, ...] = (None, 1.0)


TASKS = (
    Task("post-norm GPT 64x4", False, 72, (1e-4, 0.1), (250,), (8,)),
    Task("post-norm GPT 32x3", False, 64, (3e-4, 0.2), (200, 400), (4, 8)),
    Task("post-norm GPT 32x2, long", False, 16, (1e-3, 0.1), (1500,), (4,)),
    Task("CNN on digits", False, 64, (1e-4, 10.0), (120, 300), (8, 16), ("adamw-0.95", "sgd-0.9")),
    Task("MLP on digits", False, 96, (1e-4, 10.0), (100, 1000, 4000), (4, 16), ("adamw-0.999", "sgd-0.9")),
    Task("autoencoder on digits", False, 64, (1e-4, 3.0), (100, 1000, 3000), (8,), ("adamw-0.999", "sgd-0.9")),
    Task("pre-norm GPT 64x4", True, 32, (3e-4, 0.3), (250,), (8,)),
    Task("MLP on breast cancer", True, 64, (1e-4, 10.0), (100, 1000, 4000), (8,), ("adamw-0.999", "sgd-0.9")),
    Task("MLP on diabetes", True, 64, (1e-4, 3.0), (100, 1000, 4000), (8, 32), ("adamw-0.999", "sgd-0.9")),
)


@dataclass(frozen=True)
class Run:
    """One training run: all that is needed to repeat it."""

    task: str
    held_out: bool
    seed: int
    peak: float
    horizon: int
    warmup_steps: int
    shape: str
    decay: str
    batch: int
    optimizer: str
    clip: float | None

    @property
    def schedule(self) -> Schedule:
        shape = self.shape if self.warmup_steps else "none"
        return Schedule(
            peak=self.peak, horizon=self.horizon, warmup_steps=self.warmup_steps, shape=shape, decay=self.decay
        )


def draw_runs(task: Task, number: int, seeds: tuple[int, ...] = SEEDS) -> list[Run]:
    """The task's runs: peaks evenly spread on a log scale, everything else drawn, seeds in turn."""
    fresh = seeds in ((FRESH_SEED,), (LAST_SEED,))
    rng = np.random.default_rng([2026, number, *seeds] if fresh else [2026, number])
    count = round(FRESH_SHARE * task.runs) if fresh else task.runs
    low, high = np.log(task.peaks)
    runs = []
    for index in range(count):
        horizon = int(rng.choice(task.horizons))
        peak = float(np.exp(low + (high - low) * (index + rng.random()) / count))
        runs.append(
            Run(
                task=task.name,
                held_out=task.held_out,
                seed=seeds[index % len(seeds)],
                peak=float(f"{peak:.3g}"),
                horizon=horizon,
                warmup_steps=round(float(rng.choice(task.warmups)) * horizon),
                shape=str(rng.choice(["linear", "exponential", "cosine"])),
                decay=str(rng.choice(["cosine", "constant", "wsd"])),
                batch=int(rng.choice(task.batches)),
                optimizer=str(rng.choice(task.optimizers)),
                clip=task.clips[rng.integers(len(task.clips))],
            )
        )
    return runs


@dataclass(frozen=True)
class Problem:
    """A model's constructor, a sampler of batches (inputs, targets), the loss, and the trivial predictor's loss."""

    model: Callable[[], Any]
    sample: Callable[[np.random.Generator, int], tuple[Any, Any]]
    loss: Callable[[Any, Any], Any]
    trivial: float


def entropy(labels: np.ndarray[Any, Any]) -> float:
    shares = np.bincount(labels) / len(labels)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


@cache
def problem(name: str) -> Problem:
    """The task of that name, its data loaded."""
    import torch
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits  # type: ignore[import-untyped]
    from torch import nn

    from examples import char_gpt, digits

    def mlp(inputs: int, width: int, outputs: int, layers: int = 2) -> nn.Module:
        sizes = [inputs, *[width] * layers]
        hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(width, outputs))

    def table(inputs: np.ndarray[Any, Any], targets: torch.Tensor) -> Callable[..., tuple[Any, Any]]:
        x = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))

        def sample(rng: np.random.Generator, batch: int) -> tuple[Any, Any]:
            chosen = torch.from_numpy(rng.integers(len(x), size=batch))
            return x[chosen], targets[chosen]

        return sample

    def classification(inputs: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], model: Any) -> Problem:
        return Problem(model, table(inputs, torch.from_numpy(labels)), nn.functional.cross_entropy, entropy(labels))

    def regression(inputs: np.ndarray[Any, Any], targets: np.ndarray[Any, Any], model: Any) -> Problem:
        sample = table(inputs, torch.from_numpy(targets.astype(np.float32)))
        return Problem(model, sample, nn.functional.mse_loss, float(targets.var(axis=0).mean()))

    if "GPT" in name:
        text, symbols = char_gpt.corpus()
        tokens, length = torch.from_numpy(text), 32
        width, layers = (int(n) for n in name.split()[2].rstrip(",").split("x"))

        def windows(rng: np.random.Generator, batch: int) -> tuple[Any, Any]:
            starts = torch.from_numpy(rng.integers(len(text) - length - 1, size=batch))
            window = tokens[starts[:, None] + torch.arange(length + 1)]
            return window[:, :-1], window[:, 1:]

        def gpt() -> nn.Module:
            return char_gpt.GPT(symbols, width=width, layers=layers, post_norm=name.startswith("post"))

        return Problem(gpt, windows, nn.functional.cross_entropy, entropy(text))
    if "digits" in name:
        (images, labels), _ = digits.data()
        flat = load_digits().data / 16
        if name.startswith("CNN"):
            return classification(images, labels, digits.model_fn)
        if name.startswith("MLP"):
            return classification(images.reshape(-1, 64), labels, lambda: mlp(64, 32, 10))
        return regression(flat, flat, lambda: mlp(64, 24, 64))
    data = load_breast_cancer() if "breast" in name else load_diabetes()
    inputs = (data.data - data.data.mean(0)) / data.data.std(0)
    if "breast" in name:
        return classification(inputs, data.target.astype(np.int64), lambda: mlp(30, 16, 2, layers=3))
    targets = (data.target - data.target.mean()) / data.target.std()
    return regression(inputs, targets[:, None], lambda: mlp(10, 24, 1))


def train(run: Run) -> tuple[list[float], list[float]]:
    """The run's losses and its gradient norms before clipping, up to shortly after the first non-finite loss."""
    import torch

    torch.manual_seed(run.seed)
    task, rng = problem(run.task), np.random.default_rng(run.seed)
    model = task.model()
    params = list(model.parameters())
    kind, setting = run.optimizer.split("-")
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(params, lr=1.0, momentum=float(setting))
        if kind == "sgd"
        else torch.optim.AdamW(params, lr=1.0, betas=(0.9, float(setting)), weight_decay=0.1, fused=True)
    )
    losses: list[float] = []
    norms: list[float] = []
    first_non_finite = run.horizon
    for step, rate in enumerate(run.schedule.curve().tolist()):
        for group in optimizer.param_groups:
            group["lr"] = rate
        inputs, targets = task.sample(rng, run.batch)
        loss = task.loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(params, run.clip or math.inf)
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
        if not math.isfinite(losses[-1]):
            first_non_finite = min(first_non_finite, step)
        if step >= first_non_finite + AFTER_NON_FINITE:
            break
    return losses, norms


Trace = tuple[Run, np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.float32]]]
"""A run, its losses and its gradient norms."""


def rounded(values: list[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Nearest values with a short mantissa, which compress well; the gradient's infinities and NaN stay."""
    mantissa, exponent = np.frexp(np.array(values, np.float32))
    scale = np.float32(2**MANTISSA_BITS)
    return np.ldexp(np.rint(mantissa * scale) / scale, exponent)


def train_runs(seeds: tuple[int, ...]) -> list[Trace]:
    """Trains the seeds' runs of every task on one thread; of the last seed only those that need no GPT, since the tasks
    left out have four."""
    import torch

    torch.set_num_threads(1)
    traces: list[Trace] = []
    for number, task in enumerate(TASKS):
        if seeds == (LAST_SEED,) and "GPT" in task.name:
            continue
        began = time.monotonic()
        runs = draw_runs(task, number, seeds)
        for run in runs:
            loss, norm = train(run)
            traces.append((run, rounded(loss), rounded(norm)))
        print(f"{task.name}: {len(runs)} runs, {time.monotonic() - began:.0f} s", flush=True)
    return traces


def store(traces: list[Trace]) -> None:
    runs, losses, norms = zip(*traces, strict=True)
    RESULTS.mkdir(exist_ok=True)
    np.savez_compressed(
        TRACES,
        runs=json.dumps([asdict(run) for run in runs]),
        trivial=json.dumps({task.name: problem(task.name).trivial for task in TASKS}),
        lengths=np.array([len(loss) for loss in losses]),
        loss=np.concatenate(losses),
        grad_norm=np.concatenate(norms),
    )
    print(f"stored {sum(map(len, losses)):,} steps in {TRACES}: {TRACES.stat().st_size / 1e6:.1f} MB")


def stored_traces() -> tuple[list[Trace], dict[str, float]]:
    """The runs with their losses and gradient norms, and the tasks' trivial losses."""
    with np.load(TRACES) as stored:
        runs = [Run(**run) for run in json.loads(str(stored["runs"]))]
        trivial = json.loads(str(stored["trivial"]))
        cuts = np.cumsum(stored["lengths"])[:-1]
        losses, norms = np.split(stored["loss"], cuts), np.split(stored["grad_norm"], cuts)
    return list(zip(runs, losses, norms, strict=True)), trivial


# --- Labels: a rule that looks at the whole run ------------------------------------------------------------

FAILED_SHARE = 0.1
"""A run has failed that ends less than this share of the task's reachable progress below the trivial loss."""
BORDERLINE_SHARE = 0.25
"""One that ends less than this share below it is neither failed nor stable."""
SPIKE_SHARE = 0.25
"""A spike climbs this share of the run's own progress above the lowest level so far."""
SMOOTH = 15
"""Width, in steps, of the centred running median that shows a run's level."""
SPIKE_STEPS = 7
"""Width, in steps, of the centred running median that shows a spike; a few hard batches in a row are none."""


FRESH = "first fresh seed, never looked at before the first settings were final"
LAST = "last fresh seed, never looked at before the settings of today were final"
LEFT_OUT = "tasks left out"


@dataclass(frozen=True)
class Trial:
    """A run's trace with its label: ``stable``, ``spiking``, ``borderline``, ``failed``, ``non-finite``, or the fault
    injected."""

    run: Run
    rate: Column
    loss: Column
    grad_norm: Column
    trivial: float
    label: str
    onset: int | None = None

    @property
    def split(self) -> str:
        if self.run.optimizer == "":
            return LEFT_OUT
        if self.run.seed in (FRESH_SEED, LAST_SEED):
            return FRESH if self.run.seed == FRESH_SEED else LAST
        if self.run.held_out:
            return "held-out tasks"
        return "tuning seeds" if self.run.seed in TUNING_SEEDS else "held-out seeds"


def smoothed(loss: Column, width: int) -> Column:
    """Centred running median, the ends padded with their nearest full window."""
    width = min(width, len(loss))
    windows = np.lib.stride_tricks.sliding_window_view(loss, width)
    middle = np.median(windows, axis=1)
    return np.pad(middle, (width // 2, len(loss) - len(middle) - width // 2), mode="edge")


def wide(loss: Column) -> tuple[Column, float]:
    """The loss smoothed over a twentieth of the run (31 steps at least), and three standard errors of that."""
    width = max(31, len(loss) // 20)
    level = smoothed(loss, width)
    sigma = 1.4826 * float(np.median(np.abs(loss - level)))
    return level, 3 * 1.2533 * sigma / math.sqrt(width)


def tail_level(loss: Column) -> float:
    """Median of the last tenth, ten steps at least."""
    return float(np.median(loss[-max(10, len(loss) // 10) :]))


def since_never_below(values: Column, level: float) -> int:
    """The first step after which ``values`` stays at or above ``level``."""
    below = np.flatnonzero(values < level)
    return int(below[-1]) + 1 if len(below) else 0


def label(trial: Trial, reachable: float, good_rate: float) -> Trial:
    """The trial with its label and onset.

    ``reachable`` is the level that the task's good runs end at, ``good_rate`` the peak of the best one. The
    *failing level* lies a tenth of the way down from the trivial loss to the reachable one.

    - non-finite: a loss is not finite. Onset: since when it never again came below its start, at the latest the
      first non-finite loss.
    - failed: it ends at the failing level or above. Onset: since when its widely smoothed loss never again came
      below the failing level, within its error. A run that never was below it is failed only if its rate reached
      that of the best run; its onset is then the step at which it did and its fall from the start was over,
      or its climb above that under way.
    - borderline: it ends above the level a quarter of the way down, or was back at the failing level for a while,
      and ended well. Neither failed nor stable; not counted.
    - spiking: its loss, smoothed over 7 steps, climbed a quarter of the run's progress, and twice what
      nine of ten losses about there deviate by, above the lowest level so far. Onset: the first such step.
    - stable: everything else, slow starters included.
    """
    loss = trial.loss
    finite = np.isfinite(loss)
    if not finite.all():
        first = int(np.flatnonzero(~finite)[0])
        onset = min(first, since_never_below(loss[:first], float(loss[0])))
        return replace(trial, label="non-finite", onset=onset)
    end, gap = tail_level(loss), trial.trivial - reachable
    if end >= trial.trivial - FAILED_SHARE * gap:
        return failed_or_slow(trial, trial.trivial - FAILED_SHARE * gap, good_rate)
    if end >= trial.trivial - BORDERLINE_SHARE * gap and trial.rate.max() >= good_rate:
        return replace(trial, label="borderline")
    level, error = wide(loss)
    learnt = np.flatnonzero(level < trial.trivial - FAILED_SHARE * gap - error)
    if len(learnt) and (level[learnt[0] :] > trial.trivial - FAILED_SHARE * gap + error).any():
        return replace(trial, label="borderline")
    onsets = spikes(loss)
    return replace(trial, label="spiking", onset=int(onsets[0])) if len(onsets) else replace(trial, label="stable")


def failed_or_slow(trial: Trial, failing: float, good_rate: float) -> Trial:
    """The label of a run that ends at the failing level or above."""
    level, error = wide(trial.loss)
    onset = since_never_below(level, failing - error)
    if onset == 0:
        high = np.flatnonzero(trial.rate >= good_rate)
        if not len(high):
            return replace(trial, label="stable")
        end = tail_level(trial.loss)
        start = float(trial.loss[0])
        fallen = np.flatnonzero((level <= end + 0.1 * max(0.0, start - end) + error) | (level > 1.5 * start))
        onset = max(int(high[0]), int(fallen[0]) if len(fallen) else 0)
    return replace(trial, label="failed", onset=onset)


def spikes(loss: Column) -> np.ndarray[Any, np.dtype[np.intp]]:
    """The steps of excursions above the lowest level so far."""
    level = smoothed(loss, SMOOTH)
    lowest = np.minimum.accumulate(level)
    progress = float(level[0] - lowest[-1])
    excess = smoothed(loss, SPIKE_STEPS) - lowest
    high = excess > np.maximum(SPIKE_SHARE * progress, 2.0 * local_noise(np.abs(loss - level)))
    high[:SMOOTH] = False
    return np.flatnonzero(high)


def local_noise(deviation: Column, width: int = 101) -> Column:
    """What nine of ten deviations stay below, in the window of ``width`` steps about each."""
    width = min(width, len(deviation))
    ninth = np.percentile(np.lib.stride_tricks.sliding_window_view(deviation, width), 90, axis=1)
    return np.pad(ninth, (width // 2, len(deviation) - len(ninth) - width // 2), mode="edge")


def load() -> list[Trial]:
    """All stored traces, labelled; what a task can reach is told by the runs of the other seeds than the fresh one."""
    traces, trivial = stored_traces()
    trials = [
        Trial(run, run.schedule.curve()[: len(loss)], loss.astype(float), norm.astype(float), trivial[run.task], "")
        for run, loss, norm in traces
    ]
    families: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        if trial.run.seed in SEEDS:
            families.setdefault((trial.run.task, trial.run.optimizer), []).append(trial)
    return [label(trial, *best_of(families[trial.run.task, trial.run.optimizer])) for trial in trials]


def best_of(family: list[Trial]) -> tuple[float, float]:
    """The median end level of the best quarter of a task's runs with one optimizer, and the best run's peak."""
    ended = [trial for trial in family if np.isfinite(trial.loss).all()]
    ranked = sorted(ended, key=lambda trial: tail_level(trial.loss))
    best = ranked[: max(1, len(ranked) // 4)]
    return float(np.median([tail_level(trial.loss) for trial in best])), ranked[0].run.peak


LEFT_OUT_TASKS = (
    "denoising", "fine-tuning", "friedman", "group-norm-cnn", "gru", "lstm", "muon-gpt", "n-gram", "post-norm-gpt",
    "pre-norm-gpt", "residual-cnn", "rows", "sgd-rows", "softmax-regression",
)  # fmt: skip
"""Of the search's tables those that no threshold of today was compared on."""
LEFT_OUT_RUNS = {"stable": 40, "failed": 12, "non-finite": 5, "borderline": 0}
"""Runs of each of them, by label."""


def left_out() -> list[Trial]:
    """Some runs of the tasks left out, labelled."""
    from benchmarks.search.tables import FOLDER, Table
    from benchmarks.silent_failure import of_table

    trials = []
    for number, name in enumerate(LEFT_OUT_TASKS):
        runs = [*of_table(Table.load(FOLDER / f"{name}.npz"), name)]
        rng = np.random.default_rng([11, number])
        for wanted, most in LEFT_OUT_RUNS.items():
            alike = [run for run in runs if run.label == wanted]
            for index in sorted(rng.permutation(len(alike))[:most]):
                found = alike[index]
                run = Run(name, True, 0, found.rate.max(), found.horizon, 0, "", "", 0, "", None)
                trial = Trial(run, found.rate, found.loss, found.grad_norm, found.trivial, wanted, found.onset)
                trials.append(labelled_left_out(trial))
    return trials


def labelled_left_out(trial: Trial) -> Trial:
    """A table's trial whose label is known; a stable one may have spikes, and the non-finite one has an onset."""
    if trial.label == "failed":
        return trial
    if trial.label == "non-finite":
        return label(trial, 0.0, 0.0)
    onsets = spikes(trial.loss)
    return replace(trial, label="spiking", onset=int(onsets[0])) if len(onsets) else replace(trial, onset=None)


# --- Faults injected into stable runs ----------------------------------------------------------------------

FAULTS = ("NaN", "jump", "recovering jump", "gradient explosion", "dead gradients", "frozen loss")
INJECTED_RUNS, LEFT_OUT_INJECTED = 16, 8
"""Stable runs per task that each fault is injected into, those with the shortest horizons: of the tasks, and of those
left out."""


def inject(trial: Trial, fault: str, rng: np.random.Generator) -> Trial:
    """The stable trial with one fault from a random step on, warm-up or not. A jump is 1, 2 or 4 nats (or as many
    times the variance of small targets) high, and six standard deviations of the losses before it at least."""
    loss, norm = trial.loss.copy(), trial.grad_norm.copy()
    at = int(rng.integers(max(20, len(loss) // 20), len(loss) * 9 // 10))
    unit = 1.0 if trial.trivial > 0.5 else trial.trivial
    height = max(float(rng.choice([1.0, 2.0, 4.0])) * unit, 6.0 * spread(loss[max(0, at - 50) : at]))
    since = np.arange(len(loss) - at)
    if fault == "NaN":
        loss[at:] = np.nan
    elif fault == "jump":
        loss[at:] += height
    elif fault == "recovering jump":
        loss[at:] += height * np.exp(-since / float(rng.choice([5.0, 20.0])))
    elif fault == "gradient explosion":
        norm[at:] *= 1000.0
    elif fault == "dead gradients":
        level = smoothed(loss, SMOOTH)
        loss[at:] += level[at] - level[at:]
        norm[at:] = 0.0
    else:
        loss[at:] = loss[at]
    return replace(trial, loss=loss, grad_norm=norm, label=fault, onset=at)


def spread(loss: Column) -> float:
    """Standard deviation of the losses about their smoothed level."""
    return float((loss - smoothed(loss, SMOOTH)).std())


def injected(trials: list[Trial]) -> list[Trial]:
    """Every fault in some stable runs of every task."""
    faulty = []
    for number, task in enumerate([*(task.name for task in TASKS), *LEFT_OUT_TASKS]):
        most = LEFT_OUT_INJECTED if task in LEFT_OUT_TASKS else INJECTED_RUNS
        stable = [trial for trial in trials if trial.label == "stable" and trial.run.task == task]
        shortest = sorted(stable, key=lambda trial: trial.run.horizon)[:most]
        rng = np.random.default_rng([7, number])
        faulty += [inject(trial, fault, rng) for trial in shortest for fault in FAULTS]
    return faulty


# --- The rules in use elsewhere, from their stated formulas -------------------------------------------------

Flags = np.ndarray[Any, np.dtype[np.bool_]]


def trailing(values: Column, window: int, least: int) -> tuple[Column, Column]:
    """Mean and standard deviation of up to ``window`` values before each; NaN where there are fewer than ``least``."""
    mean, deviation = np.full((2, len(values)), np.nan)
    with np.errstate(all="ignore"):
        for index in range(least, min(window, len(values))):
            mean[index], deviation[index] = values[:index].mean(), values[:index].std()
        if len(values) > window:
            windows = np.lib.stride_tricks.sliding_window_view(values[:-1], window)
            mean[window:], deviation[window:] = windows.mean(axis=1), windows.std(axis=1)
    return mean, deviation


def six_sigma(values: Column) -> Flags:
    mean, deviation = trailing(values, 128, 64)
    flags: Flags = values - mean > 6 * deviation
    return flags


def foundry(trial: Trial) -> Flags:
    window = max(100, trial.run.horizon // 20)
    mean, _ = trailing(trial.loss, window, window)
    high = trial.loss >= 2 * mean
    in_a_row: Flags = np.convolve(high, np.ones(5), mode="full")[: len(high)] >= 5
    return in_a_row


def fabric(trial: Trial) -> Flags:
    mean, _ = trailing(trial.loss, 10, 10)
    return ~np.isfinite(trial.loss) | (np.abs(trial.loss - mean) >= 2 * mean)


def megatron(trial: Trial) -> Flags:
    flags: Flags = trial.loss >= 10 * trial.loss[:100].max()
    flags[:100] = False
    return flags


def zclip(trial: Trial) -> Flags:
    norms, warmup = trial.grad_norm, 25
    flags = np.zeros(len(norms), bool)
    mean, variance = float(norms[:warmup].mean()), float(norms[:warmup].var())
    for index in range(warmup, len(norms)):
        norm, deviation = float(norms[index]), math.sqrt(variance) + 1e-6
        z = (norm - mean) / deviation
        flags[index] = z > 2.5
        used = mean + 2.5**2 / z * deviation if z > 2.5 else norm
        mean, variance = 0.97 * mean + 0.03 * used, 0.97 * variance + 0.03 * (used - mean) ** 2
    return flags


def times_best(factor: float) -> Callable[[Trial], Flags]:
    return lambda trial: trial.loss > factor * np.minimum.accumulate(np.fmin(trial.loss, np.inf))


def near_trivial(trial: Trial) -> Flags:
    windows = np.lib.stride_tricks.sliding_window_view(trial.loss, 20)
    near = np.abs(np.median(windows, axis=1) - trial.trivial) <= 0.05 * trial.trivial
    return np.concatenate([np.zeros(19, bool), near])


RULES: dict[str, Callable[[Trial], Flags]] = {
    "OLMo-core, levanter: 6 sigma of 128, loss": lambda trial: six_sigma(trial.loss),
    "OLMo-core, levanter: 6 sigma of 128, gradient": lambda trial: six_sigma(trial.grad_norm),
    "LLM-foundry: 2x mean, 5 in a row": foundry,
    "Lightning Fabric: 2x mean of 10": fabric,
    "Megatron: 10x largest of first 100": megatron,
    "ZClip: gradient z > 2.5": zclip,
    "torch-lr-finder: 5x best": times_best(5.0),
    "Lightning's finder: 4x best": times_best(4.0),
    "median of 20 within 5% of trivial": near_trivial,
}


# --- Judgement -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alarms:
    """The steps at which a rule raised an alarm, and for ours those that end the trial."""

    steps: list[int]
    fatal: list[int]


def peer(rule: Callable[[Trial], Flags], trial: Trial) -> Alarms:
    with np.errstate(all="ignore"):
        return Alarms(np.flatnonzero(rule(trial)).tolist(), [])


def ours(trial: Trial, trivial: bool = True, norms: bool = True) -> Alarms:
    """Every verdict counts as an alarm but the notice that nothing is learnt; the trial ends at the first fatal one."""
    monitor = Detectors().monitor(trial.run.horizon, trial.trivial if trivial else None)
    columns = zip(trial.rate.tolist(), trial.loss.tolist(), trial.grad_norm.tolist(), strict=True)
    for step, (rate, loss, norm) in enumerate(columns):
        verdict = monitor.observe(step, rate, loss, norm if norms else math.nan)
        if verdict is not None and verdict.fatal:
            break
    alarms = [event for event in monitor.events if event.fatal or event.kind != "stall"]
    return Alarms([event.detected for event in alarms], [event.detected for event in alarms if event.fatal])


JUDGE = """
import json, pickle, sys
from autowarmup.instability import Detectors
answers = []
for horizon, trivial, columns in pickle.load(sys.stdin.buffer):
    monitor = Detectors().monitor(horizon, trivial)
    for step, row in enumerate(columns):
        verdict = monitor.observe(step, *row)
        if verdict is not None and verdict.fatal:
            break
    answers.append([(event.detected, event.fatal) for event in monitor.events if event.fatal or event.kind != "stall"])
print(json.dumps(answers))
"""


def alarms_of(checkout: Path, trials: list[Trial]) -> list[Alarms]:
    """:func:`ours`, by the detectors of another checkout of this project, in a process of its own."""
    rows = [
        (t.run.horizon, t.trivial, np.column_stack([t.rate, t.loss, t.grad_norm]).tolist()) for t in trials
    ]  # fmt: skip
    judged = subprocess.run(
        [sys.executable, "-c", JUDGE], input=pickle.dumps(rows), stdout=subprocess.PIPE, check=True, cwd=checkout,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    return [
        Alarms([at for at, _ in found], [at for at, fatal in found if fatal]) for found in json.loads(judged.stdout)
    ]


EARLY = 10
"""An alarm up to this many steps before the labelled onset counts as a detection without delay."""
EPISODE = 20
"""False alarms closer together than this many steps count as one."""


def detection(alarms: list[int], trial: Trial) -> int | None:
    """The delay of the first alarm from the onset on, if it comes in time: within 50 steps, or early enough to
    save half of the steps that were left."""
    assert trial.onset is not None
    limit = max(50, (trial.run.horizon - trial.onset) // 2)
    return next((max(0, at - trial.onset) for at in alarms if -EARLY <= at - trial.onset <= limit), None)


def stable_steps(trial: Trial) -> int:
    """How many steps from the first on are stable: all of a stable run, in another those before its onset, and before
    its first spike if that comes sooner; none of a borderline one."""
    if trial.label == "borderline":
        return 0
    if trial.onset is None:
        return len(trial.loss)
    before = trial.loss[: trial.onset]
    spiking = spikes(before).tolist() if len(before) > SMOOTH else []
    return max(0, min([trial.onset, *map(int, spiking)]) - EARLY)


def false_alarms(alarms: list[int], trial: Trial) -> tuple[int, int]:
    """Distinct alarms in the stable steps, and the number of those steps."""
    end = stable_steps(trial)
    early = [at for at in alarms if at < end]
    return sum(1 for before, at in zip([-EPISODE, *early], early, strict=False) if at - before >= EPISODE), end


# --- Table ---------------------------------------------------------------------------------------------------

OURS, BEFORE = "**autowarmup**", "before"
BARE = "autowarmup without trivial loss and gradients"
FATAL = {
    OURS: "autowarmup, fatal verdicts only",
    BEFORE: "before, fatal verdicts only",
    BARE: "the same, fatal verdicts only",
}
SPLITS = ("tuning seeds", "held-out seeds", "held-out tasks", FRESH, LAST, LEFT_OUT)
UNTOUCHED = (LAST, LEFT_OUT)
CLASSES = {
    "non-finite": ("non-finite", "NaN"),
    "collapse": ("failed",),
    "spike": ("spiking", "recovering jump"),
    "jump": ("jump",),
    "gradient": ("gradient explosion", "dead gradients"),
    "frozen": ("frozen loss",),
}


@dataclass(frozen=True)
class Score:
    """A rule's result on a set of trials: delays (None: missed) by class of fault, and false alarms."""

    delays: dict[str, list[int | None]]
    false_alarms: int
    stable_steps: int

    @property
    def all_delays(self) -> list[int | None]:
        return [delay for delays in self.delays.values() for delay in delays]

    @property
    def rate(self) -> float:
        """False alarms per 100,000 stable steps."""
        return 1e5 * self.false_alarms / self.stable_steps


def recall(delays: list[int | None]) -> str:
    return f"{sum(delay is not None for delay in delays) / len(delays):.2f}" if delays else "-"


def median_delay(delays: list[int | None]) -> str:
    found = [delay for delay in delays if delay is not None]
    return f"{np.median(found):.0f}" if found else "-"


def score(alarms: list[list[int]], trials: list[Trial]) -> Score:
    """The stable steps before an injected fault are the stable run's own: they are counted once, in that run."""
    delays: dict[str, list[int | None]] = {name: [] for name in CLASSES}
    false, steps = 0, 0
    for at, trial in zip(alarms, trials, strict=True):
        for name, labels in CLASSES.items():
            if trial.label in labels:
                delays[name].append(detection(at, trial))
        if trial.label not in FAULTS:
            more, length = false_alarms(at, trial)
            false, steps = false + more, steps + length
    return Score(delays, false, steps)


def row(name: str, result: Score) -> str:
    cells = [name, recall(result.all_delays), f"{result.rate:.1f}", median_delay(result.all_delays)]
    return "| " + " | ".join(cells + [recall(delays) for delays in result.delays.values()]) + " |"


def table(split: str, trials: list[Trial], judged: list[dict[str, Alarms]]) -> list[str]:
    scores = {}
    for name in judged[0]:
        scores[name] = score([found[name].steps for found in judged], trials)
        if name in FATAL:
            scores[FATAL[name]] = score([found[name].fatal for found in judged], trials)
    any_score = scores[OURS]
    names = [f"{name} ({len(delays)})" for name, delays in any_score.delays.items()]
    heads = ["rule", "recall", "false alarms per 100,000", "median delay", *names]
    return [
        f"## {split[0].upper() + split[1:]}: {any_score.stable_steps:,} stable steps",
        "",
        "| " + " | ".join(heads) + " |",
        "| --- |" + " ---: |" * (len(heads) - 1),
        *(row(name, result) for name, result in scores.items()),
        "",
    ]


def stops(split: str, trials: list[Trial], alarms: list[Alarms]) -> list[str]:
    """What our fatal verdicts do, which end a trial: the price and the use of them."""
    pairs = [(trial, found.fatal) for trial, found in zip(trials, alarms, strict=True) if trial.split == split]
    result = score([fatal for _, fatal in pairs], [trial for trial, _ in pairs])
    recovering = [bool(fatal) for trial, fatal in pairs if trial.label in CLASSES["spike"]]
    killed = [bool(fatal) for trial, fatal in pairs if trial.label == "stable"]
    cells = [
        f"{name} {recall(delays)} after {median_delay(delays)}"
        for name, delays in result.delays.items()
        if name != "spike"
    ]
    return [
        f"- {split}: share stopped in time and median delay in steps: {', '.join(cells)}. Wrongly stopped: "
        f"{sum(killed)} of {len(killed)} stable runs ({result.rate:.1f} per 100,000 stable steps), "
        f"{sum(recovering)} of {len(recovering)} with a spike that recovers.",
    ]


def every_rule(trial: Trial) -> dict[str, Alarms]:
    """Ours; where the runs are untouched ours with less known, too, and the rules in use elsewhere."""
    alarms = {OURS: ours(trial)}
    if trial.split not in UNTOUCHED:
        return alarms
    alarms[BARE] = ours(trial, trivial=False, norms=False)
    return alarms | {name: peer(rule, trial) for name, rule in RULES.items()}


def report(before: Path | None) -> str:
    """The whole result as Markdown; with the detectors of an older checkout beside those of today, if one is given."""
    trials = load()
    known = [trial for trial in trials if trial.split not in (FRESH, LAST)]
    others = [[trial for trial in trials if trial.split == split] for split in (FRESH, LAST)]
    trials += [*injected(known), *(one for part in others for one in injected(part))]
    more = left_out()
    trials += more + injected(more)
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        earlier = pool.submit(alarms_of, before, trials) if before else None
        judged = [*pool.map(every_rule, trials, chunksize=20)]
        if earlier:
            judged = [
                {OURS: found.pop(OURS), BEFORE: old, **found}
                for found, old in zip(judged, earlier.result(), strict=True)
            ]
    return page(trials, judged)


def page(trials: list[Trial], judged: list[dict[str, Alarms]]) -> str:
    """The page, from every rule's alarms on every trial."""
    lines = [HEAD.format(seeds=", ".join(map(str, SEEDS)), labels=counts(trials), together=together(trials, judged))]
    for split in SPLITS:
        chosen = [index for index, trial in enumerate(trials) if trial.split == split]
        lines += table(split, [trials[index] for index in chosen], [judged[index] for index in chosen])
    lines += ["## What the fatal verdicts do", ""]
    for split in SPLITS:
        lines += stops(split, trials, [found[OURS] for found in judged])
    return "\n".join(lines) + "\n"


def together(trials: list[Trial], judged: list[dict[str, Alarms]]) -> str:
    """The untouched runs' totals."""
    pairs = [(trial, found) for trial, found in zip(trials, judged, strict=True) if trial.split in UNTOUCHED]
    lines = []
    for name in (OURS, BEFORE):
        if name in pairs[0][1]:
            result = score([found[name].steps for _, found in pairs], [trial for trial, _ in pairs])
            faults = len(result.all_delays)
            caught = sum(delay is not None for delay in result.all_delays)
            lines.append(
                f"- {name}: {caught:,} of {faults:,} faults caught ({caught / faults:.3f}), {result.false_alarms} "
                f"false alarms in {result.stable_steps:,} stable steps ({result.rate:.1f} per 100,000)"
            )
    return "\n".join(lines)


def counts(trials: list[Trial]) -> str:
    labels = [trial.label for trial in trials if trial.label not in FAULTS]
    return ", ".join(f"{labels.count(name)} {name}" for name in sorted(set(labels)))


HEAD = """# Instability detectors against the rules in use elsewhere

Command: `python benchmarks/detectors.py --before FOLDER`, where the folder is a checkout of commit 874d0e4, whose
detectors are *before*; the traces come from `python benchmarks/detectors.py --train`, half an hour on one core.
Machine: 2 CPU cores. Seeds: {seeds}, and the fresh 7 and 11.

Runs: {labels}.

Of today's settings, those of spikes, of exploding gradients and of the progress made were compared on all runs but
those of the last two sections, and on ten of the search's tables; the other settings are those of before, which were
compared on the tuning seeds (0 and 1, without the held-out tasks). So only the last two sections are untouched:

- *last fresh seed*: seed 11, peaks and schedules drawn anew, of the tasks without a GPT. It was judged for the first
  time when the last setting had been chosen.
- *tasks left out*: of the search's tables the 14 whose runs no setting of today was compared on. A loss is rounded
  there to 1 part in 500, in runs of more than 500 steps to 1 in 120.

Both together:

{together}

The first fresh seed (7) was that of before. Its misses and false alarms were looked at before today's settings were
chosen.

A fault counts as caught by an alarm within 50 steps of its onset, or early enough to save half of the steps left; the
delay is counted from the onset, over the faults caught. Every verdict of ours is an alarm, recorded spikes too, but for
the notice that a loss never left its start. A fatal verdict on a recovering spike is wrong, so "spike" is best low in
the rows of fatal ones, and their recall can't reach 1. Right of the delay: recall by class of fault, and how many there
were. The rules that compare without testing for NaN miss the non-finite ones. Of the real runs few are non-finite; the
other faults outside "collapse" are nearly all injected.

A spike of a stable run counts as false where it doesn't show in the running median of 7 losses. So one of three or
four steps that is there, of a loss that goes from 0.7 to 20 and back, counts as a false alarm as well as one of hard
batches.
"""


def main() -> None:
    if "--train" in sys.argv:
        store([*train_runs(SEEDS), *train_runs((FRESH_SEED,)), *train_runs((LAST_SEED,))])
    elif "--fresh" in sys.argv:
        others = [trace for trace in stored_traces()[0] if trace[0].seed != LAST_SEED]
        store(others + train_runs((LAST_SEED,)))
    text = report(Path(sys.argv[sys.argv.index("--before") + 1]) if "--before" in sys.argv else None)
    print(text)
    (RESULTS / "detectors.md").write_text(text)


if __name__ == "__main__":
    main()
