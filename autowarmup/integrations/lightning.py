"""A study of what Lightning's Trainer trains."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from autowarmup.errors import InputError
from autowarmup.integrations.current import current_settings, rates_of
from autowarmup.integrations.steps import (
    Steps,
    begin,
    built,
    check_fresh,
    check_function,
    check_optimizer,
    data_digest,
    imported,
    numbers,
)
from autowarmup.seeds import derive_seed
from autowarmup.training.gradients import gradient_norm
from autowarmup.training.identity import classes_of, digest_of, structure_of
from autowarmup.training.loop import DescribedLoop, LoopRun
from autowarmup.training.optimizers import beta2_of, parameters_of
from autowarmup.training.recipe import best_device
from autowarmup.training.rng import borrowed, seed_everything
from autowarmup.values import nearest

QUIET = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")
"""Loggers of Lightning that tell of every run."""


def from_lightning(
    make_module: Callable[[], Any],
    make_trainer: Callable[[], Any],
    make_data: Callable[[], Any] | None = None,
    *,
    monitor: str = "val_loss",
) -> dict[str, Any]:
    """The arguments of ``autotune`` for what Lightning trains:
    ``autotune(**from_lightning(make_module, make_trainer))``.

    Each trial builds module, data and Trainer anew, with the global random generators seeded after the trial's seed,
    and calls ``fit()`` with the Trainer's accumulation, clipping, precision and callbacks, and the module's optimizer.
    Its schedulers are replaced. It validates where the study does. Loggers, checkpoints, progress bars and early
    stopping are left out.

    To change an argument, pass ``**{**from_lightning(...), "total_steps": 500}``.

    Args:
        make_module: builds a fresh ``LightningModule`` with automatic optimization and one optimizer; no arguments.
        make_trainer: builds a ``lightning.pytorch.Trainer`` for one process; no arguments.
        make_data: builds a ``LightningDataModule`` or a pair of loaders, ``(train, validation)``; left out, the module
            has its loaders itself.
        monitor: the name under which the module logs its validation loss. The other values that it logs there are
            metrics: ``objective="val_acc"``.

    Returns:
        ``train_fn``; ``total_steps``, as Lightning estimates them; ``steps_per_epoch``; ``current``, the schedule that
        the module's scheduler applies today, or the nearest there is, which a warning says; and ``beta2``.

    Raises:
        InputError: the functions build something that can't be tuned. The message says what is allowed.
    """
    imported("lightning.pytorch")
    check_function("make_module", make_module, "a LightningModule")
    check_function("make_trainer", make_trainer, "a lightning.pytorch.Trainer")
    if make_data is not None:
        check_function("make_data", make_data, "a LightningDataModule or a pair of loaders")
    makers = make_module, make_trainer, make_data
    with borrowed(best_device()), _quiet():
        seed_everything(0, best_device())
        module, trainer, data = _built(makers)
        check_fresh("make_module", module, built("make_module", make_module))
        callback = _look()
        trainer.callbacks.append(callback)
        built("fit() of the Trainer", partial(trainer.fit, module, **data))
        if callback.total is None:
            raise InputError("the Trainer makes no step: its data are empty, or it is limited to 0 batches or steps")
        values = built("validate() of the Trainer", partial(trainer.validate, module, verbose=False, **_val_part(data)))
        _values(values, monitor)
        description = _description(module, trainer, callback, makers, monitor)
    return {
        "train_fn": DescribedLoop(partial(_train, makers, monitor), description),
        "total_steps": callback.total,
        "steps_per_epoch": callback.epoch,
        "current": callback.current,
        "beta2": callback.beta2,
    }


def _train(makers: Any, monitor: str, run: LoopRun) -> None:
    """One trial."""
    device = best_device()
    begin(run, device)
    with _quiet():
        module, trainer, data = _built(makers)
        trainer.fit_loop.max_epochs, trainer.fit_loop.epoch_loop.max_steps = -1, run.total_steps
        trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = 0, None
        callback = _reporting(trainer, monitor, run)
        trainer.callbacks.append(callback)
        seed_everything(derive_seed(run.seed, "training"), device)
        trainer.fit(module, **data)
    callback.steps.check_end("fit()")


def _built(makers: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Module and Trainer, without what they tell others, and the data as ``fit`` takes it.

    Raises:
        InputError: one of them is something else, or can't be tuned.
    """
    make_module, make_trainer, make_data = makers
    module = _module(built("make_module", make_module))
    data = {} if make_data is None else _data(built("make_data", make_data))
    return module, _trainer(built("make_trainer", make_trainer)), data


def _module(module: Any) -> Any:
    import lightning.pytorch as pl

    if not isinstance(module, pl.LightningModule):
        raise InputError(f"make_module must return a lightning.pytorch.LightningModule, got {_type(module)}")
    if not module.automatic_optimization:
        raise InputError(
            f"{type(module).__name__} has automatic_optimization=False: its training_step makes the optimizer steps, "
            f"and can make any number of them, so that they can't be given a schedule from outside. Use automatic "
            f"optimization, or a training loop of your own: autotune(train_fn=...)"
        )
    return module


def _trainer(trainer: Any) -> Any:
    import lightning.pytorch as pl
    from lightning.pytorch import callbacks

    if not isinstance(trainer, pl.Trainer):
        raise InputError(f"make_trainer must return a lightning.pytorch.Trainer, got {_type(trainer)}")
    if trainer.world_size > 1:
        raise InputError(
            f"make_trainer returned a Trainer for {trainer.world_size} processes; a trial runs in one: pass devices=1"
        )
    if trainer.fast_dev_run:
        raise InputError("make_trainer returned a Trainer with fast_dev_run, which trains nothing: leave it out")
    silent = (
        callbacks.Checkpoint, callbacks.ProgressBar, callbacks.ModelSummary, callbacks.EarlyStopping,
        callbacks.LearningRateMonitor, callbacks.DeviceStatsMonitor, callbacks.Timer,
    )  # fmt: skip
    trainer.callbacks = [callback for callback in trainer.callbacks if not isinstance(callback, silent)]
    trainer.loggers = []
    trainer.num_sanity_val_steps = 0
    return trainer


def _data(made: Any) -> dict[str, Any]:
    import lightning.pytorch as pl

    if isinstance(made, pl.LightningDataModule):
        return {"datamodule": made}
    if isinstance(made, tuple | list) and len(made) == 2:
        return {"train_dataloaders": made[0], "val_dataloaders": made[1]}
    raise InputError(
        f"make_data must return a LightningDataModule, or a pair of loaders (train, validation), got {_type(made)}"
    )


def _val_part(data: dict[str, Any]) -> dict[str, Any]:
    """The data as ``validate`` takes them."""
    return {"dataloaders": data["val_dataloaders"]} if "val_dataloaders" in data else data


def _type(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _look() -> Any:
    """A callback that looks at a Trainer when it begins, and ends it."""
    from lightning.pytorch import Callback

    class Look(Callback):  # type: ignore[misc]
        """
        Attributes:
            total: optimizer steps of the whole run; None where there are none.
            epoch: those of an epoch; None where that isn't known.
            current: the schedule that is used today.
            beta2: the optimizer's second-moment decay.
            optimizer: its name.
            datasets: what the train loaders read.
            batch_sizes: theirs.
        """

        total: int | None = None

        def on_train_start(self, trainer: Any, module: Any) -> None:
            optimizer = _optimizer(trainer)
            self.total = _total(trainer)
            batches = trainer.num_training_batches
            self.epoch = None if batches == math.inf else math.ceil(batches / trainer.accumulate_grad_batches)
            rates = _rates(trainer, optimizer, self.total, self.epoch)
            self.current = current_settings(rates, f"the scheduler of {type(module).__name__}")
            self.beta2, self.optimizer = beta2_of([optimizer]), type(optimizer).__name__
            loaders = trainer.fit_loop._combined_loader.flattened
            self.datasets = [getattr(loader, "dataset", None) for loader in loaders]
            self.batch_sizes = [getattr(loader, "batch_size", None) for loader in loaders]
            trainer.fit_loop.epoch_loop.max_steps = 0

    return Look()


def _optimizer(trainer: Any) -> Any:
    """The one optimizer.

    Raises:
        InputError: there is none, or it has no learning rate.
    """
    name = type(trainer.lightning_module).__name__
    made = trainer.optimizers  # without parameter groups is what stands for None
    if len(made) != 1 or not isinstance(made[0], torch.optim.Optimizer) or not made[0].param_groups:
        raise InputError(f"configure_optimizers of {name} must return one torch.optim.Optimizer")
    check_optimizer(made[0], name)
    return made[0]


def _total(trainer: Any) -> int:
    """Optimizer steps of the whole run.

    Raises:
        InputError: the Trainer has no end.
    """
    steps = trainer.estimated_stepping_batches
    if not 0 < steps < math.inf:
        raise InputError(
            f"the Trainer doesn't say how long a run is: max_epochs={trainer.max_epochs}, max_steps="
            f"{trainer.max_steps}, and {trainer.num_training_batches} batches in an epoch. Give it max_steps, or "
            f"max_epochs where the training data has a length"
        )
    return int(steps)


def _rates(trainer: Any, optimizer: Any, total: int, epoch: int | None) -> list[float]:
    """The learning rates of all optimizer steps under the module's own scheduler."""
    configs = trainer.lr_scheduler_configs
    if not configs:
        return [max(float(group["lr"]) for group in optimizer.param_groups)] * total
    config = configs[0]
    if config.interval == "epoch":
        every = config.frequency * (epoch or total)
    else:
        batches = trainer.accumulate_grad_batches  # of an optimizer step; the frequency counts batches
        every = math.lcm(config.frequency, batches) // batches
    distinct = rates_of(optimizer, config.scheduler, math.ceil(total / every))
    return [distinct[step // every] for step in range(total)]


def _reporting(trainer: Any, monitor: str, run: LoopRun) -> Any:
    """The callback that reports a Trainer's steps."""
    from lightning.pytorch import Callback
    from lightning.pytorch.utilities.types import LRSchedulerConfig

    loop = trainer.fit_loop.epoch_loop
    own_end = loop.on_advance_end
    loop._should_check_val_fx = lambda _: False

    class Reporting(Callback):  # type: ignore[misc]
        steps: Steps

        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.steps = Steps(run, module, _optimizer(trainer), partial(_validation, trainer, monitor))
            trainer.strategy.lr_scheduler_configs = [LRSchedulerConfig(self.steps.scheduler, interval="step")]
            self.loss, self.norm, self.made = 0.0, 0.0, 0

        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            """Called before clipping, with gradients that a loss scaler has scaled back."""
            self.norm = float(gradient_norm(parameters_of([optimizer])))

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            if not outputs:
                raise InputError(f"training_step of {type(module).__name__} returned no loss: it must at every batch")
            self.loss += float(outputs["loss"])

        def advanced(self) -> None:
            """After each batch, where Lightning validates."""
            if trainer.global_step == self.made:
                return
            self.made = trainer.global_step
            scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
            skipped = scaled and not math.isfinite(self.norm)
            if self.steps.made(self.loss, self.norm, skipped=skipped):
                trainer.should_stop = True
            self.loss = 0.0

    callback = Reporting()

    def on_advance_end(fetcher: Any) -> None:
        callback.advanced()
        own_end(fetcher)

    loop.on_advance_end = on_advance_end
    return callback


def _validation(trainer: Any, monitor: str) -> dict[str, float]:
    """Validates in the middle of ``fit``, as Lightning's ``_TrainingEpochLoop.on_advance_end`` does."""
    first = trainer._logger_connector._first_loop_iter
    trainer.validating = True
    try:
        values = trainer.fit_loop.epoch_loop.val_loop.run()
    finally:
        trainer.training = True
        trainer._logger_connector._first_loop_iter = first
    return _values(values, monitor)


def _values(logged: Any, monitor: str) -> dict[str, float]:
    """What a validation has logged, by the names that a study has for it.

    Raises:
        InputError: the loss is not among it.
    """
    found = {name: value for part in logged or () for name, value in numbers(part).items()}
    if monitor not in found:
        raise InputError(
            f"monitor={monitor!r}: validation_step logs no such value{nearest(monitor, found)}; it logs: "
            f"{', '.join(sorted(found)) or 'nothing'}. Schedules are compared by a validation loss: log it with "
            f"self.log, and have data for it"
        )
    return {"loss": found.pop(monitor)} | found


def _description(module: Any, trainer: Any, seen: Any, makers: Any, monitor: str) -> dict[str, Any]:
    """What is trained, as plain values."""
    make_module, *others = makers
    return {
        "train_fn": getattr(make_module, "__qualname__", type(make_module).__name__),
        "model": type(module).__name__,
        "structure": structure_of(module),
        "optimizer": seen.optimizer,
        "accumulate": trainer.accumulate_grad_batches,
        "clip": str(trainer.gradient_clip_val),
        "precision": str(trainer.precision),
        "monitor": monitor,
        "code": digest_of(make_module, others, classes_of(module)),
        "data": [*map(data_digest, seen.datasets)],
        "batch_sizes": seen.batch_sizes,
    }


class _quiet:  # noqa: N801 - used as a context
    """Within the context Lightning's messages about each run are left out, those of this thread alone: trials that are
    paused have threads of their own."""

    def __enter__(self) -> None:
        self._thread = threading.get_ident()
        for name in QUIET:
            logging.getLogger(name).addFilter(self._is_of_others)

    def __exit__(self, *_: object) -> None:
        for name in QUIET:
            logging.getLogger(name).removeFilter(self._is_of_others)

    def _is_of_others(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread or record.levelno > logging.INFO
