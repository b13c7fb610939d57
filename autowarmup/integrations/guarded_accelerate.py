"""A guard for a training loop under Accelerate."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from autowarmup.errors import InputError
from autowarmup.guard.guard import Guard, Mode
from autowarmup.integrations.gradients import GradNorm
from autowarmup.integrations.steps import check_optimizer, imported
from autowarmup.schedule.schedule import Schedule
from autowarmup.study.result import TuneResult
from autowarmup.training.gradients import gradient_norm
from autowarmup.training.optimizers import parameters_of


def guard_accelerate(
    schedule: Schedule | TuneResult,
    accelerator: Any,
    model: nn.Module,
    optimizer: Any,
    mode: Mode = "observe",
    **settings: Any,
) -> Guard:
    """Guards a loop under Accelerate: its ``optimizer.step()`` is judged before it is made.

    Call it once, after ``accelerator.prepare``, and remove the loop's own scheduler: the guard sets the learning rates.
    The loop stays as it is: the loss of a step is the mean of those that were passed to ``accelerator.backward``, the
    gradient's norm is what ``accelerator.clip_grad_norm_`` returns, where the loop calls it. A step that is held back
    counts as skipped: ``accelerator.optimizer_step_was_skipped``. End the loop where ``guard.should_stop``.

    Args:
        schedule: that of the run, or a study's result.
        accelerator: an ``accelerate.Accelerator``.
        model: what is trained, as ``prepare`` returned it.
        optimizer: trains it, as ``prepare`` returned it.
        mode: ``"observe"`` or ``"protect"``.
        settings: as for :class:`autowarmup.guard.guard.Guard`; model, optimizer and scaler are known.

    Returns:
        The guard. ``accelerator.register_for_checkpointing(guard)`` has its state in Accelerate's checkpoints.

    Raises:
        InputError: the optimizer was not prepared, is not the only one, or can't be given a schedule; or DeepSpeed
            makes its steps; or the model is in pieces and can't be protected; or one of the settings can't be used.

    Example::

        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        guard = guard_accelerate(schedule, accelerator, model, optimizer, mode="protect")
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch).loss)
                optimizer.step()
                optimizer.zero_grad()
            if guard.should_stop:
                break
    """
    imported("accelerate")
    from accelerate.optimizer import AcceleratedOptimizer

    if not isinstance(optimizer, AcceleratedOptimizer):
        raise InputError(
            f"optimizer must be what accelerator.prepare(optimizer) returned, got {type(optimizer).__name__}: it makes "
            f"a step after so many batches as the Accelerator accumulates"
        )
    if len(accelerator._optimizers) > 1:
        raise InputError(
            f"the Accelerator has {len(accelerator._optimizers)} optimizers, and the losses don't say whose they are: "
            f"make a Guard of all of them, and call its step(loss) in the loop"
        )
    guard = made_guard(schedule, accelerator, model, optimizer, mode, settings)
    losses: list[Tensor] = []
    backward = accelerator.backward

    def noted_backward(loss: Tensor, **keywords: Any) -> None:
        losses.append(loss.detach().float())
        backward(loss, **keywords)

    def mean() -> Tensor:
        loss = torch.stack(losses).mean()
        losses.clear()
        return loss

    accelerator.backward = noted_backward
    judge_steps(guard, accelerator, optimizer, mean)
    return guard


def made_guard(
    schedule: Schedule | TuneResult, accelerator: Any, model: Any, optimizer: Any, mode: Mode, settings: dict[str, Any]
) -> Guard:
    """The guard of what an accelerator has prepared.

    Raises:
        InputError: it can't be guarded.
    """
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    if kind == "DEEPSPEED":
        raise InputError("DeepSpeed's engine makes the optimizer steps: none of them can be held back, so use Guard")
    if kind in ("FSDP", "MEGATRON_LM") and mode == "protect":
        raise InputError(
            f"mode='protect': a model that {kind} divides among processes can only be observed here: use "
            f"mode='observe', or fully_shard and a Guard in a loop of your own"
        )
    check_optimizer(optimizer.optimizer, "the Accelerator")
    plain = accelerator.unwrap_model(model)
    return Guard(schedule, optimizer.optimizer, mode, model=plain, scaler=optimizer.scaler, **settings)


def judge_steps(guard: Guard, accelerator: Any, optimizer: Any, loss_of_step: Callable[[], Tensor]) -> None:
    """Has each step of a prepared optimizer judged first.

    Args:
        guard: judges them.
        accelerator: knows whether a batch completes a step, and clips.
        optimizer: as ``prepare`` returned it.
        loss_of_step: the loss of the step that comes next, asked once for each.
    """
    norm = GradNorm(accelerator)
    own_step = optimizer.step

    def step(closure: Any = None) -> None:
        if not accelerator.sync_gradients:
            return
        before_clipping, norm.latest = norm.latest, None
        if before_clipping is None and optimizer.scaler is not None:
            before_clipping = _unscaled_norm(optimizer)
        applied = guard.step(loss_of_step(), before_clipping)
        optimizer._is_overflow = not applied  # what Accelerate calls a step that a scaler has skipped
        if applied:
            own_step(closure)
        elif optimizer.scaler is not None:
            optimizer.scaler.update()

    optimizer.step = step


def _unscaled_norm(optimizer: Any) -> Tensor:
    """The norm of the gradients without the scaler's factor; it may have been taken out before, as where gradients were
    clipped by their values."""
    with suppress(RuntimeError):
        optimizer.scaler.unscale_(optimizer.optimizer)
    return gradient_norm(parameters_of([optimizer]))
