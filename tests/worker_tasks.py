"""Tasks that workers load as a file."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from autowarmup import LoopRun
from tests.tasks import digits, mlp, settings, wide


class Slow(nn.Module):
    """A model that takes its time: workers train side by side, and one can be killed in the middle of a trial."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        out: torch.Tensor = self.body(x)
        return out


def one() -> dict[str, Any]:
    """A small study."""
    return settings()


def cohort() -> dict[str, Any]:
    """Four trials chosen together."""
    return wide()


def slow_cohort() -> dict[str, Any]:
    return wide(model_fn=Slow)


def slow_free() -> dict[str, Any]:
    """One is chosen whenever there is room."""
    return settings(model_fn=Slow, budget=1000)


def other() -> dict[str, Any]:
    """Another model."""
    return settings(model_fn=lambda: nn.Linear(64, 10))


def train(run: LoopRun) -> None:
    """A training loop of the user's own: it waits in memory where it is paused."""
    torch.manual_seed(run.seed)
    (x, y), (x_val, y_val) = ((torch.from_numpy(part) for part in pair) for pair in digits())
    model = nn.Linear(64, 10)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = run.schedule.scheduler(optimizer)
    for _ in range(run.total_steps):
        batch = torch.randint(len(y), (64,))
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        val_loss = nn.functional.cross_entropy(model(x_val), y_val).item() if run.should_validate else None
        if run.report(loss.item(), val_loss=val_loss):
            break


def loop() -> dict[str, Any]:
    return {"train_fn": train, "total_steps": 40, "cohort": 4, "budget": 1000, "mlflow": False}


def broken() -> dict[str, Any]:
    """Its training fails."""
    return settings(model_fn=Broken)


class Broken(nn.Linear):
    """Fails at its twentieth batch of a process."""

    calls = 0

    def __init__(self) -> None:
        super().__init__(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Broken.calls += 1
        if Broken.calls > 20:
            raise RuntimeError("out of ideas")
        return super().forward(x)
