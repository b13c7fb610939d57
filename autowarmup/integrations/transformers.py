"""A study of what Transformers' Trainer trains."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from autowarmup.errors import InputError
from autowarmup.integrations.current import current_settings, rates_of
from autowarmup.integrations.gradients import GradNorm, forget_loaders, own_gradient_state
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
from autowarmup.training.identity import classes_of, digest_of, structure_of
from autowarmup.training.loop import DescribedLoop, LoopRun
from autowarmup.training.losses import trivial_loss
from autowarmup.training.optimizers import beta2_of
from autowarmup.training.recipe import best_device
from autowarmup.training.rng import borrowed, seed_everything
from autowarmup.values import nearest

CHECKED_BATCHES = 50
"""Batches of the evaluation whose labels give the trivial loss."""

CROSS_ENTROPY = {"ForCausalLM", "ForMaskedLM", "ForSequenceClassification", "ForImageClassification"} | {
    "ForVideoClassification", "ForAudioClassification", "ForTokenClassification",
}  # fmt: skip
"""Transformers' losses that are the cross-entropy of the labels, by name."""

SPEED = ("runtime", "samples_per_second", "steps_per_second", "preparation_time", "compilation_time")
"""What the names of entries of an evaluation end in that tell no metric."""

RELEVANT = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "weight_decay", "adam_beta1",
    "adam_beta2", "adam_epsilon", "max_grad_norm", "optim", "optim_args", "label_smoothing_factor", "bf16", "fp16",
    "train_sampling_strategy", "dataloader_drop_last", "neftune_noise_alpha",
)  # fmt: skip
"""The arguments that make another training."""


def from_trainer(make_trainer: Callable[[], Any], *, monitor: str = "eval_loss") -> dict[str, Any]:
    """The arguments of ``autotune`` for what a Trainer trains: ``autotune(**from_trainer(make_trainer))``.

    Each trial builds a Trainer anew, with the global random generators and its ``seed`` and ``data_seed`` set after the
    trial's seed, and calls its ``train()`` with its own loss, collator, accumulation, clipping and optimizer. Its
    scheduler is replaced. It evaluates where the study validates. Nothing is saved or logged, and it doesn't stop
    early: progress, trackers and ``EarlyStoppingCallback`` are left out; other callbacks stay.

    To change an argument, pass ``**{**from_trainer(make_trainer), "total_steps": 500}``.

    Args:
        make_trainer: builds a ``transformers.Trainer`` with a fresh model and an ``eval_dataset``; no arguments.
        monitor: the entry of what ``evaluate()`` returns that is the validation loss, such as ``"eval_test_loss"``
            where ``eval_dataset`` is a dict. The others are metrics: ``objective="accuracy"`` is ``eval_accuracy``.

    Returns:
        ``train_fn``; ``total_steps``, as the Trainer counts them; ``steps_per_epoch``; ``current``, the schedule that
        its scheduler applies today, or the nearest there is, which a warning says; ``beta2`` of its optimizer; and
        ``trivial_loss`` where its loss is the cross-entropy of labels.

    Raises:
        InputError: ``make_trainer`` builds something that can't be tuned. The message says what is allowed.
    """
    for name in ("accelerate", "transformers"):
        imported(name)
    check_function("make_trainer", make_trainer, "a transformers.Trainer")
    with borrowed(best_device()), own_gradient_state():
        seed_everything(0, best_device())
        trainer = _trainer(make_trainer)
        check_fresh("make_trainer", trainer.model, _trainer(make_trainer).model)
        total, epoch = _lengths(trainer)
        _check_evaluation(trainer, monitor)
        optimizer = trainer.create_optimizer()
        check_optimizer(optimizer, "the Trainer")
        scheduler = trainer.create_scheduler(num_training_steps=total)
        current = current_settings(rates_of(optimizer, scheduler, total), "the Trainer's scheduler")
        if current["warmup_steps"] and 0 < trainer.args.warmup_steps < 1:
            current["warmup_steps"] = f"{100 * current['warmup_steps'] / total:.12f}%"
        description = _description(trainer, make_trainer, monitor)
        known = {"beta2": beta2_of([optimizer]), "trivial_loss": _trivial_loss(trainer)}
    return {
        "train_fn": DescribedLoop(partial(_train, make_trainer, monitor), description),
        "total_steps": total,
        "steps_per_epoch": epoch,
        "current": current,
    } | known


def _train(make_trainer: Callable[[], Any], monitor: str, run: LoopRun) -> None:
    """One trial."""
    device = best_device()
    begin(run, device)
    forget_loaders()
    trainer = _trainer(make_trainer)
    with TemporaryDirectory() as folder:
        _set_arguments(trainer, run, folder)
        callback = _reporting(trainer, monitor, run)
        trainer.add_callback(callback)
        seed_everything(derive_seed(run.seed, "training"), device)
        trainer.train()
    callback.steps.check_end("the Trainer")


def _trainer(make_trainer: Callable[[], Any]) -> Any:
    """A Trainer of the user's, without what it tells others.

    Raises:
        InputError: it isn't one, or can't be tuned.
    """
    transformers = imported("transformers")
    started, known = time.time(), set(os.listdir())
    trainer = built("make_trainer", make_trainer)
    if not isinstance(trainer, transformers.Trainer):
        raise InputError(f"make_trainer must return a transformers.Trainer, got {type(trainer).__name__}")
    if trainer.is_deepspeed_enabled:
        raise InputError(
            "the Trainer uses DeepSpeed, whose engine makes the optimizer steps: it can't be tuned. Leave deepspeed "
            "out of the TrainingArguments, and take the schedule that is found to DeepSpeed"
        )
    _remove_folders(Path(trainer.args.output_dir), started, known)
    silent = (
        *transformers.integrations.integration_utils.INTEGRATION_TO_CALLBACK.values(),
        transformers.ProgressCallback,
        transformers.trainer.DEFAULT_PROGRESS_CALLBACK,  # another one in a notebook
        transformers.PrinterCallback,
        transformers.EarlyStoppingCallback,
    )
    for callback in [*trainer.callback_handler.callbacks]:
        if isinstance(callback, silent):
            trainer.remove_callback(callback)
    return trainer


def _remove_folders(folder: Path, started: float, known: set[str]) -> None:
    """Removes an ``output_dir`` that is empty and was made since then, as a Trainer does when it is built; with its
    parents where the first of them was not ``known`` in the working directory."""
    new = not folder.is_absolute() and folder.parts[:1] != () and folder.parts[0] not in known
    with suppress(OSError):
        if folder.stat().st_mtime >= started - 1.0:
            folder.rmdir()
            for parent in folder.parents[:-1] if new else ():
                parent.rmdir()


def _set_arguments(trainer: Any, run: LoopRun, folder: str) -> None:
    """Sets a copy of a Trainer's arguments to a trial of the run's length that tells nobody."""
    args = trainer.args = copy.copy(trainer.args)
    never = type(args.save_strategy)("no")
    args.output_dir, args.max_steps = folder, run.total_steps
    args.seed, args.data_seed = derive_seed(run.seed, "model"), derive_seed(run.seed, "data")
    trainer.accelerator.dataloader_config.data_seed = args.data_seed  # read from the arguments when it was built
    args.save_strategy, args.eval_strategy = never, type(args.eval_strategy)("no")
    args.logging_strategy, args.logging_first_step = type(args.logging_strategy)("no"), False
    args.load_best_model_at_end = args.eval_on_start = args.push_to_hub = args.auto_find_batch_size = False
    args.disable_tqdm, args.report_to = True, []


def _reporting(trainer: Any, monitor: str, run: LoopRun) -> Any:
    """The callback that reports a Trainer's steps."""
    from transformers import TrainerCallback

    losses: list[torch.Tensor] = []
    norm = GradNorm(trainer.accelerator)
    own_step = trainer.training_step

    def training_step(*args: Any, **keywords: Any) -> Any:
        losses.append(own_step(*args, **keywords))
        return losses[-1]

    def create_scheduler(*_: Any, **__: Any) -> Any:
        """Called when the Trainer has its optimizer and the model is where it is trained."""
        optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        evaluate = partial(_evaluation, trainer, monitor)
        processes = trainer.accelerator.num_processes
        callback.steps = Steps(run, trainer.model, optimizer, evaluate, own_gradient_state, processes)
        trainer.lr_scheduler = callback.steps.scheduler
        return trainer.lr_scheduler

    class Reporting(TrainerCallback):  # type: ignore[misc]
        steps: Steps

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            loss = trainer.accelerator.gather(torch.stack(losses).sum()).mean().item()
            losses.clear()
            skipped = trainer.accelerator.optimizer_step_was_skipped
            if self.steps.made(loss, norm.taken(), skipped=skipped):
                control.should_training_stop = True

    callback = Reporting()
    trainer.training_step, trainer.create_scheduler = training_step, create_scheduler
    return callback


def _evaluation(trainer: Any, monitor: str) -> dict[str, float]:
    """What the Trainer's ``evaluate()`` says, by the names that a study has for it.

    Raises:
        InputError: the loss is not among it.
    """
    found = {name: value for name, value in numbers(trainer.evaluate()).items() if not name.endswith(SPEED)}
    found.pop("epoch", None)
    if monitor not in found:
        raise InputError(
            f"monitor={monitor!r}: evaluate() of the Trainer gives no such value{nearest(monitor, found)}; it gives: "
            f"{', '.join(sorted(found)) or 'nothing'}. Schedules are compared by a validation loss"
        )
    loss = found.pop(monitor)
    return {"loss": loss} | {name.removeprefix("eval_"): value for name, value in found.items()}


def _check_evaluation(trainer: Any, monitor: str) -> None:
    """Evaluates once.

    Raises:
        InputError: that can't be done.
    """
    if trainer.eval_dataset is None and type(trainer).get_eval_dataloader.__module__.startswith("transformers."):
        raise InputError("the Trainer has no eval_dataset: schedules are compared by the loss on one; pass it")
    built("evaluate() of the Trainer", partial(_evaluation, trainer, monitor))


def _lengths(trainer: Any) -> tuple[int, int | None]:
    """Optimizer steps of the whole run, and of an epoch where that is known.

    Raises:
        InputError: the data has no length, and the arguments don't say how many steps there are.
    """
    args = trainer.args
    loader = built("get_train_dataloader() of the Trainer", trainer.get_train_dataloader)
    try:
        epoch = max(1, math.ceil(len(loader) / args.gradient_accumulation_steps))
    except TypeError:
        epoch = None
    if args.max_steps > 0:
        return args.max_steps, epoch
    if epoch is None:
        raise InputError(
            f"the Trainer's train_dataset has no length, and max_steps={args.max_steps}: set max_steps in the "
            f"TrainingArguments to the optimizer steps of a run"
        )
    return math.ceil(args.num_train_epochs * epoch), epoch


def _trivial_loss(trainer: Any) -> float | None:
    """The entropy of the labels where the loss is the model's cross-entropy; None elsewhere."""
    from transformers import PreTrainedModel

    model = trainer.model
    own = type(trainer).compute_loss.__module__.startswith("transformers.")
    plain = own and trainer.compute_loss_func is None and trainer.label_smoother is None
    if not plain or not isinstance(model, PreTrainedModel) or model.loss_type not in CROSS_ENTROPY:
        return None
    if isinstance(trainer.eval_dataset, dict) or trainer.args.gradient_accumulation_steps > 1:
        return None  # with accumulation some models' losses are summed over the batches, and others averaged
    batches = list(islice(trainer.get_eval_dataloader(), CHECKED_BATCHES))
    labels = [batch.get("labels") for batch in batches]
    if not all(isinstance(part, torch.Tensor) and not part.is_floating_point() for part in labels):
        return None
    return trivial_loss([part[..., 1:] if model.loss_type == "ForCausalLM" else part for part in labels])


def _description(trainer: Any, make_trainer: Any, monitor: str) -> dict[str, Any]:
    """What is trained, as plain values."""
    arguments = trainer.args.to_dict()
    return {
        "train_fn": getattr(make_trainer, "__qualname__", type(make_trainer).__name__),
        "trainer": type(trainer).__name__,
        "model": type(trainer.model).__name__,
        "structure": structure_of(trainer.model),
        "optimizer": type(trainer.optimizer).__name__,
        "arguments": {name: str(arguments[name]) for name in RELEVANT if name in arguments},
        "monitor": monitor,
        "code": digest_of(make_trainer, type(trainer), classes_of(trainer.model)),
        "data": [*map(data_digest, (trainer.train_dataset, trainer.eval_dataset))],
    }
