"""A plain Ray Tune script with its own ``Tuner`` and trainable, which uses autowarmup's search and detectors.

    python examples/ray_tune.py

The trainable saves a checkpoint at every rung, so a paused trial is resumed where it stopped.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from ray import tune
from sklearn.datasets import load_digits
from torch import nn

from autowarmup.ray_tune import WarmupScheduler, WarmupSearcher


def train(config: dict[str, Any]) -> None:
    """Trains a multilayer perceptron on handwritten digits, reporting every ten steps."""
    schedule, rungs = config["schedule"], config["rungs"]
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    torch.manual_seed(config["seed"])
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = schedule.scheduler(optimizer)
    step = 0
    if checkpoint := tune.get_checkpoint():
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt", weights_only=True)
        step = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])

    losses: list[float] = []
    while step < schedule.horizon:
        torch.manual_seed(config["seed"] + step)
        batch = torch.randint(360, len(labels), (64,))
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        step += 1
        losses.append(loss.item())
        if step % 10 == 0 or step in rungs or step == schedule.horizon:
            with torch.no_grad():
                val_loss = nn.functional.cross_entropy(model(images[:360]), labels[:360]).item()
            report = {"step": step, "loss": losses, "val_loss": val_loss}
            losses = []
            if step in rungs:
                with tempfile.TemporaryDirectory() as folder:
                    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
                    state = {"step": step} | {name: part.state_dict() for name, part in parts.items()}
                    torch.save(state, Path(folder) / "state.pt")
                    tune.report(report, checkpoint=tune.Checkpoint.from_directory(folder))
            else:
                tune.report(report)


def search(searcher: WarmupSearcher, storage: str | None = None) -> tune.ResultGrid:
    """Runs an ordinary Tuner with the searcher and its scheduler."""
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=searcher, scheduler=WarmupScheduler(searcher), num_samples=-1, reuse_actors=True
        ),
        run_config=tune.RunConfig(storage_path=storage, name="warmup"),
    )
    return tuner.fit()


if __name__ == "__main__":
    searcher = WarmupSearcher(total_steps=100, current_peak=1e-3)
    search(searcher)
    assert searcher.conclusion is not None
    print(searcher.conclusion.verdict.message)
    print(searcher.conclusion.verdict.schedule)
