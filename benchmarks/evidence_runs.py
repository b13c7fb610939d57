"""Real runs with real faults, and evidence that the detectors don't use, measured at every step.

    python -m benchmarks.evidence_runs fitting     # trains the runs that scores are fitted to, and stores their traces
    python -m benchmarks.evidence_runs fresh       # those of other tasks and seeds

The tasks are those of ``benchmarks/search/tasks.py``. Beside loss and gradient norm a step records the gradient's norm
and the angle of the update for the first, the middle and the last third of the layers, the cosine of two updates in a
row, at every fifth step the learning rate as a share of the critical one, and the loss on training examples that stay
the same. Each part takes about five minutes on a core of its own. ``benchmarks/evidence.py`` judges the traces.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autowarmup.schedule import Schedule
from autowarmup.training.trial import ModelTrial
from benchmarks.search.tasks import TASKS

FOLDER = Path(__file__).parent / "results"
TASKS_OF = {
    "fitting": {
        "mlp": 2, "tabular": 2, "diabetes": 2, "wine": 2, "batch-norm-cnn": 2, "transfer": 2, "deep-mlp": 1,
        "post-norm-rows": 1, "residual-mlp": 1,
    },
    "fresh": {
        "softmax-regression": 2, "muon-gpt": 2, "group-norm-cnn": 1, "sgd-rows": 1, "denoising": 1, "gru": 1,
    },
}  # fmt: skip
"""Which tasks the runs are of, and of how many seeds: fewer where a step takes long."""
FIRST_SEED = {"fitting": 20, "fresh": 30}
PEAKS = 15
"""Peaks of a task's runs, a quarter of a decade apart from the grid's lowest on: three and a half decades."""
FAULTS = ("rate", "batches", "labels", "weights", "gradients")
EVERY = 5
"""Steps between two measurements of the critical rate."""
FIXED = 4
"""Training batches that stay the same; their loss shows at every step whether the weights are damaged."""
PARTS = ("first", "middle", "last")
COLUMNS = (
    "loss", "grad_norm", *(f"grad_norm {part}" for part in PARTS), *(f"angle {part}" for part in PARTS),
    "cosine", "critical", "fixed",
)  # fmt: skip
Column = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Fault:
    """What goes wrong from step ``at`` on, for ``steps`` steps, and how badly."""

    kind: str
    at: int
    steps: int
    size: float


@dataclass(frozen=True)
class Run:
    """A run: all that is needed to repeat it."""

    task: str
    seed: int
    schedule: dict[str, Any]
    fault: Fault | None

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Run:
        fault = Fault(**stored["fault"]) if stored["fault"] else None
        return cls(stored["task"], stored["seed"], stored["schedule"], fault)


def draw(name: str, part: str) -> list[Run]:
    """The task's runs: every peak under every seed, the rest of the schedule drawn; those of the lower peaks once more
    with a fault."""
    task, runs = TASKS[name], []
    first = FIRST_SEED[part]
    rng = np.random.default_rng([2026, [*TASKS].index(name), first])
    for seed in range(first, first + TASKS_OF[part][name]):
        for index in range(PEAKS):
            warmup = round(float(rng.choice([0.0, 0.0, 0.05, 0.15, 0.4])) * task.horizon)
            schedule = Schedule(
                peak=float(f"{task.lowest_peak * 10 ** ((index + rng.random()) / 4):.3g}"),
                horizon=task.horizon,
                warmup_steps=warmup,
                shape=str(rng.choice(["linear", "cosine"])) if warmup else "none",
                decay=str(rng.choice(["cosine", "linear", "constant"])),
            ).model_dump(mode="json")
            runs.append(Run(name, seed, schedule, None))
            if index < PEAKS * 2 // 3:
                runs.append(Run(name, seed, schedule, draw_fault(rng, FAULTS[(index + seed) % 5], task.horizon)))
    return runs


def draw_fault(rng: np.random.Generator, kind: str, horizon: int) -> Fault:
    at = int(rng.integers(max(20, horizon // 20), horizon * 8 // 10))
    if kind == "rate":  # a rate many times too high for a few steps
        return Fault(kind, at, int(rng.choice([1, 3, 10])), float(rng.choice([10.0, 30.0, 100.0])))
    if kind == "batches":  # some batches have wrong targets
        return Fault(kind, at, int(rng.choice([4, 8, 16])), 1.0)
    if kind == "labels":  # all have, from now on
        return Fault(kind, at, horizon, 1.0)
    if kind == "weights":  # noise is added to the weights, as large as they are or three times so
        return Fault(kind, at, 1, float(rng.choice([1.0, 3.0])))
    return Fault(kind, at, horizon, 1000.0)  # gradients are a thousand times too large


class Measured(ModelTrial):
    """A trial that measures the evidence, and has a fault."""

    def start(self, fault: Fault | None) -> None:
        self.fault = fault
        self.random = torch.Generator().manual_seed(0)
        layers = [parameter for parameter in self._parameters if parameter.ndim > 1]
        thirds = np.array_split(np.arange(len(layers)), 3)
        self.parts = [[layers[index] for index in third] for third in thirds if len(third)]
        self.update: list[Tensor] | None = None
        self.cost = dict.fromkeys(("grad_norm by part", "angle, cosine", "critical", "step"), 0.0)
        self.rows: list[list[float]] = []
        batches = self.recipe.data.train.passes(0)
        self.fixed = tuple(torch.cat(parts) for parts in zip(*(next(batches) for _ in range(FIXED)), strict=True))

    def _fails(self, *kinds: str) -> bool:
        fault = self.fault
        return fault is not None and fault.kind in kinds and fault.at <= self.step < fault.at + fault.steps

    def _gradients(self, batches: list[Any]) -> Tensor:
        if self._fails("weights"):
            with torch.no_grad():
                for weights in [p for part in self.parts for p in part]:
                    noise = torch.randn(weights.shape, generator=self.random)
                    weights += noise * weights.std() * self.fault.size  # type: ignore[union-attr]
        if self._fails("labels", "batches"):
            *inputs, target = batches[0]
            batches = [(*inputs, target[torch.randperm(len(target), generator=self.random)])]
        self.batch = batches[0]
        loss = super()._gradients(batches)
        if self._fails("gradients"):
            torch._foreach_mul_([p.grad for p in self._parameters if p.grad is not None], 1000.0)
        self.loss = loss.item()
        return loss

    def _apply_lr(self) -> float:
        lr = super()._apply_lr()
        if self._fails("rate"):
            for group in self._groups:
                group["lr"] *= self.fault.size  # type: ignore[union-attr]
        return lr

    def _update(self) -> Tensor:
        began = time.perf_counter()
        gradients = [[p.grad for p in part if p.grad is not None] for part in self.parts]
        norms = [_norm(part) for part in gradients]
        by_part = time.perf_counter()
        layers = [p for part in self.parts for p in part]
        before = [p.detach().clone() for p in layers]
        copied = time.perf_counter()
        self.slope = [p.grad.clone() for p in layers] if self.step % EVERY == 0 else []
        again = time.perf_counter()
        norm = super()._update()
        updated = time.perf_counter()
        angles, cosine = self._angles(before)
        measured = time.perf_counter()
        critical = self._critical(before) if self.slope else math.nan
        end = time.perf_counter()
        self.cost["grad_norm by part"] += by_part - began
        self.cost["angle, cosine"] += copied - by_part + measured - updated
        self.cost["critical"] += end - measured + again - copied
        pad = [math.nan] * (3 - len(self.parts))
        self.rows.append([self.loss, norm.item(), *norms, *pad, *angles, *pad, cosine, critical, self._fixed_loss()])
        return norm

    def _angles(self, before: list[Tensor]) -> tuple[list[float], float]:
        """The angle between the weights before and after, by part; the cosine of this update and the last one."""
        layers = [p.detach() for part in self.parts for p in part]
        update = torch._foreach_sub(layers, before)
        along, size = _dots(update, before), _dots(update, update)
        weights = _dots(before, before)
        angles, first = [], 0
        for part in self.parts:
            chosen = slice(first, first + len(part))
            first += len(part)
            w, u, a = sum(weights[chosen]), sum(size[chosen]), sum(along[chosen])
            across = math.sqrt(max(0.0, u - a * a / w)) if w else math.nan
            angles.append(math.atan2(across, math.sqrt(w) + a / math.sqrt(w)) if w else math.nan)
        cosine = math.nan
        if self.update is not None:
            sizes = math.sqrt(sum(size)) * math.sqrt(self.size)
            cosine = sum(_dots(update, self.update)) / sizes if sizes else math.nan
        self.update, self.size = list(update), sum(size)
        return angles, cosine

    def _fixed_loss(self) -> float:
        """The loss of the new weights on examples that stay the same: what is high there is not a hard batch."""
        self._model.eval()
        with torch.no_grad():
            loss = float(self.recipe.forward(self._model, self.fixed)[0])
        self._model.train()
        return loss

    def _critical(self, before: list[Tensor]) -> float:
        """The applied rate over the one at which this update would leave the batch's loss as it was: one more forward
        pass of the same batch, and the parabola through the loss, its slope along the update and the loss after it."""
        assert self.update is not None
        slope = sum(_dots(self.slope, self.update))
        with torch.no_grad():
            after = float(self.recipe.forward(self._forward_model, self.batch)[0])
        if not slope < 0 or not math.isfinite(after):
            return math.inf if slope < 0 else math.nan
        return (after - self.loss - slope) / -slope


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))) if tensors else math.nan


def _dots(one: Any, other: Any) -> list[float]:
    return torch.stack([product.sum() for product in torch._foreach_mul(one, other)]).tolist()  # type: ignore[no-any-return]


def train(run: Run, task: Any) -> tuple[Column, dict[str, float], float]:
    """Its columns, what the evidence cost and what all steps took, in seconds."""
    schedule = Schedule.model_validate(run.schedule)
    trial = Measured(task.recipe, schedule, run.seed, schedule.horizon + 1, None)
    trial.start(run.fault)
    began = time.perf_counter()
    last = schedule.horizon - schedule.horizon % 10
    for block in trial.run(last):
        if not np.isfinite(block.loss).all():
            break
    took = time.perf_counter() - began
    return np.array(trial.rows), trial.cost, took


def train_all(part: str) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    runs: list[Run] = []
    columns: list[Column] = []
    costs = {}
    for name in TASKS_OF[part]:
        began, task = time.monotonic(), TASKS[name].task()
        total: dict[str, float] = {}
        steps = 0
        for run in draw(name, part):
            column, cost, took = train(run, task)
            for key, seconds in {**cost, "step": took}.items():
                total[key] = total.get(key, 0.0) + seconds
            steps += len(column)
            runs.append(run)
            columns.append(column)
        weights = sum(p.numel() for p in task.recipe.build_model(0).parameters())
        costs[name] = {"weights": weights} | {key: round(1e6 * s / steps, 1) for key, s in total.items()}
        costs[name]["trivial"] = task.trivial_loss
        print(f"{name}: {time.monotonic() - began:.0f} s, {costs[name]}", flush=True)
        np.savez_compressed(
            FOLDER / f"evidence_{part}.npz",
            runs=json.dumps([asdict(run) for run in runs]),
            costs=json.dumps(costs),
            lengths=np.array([len(column) for column in columns]),
            columns=np.concatenate(columns).astype(np.float32),
        )


if __name__ == "__main__":
    train_all(sys.argv[1])
