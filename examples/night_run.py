"""A real run after a study: guarded, recorded, and gone on with after it was killed.

    autowarmup tune examples/char_gpt.py:task --steps 240 --study studies/demo
    python -m examples.night_run --study studies/demo
    python -m examples.night_run --accidents                  # with bad batches and a gradient that isn't finite
    autowarmup watch runs/night/run.jsonl --figure run.png

Without a study it takes a schedule that is good for this model. Call it again after it was killed: it goes on from the
last snapshot.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autowarmup import Guard, Schedule, TuneResult
from examples.char_gpt import CONTEXT, GPT, Windows, corpus, optimizer


class Batches:
    """Windows of the text at random; its state is the position in the data."""

    def __init__(self, windows: Windows, size: int) -> None:
        self.windows, self.size = windows, size
        self.draw = torch.Generator().manual_seed(0)

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.randint(len(self.windows), (self.size,), generator=self.draw)
        x, y = zip(*(self.windows[int(row)] for row in rows), strict=True)
        return torch.stack(x), torch.stack(y)

    def state_dict(self) -> dict[str, Any]:
        return {"draw": self.draw.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draw.set_state(state["draw"])


def train(plan: Schedule | TuneResult, folder: Path, mode: str = "protect", accidents: bool = False) -> float:
    """Trains, and returns the validation loss; NaN where the run was stopped."""
    torch.manual_seed(0)
    text, symbols = corpus()
    cut = len(text) * 9 // 10
    model = GPT(symbols)
    optimizer_ = optimizer(model.parameters())
    batches = Batches(Windows(text[:cut], stride=7), size=8)
    schedule = plan if isinstance(plan, Schedule) else plan.schedule
    assert schedule is not None
    folder.mkdir(parents=True, exist_ok=True)
    guard = Guard(
        plan,
        optimizer_,
        mode=mode,
        model=model,
        loader=batches,
        folder=folder / "snapshots" if mode == "protect" else None,
        record=folder / "run.jsonl",
    )
    first = guard.resume() if mode == "protect" else 0
    for step in range(first, schedule.horizon):
        x, y = batches.next()
        share = step / schedule.horizon
        if accidents and 0.35 <= share < 0.38:  # a damaged file: symbols at random
            x, y = torch.randint(symbols, x.shape), torch.randint(symbols, y.shape)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer_.zero_grad()
        loss.backward()
        if accidents and 0.6 <= share < 0.61:
            model.head.weight.grad[0, 0] = math.nan
        if guard.step(loss):
            optimizer_.step()
        if guard.should_stop:
            print(f"stopped: {guard.events[-1].describe()}")
            return math.nan
    guard.close()
    held_out = Windows(text[cut:], stride=CONTEXT)
    with torch.no_grad():
        x, y = (torch.stack(parts) for parts in zip(*(held_out[row] for row in range(len(held_out))), strict=True))
        return nn.functional.cross_entropy(model(x), y).item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, help="the folder of a study, whose schedule is used")
    parser.add_argument("--steps", type=int, default=600, help="of the run, without a study")
    parser.add_argument("--folder", type=Path, default=Path("runs/night"))
    parser.add_argument("--mode", choices=["observe", "protect"], default="protect")
    parser.add_argument("--accidents", action="store_true", help="damage the run on purpose")
    given = parser.parse_args()
    tuned = Schedule(peak=2e-3, horizon=given.steps, warmup_steps=given.steps // 4, shape="linear")
    plan = TuneResult.load(given.study) if given.study else tuned
    print(f"validation loss: {train(plan, given.folder, given.mode, given.accidents):.4f}")
