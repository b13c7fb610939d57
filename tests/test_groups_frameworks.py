"""The exported code of a schedule with groups in a Trainer of Transformers, with a resume in the middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autowarmup import Schedule
from tests.export_runs import executed, needs

pytestmark = pytest.mark.filterwarnings("ignore")  # the framework's


class Two(nn.Module):
    """A backbone with batch normalisation, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 1)

    def forward(self, x: Any, labels: Any = None) -> Any:
        out = self.head(self.backbone(x))
        return {"loss": ((out - labels) ** 2).mean(), "logits": out}


ROWS = [{"x": torch.tensor([float(i), 1.0]), "labels": torch.ones(1)} for i in range(16)]


@pytest.mark.parametrize("stop", [3, 8])
def test_the_trainer_applies_every_groups_learning_rate_and_freezes(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("transformers")
    needs("accelerate")
    from transformers import TrainerCallback

    monkeypatch.chdir(tmp_path)
    backbone = {"name": "backbone", "parameters": "backbone.*", "ratio": 0.1, "frozen_steps": 5, "warmup_steps": 4}
    groups = [backbone, {"name": "head", "parameters": "head.*"}]
    plan = Schedule(peak=0.01, horizon=12, warmup_steps=3, shape="linear", groups=groups)
    exported = plan.export("transformers")
    applied: list[dict[str, float]] = []
    statistics: list[list[float]] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            statistics.append(model.backbone[1].running_mean.tolist())
            if state.global_step == stop and len(applied) == stop:
                control.should_save = control.should_training_stop = True

    def trainer() -> Any:
        made = executed(exported.code, model=Two(), train_dataset=ROWS)["trainer"]
        made.optimizer.register_step_pre_hook(
            lambda optimizer, *_: applied.append({group["name"]: group["lr"] for group in optimizer.param_groups})
        )
        made.add_callback(Watch())
        return made

    trainer().train()
    trainer().train(resume_from_checkpoint=f"output/checkpoint-{stop}")
    assert len(applied) == plan.horizon
    for step, rates in enumerate(applied):
        assert rates == pytest.approx(plan.rates_at(step), rel=1e-9)
    assert statistics[:5] == [[0.0] * 3] * 5
    assert statistics[5] != statistics[4]
