"""The warm-up that adapts in the trainers of frameworks: the same learning rates as in a loop written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from autowarmup import AdaptiveWarmup
from autowarmup.schedule.step_rates import on_each_step
from tests.framework_tasks import Net, adamw, lightning_trainer, loaders, module, trainer

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks'
STEPS = 40


def made(model: nn.Module, applied: list[float]) -> tuple[Optimizer, AdaptiveWarmup]:
    """An optimizer and its scheduler; the learning rates of its steps are added to ``applied``."""
    optimizer = adamw(model.parameters())
    on_each_step(optimizer, lambda lrs: applied.extend(lrs))
    return optimizer, AdaptiveWarmup(optimizer, STEPS)


@pytest.fixture(scope="module")
def by_hand() -> list[float]:
    torch.manual_seed(3)
    model, applied = Net(), list[float]()
    optimizer, scheduler = made(model, applied)
    while len(applied) < STEPS:
        for batch in loaders()[0]:
            optimizer.zero_grad()
            model(**batch)["loss"].backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            if len(applied) == STEPS:
                break
    return applied


def test_a_lightning_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_hand: list[float]) -> None:
    """Its trainer gives the optimizer's step a closure, which computes the gradient."""
    monkeypatch.chdir(tmp_path)
    applied: list[float] = []

    def configure_optimizers(self: Any) -> Any:
        optimizer, scheduler = made(self, applied)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    torch.manual_seed(3)
    training = lightning_trainer(
        max_steps=STEPS, enable_progress_bar=False, enable_model_summary=False, logger=False, enable_checkpointing=False
    )
    training.fit(module(configure_optimizers=configure_optimizers), *loaders())
    assert applied == pytest.approx(by_hand, rel=1e-5)


def test_the_trainer_of_transformers(tmp_path: Path, by_hand: list[float]) -> None:
    applied: list[float] = []
    torch.manual_seed(3)
    model = Net()
    trainer(tmp_path, model=model, optimizers=lambda net: made(net, applied), max_steps=STEPS).train()
    assert applied == pytest.approx(by_hand, rel=1e-5)
