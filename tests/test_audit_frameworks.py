"""RateAudit in the frameworks' own loops: each one's ways to a wrong learning rate, and right uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from autowarmup import RateAudit, Schedule
from autowarmup.audit.recording import read
from tests.export_runs import CODE, needs
from tests.framework_tasks import in_two_processes

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks'

PLAN = Schedule(peak=0.1, horizon=12, warmup_steps=4, shape="linear", final_factor=0.1)
ROWS = [{"x": torch.ones(3) * number, "labels": torch.ones(1)} for number in range(32)]


class Line(nn.Module):
    """A linear model in the form that Transformers' Trainer takes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x: Any, labels: Any) -> dict[str, Any]:
        return {"loss": (self.linear(x) - labels).square().mean()}


def scheduler_of(optimizer: Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: PLAN.lr_at(step) / PLAN.peak)


def cause(audit: RateAudit) -> tuple[int, str] | None:
    return audit.finding and (audit.finding.step, audit.finding.cause)


# --- Accelerate ---------------------------------------------------------------------------------------------


def accelerated(file: Path, prepares_scheduler: bool) -> None:
    """A training in each of Accelerate's processes; the first one records."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = Line()
    optimizer = AdamW(model.parameters(), lr=PLAN.peak)
    scheduler: Any = scheduler_of(optimizer)
    if prepares_scheduler:
        scheduler = accelerator.prepare(scheduler)
    loader, model, optimizer = accelerator.prepare(DataLoader(ROWS, batch_size=4), model, optimizer)
    with RateAudit(optimizer, PLAN, mode="record", record=file):
        for batch in loader:
            optimizer.zero_grad()
            accelerator.backward(model(**batch)["loss"])
            optimizer.step()
            scheduler.step()


@pytest.mark.parametrize("prepares_scheduler", [True, False])
def test_two_processes_of_accelerate(prepares_scheduler: bool, tmp_path: Path) -> None:
    file = tmp_path / "rates.jsonl"
    in_two_processes(accelerated, file, prepares_scheduler)
    (part,) = read(file)
    assert part.steps == [0, 1, 2, 3]
    if prepares_scheduler:
        assert part.finding is not None
        assert (part.finding.step, part.finding.cause) == (1, "stepped-several-times")
        assert "once for each of its 2 processes" in part.finding.explanation
    else:
        assert part.finding is None


def accumulate(accelerator: Any, loader: Any, model: Any, optimizer: Any, scheduler: Any) -> None:
    """One epoch, with the scheduler stepped after every batch."""
    for batch in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch)["loss"])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


def test_accumulation_in_accelerate_is_right() -> None:
    accelerate = needs("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = Line()
    optimizer = AdamW(model.parameters(), lr=PLAN.peak)
    parts = accelerator.prepare(DataLoader(ROWS, batch_size=4), model, optimizer, scheduler_of(optimizer))
    loader, model, optimizer, scheduler = parts
    with RateAudit(optimizer, PLAN, mode="raise") as audit:
        accumulate(accelerator, loader, model, optimizer, scheduler)
    assert audit.step == 4


def test_a_scheduler_that_accelerate_has_not_prepared_under_accumulation() -> None:
    accelerate = needs("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = Line()
    optimizer = AdamW(model.parameters(), lr=PLAN.peak)
    scheduler = scheduler_of(optimizer)
    loader, model, optimizer = accelerator.prepare(DataLoader(ROWS, batch_size=4), model, optimizer)
    with RateAudit(optimizer, PLAN, mode="record") as audit:
        accumulate(accelerator, loader, model, optimizer, scheduler)
    assert cause(audit) == (0, "stepped-per-batch")


# --- Transformers -------------------------------------------------------------------------------------------


def trainer_of(folder: Path, scheduled: bool, **arguments: Any) -> tuple[Any, Any]:
    """Transformers' Trainer of a linear model, and the audit of its optimizer."""
    needs("accelerate")
    transformers = needs("transformers")
    settings = {"output_dir": str(folder), "max_steps": PLAN.horizon, "report_to": [], "use_cpu": True}
    settings |= {"disable_tqdm": True, "per_device_train_batch_size": 2, "learning_rate": PLAN.peak}
    model = Line()
    optimizer = AdamW(model.parameters(), lr=PLAN.peak)
    optimizers = (optimizer, scheduler_of(optimizer) if scheduled else None)
    args = transformers.TrainingArguments(**(settings | arguments))
    trainer = transformers.Trainer(model=model, args=args, train_dataset=ROWS, optimizers=optimizers)
    return trainer, RateAudit(optimizer, PLAN, mode="record")


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup"])
def test_transformers_own_schedulers_start_at_0(kind: str, tmp_path: Path) -> None:
    trainer, audit = trainer_of(tmp_path, scheduled=False, warmup_steps=4, lr_scheduler_type=kind)
    trainer.train()
    assert cause(audit) == (0, "starts-at-zero")
    assert audit.step == PLAN.horizon


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_schedule_in_transformers_is_right_also_where_it_resumes(accumulate: int, tmp_path: Path) -> None:
    options = {"gradient_accumulation_steps": accumulate, "save_steps": 5}
    trainer, audit = trainer_of(tmp_path, scheduled=True, **options)
    trainer.train()
    assert (audit.finding, audit.step) == (None, PLAN.horizon)

    trainer, audit = trainer_of(tmp_path, scheduled=True, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert (audit.finding, audit.step) == (None, PLAN.horizon)


# --- Lightning ----------------------------------------------------------------------------------------------


def lightning_audit(scheduler: dict[str, Any], accumulate: int = 1) -> RateAudit:
    """The audit of a training by Lightning; ``scheduler`` has what a scheduler's dict has beside the scheduler."""
    pl = needs("lightning.pytorch")

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = Line()

        def training_step(self, batch: Any, index: int) -> Any:
            return self.model(**batch)["loss"]

        def configure_optimizers(self) -> Any:
            optimizer = AdamW(self.parameters(), lr=PLAN.peak)
            self.audit = RateAudit(optimizer, PLAN, mode="record")
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler_of(optimizer)} | scheduler}

    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    module = Module()
    trainer = pl.Trainer(max_steps=8, accumulate_grad_batches=accumulate, accelerator="cpu", **quiet)
    trainer.fit(module, DataLoader(ROWS, batch_size=2))
    return module.audit


def test_lightning_steps_a_scheduler_once_an_epoch() -> None:
    audit = lightning_audit({})
    assert cause(audit) == (1, "not-stepped")
    assert '"interval": "step"' in audit.finding.explanation


@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning_with_an_interval_of_steps_is_right(accumulate: int) -> None:
    audit = lightning_audit({"interval": "step"}, accumulate)
    assert (audit.finding, audit.step) == (None, 8)


# --- Exported code ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["transformers", "accelerate", "lightning", "deepspeed"])
def test_exported_code_gives_no_message_also_where_it_resumes(
    framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every optimizer that makes a step is audited; half-way each run goes on from a checkpoint."""
    monkeypatch.chdir(tmp_path)
    audits: dict[Optimizer, RateAudit] = {}

    def begin(optimizer: Optimizer, *_: Any) -> None:
        if optimizer not in audits:
            audits[optimizer] = RateAudit(optimizer, PLAN, mode="raise")

    hook = register_optimizer_step_pre_hook(begin)
    try:
        CODE[framework](PLAN.export(framework), PLAN, tmp_path)
    finally:
        hook.remove()
    assert [audit.step for audit in audits.values()] == [PLAN.horizon // 2, PLAN.horizon]
