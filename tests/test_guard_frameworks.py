"""Guards in Transformers, Lightning and Accelerate, by the real packages."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from autowarmup import RateAudit, Schedule
from autowarmup.errors import InputError
from autowarmup.guard.events import Event
from autowarmup.integrations import guard_accelerate, guard_lightning, guard_trainer
from tests.export_runs import needs
from tests.framework_tasks import TRAIN, Net, adamw, in_two_processes, lightning_trainer, module, trainer

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks'

STEPS = 60
PLAN = Schedule(peak=0.01, horizon=STEPS, warmup_steps=8, shape="linear")
BAD = {"x": torch.full((64,), math.nan), "labels": torch.tensor(0)}
Weights = dict[str, Tensor]


def data(*bad: int, batch: int = 50, count: int = STEPS) -> list[dict[str, Tensor]]:
    """So many batches in order, some of which have an example that is NaN."""
    examples = [TRAIN[place % len(TRAIN)] for place in range(count * batch)]
    for number in bad:
        examples[number * batch + 3] = BAD
    return examples


class Run:
    """What came of a training.

    Attributes:
        weights: at its end.
        before: right before each optimizer step that was made, after the backward pass.
        steps: how many were made.
        events: the guard's.
        logged: learning rates that the framework logged.
    """

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = Net()
        self.optimizer = adamw(self.model.parameters())
        self.rates: list[float] = []
        self.hook = self.optimizer.register_step_pre_hook(self._noted)
        self.guard: Any = None
        self.logged: list[float] = []

    def _noted(self, *_: Any) -> None:
        self.rates.append(float(self.optimizer.param_groups[0]["lr"]))

    @property
    def weights(self) -> Weights:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    @property
    def events(self) -> list[Event]:
        return self.guard.events  # type: ignore[no-any-return]


Way = Callable[..., Run]


def by_trainer(
    folder: Path, examples: Any, mode: str | None, accumulate: int = 1, run: Run | None = None, **settings: Any
) -> Run:
    run = run or Run()
    arguments = settings.pop("arguments", {})
    optimizers = (run.optimizer, None if mode else PLAN.scheduler(run.optimizer))
    own = {"max_steps": STEPS, "train_dataset": examples, "optimizers": optimizers, "model": run.model}
    own |= {"gradient_accumulation_steps": accumulate, "max_grad_norm": 1.0, "logging_steps": 1, "disable_tqdm": True}
    training = trainer(folder, **own | {"save_strategy": "no", "logging_nan_inf_filter": False} | arguments)
    callback = guard_trainer(training, PLAN, mode, **settings) if mode else None  # type: ignore[arg-type]
    training.train(resume_from_checkpoint=settings.get("resume"))
    run.guard = callback and callback.guard
    run.logged = [line["learning_rate"] for line in training.state.log_history if "learning_rate" in line]
    return run


def by_lightning(
    folder: Path, examples: Any, mode: str | None, accumulate: int = 1, run: Run | None = None, **settings: Any
) -> Run:
    from lightning.pytorch.callbacks import LearningRateMonitor
    from lightning.pytorch.loggers import CSVLogger

    run = run or Run()
    arguments = settings.pop("arguments", {})

    def configure_optimizers(self: Any) -> Any:
        if mode:
            return run.optimizer
        return [run.optimizer], [{"scheduler": PLAN.scheduler(run.optimizer), "interval": "step"}]

    learner = module(configure_optimizers=configure_optimizers)
    learner.model = run.model
    callbacks = [] if mode is None else [guard_lightning(PLAN, mode, **settings)]  # type: ignore[arg-type]
    logger = CSVLogger(folder)
    fitting = lightning_trainer(
        max_steps=STEPS, callbacks=[*callbacks, LearningRateMonitor("step")], logger=logger, log_every_n_steps=1,
        accumulate_grad_batches=accumulate, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **arguments,
    )  # fmt: skip
    fitting.fit(learner, DataLoader(examples, batch_size=50))
    run.guard = callbacks[0].guard if callbacks else None
    with Path(logger.log_dir, "metrics.csv").open() as file:
        run.logged = [float(line["lr-AdamW"]) for line in csv.DictReader(file) if line["lr-AdamW"]]
    return run


def by_accelerate(
    folder: Path, examples: Any, mode: str | None, accumulate: int = 1, run: Run | None = None, **settings: Any
) -> Run:
    from accelerate import Accelerator

    run = run or Run()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate, **settings.pop("arguments", {}))
    loader = DataLoader(examples, batch_size=50)
    model, optimizer, batches = accelerator.prepare(run.model, run.optimizer, loader)
    scheduler = None
    if mode:
        run.guard = guard_accelerate(PLAN, accelerator, model, optimizer, mode, **settings)  # type: ignore[arg-type]
    else:
        scheduler = PLAN.scheduler(run.optimizer)
    for batch in batches:
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch)["loss"])
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            run.logged.append(optimizer.param_groups[0]["lr"])
            if scheduler:
                scheduler.step()
        if run.guard and run.guard.should_stop:
            break
    if run.guard:
        run.guard.close()
    return run


WAYS: dict[str, tuple[str, Way]] = {
    "trainer": ("transformers", by_trainer),
    "lightning": ("lightning.pytorch", by_lightning),
    "accelerate": ("accelerate", by_accelerate),
}


@pytest.fixture(params=WAYS)
def train(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Way:
    needs("accelerate")
    package, way = WAYS[request.param]
    needs(package)
    monkeypatch.chdir(tmp_path)
    return partial(way, tmp_path)


def assert_same(first: Weights, second: Weights) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("mode", ["observe", "protect"])
def test_a_healthy_run_is_the_same_to_the_bit_as_with_the_schedule_alone(
    train: Way, mode: str, accumulate: int
) -> None:
    examples = data(count=STEPS * accumulate)
    alone, guarded = train(examples, None, accumulate), train(examples, mode, accumulate)
    assert guarded.events == []
    assert_same(guarded.weights, alone.weights)
    assert guarded.rates == alone.rates == pytest.approx(PLAN.curve())
    assert guarded.logged == pytest.approx(PLAN.curve())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_bad_batch_leaves_no_trace(train: Way, accumulate: int, tmp_path: Path) -> None:
    """The run is that without the step, to the bit: neither weights nor moments have seen it."""
    examples = data(40 * accumulate + accumulate - 1, count=STEPS * accumulate)
    record = tmp_path / "run.jsonl"
    run = train(examples, "protect", accumulate, record=record)
    (event,) = run.events
    assert (event.step, event.action, event.applied, event.reason) == (40, "skip", True, "non-finite")
    assert len(run.rates) == STEPS - 1
    assert all(value.isfinite().all() for value in run.weights.values())
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(STEPS))
    assert [line["step"] for line in steps if line["loss"] is None] == [40]
    assert all(0.0 < line["loss"] < 3.0 for line in steps if line["step"] != 40)

    expected = Run()
    batches = DataLoader(examples, batch_size=50)  # type: ignore[arg-type]
    taken: list[Tensor] = []
    step = 0
    for batch in batches:
        loss = expected.model(**batch)["loss"] / accumulate
        loss.backward()
        taken.append(loss)
        if len(taken) < accumulate:
            continue
        expected.optimizer.param_groups[0]["lr"] = PLAN.lr_at(step)
        if step != 40:
            assert sum(float(one) for one in taken) == pytest.approx(steps[step]["loss"], rel=1e-5)
            norm = nn.utils.clip_grad_norm_(expected.model.parameters(), 1.0)
            assert float(norm) == pytest.approx(steps[step]["grad_norm"], rel=1e-5)
            expected.optimizer.step()
        expected.optimizer.zero_grad()
        taken.clear()
        step += 1
    for name, value in run.weights.items():
        torch.testing.assert_close(value, expected.weights[name], rtol=1e-4, atol=1e-6)
