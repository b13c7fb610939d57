"""The tuned schedule against the current one, on the examples.

    python benchmarks/schedules.py

Tunes each example with ``autotune``'s defaults. Then the searched schedule, the current one, and the searched peak
without a warm-up, are trained to their ends on the fresh seeds of the confirmation; the last tells what the warm-up
adds to the better peak.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from autowarmup import Schedule, TuneResult, autotune
from autowarmup.engines.base import MonitorSettings, Segment
from autowarmup.engines.local import LocalEngine
from autowarmup.search.trials import TrialSpec
from autowarmup.seeds import derive_seed
from autowarmup.training.settings import TrainSettings
from autowarmup.training.task import ModelTask
from autowarmup.training.trace import Trace
from examples import char_gpt, digits

STUDIES = Path("studies/benchmark")


def main() -> None:
    rows = [row("GPT, 8 layers, post-norm", char_gpt.task(), 240), row("digits CNN", digits.task(), 200)]
    columns = ("tuned", "current: no warm-up, today's rate", "no warm-up, tuned peak")
    print(f"| task | {' | '.join(columns)} | verdict | cost |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows))


def row(name: str, task: dict[str, Any], steps: int) -> str:
    started = time.perf_counter()
    result = autotune(**task, total_steps=steps, study=STUDIES / name.split(",")[0].replace(" ", "-"), mlflow=False)
    seconds = time.perf_counter() - started
    searched = found(result)
    bare = Schedule(peak=searched.peak, horizon=searched.horizon, decay=searched.decay)
    losses = [shown(trained(task, result, schedule)) for schedule in (searched, result.config.current_schedule, bare)]
    cost = f"{result.cost.runs:.1f} runs, {seconds:.0f} s"
    print(f"{name}: {searched.describe()}\n{result.verdict.message}\n", flush=True)
    return f"| {name}, {steps} steps | {' | '.join(losses)} | {result.verdict.kind} | {cost} |"


def found(result: TuneResult) -> Schedule:
    """The best schedule of the search, whatever the verdict."""
    completed = [r for r in result.records if r.role == "proposal" and r.outcome == "completed"]
    return min(completed, key=lambda record: record.val_loss or 0.0).schedule


def trained(task: dict[str, Any], result: TuneResult, schedule: Schedule) -> list[float | None]:
    """A schedule's final validation losses on the confirmation's seeds; None where it is unstable."""
    config = result.config
    seeds = [derive_seed(config.seed, "confirmation", i) for i in range(config.confirm_seeds)]
    settings = dict(task)
    batch_size = settings.pop("batch_size")
    task_of_model = ModelTask(**settings, settings=TrainSettings(batch_size=batch_size))
    engine = LocalEngine(task_of_model, STUDIES, MonitorSettings.of(config))
    specs = [TrialSpec(number=i, candidate=0, role="proposal", seed=s, schedule=schedule) for i, s in enumerate(seeds)]
    for spec in specs:
        engine.start(Segment(spec, schedule.horizon, Trace.empty()))
    results = [engine.wait(lambda spec, block: None) for _ in specs]
    return [None if result.instability else result.trace.evaluations[-1].val_loss for result in results]


def shown(losses: list[float | None] | tuple[float | None, ...]) -> str:
    """The mean and the seeds' losses; a run that was unstable by its name."""
    each = ", ".join("unstable" if loss is None else f"{loss:.3f}" for loss in losses)
    finite = [loss for loss in losses if loss is not None]
    mean = f"**{sum(finite) / len(finite):.3f}** " if len(finite) == len(losses) and finite else ""
    return f"{mean}({each})"


if __name__ == "__main__":
    main()
