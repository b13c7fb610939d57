"""Tables: every schedule of a task's grid trained to its end, so that a search over them costs nothing.

    python -m benchmarks.search.tables make mlp               # trains a table: minutes to half an hour
    python -m benchmarks.search.tables make mlp --horizon 100
    python -m benchmarks.search.tables extend mlp --seeds 6   # further seeds
    python -m benchmarks.search.tables check               # the stored files against their checksums

A table holds each schedule's whole trace under each seed (loss and gradient norm a step, raw and EMA validation loss at
20 evaluations), and ramps of the rate, as a search would use them to probe the task.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autowarmup.schedule.schedule import Schedule
from autowarmup.search.config import validation_interval
from autowarmup.search.probe import ramp
from autowarmup.training.trace import Evaluation, Trace

FOLDER = Path(__file__).parent / "tables"
SUMS = FOLDER / "SHA256SUMS"
SEEDS = (0, 1, 2, 3)
RAMPS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
"""Lengths of the ramps, as shares of the horizon."""
LANES = 48
"""Lanes trained at once."""
MANTISSA_BITS = 10
"""Of a step's loss and gradient norm (1 part in 2,000). Validation losses keep single precision."""


@dataclass(frozen=True)
class Table:
    """A task's schedules with their traces under every seed.

    Args:
        name: of the task.
        about: of the task.
        horizon: optimizer steps of a run.
        current_peak: the rate that the task's optimizer comes with.
        beta2: its second-moment decay.
        trivial_loss: of the task, where it is known.
        grid: the schedules; neither ramps nor baselines among them.
        ramps: the probes.
        baselines: the schedules that need no search, at today's rate: no warm-up, and the untuned rule.
        seeds: the seeds.
        traces: by schedule and seed.
    """

    name: str
    about: str
    horizon: int
    current_peak: float
    beta2: float
    trivial_loss: float | None
    grid: tuple[Schedule, ...]
    ramps: tuple[Schedule, ...]
    baselines: tuple[Schedule, ...]
    seeds: tuple[int, ...]
    traces: dict[tuple[Schedule, int], Trace]

    @cached_property
    def finals(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Final validation losses, shape ``(schedules, seeds)``; infinite where they are not finite."""
        losses = [[self.traces[s, seed].evaluations[-1].val_loss for seed in self.seeds] for s in self.grid]
        return np.nan_to_num(np.array(losses), nan=np.inf, posinf=np.inf)

    @cached_property
    def means(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Each schedule's final loss, averaged over the seeds."""
        return self.finals.mean(axis=1)

    def save(self, path: Path) -> None:
        schedules = dict.fromkeys([*self.grid, *self.ramps, *self.baselines])
        order = [(schedule, seed) for schedule in schedules for seed in self.seeds]
        traces = [self.traces[key] for key in order]
        meta = {
            key: getattr(self, key) for key in ("name", "about", "horizon", "current_peak", "beta2", "trivial_loss")
        }
        meta["seeds"] = list(self.seeds)
        for kind in ("grid", "ramps", "baselines"):
            meta[kind] = [schedule.model_dump(mode="json") for schedule in getattr(self, kind)]
        path.parent.mkdir(exist_ok=True)
        np.savez_compressed(
            path,
            meta=json.dumps(meta),
            lengths=np.array([len(trace) for trace in traces]),
            loss=_rounded(np.concatenate([trace.loss for trace in traces])),
            grad_norm=_rounded(np.concatenate([trace.grad_norm for trace in traces])),
            checkpoints=np.array([len(trace.evaluations) for trace in traces]),
            step=np.array([c.step for trace in traces for c in trace.evaluations], np.int32),
            val_loss=np.array([c.val_loss for trace in traces for c in trace.evaluations], np.float32),
            val_loss_ema=np.array([c.val_loss_ema for trace in traces for c in trace.evaluations], np.float32),
        )

    @classmethod
    def load(cls, path: Path) -> Table:
        with np.load(path) as stored:
            meta = json.loads(str(stored["meta"]))
            cuts = np.cumsum(stored["lengths"])[:-1]
            losses, norms = (np.split(stored[key].astype(np.float64), cuts) for key in ("loss", "grad_norm"))
            cuts = np.cumsum(stored["checkpoints"])[:-1]
            steps, raw, ema = (np.split(stored[key], cuts) for key in ("step", "val_loss", "val_loss_ema"))
        for kind in ("grid", "ramps", "baselines"):
            meta[kind] = tuple(Schedule.model_validate(item) for item in meta[kind])
        seeds = tuple(meta.pop("seeds"))
        schedules = dict.fromkeys([*meta["grid"], *meta["ramps"], *meta["baselines"]])
        order = [(schedule, seed) for schedule in schedules for seed in seeds]
        traces = {}
        for i, (schedule, seed) in enumerate(order):
            marks = zip(steps[i].tolist(), raw[i].tolist(), ema[i].tolist(), strict=True)
            traces[schedule, seed] = Trace(
                schedule.curve(), losses[i], norms[i], tuple(Evaluation(*mark) for mark in marks)
            )
        return cls(**meta, seeds=seeds, traces=traces)


def table_path(name: str, horizon: int | None = None) -> Path:
    """Where the table of a task is, at its own horizon or at another."""
    return FOLDER / (f"{name}.npz" if horizon is None else f"{name}@{horizon}.npz")


def make(name: str, horizon: int | None, seeds: Sequence[int], known: Table | None = None) -> Iterator[Table]:
    """Trains a task's whole grid, seed by seed, but for what is known; yields the table so far after each."""
    import torch

    from benchmarks.search.lanes import Lanes
    from benchmarks.search.tasks import TASKS

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    plan = TASKS[name]
    task, steps = plan.task(), horizon or plan.horizon
    grid = plan.grid(steps)
    ramps = [ramp(task.current_peak, round(share * steps)) for share in RAMPS]
    plain = Schedule(peak=task.current_peak, horizon=steps)
    baselines = (plain, Schedule.untuned_linear(task.current_peak, steps, task.beta2))
    every = validation_interval(steps)
    traces = dict(known.traces) if known else {}
    for seed in seeds:
        if known and seed in known.seeds:
            continue
        began = time.monotonic()
        for lanes in [*_parts([*grid, *baselines], LANES), *([probe] for probe in ramps)]:
            traces |= {
                (schedule, seed): trace
                for schedule, trace in zip(lanes, Lanes(task, lanes, seed, every).run(), strict=True)
            }
        print(f"{name}, {steps} steps, seed {seed}: {time.monotonic() - began:.0f} s", flush=True)
        yield Table(
            name, plan.about, steps, task.current_peak, task.beta2, task.trivial_loss,
            tuple(grid), tuple(ramps), baselines, tuple(seeds)[: seed + 1], dict(traces),
        )  # fmt: skip


def _parts(items: Sequence[Schedule], size: int) -> Iterable[Sequence[Schedule]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _rounded(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Nearest values with a short mantissa, which compress well; infinities and NaN stay."""
    mantissa, exponent = np.frexp(values.astype(np.float32))
    scale = np.float32(2**MANTISSA_BITS)
    return np.ldexp(np.rint(mantissa * scale) / scale, exponent)


def checksums() -> dict[str, str]:
    """The SHA-256 of every stored table."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(FOLDER.glob("*.npz"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "extend", "check"])
    parser.add_argument("name", nargs="?")
    parser.add_argument("--horizon", type=int)
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    arguments = parser.parse_args()
    if arguments.command != "check":
        path = table_path(arguments.name, arguments.horizon)
        known = Table.load(path) if arguments.command == "extend" else None
        for table in make(arguments.name, arguments.horizon, range(arguments.seeds), known):
            table.save(path)
        SUMS.write_text("".join(f"{digest}  {name}\n" for name, digest in checksums().items()))
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        return
    stored = dict(reversed(line.split()) for line in SUMS.read_text().splitlines())
    assert stored == checksums(), "a table differs from its checksum in SHA256SUMS"
    print(f"{len(stored)} tables match SHA256SUMS")


if __name__ == "__main__":
    main()
