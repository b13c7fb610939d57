"""Guards in Transformers, Lightning and Accelerate, by the real packages."""

from __future__ import annotations

import copy
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
from torch.utils.data import DataLoader

from autowarmup import Detectors, Schedule
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


@pytest.fixture(autouse=True)
def _state_of_its_own() -> None:
    """Accelerate has one precision for the whole process."""
    needs("accelerate")
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def data(*bad: int, batch: int = 50, count: int = STEPS) -> list[dict[str, Tensor]]:
    """So many batches in order, some of which have an example that is NaN."""
    examples = [TRAIN[place % len(TRAIN)] for place in range(count * batch)]
    for number in bad:
        examples[number * batch + 3] = BAD
    return examples


class Run:
    """A training of a small network, and what came of a training.

    Attributes:
        weights: at its end.
        rates: the learning rates of the optimizer steps that were made.
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
    folder: Path,
    examples: Any,
    mode: str | None,
    accumulate: int = 1,
    run: Run | None = None,
    plan: Schedule = PLAN,
    **settings: Any,
) -> Run:
    run = run or Run()
    arguments = settings.pop("arguments", {})
    optimizers = (run.optimizer, None if mode else PLAN.scheduler(run.optimizer))
    own = {"max_steps": STEPS, "train_dataset": examples, "optimizers": optimizers, "model": run.model}
    own |= {"gradient_accumulation_steps": accumulate, "max_grad_norm": 1.0, "logging_steps": 1, "disable_tqdm": True}
    training = trainer(folder, **own | {"save_strategy": "no", "logging_nan_inf_filter": False} | arguments)
    resume = settings.pop("resume", None)
    callback = guard_trainer(training, plan, mode, **settings) if mode else None  # type: ignore[arg-type]
    training.train(resume_from_checkpoint=resume)
    run.guard = callback and callback.guard
    run.logged = [line["learning_rate"] for line in training.state.log_history if "learning_rate" in line]
    return run


def by_lightning(
    folder: Path,
    examples: Any,
    mode: str | None,
    accumulate: int = 1,
    run: Run | None = None,
    plan: Schedule = PLAN,
    **settings: Any,
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
    callbacks = [] if mode is None else [guard_lightning(plan, mode, **settings)]  # type: ignore[arg-type]
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
    folder: Path,
    examples: Any,
    mode: str | None,
    accumulate: int = 1,
    run: Run | None = None,
    plan: Schedule = PLAN,
    **settings: Any,
) -> Run:
    from accelerate import Accelerator

    run = run or Run()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate, **settings.pop("arguments", {}))
    loader = DataLoader(examples, batch_size=50)
    model, optimizer, batches = accelerator.prepare(run.model, run.optimizer, loader)
    scheduler = None
    if mode:
        run.guard = guard_accelerate(plan, accelerator, model, optimizer, mode, **settings)  # type: ignore[arg-type]
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
    assert guarded.logged == alone.logged
    assert [*dict.fromkeys(guarded.logged)] == pytest.approx(PLAN.curve())


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


def test_weights_and_moments_are_those_of_a_snapshot_again(train: Way) -> None:
    """More batches in a row are bad than can be skipped."""
    run = Run()
    weights: list[Weights] = []
    moments: list[dict[str, Any]] = []

    def note(*_: Any) -> None:
        weights.append(run.weights)
        moments.append(copy.deepcopy(run.optimizer.state_dict()["state"]))

    run.optimizer.register_step_pre_hook(note)
    train(data(*range(30, 39)), "protect", run=run)
    rewound = run.events[-1]
    assert [event.step for event in run.events] == list(range(30, 39))
    assert (rewound.action, rewound.applied, rewound.factor) == ("rewind", True, 0.5)
    assert rewound.snapshot is not None
    before = rewound.snapshot - 1  # the update of the step at which a snapshot is taken isn't in it
    assert 0 < before < 30
    assert_same(weights[30], weights[before])
    assert moments[30][0]["step"] == moments[before][0]["step"] == before
    assert torch.equal(moments[30][0]["exp_avg"], moments[before][0]["exp_avg"])
    assert run.rates[30:] == pytest.approx([0.5 * PLAN.lr_at(step) for step in range(39, STEPS)])


def test_a_warm_up_waits_and_learning_rates_are_lowered(train: Way) -> None:
    """From a step of the warm-up on inputs grow, and gradients with them; the least growth counts as an explosion."""
    slow = PLAN.model_copy(update={"warmup_steps": 20})
    grown = [one | {"x": one["x"] * 1.25 ** max(0, place // 50 - 9)} for place, one in enumerate(data())]
    run = train(grown, "protect", plan=slow, detectors=Detectors(explosion_factor=1.01))
    held, rewound, *_ = run.events
    assert (held.action, rewound.action, rewound.factor) == ("hold", "rewind", 0.5)
    first, second = held.step, rewound.step
    assert run.rates[:first] == pytest.approx(slow.curve()[:first])
    assert run.rates[first] == held.lr == pytest.approx(slow.lr_at(first - 5))
    assert run.rates[first + 1] == run.logged[first + 1] == pytest.approx(slow.lr_at(first - 4))
    assert run.rates[second] == run.logged[second + 1]  # the step before wasn't made
    assert run.rates[second] < run.rates[second - 1]
    assert len(run.rates) < STEPS


def test_a_run_that_the_guard_stops_ends(train: Way) -> None:
    seen: list[Weights] = []
    run = Run()
    run.optimizer.register_step_post_hook(lambda *_: seen.append(run.weights))
    train(data(40), "protect", run=run, max_interventions=0)
    (event,) = run.events
    assert (event.step, event.action) == (40, "stop")
    assert run.guard.should_stop
    assert len(run.rates) == 40
    assert_same(run.weights, seen[-1])
    assert len(run.logged) <= 41


# --- Checkpoints --------------------------------------------------------------------------------------------


def test_a_trainer_s_checkpoint_has_the_guard(tmp_path: Path) -> None:
    """A run that goes on from it is the one that was never interrupted."""
    needs("transformers")
    examples = data(20)
    whole = by_trainer(tmp_path / "whole", examples, "protect", arguments={"save_strategy": "steps", "save_steps": 30})
    saved = torch.load(tmp_path / "whole/output/checkpoint-30/scheduler.pt", weights_only=True)
    assert (saved["step"], saved["policy"]["interventions"]) == (30, 1)
    resumed = by_trainer(
        tmp_path / "resumed", examples, "protect", run=Run(seed=1),
        resume=str(tmp_path / "whole/output/checkpoint-30"),
    )  # fmt: skip
    assert resumed.rates == whole.rates[29:]
    assert_same(resumed.weights, whole.weights)
    assert resumed.events == []
    assert resumed.guard.state_dict()["policy"]["interventions"] == 1


def test_a_trainer_s_checkpoint_from_before_the_guard_is_gone_on_from(tmp_path: Path) -> None:
    needs("transformers")
    by_trainer(tmp_path / "alone", data(), None, arguments={"save_strategy": "steps", "save_steps": 30})
    resumed = by_trainer(
        tmp_path / "resumed", data(50), "protect", run=Run(seed=1), resume=str(tmp_path / "alone/output/checkpoint-30")
    )
    assert resumed.rates == pytest.approx([PLAN.lr_at(step) for step in range(30, 60) if step != 50])
    assert [(event.step, event.action) for event in resumed.events] == [(50, "skip")]


def test_lightning_s_checkpoint_has_the_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pl = needs("lightning.pytorch")
    monkeypatch.chdir(tmp_path)
    loader = DataLoader(data(20, count=30), batch_size=50)  # type: ignore[arg-type]

    def fitted(checkpoint: str | None = None) -> tuple[Any, Any, Any]:
        learner, guarded = module(), guard_lightning(PLAN, "protect")
        saving = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=30, save_top_k=-1, filename="{step}")
        training = lightning_trainer(
            max_steps=STEPS, callbacks=[guarded, saving], enable_progress_bar=False, logger=False
        )
        training.fit(learner, loader, ckpt_path=checkpoint)
        return learner, guarded, training

    pl.seed_everything(0)
    whole, _, _ = fitted()
    again, guarded, training = fitted(str(tmp_path / "step=30.ckpt"))
    assert guarded.guard.state_dict()["step"] == training.global_step == STEPS
    assert guarded.guard.state_dict()["policy"]["interventions"] == 2
    assert [event.step for event in guarded.events] == [50]
    assert guarded.guard.lr == pytest.approx(PLAN.lr_at(STEPS - 1))
    assert_same(again.state_dict(), whole.state_dict())


def test_accelerate_s_checkpoint_has_the_guard(tmp_path: Path) -> None:
    from accelerate import Accelerator

    def prepared(seed: int) -> tuple[Any, Run, Any, Any]:
        accelerator, run = Accelerator(cpu=True), Run(seed)
        model, optimizer = accelerator.prepare(run.model, run.optimizer)
        run.guard = guard_accelerate(PLAN, accelerator, model, optimizer, "protect")
        accelerator.register_for_checkpointing(run.guard)
        return accelerator, run, model, optimizer

    def trained(ready: tuple[Any, Run, Any, Any], first: int, last: int) -> Run:
        accelerator, run, model, optimizer = ready
        for batch in [*DataLoader(data(20), batch_size=50)][first:last]:  # type: ignore[arg-type]
            accelerator.backward(model(**batch)["loss"])
            optimizer.step()
            optimizer.zero_grad()
        return run

    begun = prepared(0)
    trained(begun, 0, 30)
    begun[0].save_state(str(tmp_path / "state"))
    whole = trained(begun, 30, STEPS)
    fresh = prepared(1)
    fresh[0].load_state(str(tmp_path / "state"))
    resumed = trained(fresh, 30, STEPS)
    assert resumed.rates == whole.rates[29:]
    assert_same(resumed.weights, whole.weights)
    assert resumed.guard.state_dict()["policy"]["interventions"] == 1


# --- Precision, and several processes -----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["trainer", "lightning", "accelerate"])
def test_bf16_is_judged_alike(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, train = WAYS[way]
    needs(package)
    monkeypatch.chdir(tmp_path)
    name = {"trainer": {"bf16": True}, "lightning": {"precision": "bf16-mixed"}}
    run = train(tmp_path, data(40), "protect", arguments=name.get(way, {"mixed_precision": "bf16"}))
    assert [(event.step, event.action) for event in run.events] == [(40, "skip")]
    assert len(run.rates) == STEPS - 1
    assert all(value.isfinite().all() for value in run.weights.values())


def test_lightning_s_scaler_looks_for_its_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its skipped steps are no findings, and count as steps of the schedule; losses are without its factor."""
    pl = needs("lightning.pytorch")
    monkeypatch.chdir(tmp_path)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    plugin = pl.plugins.MixedPrecision("16-mixed", "cpu", scaler)
    record = tmp_path / "run.jsonl"
    run = by_lightning(tmp_path, data(40), "protect", record=record, arguments={"plugins": [plugin]})
    assert [(event.step, event.action) for event in run.events] == [(40, "skip")]
    steps = [line for line in map(json.loads, record.read_text().splitlines()) if "loss" in line]
    skipped = [line["step"] for line in steps if line["grad_norm"] is None]
    assert skipped[0] == 0
    assert skipped[-1] == 40
    assert 10 < len(skipped) < 40
    assert len(run.rates) == STEPS - len(skipped)
    assert steps[0]["loss"] == pytest.approx(2.31, abs=0.05)
    assert all(value.isfinite().all() for value in run.weights.values())


def test_accelerate_s_scaler_looks_for_its_scale() -> None:
    """Accelerate takes fp16 on a GPU only: the scaler is put in its place as it does it there."""
    from accelerate import Accelerator

    accelerator, run = Accelerator(cpu=True), Run()
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    accelerator.native_amp, accelerator.autocast_handler = True, accelerator.autocast_handler
    accelerator.state._mixed_precision = "fp16"
    try:
        model, optimizer = accelerator.prepare(run.model, run.optimizer)
        guard = guard_accelerate(PLAN, accelerator, model, optimizer, "protect")
        skipped = []
        for batch in DataLoader(data(40), batch_size=50):  # type: ignore[arg-type]
            with torch.autocast("cpu", torch.float16):
                loss = model(**batch)["loss"]
            accelerator.backward(loss)
            optimizer.step()
            skipped.append(accelerator.optimizer_step_was_skipped)
            optimizer.zero_grad()
    finally:
        accelerator.state._mixed_precision = "no"
    assert [(event.step, event.action) for event in guard.events] == [(40, "skip")]
    assert skipped[0]
    assert skipped[40]
    assert 10 < sum(skipped) < 40
    assert len(run.rates) == STEPS - sum(skipped)
    assert all(value.isfinite().all() for value in run.weights.values())


def protect_in_a_process(folder: Path) -> None:
    """The second process has a bad batch; neither makes the step."""
    from accelerate import Accelerator

    accelerator, run = Accelerator(cpu=True), Run()
    model, optimizer = accelerator.prepare(run.model, run.optimizer)
    guard = guard_accelerate(PLAN, accelerator, model, optimizer, "protect", record=folder / "run.jsonl")
    bad = [25] if accelerator.process_index == 1 else []
    for batch in DataLoader(data(*bad, count=40), batch_size=50):  # type: ignore[arg-type]
        accelerator.backward(model(**batch)["loss"])
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    (event,) = guard.events
    assert (event.step, event.action) == (25, "skip")
    assert len(run.rates) == 39
    torch.save(run.weights, folder / f"{accelerator.process_index}.pt")


def test_two_processes_hold_back_the_same_step(tmp_path: Path) -> None:
    in_two_processes(protect_in_a_process, tmp_path)
    assert_same(*(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)))


# --- What can't be guarded ----------------------------------------------------------------------------------


def test_what_can_t_be_guarded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("transformers")
    pl = needs("lightning.pytorch")
    from accelerate import Accelerator

    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"trainer must be a transformers.Trainer, got Net"):
        guard_trainer(Net(), PLAN)
    with pytest.raises(InputError, match=r"schedule=3: must be a Schedule, or the result of a study"):
        guard_trainer(trainer(tmp_path), 3)  # type: ignore[arg-type]
    accelerator, run = Accelerator(cpu=True), Run()
    with pytest.raises(InputError, match=r"what accelerator.prepare\(optimizer\) returned, got AdamW"):
        guard_accelerate(PLAN, accelerator, run.model, run.optimizer)
    optimizers = accelerator.prepare(run.optimizer, adamw(Net().parameters()))
    with pytest.raises(InputError, match="the Accelerator has 2 optimizers"):
        guard_accelerate(PLAN, accelerator, run.model, optimizers[0])

    manual = module(automatic_optimization=False)
    guarded = guard_lightning(PLAN, "protect")
    with pytest.raises(InputError, match="automatic_optimization=False"):
        pl.Trainer(max_steps=2, callbacks=[guarded], logger=False, enable_checkpointing=False, accelerator="cpu").fit(
            manual, DataLoader(TRAIN, batch_size=50)
        )


def test_a_run_of_another_length_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    needs("transformers")
    by_trainer(tmp_path, data(), "observe", arguments={"max_steps": 20})
    assert "the schedule is for 60 optimizer steps, and the Trainer makes 20" in caplog.messages
