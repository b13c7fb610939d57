"""Accidents in real training runs: what a guard saves, beside the rules in use elsewhere.

    python -m benchmarks.guard                     # all tasks, five seeds: prints the tables
    python -m benchmarks.guard --write             # the same, and writes benchmarks/results/guard.md
    python -m benchmarks.guard mlp gru --seeds 2
    python -m benchmarks.guard --overhead --write  # the overhead alone

Each task is trained with the best schedule of its stored table. At a random time one fault is injected, and the same
run is made with no guard, with `Guard(mode="protect")` at its defaults, with the same guard that knows the losses of
three runs of the schedule, as after a study, and with the rules of others, as their sources have them. What counts is
the final validation loss against the same seed's undisturbed run, in standard deviations of undisturbed runs between
seeds (noises). A run is recovered where that difference is at most two noises.

The guard's thresholds for single batches were chosen on losses and gradient norms of healthy runs, without any fault.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from autowarmup import Guard, Schedule
from autowarmup.guard.expected import Band, Column
from autowarmup.guard.judge import Judge
from autowarmup.guard.policy import Policy
from autowarmup.instability.monitor import Detectors
from autowarmup.seeds import derive_seed
from autowarmup.training.rng import borrowed
from autowarmup.training.task import ModelTask
from benchmarks.search.one_run import Loop
from benchmarks.search.tables import FOLDER, Table, table_path
from benchmarks.search.tasks import TASKS

RESULTS = Path(__file__).parent / "results" / "guard.md"

CHOSEN = ("mlp", "batch-norm-cnn", "group-norm-cnn", "gru", "diabetes", "residual-mlp", "sgd-rows")
"""Classification, regression and text; with Adam, AdamW, Lion and SGD with momentum; the cheapest of each kind."""
SEEDS = 5
FIRST_SEED = 900
"""Seeds that no table has."""
RECOVERED = 2.0
"""Noises."""

# --- Faults ----------------------------------------------------------------------------------------------

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Fault:
    """One accident.

    Args:
        about: in a few words.
        steps: how long it lasts, as a number of steps or a share of the horizon.
        batch: what it makes of a batch.
        gradient: what it does to the gradients.
        optimizer: what it does to the optimizer, once.
        peak: what the schedule's peak is multiplied by.
    """

    about: str
    steps: float = 1
    batch: Callable[[Batch, torch.Generator], Batch] | None = None
    gradient: Callable[[nn.Module], None] | None = None
    optimizer: Callable[[torch.optim.Optimizer], None] | None = None
    peak: float = 1.0


def corrupted(batch: Batch, draw: torch.Generator) -> Batch:
    """Noise of ten times the inputs' size; random symbols where the inputs are symbols."""
    x, y = batch
    if x.is_floating_point():
        return 10.0 * x.std() * torch.randn(x.shape, generator=draw), y
    return torch.randint(int(x.max()) + 1, x.shape, generator=draw), y


def flipped(batch: Batch, draw: torch.Generator) -> Batch:
    """Each label is another one's; numbers have the other sign."""
    x, y = batch
    if y.is_floating_point():
        return x, -y
    classes = int(y.max()) + 1
    return x, (y + torch.randint(1, max(2, classes), y.shape, generator=draw)) % classes


def other_distribution(batch: Batch, draw: torch.Generator) -> Batch:
    """The same, with the features in another order, or other symbols."""
    x, y = batch
    order = torch.Generator().manual_seed(0)
    if x.is_floating_point():
        return x.flatten(1)[:, torch.randperm(x[0].numel(), generator=order)].reshape(x.shape), y
    symbols = torch.randperm(max(int(x.max()), int(y.max())) + 1, generator=order)
    return symbols[x], symbols[y]


def not_a_number(model: nn.Module) -> None:
    gradient = next(parameter.grad for parameter in model.parameters() if parameter.grad is not None)
    gradient.view(-1)[0] = math.nan


FAULTS = {
    "corrupted batch": Fault("inputs of one batch are noise", batch=corrupted),
    "burst": Fault("inputs of six batches in a row are noise", steps=6, batch=corrupted),
    "label flip": Fault("labels of one batch are wrong", batch=flipped),
    "NaN in a gradient": Fault("one number of one gradient is NaN", gradient=not_a_number),
    "peak x 3": Fault("the schedule's peak is three times too high", peak=3.0),
    "optimizer state lost": Fault("as after a resume that didn't load it", optimizer=lambda one: one.state.clear()),
    "other data": Fault("a twentieth of the run has features in another order", steps=0.05, batch=other_distribution),
}


# --- Guards ----------------------------------------------------------------------------------------------


class Rule(Protocol):
    """What decides before each optimizer step whether it is made."""

    interventions: int
    stopped: bool

    def step(self, loss: Tensor, model: nn.Module) -> bool: ...


@dataclass
class NoGuard:
    """Every step is made."""

    interventions: int = 0
    stopped: bool = False

    def step(self, loss: Tensor, model: nn.Module) -> bool:
        return True


@dataclass
class SkipStep:
    """OLMo-core's SkipStepOptimizer: a step is skipped where the loss or the gradient's norm is more than 6 standard
    deviations from the mean of the last 128; not before 64 steps."""

    interventions: int = 0
    stopped: bool = False
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=129))
    norms: deque[float] = field(default_factory=lambda: deque(maxlen=129))

    def step(self, loss: Tensor, model: nn.Module) -> bool:
        self.losses.append(float(loss.detach()))
        self.norms.append(norm_of(model))
        if len(self.losses) < 64:
            return True
        keep = all(self._usual(values) for values in (self.losses, self.norms))
        self.interventions += not keep
        return keep

    @staticmethod
    def _usual(values: deque[float]) -> bool:
        past = torch.tensor(list(values)[:-1])
        std, mean = torch.std_mean(past)
        return bool((values[-1] - mean).abs() / std <= 6.0)


@dataclass
class ZClip:
    """ZClip (2504.02507) with its defaults, but no constant clipping, which the tasks don't have either: norms with a
    z-score above 2.5 are clipped to mean + 2.5 std / (z / 2.5); mean and variance are averages with factor 0.97, begun
    over 25 steps."""

    interventions: int = 0
    stopped: bool = False
    first: list[float] = field(default_factory=list)
    mean: float = 0.0
    variance: float = 0.0

    def step(self, loss: Tensor, model: nn.Module) -> bool:
        norm = norm_of(model)
        if len(self.first) < 25:
            self.first.append(norm)
            self.mean = sum(self.first) / len(self.first)
            self.variance = sum((one - self.mean) ** 2 for one in self.first) / len(self.first)
            return True
        std = self.variance**0.5
        z = (norm - self.mean) / (std + 1e-6)
        if z > 2.5:
            self.interventions += 1
            clipped = self.mean + 2.5 * std / (z / 2.5)
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(clipped / (norm + 1e-6))
            norm = clipped
        self.mean = 0.97 * self.mean + 0.03 * norm
        self.variance = 0.97 * self.variance + 0.03 * (norm - self.mean) ** 2
        return True


@dataclass
class KillLossSpike:
    """LLM-foundry's, with ``log_only=False``: the run ends after more than four losses in a row that are twice the mean
    of the last 100 (its setting for runs of up to 2,000 steps)."""

    interventions: int = 0
    stopped: bool = False
    window: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    outliers: int = 0

    def step(self, loss: Tensor, model: nn.Module) -> bool:
        value = float(loss.detach())
        if len(self.window) == 100:
            self.outliers = self.outliers + 1 if value >= 2.0 * sum(self.window) / 100 else 0
            if self.outliers > 4:
                self.stopped = True
                self.interventions += 1
        self.window.append(value)
        return not self.stopped


@dataclass
class Megatron:
    """Megatron-LM's checks for NaN and for losses of at least ten times the largest of the first 100: an iteration that
    fails them again when it is repeated is skipped after a restart. The two restarts that this takes aren't counted."""

    interventions: int = 0
    stopped: bool = False
    seen: int = 0
    largest: float = 0.0

    def step(self, loss: Tensor, model: nn.Module) -> bool:
        value = float(loss.detach())
        bad = not (math.isfinite(value) and math.isfinite(norm_of(model)))
        if not bad and self.seen < 100:
            self.seen += 1
            self.largest = max(self.largest, abs(value))
        elif not bad:
            bad = abs(value) >= 10.0 * self.largest
        self.interventions += bad
        return not bad


def norm_of(model: nn.Module) -> float:
    return float(nn.utils.get_total_norm([one.grad for one in model.parameters() if one.grad is not None]))


RULES: dict[str, Callable[[], Rule]] = {
    "no guard": NoGuard,
    "OLMo SkipStep": SkipStep,
    "ZClip": ZClip,
    "KillLossSpike": KillLossSpike,
    "Megatron": Megatron,
}
OURS, STUDIED = "Guard", "Guard, study"
"""The guard at its defaults; the same that knows the losses of the table's runs of the schedule, as after a study."""
GUARDS = (*RULES, OURS, STUDIED)


# --- Runs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """The final validation loss, how often it was intervened, and whether the run was ended."""

    loss: float
    interventions: int
    stopped: bool


def run(task: ModelTask, schedule: Schedule, seed: int, name: str, fault: Fault | None, known: Column) -> Outcome:
    """One training."""
    loop = Loop(task, seed)
    at, until, draw = _when(schedule.horizon, seed, fault)
    planned = schedule.model_copy(update={"peak": schedule.peak * (fault.peak if fault else 1.0)})
    guard = Guard(planned, loop.optimizer, mode="protect", model=loop.model) if name in (OURS, STUDIED) else None
    if guard and name == STUDIED:
        guard._judge = Judge(Detectors(), planned.horizon, None, Band.from_runs(known))
    rule = RULES[name]() if guard is None else NoGuard()
    scheduler = None if guard else planned.scheduler(loop.optimizer)
    for step in range(schedule.horizon):
        with borrowed():
            batch = next(loop._batches)
        hit = fault is not None and at <= step < until
        if hit and fault and fault.batch:
            batch = fault.batch(batch, draw)
        if hit and fault and fault.optimizer:
            fault.optimizer(loop.optimizer)
        loop.model.train()
        loss, _ = task.recipe.forward(loop.model, batch)
        loop.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if hit and fault and fault.gradient:
            fault.gradient(loop.model)
        if guard.step(loss) if guard else rule.step(loss, loop.model):
            loop.optimizer.step()
        if scheduler:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the first steps were skipped
                scheduler.step()
        if rule.stopped or (guard and guard.should_stop):
            break
    interventions = sum(event.action != "ok" for event in guard.events) if guard else rule.interventions
    stopped = guard.should_stop if guard else rule.stopped
    return Outcome(loop.validate(), interventions, stopped)


def _when(horizon: int, seed: int, fault: Fault | None) -> tuple[int, int, torch.Generator]:
    """The first step of the fault, the first one after it, and a source of random numbers for it."""
    draw = torch.Generator().manual_seed(derive_seed(seed, f"fault {fault.about if fault else ''}") % 2**63)
    at = int(horizon * (0.1 + 0.75 * torch.rand(1, generator=draw).item()))
    steps = 0 if fault is None else fault.steps if fault.steps >= 1 else max(1, round(fault.steps * horizon))
    return at, at + int(steps), draw


def measure(name: str, seeds: int) -> dict[str, dict[str, list[tuple[float, Outcome]]]]:
    """For each fault and guard, by seed: the difference from the undisturbed run in noises, and the outcome."""
    table = Table.load(table_path(name))
    schedule = table.grid[int(np.nanargmin(table.means))]
    task = TASKS[name].task()
    numbers = range(FIRST_SEED, FIRST_SEED + seeds)
    known = np.array([table.traces[schedule, seed].loss for seed in table.seeds])
    undisturbed = [run(task, schedule, seed, "no guard", None, known).loss for seed in numbers]
    noise = max(statistics.stdev(undisturbed), 1e-9)
    found: dict[str, dict[str, list[tuple[float, Outcome]]]] = {}
    for what, fault in {"healthy": None, **FAULTS}.items():
        for rule in GUARDS:
            outcomes = [run(task, schedule, seed, rule, fault, known) for seed in numbers]
            found.setdefault(what, {})[rule] = [
                ((one.loss - whole) / noise if math.isfinite(one.loss) else math.inf, one)
                for one, whole in zip(outcomes, undisturbed, strict=True)
            ]
        shares = {rule: _recovered(entries) for rule, entries in found[what].items()}
        print(f"{name}, {what}: " + ", ".join(f"{rule} {share:.0%}" for rule, share in shares.items()), flush=True)
    return found


def _recovered(entries: list[tuple[float, Outcome]]) -> float:
    return sum(noises <= RECOVERED and not one.stopped for noises, one in entries) / len(entries)


# --- Healthy runs of the stored tables ---------------------------------------------------------------------


def stored_runs(each: int = 30) -> tuple[int, int, int]:
    """Judges stored runs of good schedules (within four noises of the best) of all tasks and horizons: how many runs
    and steps, and in how many runs a guard would have intervened."""
    draw = np.random.default_rng(7)
    runs = steps = disturbed = 0
    for path in sorted(FOLDER.glob("*.npz")):
        table = Table.load(path)
        spread = table.finals.std(axis=1)
        good = np.argwhere(table.finals < table.means.min() + 4.0 * np.median(spread[np.isfinite(spread)]))
        draw.shuffle(good)
        for row, column in good[: each if table.horizon <= 1000 else 5]:
            trace = table.traces[table.grid[row], table.seeds[column]]
            runs, steps = runs + 1, steps + len(trace)
            disturbed += _intervenes(table.grid[row], trace.loss.tolist(), trace.grad_norm.tolist())
    return runs, steps, disturbed


def _intervenes(schedule: Schedule, losses: list[float], norms: list[float]) -> bool:
    judge = Judge(Detectors(), schedule.horizon, None, None)
    policy = Policy(schedule.horizon, schedule.duration, 10)
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        if judge.look(loss, norm):
            return True
        finding = judge.add(schedule.lr_at(step), loss, norm)
        if finding and policy.for_run(step, finding, step < schedule.duration, True) != "ok":
            return True
    return False


# --- Overhead ----------------------------------------------------------------------------------------------


OVERHEAD = "## Overhead"


def overhead() -> str:
    """The section about the time of a step, and how much of it is the guard's, beside that of a scheduler."""
    lines = [
        OVERHEAD,
        "",
        "Made by `python -m benchmarks.guard --overhead --write`. Medians of 300 steps of a transformer with 0.8",
        "million parameters; no snapshot is among them. Where the training clips, the guard is given the norm that",
        "`clip_grad_norm_` returns; else it computes the norm.",
        "",
        "| mode | norm | a step | of it the guard | a scheduler instead |",
        "| --- | --- | --- | --- | --- |",
    ]
    for clips in (True, False):
        for mode in ("observe", "protect"):
            step, guard = _timed(mode, clips)
            scheduler = _timed(None, clips)[1]
            told = f"{1e6 * guard:.0f} us, {guard / step:.1%} | {1e6 * scheduler:.0f} us |"
            lines.append(f"| {mode} | {'given' if clips else 'computed'} | {1e3 * step:.0f} ms | {told}")
    return "\n".join([*lines, ""])


def _timed(mode: Any, clips: bool, count: int = 300) -> tuple[float, float]:
    """Median seconds of a step, and of what sets its learning rate: a guard or a scheduler."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(128, 4, 512, 0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = Schedule(peak=1e-3, horizon=1000, warmup_steps=100, shape="linear")
    guard = Guard(schedule, optimizer, mode=mode, model=model) if mode else None
    scheduler = None if guard else schedule.scheduler(optimizer)
    x = torch.randn(16, 32, 128)
    steps, calls = [], []
    for _ in range(count):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = (model(x) - x.roll(1, 1)).square().mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0) if clips else None
        before = time.perf_counter()
        go_on = guard is None or guard.step(loss, norm)
        calls.append(time.perf_counter() - before)
        if go_on:
            optimizer.step()
        if scheduler:
            before = time.perf_counter()
            scheduler.step()
            calls[-1] = time.perf_counter() - before
        steps.append(time.perf_counter() - start)
    return statistics.median(steps), statistics.median(calls)


# --- The page ----------------------------------------------------------------------------------------------


def page(found: dict[str, dict[str, dict[str, list[tuple[float, Outcome]]]]], seeds: int) -> str:
    rules = GUARDS
    whats = ["healthy", *FAULTS]
    lines = [
        "# A guard against accidents in training",
        "",
        __doc__.partition("\n\n")[2].partition("Each task")[0].strip("\n"),
    ]
    lines += ["", "Each task" + __doc__.partition("Each task")[2].rstrip(), ""]
    lines += [
        f"Tasks: {', '.join(found)}; {seeds} seeds each, from {FIRST_SEED} on. torch {torch.__version__}, CPU.",
        "",
    ]
    lines += ["## Recovered runs", "", "Share of the runs that end within two noises of the undisturbed one.", ""]
    lines += ["| fault | " + " | ".join(rules) + " |", "| --- " * (len(rules) + 1) + "|"]
    for what in whats:
        shares = [_recovered([one for task in found.values() for one in task[what][rule]]) for rule in rules]
        lines.append(f"| {what} | " + " | ".join(f"{share:.0%}" for share in shares) + " |")
    lines += [
        "",
        "## Final loss against the undisturbed run",
        "",
        "Median over runs, in noises, and the worst task's.",
        "",
    ]
    lines += ["| fault | " + " | ".join(rules) + " |", "| --- " * (len(rules) + 1) + "|"]
    for what in whats:
        cells = []
        for rule in rules:
            by_task = [statistics.median(noises for noises, _ in task[what][rule]) for task in found.values()]
            every = [noises for task in found.values() for noises, _ in task[what][rule]]
            cells.append(f"{_told(statistics.median(every))} ({_told(max(by_task))})")
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    lines += ["", "## Interventions on healthy runs", "", "| guard | runs with any | runs |", "| --- | --- | --- |"]
    for rule in rules[1:]:
        healthy = [one for task in found.values() for _, one in task["healthy"][rule]]
        lines.append(f"| {rule} | {sum(one.interventions > 0 for one in healthy)} | {len(healthy)} |")
    runs, steps, disturbed = stored_runs()
    lines += [
        "",
        f"Judged after the fact: in {disturbed} of {runs} stored runs of good schedules ({steps:,} steps, all",
    ]
    lines += ["tasks and horizons of the search's benchmark) the guard would have intervened.", ""]
    lines += ["## By task", "", f"Recovered runs with {OURS} / with no guard, of {seeds}.", ""]
    lines += ["| fault | " + " | ".join(found) + " |", "| --- " * (len(found) + 1) + "|"]
    for what in whats:
        cells = [
            " / ".join(f"{round(seeds * _recovered(task[what][rule]))}" for rule in (OURS, "no guard"))
            for task in found.values()
        ]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", overhead()])


def _told(noises: float) -> str:
    return f"{noises:+.1f}" if abs(noises) < 1000 else "lost"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=CHOSEN)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--overhead", action="store_true", help="measure the overhead alone")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    logging.getLogger("autowarmup.guard").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    if arguments.overhead:
        text = RESULTS.read_text(encoding="utf-8").partition(OVERHEAD)[0] + overhead()
    else:
        text = page({name: measure(name, arguments.seeds) for name in arguments.tasks}, arguments.seeds)
    print(text)
    if arguments.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
