"""Studies through Transformers, Lightning and Accelerate, by the real packages."""

from __future__ import annotations

import importlib
import importlib.util
import re
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from autowarmup import RateAudit, Schedule, TuneResult, autotune
from autowarmup.errors import InputError
from autowarmup.integrations import from_lightning, from_trainer
from autowarmup.seeds import derive_seed
from autowarmup.training.loop import LoopTask
from autowarmup.training.trace import Trace
from tests.export_runs import needs
from tests.framework_tasks import (
    HELD_OUT,
    TRAIN,
    Net,
    accelerated,
    adamw,
    in_two_processes,
    lightning_trainer,
    loaders,
    module,
    trainer,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks'

PLAN = Schedule(peak=0.01, horizon=20, warmup_steps=5, shape="sqrt")


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither in the working directory nor in the Trainer's output directory."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert [*folder.iterdir()] == []


def tuned(arguments: dict[str, Any], study: Path, **changes: Any) -> TuneResult:
    return autotune(**arguments | {"study": study, "mlflow": False, "progress": False} | changes)


def traced(train_fn: Any, plan: Schedule = PLAN, seed: int = 0, every: int = 5) -> Trace:
    """One trial to its horizon; every optimizer's learning rates are audited."""
    audits: dict[Optimizer, RateAudit] = {}

    def begin(optimizer: Optimizer, *_: Any) -> None:
        if optimizer not in audits:
            audits[optimizer] = RateAudit(optimizer, plan, mode="raise")

    trial = LoopTask(train_fn, current_peak=0.1).trial(plan, seed, every, None)
    hook = register_optimizer_step_pre_hook(begin)
    try:
        trace = Trace.join(list(trial.run(plan.horizon)))
    finally:
        hook.remove()
        trial.close()
    assert [audit.step for audit in audits.values()] == [plan.horizon]
    assert trace.lr == pytest.approx(plan.curve())
    assert [evaluation.step for evaluation in trace.evaluations] == list(range(every, plan.horizon + 1, every))
    return trace


def through_trainer(folder: Path, **changes: Any) -> dict[str, Any]:
    needs("accelerate")
    needs("transformers")
    return from_trainer(partial(trainer, folder / "cwd", **changes))


def through_lightning(
    changes: dict[str, Any] | None = None, make_data: Any = loaders, **settings: Any
) -> dict[str, Any]:
    needs("lightning.pytorch")
    names = {name: settings.pop(name) for name in [*settings] if name == "monitor"}
    return from_lightning(partial(module, **changes or {}), partial(lightning_trainer, **settings), make_data, **names)


def optimizers(model: nn.Module) -> tuple[Optimizer, None]:
    return adamw(model.parameters()), None


# --- The same search ----------------------------------------------------------------------------------------


def tuned_in_all_ways(folder: Path, **changes: Any) -> dict[str, TuneResult]:
    """The same training as a framework's trainer, as another's and as a model."""
    by_trainer = through_trainer(folder, optimizers=optimizers)
    ways = {
        "trainer": by_trainer,
        "lightning": through_lightning() | {"current": by_trainer["current"]},
        "model": {"model_fn": Net, "data": loaders(), "optimizer": adamw, "clip_norm": 1.0, "device": "cpu"}
        | {"total_steps": 40, "current": by_trainer["current"]},
    }
    return {name: tuned(arguments, folder / name, **changes) for name, arguments in ways.items()}


def test_all_ways_to_train_the_same_find_the_same(tmp_path: Path) -> None:
    """Initial weights follow from the seed in the same way, and the batches have the same order."""
    results = tuned_in_all_ways(tmp_path)
    expected = results.pop("model")
    for result in results.values():
        assert result.schedule == expected.schedule
        assert result.verdict.kind == expected.verdict.kind == "tuned"
        assert result.cost.steps == expected.cost.steps
        for record, same in zip(result.records, expected.records, strict=True):
            assert (record.role, record.outcome, record.schedule) == (same.role, same.outcome, same.schedule)
            trace, other = result.trace(record.number), expected.trace(record.number)
            assert trace.loss == pytest.approx(other.loss, rel=1e-5)
            assert trace.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
            for first, second in zip(trace.evaluations, other.evaluations, strict=True):
                assert first.step == second.step
                assert (first.val_loss, first.val_loss_ema) == pytest.approx(
                    (second.val_loss, second.val_loss_ema), rel=1e-5
                )


def test_one_run_adapts_alike_in_all_ways(tmp_path: Path) -> None:
    results = tuned_in_all_ways(tmp_path, mode="one-run")
    expected = results.pop("model").trace(0)
    for result in results.values():
        assert result.verdict.kind == "not compared"
        assert result.trace(0).lr == pytest.approx(expected.lr, rel=1e-6)
        assert result.trace(0).loss == pytest.approx(expected.loss, rel=1e-5)


# --- The schedule of today ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("linear", {}),
        ("cosine", {}),
        ("constant", {}),
        ("constant_with_warmup", {}),
        ("polynomial", {}),
        ("inverse_sqrt", {}),
        ("inverse_sqrt", {"timescale": 7}),
        ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
        ("warmup_stable_decay", {"num_decay_steps": 8, "decay_type": "linear", "min_lr_ratio": 0.1}),
        ("warmup_stable_decay", {"num_decay_steps": 8, "decay_type": "linear", "warmup_type": "cosine"}),
    ],
)
@pytest.mark.parametrize("warmup", [0, 1, 4, 0.11])
def test_the_trainer_s_own_schedule_is_the_current_one(
    kind: str, options: dict[str, Any], warmup: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = through_trainer(tmp_path, lr_scheduler_type=kind, lr_scheduler_kwargs=options, warmup_steps=warmup)
    applied: list[float] = []
    training = trainer(tmp_path / "cwd", lr_scheduler_type=kind, lr_scheduler_kwargs=options, warmup_steps=warmup)
    (tmp_path / "cwd" / "output").rmdir()
    optimizer = training.create_optimizer()
    scheduler = training.create_scheduler(num_training_steps=40)
    for _ in range(40):
        applied.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    current = arguments["current"]
    steps = current["warmup_steps"]
    if warmup == 0.11 and kind != "constant":
        assert steps == "12.500000000000%"  # 5 of 40
        steps = 5
    found = Schedule(**current | {"horizon": 40, "warmup_steps": steps})
    assert found.curve() == pytest.approx(np.array(applied), abs=1e-6 * max(applied))
    assert caplog.messages == []


def test_a_schedule_that_autowarmup_lacks_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"num_cycles": 3}
    through_trainer(tmp_path, lr_scheduler_type="cosine_with_restarts", lr_scheduler_kwargs=options)
    (message,) = caplog.messages
    assert message.startswith("the Trainer's scheduler applies learning rates that no Schedule has")
    assert "pass current= to autotune" in message


def test_a_scheduler_that_was_passed_is_read(tmp_path: Path) -> None:
    def optimizers(model: nn.Module) -> tuple[Optimizer, LambdaLR]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        return optimizer, LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 9))

    arguments = through_trainer(tmp_path, optimizers=optimizers)
    expected = Schedule(peak=0.2, horizon=40, warmup_steps=8, shape="linear", decay="constant")
    assert Schedule(**arguments["current"], horizon=40).curve() == pytest.approx(expected.curve())
    traced(arguments["train_fn"])


def test_lightning_s_own_schedule_is_the_current_one() -> None:
    def per(interval: str, frequency: int = 1) -> Any:
        def configure_optimizers(self: Any) -> Any:
            optimizer = adamw(self.parameters())
            scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.25, total_iters=6)
            config = {"scheduler": scheduler, "interval": interval, "frequency": frequency}
            return {"optimizer": optimizer, "lr_scheduler": config}

        return {"configure_optimizers": configure_optimizers}

    current = through_lightning(per("step"))["current"]
    found = Schedule(**current, horizon=40)
    assert (found.peak, found.warmup_steps, found.start_factor, found.decay.kind) == (1e-3, 6, 0.25, "constant")
    current = through_lightning(per("step", 2), accumulate_grad_batches=2)["current"]
    assert current["warmup_steps"] == 6  # Lightning's frequency counts batches
    assert through_lightning(per("epoch"), max_steps=240)["current"]["warmup_steps"] == 72  # of 12 steps each
    assert through_lightning()["current"]["shape"] == {"kind": "none"}


# --- The length of a run ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "total", "epoch"),
    [
        ({"max_steps": 25}, 25, 12),
        ({"max_steps": -1, "num_train_epochs": 2}, 24, 12),
        ({"max_steps": -1, "num_train_epochs": 2.5, "gradient_accumulation_steps": 5}, 8, 3),
    ],
)
def test_lengths_are_the_trainer_s(changes: dict[str, Any], total: int, epoch: int, tmp_path: Path) -> None:
    arguments = through_trainer(tmp_path, **changes)
    assert (arguments["total_steps"], arguments["steps_per_epoch"]) == (total, epoch)
    training = trainer(tmp_path / "other", save_strategy="no", **changes)
    training.train()
    assert training.state.global_step == total


@pytest.mark.parametrize(
    ("changes", "total", "epoch"),
    [({"max_steps": 25}, 25, 12), ({"max_steps": -1, "max_epochs": 3, "accumulate_grad_batches": 5}, 9, 3)],
)
def test_lengths_are_lightning_s(changes: dict[str, Any], total: int, epoch: int) -> None:
    arguments = through_lightning(**changes)
    assert (arguments["total_steps"], arguments["steps_per_epoch"]) == (total, epoch)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    training = lightning_trainer(**changes, **quiet)
    training.fit(module(), *loaders())
    assert training.global_step == total


def test_arguments_can_be_overridden(tmp_path: Path) -> None:
    arguments = through_trainer(tmp_path, warmup_steps=0.1) | {"total_steps": 20, "budget": "5 runs"}
    result = tuned(arguments, tmp_path / "study")
    assert (result.config.total_steps, result.config.budget) == (20, 100)
    assert result.config.current_schedule.warmup_steps == 2


# --- Steps are right, whatever a user has ---------------------------------------------------------------------


def custom_loss(folder: Path) -> dict[str, Any]:
    transformers = needs("transformers")

    class Own(transformers.Trainer):  # type: ignore[misc, name-defined]
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            outputs = model(**inputs)
            loss = 3.0 * outputs["loss"]
            return (loss, outputs) if return_outputs else loss

    return {"cls": Own}


def early_stopping(folder: Path) -> dict[str, Any]:
    callback = needs("transformers").EarlyStoppingCallback(early_stopping_patience=1)
    often = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_accuracy", "greater_is_better": True}
    return {"callbacks": [callback]} | often | best


TRAINERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "its own optimizer": lambda folder: {},
    "optimizer passed": lambda folder: {"optimizers": optimizers},
    "accumulation": lambda folder: {"gradient_accumulation_steps": 5},
    "no clipping": lambda folder: {"max_grad_norm": 0.0},
    "compute_loss": custom_loss,
    "early stopping": early_stopping,
    "model_init": lambda folder: {"model_init": Net},
    "logging, saving and evaluating": lambda folder: {
        "logging_steps": 1, "save_steps": 2, "eval_strategy": "steps", "eval_steps": 3, "eval_on_start": True,
        "report_to": "tensorboard" if importlib.util.find_spec("tensorboard") else [], "disable_tqdm": False,
    },
    "bf16": lambda folder: {"bf16": True},
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINERS)
def test_trainers_train_with_the_schedule(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = through_trainer(tmp_path, **TRAINERS[name](tmp_path))
    capsys.readouterr()
    trace = traced(arguments["train_fn"])
    assert np.isfinite(trace.grad_norm).all()
    assert set(trace.evaluations[0].metrics) == {"accuracy", "accuracy_ema"}
    assert trace.loss[0] == pytest.approx(2.3 * (3 if name == "compute_loss" else 1), rel=0.1)
    assert trace.loss[-1] < trace.loss[0]
    assert capsys.readouterr().out == ""


def test_label_smoothing_is_the_trainer_s(tmp_path: Path) -> None:
    """Of a model of Transformers': the smoothed loss is trained, and its trivial value isn't said."""
    needs("accelerate")
    transformers = needs("transformers")
    shape = {"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 10, "hidden_size": 16}
    config = transformers.ViTConfig(**shape, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    rows = [{"pixel_values": row["x"].reshape(1, 8, 8), "labels": row["labels"]} for row in TRAIN[:200]]

    def make(**changes: Any) -> Any:
        model = transformers.ViTForImageClassification(config)
        return trainer(tmp_path / "cwd", model=model, train_dataset=rows, eval_dataset=rows[:100], **changes)

    plain, smooth = from_trainer(make), from_trainer(partial(make, label_smoothing_factor=0.3))
    counts = np.bincount([int(row["labels"]) for row in rows[:100]]) / 100
    assert plain["trivial_loss"] == pytest.approx(-(counts * np.log(counts)).sum(), rel=1e-6)
    assert smooth["trivial_loss"] is None
    first, second = traced(plain["train_fn"]), traced(smooth["train_fn"])
    assert first.loss[0] != pytest.approx(second.loss[0], rel=1e-4)


def two_groups(self: Any) -> Any:
    first, second = self.model.net[0].parameters(), self.model.net[2].parameters()
    return torch.optim.AdamW([{"params": first, "lr": 1e-4}, {"params": second, "lr": 1e-3}])


def with_scheduler(self: Any) -> Any:
    optimizer = adamw(self.parameters())
    total = int(self.trainer.estimated_stepping_batches)
    one_cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=total)
    return [optimizer], [{"scheduler": one_cycle, "interval": "step"}]


def on_plateau(self: Any) -> Any:
    optimizer = adamw(self.parameters())
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "val_loss"}


def other_names(self: Any, batch: Any, index: int) -> None:
    output = self.model(**batch)
    self.log_dict({"val/ce": output["loss"], "val_loss": torch.tensor(7.0)}, batch_size=len(batch["labels"]))


def kept(self: Any, batch: Any, index: int) -> None:
    self.found = self.model(**batch)["loss"]


def logs_at_the_end(self: Any) -> None:
    self.log("val_loss", self.found)


class Loaders:
    """Those of the module itself."""

    train_dataloader = lambda self: loaders()[0]  # noqa: E731
    val_dataloader = lambda self: loaders()[1]  # noqa: E731


def datamodule() -> Any:
    pl = needs("lightning.pytorch")
    return type("Data", (Loaders, pl.LightningDataModule), {})()


def stopping() -> Any:
    return needs("lightning.pytorch").callbacks.EarlyStopping("val_loss", patience=0)


LIGHTNINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "two groups": lambda: {"changes": {"configure_optimizers": two_groups}},
    "a scheduler of its own": lambda: {"changes": {"configure_optimizers": with_scheduler}},
    "plateau": lambda: {"changes": {"configure_optimizers": on_plateau}},
    "its own loaders": lambda: {"changes": {k: v for k, v in vars(Loaders).items() if k[0] != "_"}, "make_data": None},
    "a datamodule": lambda: {"make_data": datamodule},
    "accumulation": lambda: {"accumulate_grad_batches": 5},
    "early stopping": lambda: {"callbacks": [stopping()], "min_steps": 30},
    "another name": lambda: {"changes": {"validation_step": other_names}, "monitor": "val/ce"},
    "logged at the end": lambda: {"changes": {"validation_step": kept, "on_validation_epoch_end": logs_at_the_end}},
    "bf16": lambda: {"precision": "bf16-mixed"},
    "often validated": lambda: {"val_check_interval": 2, "max_time": "00:01:00:00"},
}


@pytest.mark.parametrize("name", LIGHTNINGS)
def test_modules_train_with_the_schedule(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    needs("lightning.pytorch")
    arguments = through_lightning(**LIGHTNINGS[name]())
    capfd.readouterr()
    trace = traced(arguments["train_fn"])
    assert np.isfinite(trace.grad_norm).all()
    assert trace.loss[0] == pytest.approx(2.3, rel=0.1)
    assert trace.loss[-1] < trace.loss[0]
    assert all(1.0 < evaluation.val_loss < 3.0 for evaluation in trace.evaluations)
    without = name in ("another name", "logged at the end")
    assert set(trace.evaluations[0].metrics) == (set() if without else {"val_acc", "val_acc_ema"})
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("accumulate", [1, 5])
def test_loops_under_accelerate_train_with_the_schedule(accumulate: int) -> None:
    needs("accelerate")
    trace = traced(partial(accelerated, accumulate=accumulate))
    assert np.isfinite(trace.grad_norm).all()
    assert trace.loss[-1] < trace.loss[0]
    assert trace.evaluations[-1].val_loss < 2.3


def in_processes(file: Path) -> None:
    """In each process: a trial with accumulation; the first one writes what it reported."""
    from torch import distributed

    trace = traced(partial(accelerated, accumulate=2))
    if distributed.get_rank() == 0:
        np.save(file, np.stack([trace.lr, trace.loss]))


def test_two_processes_of_accelerate(tmp_path: Path) -> None:
    """Each step has the batches of both processes, and its loss is the mean over all of them."""
    in_two_processes(in_processes, tmp_path / "trace.npy")
    lr, loss = np.load(tmp_path / "trace.npy")
    assert lr == pytest.approx(PLAN.curve())
    torch.manual_seed(0)
    batches = [batch for batch, _ in zip(loaders()[0], range(4), strict=False)]
    expected = np.mean([float(Net()(**batch)["loss"]) for batch in batches[:1]])
    assert loss[0] == pytest.approx(expected, rel=0.05)


def raises_on_nan(prediction: Any) -> dict[str, float]:
    if not np.isfinite(prediction.predictions).all():
        raise ValueError("Input contains NaN")
    return {"accuracy": 0.5}


def validation_that_raises(self: Any, batch: Any, index: int) -> None:
    output = self.model(**batch)
    raises_on_nan(SimpleNamespace(predictions=output["logits"].numpy()))
    self.log("val_loss", output["loss"])


@pytest.mark.parametrize("framework", ["transformers", "lightning"])
def test_metrics_that_raise_on_nan_make_an_unstable_trial(framework: str, tmp_path: Path) -> None:
    """Not a failed one."""
    plan = PLAN.model_copy(update={"peak": 1e30})
    if framework == "transformers":
        train_fn = through_trainer(tmp_path, compute_metrics=raises_on_nan, optimizers=optimizers)["train_fn"]
    else:
        train_fn = through_lightning({"validation_step": validation_that_raises})["train_fn"]
    trace = traced(train_fn, plan)
    assert np.isnan(trace.loss[-1])
    assert np.isnan(trace.evaluations[-1].val_loss)


# --- Trials beside each other -------------------------------------------------------------------------------


def loops(folder: Path) -> dict[str, Any]:
    """With accumulation that does not divide an epoch of 12 batches."""
    return {
        "transformers": through_trainer(folder, gradient_accumulation_steps=5)["train_fn"],
        "lightning": through_lightning(accumulate_grad_batches=5)["train_fn"],
        "accelerate": partial(accelerated, accumulate=5),
    }


@pytest.mark.parametrize("framework", ["transformers", "lightning", "accelerate"])
def test_paused_trials_do_not_disturb_each_other(framework: str, tmp_path: Path) -> None:
    """Trials that take turns record what each one records alone."""
    needs("accelerate")
    needs("lightning.pytorch")
    train_fn = loops(tmp_path)[framework]
    alone = [traced(train_fn, seed=seed) for seed in (0, 1)]
    trials = [LoopTask(train_fn, current_peak=0.1).trial(PLAN, seed, 5, None) for seed in (0, 1)]
    parts: list[list[Trace]] = [[], []]
    try:
        for until in (3, 7, 8, 20):
            for trial, part in zip(trials, parts, strict=True):
                part += trial.run(until)
    finally:
        for trial in trials:
            trial.close()
    for part, expected in zip(parts, alone, strict=True):
        assert Trace.join(part).loss.tolist() == expected.loss.tolist()
        assert Trace.join(part).evaluations == expected.evaluations


@pytest.mark.parametrize("framework", ["transformers", "lightning", "accelerate"])
def test_the_seed_fixes_a_trial(framework: str, tmp_path: Path) -> None:
    """Also where the training data are shuffled, and the user's function seeds nothing."""
    needs("accelerate")
    needs("lightning.pytorch")

    def shuffled() -> Any:
        return DataLoader(TRAIN, batch_size=50, shuffle=True), DataLoader(HELD_OUT, batch_size=200)  # type: ignore[arg-type]

    train_fn = {
        "transformers": lambda: through_trainer(tmp_path, train_sampling_strategy="random", data_seed=3)["train_fn"],
        "lightning": lambda: through_lightning(make_data=shuffled)["train_fn"],
        "accelerate": lambda: accelerated,
    }[framework]()
    before = torch.get_rng_state()
    first, again, other = (traced(train_fn, seed=seed).loss.tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("framework", ["transformers", "lightning"])
def test_models_of_ended_trials_are_freed(framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the next trial begins."""
    alive: weakref.WeakSet[Net] = weakref.WeakSet()

    class Known(Net):
        def __init__(self) -> None:
            super().__init__()
            alive.add(self)

    def own(self: Any) -> None:
        type(self).__mro__[1].__init__(self)
        self.model = Known()

    if framework == "transformers":
        needs("accelerate")
        needs("transformers")
        train_fn = from_trainer(lambda: trainer(tmp_path / "cwd", model=Known()))["train_fn"]
    else:
        train_fn = through_lightning({"__init__": own})["train_fn"]
    traced(train_fn)
    traced(train_fn)
    assert len(alive) == 1


# --- Bad input ----------------------------------------------------------------------------------------------


class Endless(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from TRAIN


def without_learning_rate(model: nn.Module) -> tuple[Optimizer, None]:
    return torch.optim.SGD(model.parameters(), lr=0.0), None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_dataset": None}, "the Trainer has no eval_dataset"),
        ({"optimizers": without_learning_rate}, "the SGD of the Trainer has no learning rate above 0.*\\[0.0\\]"),
        (
            {"train_dataset": Endless(), "max_steps": -1},
            "make_trainer raised ValueError.*max_steps has to be specified",
        ),
        ({"eval_dataset": {"one": HELD_OUT}}, "monitor='eval_loss'.*did you mean 'eval_one_loss'.*eval_one_accuracy"),
        ({"eval_dataset": [{"x": row["x"]} for row in HELD_OUT]}, "evaluate\\(\\) of the Trainer raised"),
    ],
)
def test_trainers_that_cannot_be_tuned(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        through_trainer(tmp_path, **changes)


def test_loaders_without_a_length_need_max_steps(tmp_path: Path) -> None:
    class Streams(needs("transformers").Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return DataLoader(Endless(), batch_size=50)

    assert through_trainer(tmp_path, cls=Streams)["steps_per_epoch"] is None
    with pytest.raises(InputError, match="train_dataset has no length, and max_steps=-1: set max_steps"):
        through_trainer(tmp_path, cls=Streams, max_steps=-1)


def test_a_trainer_on_an_endless_stream_needs_max_steps_alone(tmp_path: Path) -> None:
    arguments = through_trainer(tmp_path, train_dataset=Endless())
    assert (arguments["total_steps"], arguments["steps_per_epoch"]) == (40, None)
    traced(arguments["train_fn"])


def test_several_sets_to_evaluate_on(tmp_path: Path) -> None:
    needs("accelerate")
    needs("transformers")
    make = partial(trainer, tmp_path / "cwd", eval_dataset={"one": HELD_OUT, "two": TRAIN})
    trace = traced(from_trainer(make, monitor="eval_two_loss")["train_fn"])
    assert set(trace.evaluations[0].metrics) >= {"one_loss", "one_accuracy", "two_accuracy", "two_accuracy_ema"}


def test_functions_that_build_no_trainer(tmp_path: Path) -> None:
    needs("accelerate")
    needs("transformers")
    with pytest.raises(InputError, match=r"make_trainer must be a function that builds a transformers.Trainer, got 3"):
        from_trainer(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"make_trainer must take no arguments: missing a required argument: 'model'"):
        from_trainer(lambda model: model)  # type: ignore[misc, arg-type]
    with pytest.raises(InputError, match="make_trainer must return a transformers.Trainer, got Net"):
        from_trainer(Net)
    with pytest.raises(InputError, match="make_trainer raised OSError: no such weights"):
        from_trainer(raising)
    shared = Net()
    with pytest.raises(InputError, match="make_trainer returned the same model twice"):
        through_trainer(tmp_path, model=shared)


def raising() -> Any:
    raise OSError("no such weights")


def manual(self: Any) -> None:
    type(self).__mro__[1].__init__(self)
    self.automatic_optimization = False


def two_optimizers(self: Any) -> Any:
    return [adamw(self.model.net[0].parameters()), adamw(self.model.net[2].parameters())]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"changes": {"__init__": manual}}, "automatic_optimization=False.*can't be given a schedule"),
        ({"changes": {"configure_optimizers": lambda self: None}}, "must return one torch.optim.Optimizer"),
        ({"changes": {"configure_optimizers": two_optimizers}}, "optimizer"),
        ({"monitor": "val_los"}, "monitor='val_los'.*did you mean 'val_loss'.*it logs: val_acc, val_loss"),
        ({"limit_val_batches": 0}, "it logs: nothing"),
        ({"max_steps": -1, "max_epochs": -1}, "doesn't say how long a run is: max_epochs=-1, max_steps=-1"),
        ({"limit_train_batches": 0}, "the Trainer makes no step: its data are empty, or"),
        ({"fast_dev_run": True}, "fast_dev_run, which trains nothing"),
        ({"devices": 2}, "a Trainer for 2 processes"),
        ({"make_data": lambda: loaders()[0]}, "make_data must return a LightningDataModule, or a pair of loaders"),
        ({"make_data": None}, "fit\\(\\) of the Trainer raised"),
    ],
)
def test_modules_that_cannot_be_tuned(settings: dict[str, Any], message: str) -> None:
    needs("lightning.pytorch")
    with pytest.raises(InputError, match=message):
        through_lightning(**settings)


def test_functions_that_build_nothing_of_lightning_s() -> None:
    needs("lightning.pytorch")
    with pytest.raises(InputError, match=r"make_module must return a lightning.pytorch.LightningModule, got .*Net"):
        from_lightning(Net, lightning_trainer)
    with pytest.raises(InputError, match="make_trainer must return a lightning.pytorch.Trainer, got .*Net"):
        from_lightning(module, Net)
    shared = module()
    with pytest.raises(InputError, match="make_module returned the same model twice"):
        from_lightning(lambda: shared, lightning_trainer, loaders)


def test_what_stops_a_framework_s_loop_is_named(tmp_path: Path) -> None:
    callback = needs("transformers").TrainerCallback

    class Stops(callback):  # type: ignore[misc, valid-type]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 7

    arguments = through_trainer(tmp_path, callbacks=[Stops()])
    with pytest.raises(InputError, match="the Trainer ended after 7 of 20 optimizer steps by itself"):
        traced(arguments["train_fn"])


@pytest.mark.parametrize("wrong", ["optimizer", "loss"])
def test_loops_under_accelerate_that_are_wrong(wrong: str) -> None:
    accelerate = needs("accelerate")
    from autowarmup.integrations import AcceleratedSteps

    def train(run: Any) -> None:
        accelerator = accelerate.Accelerator(cpu=True)
        model = Net()
        optimizer: Any = adamw(model.parameters())
        prepared = optimizer if wrong == "optimizer" else accelerator.prepare(optimizer)
        AcceleratedSteps(run, accelerator, model, prepared, lambda: 0.0).stop_after(2.3)  # type: ignore[arg-type]

    message = {
        "optimizer": "must be what accelerator.prepare",
        "loss": "takes the loss of a batch, a tensor .* got 2.3",
    }
    with pytest.raises(InputError, match=message[wrong]):
        traced(train)


# --- What a study is of --------------------------------------------------------------------------------------


def test_another_training_is_another_study(tmp_path: Path) -> None:
    def described(**changes: Any) -> Any:
        return through_trainer(tmp_path, **changes)["train_fn"].description

    usual = described()
    assert usual == described()
    assert usual["train_fn"] == "partial"
    changed = [{"per_device_train_batch_size": 25}, {"train_dataset": TRAIN[:500]}, {"model": nn.Sequential(Net())}]
    assert all(described(**change) != usual for change in changed[:2])
    lightning = through_lightning()["train_fn"].description
    assert lightning == through_lightning()["train_fn"].description
    assert lightning != through_lightning(gradient_clip_val=2.0)["train_fn"].description


def test_weights_follow_from_the_seed_as_those_of_a_model_do(tmp_path: Path) -> None:
    torch.manual_seed(derive_seed(7, "model"))
    first = Net()(**{name: torch.stack([row[name] for row in TRAIN[:50]]) for name in ("x", "labels")})["loss"]
    for train_fn in (through_trainer(tmp_path)["train_fn"], through_lightning()["train_fn"]):
        assert traced(train_fn, seed=7).loss[0] == pytest.approx(float(first), rel=1e-6)


# --- Examples -----------------------------------------------------------------------------------------------

SMALL = {"confirm_seeds": 2, "cohort": 2, "total_steps": 10, "budget": 130}
EXAMPLES = {"transformers_trainer": "transformers", "lightning_module": "lightning.pytorch"}
EXAMPLES |= {"accelerate_loop": "accelerate"}
ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name: str, tmp_path: Path) -> None:
    needs(EXAMPLES[name])
    result = tuned(importlib.import_module(f"examples.{name}").task() | SMALL, tmp_path / "study")
    assert result.schedule is not None
    assert result.verdict.comparisons


def test_the_lines_of_glue_are_counted() -> None:
    page = (ROOT / "docs" / "integrations.md").read_text()
    rows = dict(re.findall(r"^\| .*\(\.\./examples/(\w+)\.py\).*\| (\d+) \|$", page, re.MULTILINE))
    for name in EXAMPLES:
        lines = (ROOT / "examples" / f"{name}.py").read_text().splitlines()
        assert rows[name] == str(sum(line.endswith("# glue") for line in lines))
