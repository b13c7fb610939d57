"""What RateAudit costs: microseconds that it adds to an optimizer's step.

    python benchmarks/audit.py

The optimizer has parameters without gradients, so its step does nothing but call the hooks. Steps with and without an
audit take turns; the figures are medians over the turns, in CPU time, on one thread.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from autowarmup import RateAudit, Schedule

TURNS, STEPS = 30, 1_000
PLAN = Schedule(peak=1e-3, horizon=2 * TURNS * STEPS, warmup_steps=TURNS * STEPS // 4, shape="cosine")


def optimizer_of(groups: int) -> torch.optim.Optimizer:
    """An optimizer of one parameter a group."""
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(groups)]
    return torch.optim.SGD([{"params": [parameter]} for parameter in parameters], lr=PLAN.peak)


def microseconds(optimizer: torch.optim.Optimizer, first: int) -> float:
    """Of one step, with the schedule applied by hand."""
    begun = time.process_time()
    for step in range(first, first + STEPS):
        rate = PLAN.lr_at(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return 1e6 * (time.process_time() - begun) / STEPS


def added(groups: int, **options: Any) -> float:
    """Microseconds that an audit adds to a step."""
    plain, audited = optimizer_of(groups), optimizer_of(groups)
    with RateAudit(audited, PLAN, mode="raise", **options):
        turns = [microseconds(audited, turn * STEPS) - microseconds(plain, turn * STEPS) for turn in range(TURNS)]
    return statistics.median(turns)


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    added(1)  # a first pass, which is slower
    print("| parameter groups | audit | with a recording |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for groups in (1, 2, 16):
            recorded = added(groups, record=Path(folder) / f"{groups}.jsonl")
            print(f"| {groups} | {added(groups):.1f} us | {recorded:.1f} us |")


if __name__ == "__main__":
    main()
