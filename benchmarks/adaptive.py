"""The warm-up that adapts, against schedules that need one run as well, and against the tuned one.

    python -m benchmarks.adaptive                 # all tasks: 25 minutes
    python -m benchmarks.adaptive mlp rows
    python -m benchmarks.adaptive --write         # stores the page too
    python -m benchmarks.adaptive --write --stored  # the page alone, from the stored losses

Every method really trains, with fresh seeds. Losses are stored task by task in ``search/tables/adaptive.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import Adam, RAdam

from autowarmup import AdaptiveWarmup, Schedule
from autowarmup.adaptive.climb import FIRST, Climb, ClimbSettings
from autowarmup.training.rng import borrowed
from autowarmup.training.task import ModelTask
from benchmarks.search.merit import FAILED, Standard
from benchmarks.search.one_run import TWO_OPTIMIZERS, Loop, Outcome, autowu, lipschitz_scheduler, run_schedule
from benchmarks.search.pages import header, row
from benchmarks.search.tables import FOLDER, Table, table_path
from benchmarks.search.tasks import TASKS

RESULTS = FOLDER / "adaptive.json"
PAGE = Path(__file__).parent / "results" / "adaptive.md"
SEEDS = (101, 102)
"""No table has them, and none was used while the rule was made."""
LEFT_OUT = ("pre-norm-gpt", "fine-tuning", "gru", "post-norm-rows", "friedman", "n-gram")
"""Tasks on which the rule's constants were not chosen."""
CAP = 3.0
EVERY = 8
"""Steps of the warm-up, at most 40% of the run, between two forward passes: 5% of the run's."""
NEAR = 2.0
"""Seed noises above the tuned schedule that count as near."""

Method = Callable[[ModelTask, int, int, float], Outcome | None]


def adaptive(task: ModelTask, horizon: int, seed: int, loss_star: float) -> Outcome:
    """AdaptiveWarmup with its defaults."""
    return _adapted(task, horizon, seed, None)


def capped(task: ModelTask, horizon: int, seed: int, loss_star: float) -> Outcome:
    """The same with a peak of at most :data:`CAP` times today's learning rate."""
    return _adapted(task, horizon, seed, CAP * task.current_peak)


def _adapted(task: ModelTask, horizon: int, seed: int, peak: float | None) -> Outcome:
    loop = Loop(task, seed)
    scheduler = AdaptiveWarmup(loop.optimizer, horizon, peak=peak)
    while loop.step < horizon:
        (lr,) = scheduler.get_last_lr()
        if not math.isfinite(loop.train(lambda _, lr=lr: lr)):
            return Outcome(loop.step, math.nan, lr)
        scheduler.step()
    assert scheduler.schedule is not None
    return Outcome(horizon, loop.validate(), scheduler.schedule.peak)


def by_forward_passes(task: ModelTask, horizon: int, seed: int, loss_star: float) -> Outcome:
    """The same rule, told by one forward pass every :data:`EVERY` steps of the warm-up: whether the next batch's loss
    is lower once more as far along the last update. On a parabola it is where the critical rate is more than three
    times the learning rate (Kalra et al. 2026, arXiv 2601.16979)."""
    loop = Loop(task, seed)
    climb = Climb(ClimbSettings(total_steps=horizon, first_lr=FIRST * task.current_peak))
    before: list[torch.Tensor] = []
    told: list[float | None] = [None]

    def rate(loss: float) -> float:
        nonlocal before
        if climb.schedule is None and loop.step % EVERY == 1:
            told[0] = _loss_beyond(loop, before) - loss
        before = [weight.detach().clone() for weight in loop.model.parameters()]
        return climb.lr

    while loop.step < horizon:
        if not math.isfinite(loop.train(rate)):
            return Outcome(loop.step, math.nan, climb.lr)
        climb.advance(told[0])
    assert climb.schedule is not None
    return Outcome(horizon, loop.validate(), climb.schedule.peak)


@torch.no_grad()
def _loss_beyond(loop: Loop, before: Sequence[torch.Tensor]) -> float:
    """The loss of the current batch, once more as far from the weights ``before`` as the weights are."""
    changed = [*loop.model.parameters(), *loop.model.buffers()]
    now = [value.clone() for value in changed]
    for weight, old in zip(loop.model.parameters(), before, strict=True):
        weight.add_(weight - old)
    with borrowed():
        loss = float(loop.task.recipe.forward(loop.model, loop.batch)[0])
    for value, kept in zip(changed, now, strict=True):
        value.copy_(kept)
    return loss


def fixed_10(task: ModelTask, horizon: int, seed: int, loss_star: float) -> Outcome:
    """Today's rate, 10% linear warm-up, linear decay."""
    return _trained(task, seed, Schedule(**_plain(task, horizon), shape="linear", warmup_steps=round(0.1 * horizon)))


def untuned_rule(task: ModelTask, horizon: int, seed: int, loss_star: float) -> Outcome:
    """Today's rate, the linear rule of Ma & Yarats 2019 (at most half the run), linear decay."""
    return _trained(task, seed, Schedule.untuned_linear(task.current_peak, horizon, task.beta2, decay="linear"))


def radam(task: ModelTask, horizon: int, seed: int, loss_star: float) -> Outcome | None:
    """Today's rate, ``torch.optim.RAdam`` in place of Adam (Liu et al. 2019), linear decay."""
    loop = Loop(task, seed)
    if not isinstance(loop.optimizer, Adam):
        return None
    group = {key: loop.optimizer.defaults[key] for key in ("lr", "betas", "eps", "weight_decay")}
    decoupled = loop.optimizer.defaults["decoupled_weight_decay"]
    loop.optimizer = RAdam(loop.model.parameters(), **group, decoupled_weight_decay=decoupled)
    return _without_warmup(loop, task, horizon)


def gi_adam(task: ModelTask, horizon: int, seed: int, loss_star: float) -> Outcome | None:
    """Today's rate, GI-Adam in place of Adam (Kalra & Barkeshli 2024): the second moment starts at the first squared
    gradient; linear decay."""
    loop = Loop(task, seed)
    if not isinstance(loop.optimizer, Adam):
        return None

    def start(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        handle.remove()
        for weight in loop.model.parameters():
            if weight.grad is not None:
                optimizer.state[weight] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": weight.grad.square(),
                }

    handle = loop.optimizer.register_step_pre_hook(start)
    return _without_warmup(loop, task, horizon)


def _plain(task: ModelTask, horizon: int) -> dict[str, Any]:
    return {"peak": task.current_peak, "horizon": horizon, "decay": "linear"}


def _trained(task: ModelTask, seed: int, schedule: Schedule) -> Outcome:
    return Outcome(schedule.horizon, run_schedule(task, seed, schedule), schedule.peak)


def _without_warmup(loop: Loop, task: ModelTask, horizon: int) -> Outcome:
    for lr in Schedule(**_plain(task, horizon)).curve().tolist():
        if not math.isfinite(loop.train(lambda _, lr=lr: lr)):
            return Outcome(loop.step, math.nan, task.current_peak)
    return Outcome(horizon, loop.validate(), task.current_peak)


METHODS: dict[str, Method] = {
    "adaptive": adaptive,
    "capped": capped,
    "by forward passes": by_forward_passes,
    "AutoWU": autowu,
    "Lipschitz": lipschitz_scheduler,
    "RAdam": radam,
    "GI-Adam": gi_adam,
    "untuned rule": untuned_rule,
    "fixed 10%": fixed_10,
}
ABOUT = f"""\
Made by `python -m benchmarks.adaptive --write`, seeds {SEEDS}. Each cell is how much higher the final validation loss
is than that of the tuned schedule under the same seed, in seed noises, averaged over the seeds; below 0 it is better.
The tuned schedule is the best of the task's table (154 or 286 schedules, three or four other seeds), which no single
run can know. `unstable`: in so many of the {len(SEEDS)} runs a loss was not finite, or the final one hardly better than
the trivial predictor's although the learning rate was at least that of the tuned schedule.

- *adaptive*: `AdaptiveWarmup(optimizer, total_steps)`, with today's learning rate as the scale at which it begins. No
  forward passes beyond the run's own.
- *capped*: the same with `peak` at {CAP:g} times today's learning rate.
- *by forward passes*: the rule of *adaptive*, told by one forward pass every {EVERY} steps of the warm-up, which is 5%
  of the run's, whether the critical rate is more than three times the learning rate.
- *AutoWU* (Kim et al. 2021, arXiv 2107.05855) and *Lipschitz* (LipschitzScheduler, Riabinin et al. 2026, arXiv
  2602.05813) as their papers have them, with cosine decay. What was adapted to runs of a few hundred steps: AutoWU
  looks every hundredth of the run rather than every epoch; Lipschitz begins at a tenth of its maximum, which is today's
  learning rate, and is told the best final loss of the table as its target, which nobody knows beforehand
  (`benchmarks/search/one_run.py`).
- *RAdam* (`torch.optim.RAdam`, Liu et al. 2019, arXiv 1908.03265), *GI-Adam* (Kalra & Barkeshli 2024, arXiv
  2406.09405), the *untuned rule* (Ma & Yarats 2019, arXiv 1910.04209; at most half the run) and the *fixed 10%* have
  today's learning rate and linear decay. RAdam and GI-Adam take Adam's place: tasks with SGD or Lion have neither.

The constants of the adaptive rule were chosen by looking at the other tasks; those marked * were left out."""


def measure(name: str) -> dict[str, Any]:
    """Every method on a task, and the tuned schedule."""
    plan, task = TASKS[name], TASKS[name].task()
    table = Table.load(table_path(name))
    tuned = table.grid[int(np.argmin(table.means))]
    found: dict[str, Any] = {"tuned": {"schedule": tuned.describe()} | _told([_trained(task, s, tuned) for s in SEEDS])}
    for method, function in METHODS.items():
        began = time.monotonic()
        outcomes = [function(task, plan.horizon, seed, float(table.means.min())) for seed in SEEDS]
        done = [outcome for outcome in outcomes if outcome is not None]
        if done:
            found[method] = _told(done)
        print(f"{name}, {method}: {found.get(method)}, {time.monotonic() - began:.1f} s", flush=True)
    return found


def _told(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "final_loss": [outcome.loss if math.isfinite(outcome.loss) else None for outcome in outcomes],
        "peak": [float(f"{outcome.peak:.6g}") for outcome in outcomes],
    }


def page(results: dict[str, Any]) -> str:
    """The table, and what it comes to."""
    order = [name for name in TASKS if name in results]
    regrets: dict[str, dict[str, float]] = {method: {} for method in METHODS}
    failed = dict.fromkeys(METHODS, 0)
    runs = dict.fromkeys(METHODS, 0)
    lines = header(["task", *METHODS, "peak / tuned peak"])
    for name in order:
        standard, found = Standard(Table.load(table_path(name))), results[name]
        cells = []
        for method in METHODS:
            if method not in found:
                cells.append("-")
                continue
            regret, unstable = judged(standard, found[method], found["tuned"])
            regrets[method][name] = regret
            failed[method] += unstable
            runs[method] += len(SEEDS)
            cells.append(f"{_number(regret)}{f', {unstable} unstable' if unstable else ''}")
        ratios = [peak / found["tuned"]["peak"][0] for peak in found["adaptive"]["peak"]]
        mark = "*" if name in LEFT_OUT else ""
        lines.append(row([name + mark, *cells, " and ".join(f"{ratio:.2g}" for ratio in ratios)]))
    sums = header(["", *METHODS])
    for about, names in (("tasks left out", LEFT_OUT), ("other tasks", set(order) - set(LEFT_OUT)), ("all", order)):
        chosen = {method: [regret for name, regret in regrets[method].items() if name in names] for method in METHODS}
        near = [f"{sum(regret <= NEAR for regret in some)} of {len(some)}" for some in chosen.values()]
        sums.append(row([f"{about}: within {NEAR:g} noises of the tuned", *near]))
        middle = [_number(float(np.median(some))) for some in chosen.values()]
        sums.append(row([f"{about}: median", *middle]))
    sums.append(row(["unstable runs", *(f"{failed[method]} of {runs[method]}" for method in METHODS)]))
    return "\n".join(["# One run: the warm-up that adapts", "", ABOUT, "", *sums, "", *lines, ""])


def judged(standard: Standard, found: dict[str, Any], tuned: dict[str, Any]) -> tuple[float, int]:
    """The mean regret to the tuned schedule under the same seeds, in seed noises, and the number of unstable runs."""
    losses = [math.inf if loss is None else loss for loss in found["final_loss"]]
    regret = float(np.mean([loss - best for loss, best in zip(losses, tuned["final_loss"], strict=True)]))
    trivial = standard.table.trivial_loss
    worst = math.inf if trivial is None else trivial - FAILED * (trivial - standard.best)
    unstable = sum(
        not math.isfinite(loss) or (peak >= tuned["peak"][0] and not loss < worst)
        for loss, peak in zip(losses, found["peak"], strict=True)
    )
    return regret / standard.noise, unstable


def _number(regret: float) -> str:
    return f"{regret:.1f}" if abs(regret) < 100.0 else "> 100"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="task", help="of the benchmark; all where left out")
    parser.add_argument("--write", action="store_true", help="store the page")
    parser.add_argument("--stored", action="store_true", help="train nothing: take the stored losses")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    known = [name for name in TASKS if table_path(name).exists() and name not in TWO_OPTIMIZERS]
    for name in [] if options.stored else options.names or known:
        measured = measure(name)
        results = (json.loads(RESULTS.read_text()) if RESULTS.exists() else {}) | {name: measured}
        ordered = {name: results[name] for name in TASKS if name in results}
        RESULTS.write_text(json.dumps(ordered, indent=2) + "\n")
    text = page(json.loads(RESULTS.read_text()))
    print(text)
    if options.write:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
