"""A study of a training loop of the user's own under Accelerate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autowarmup.errors import InputError
from autowarmup.integrations.gradients import GradNorm, forget_loaders, own_gradient_state
from autowarmup.integrations.steps import Steps, check_optimizer
from autowarmup.training.loop import LoopRun
from autowarmup.values import short


class AcceleratedSteps:
    """What a loop under Accelerate needs to be a ``train_fn``: it applies the run's schedule to each optimizer step,
    under accumulation and with several processes too, and reports each step.

    Make it after ``accelerator.prepare``, and call :meth:`stop_after` after each batch. Remove the loop's own
    scheduler. The loss is averaged over the batches of a step and over the processes. Skipped steps of fp16 don't move
    the schedule on. The gradient's norm is what ``accelerator.clip_grad_norm_`` returns, where the loop calls it.

    Args:
        run: what ``train_fn`` gets.
        accelerator: an ``accelerate.Accelerator``.
        model: what is trained, as ``prepare`` returned it.
        optimizer: trains it, as ``prepare`` returned it.
        evaluate: returns the validation loss, or a mapping with ``"loss"`` and metrics, for the whole of the validation
            data: with several processes, gather what each one finds. It may change the mode of the model. Called
            about 40 times a run, half of them with averaged weights.

    Raises:
        InputError: the optimizer was not prepared, or can't be given a schedule; or the engine has another number of
            processes for a trial than the accelerator.

    Example::

        def train(run):
            torch.manual_seed(run.seed)
            accelerator = Accelerator(gradient_accumulation_steps=4)
            model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
            steps = AcceleratedSteps(run, accelerator, model, optimizer, evaluate)
            while not run.should_stop:
                for batch in loader:
                    with accelerator.accumulate(model):
                        loss = model(**batch).loss
                        accelerator.backward(loss)
                        optimizer.step()
                        optimizer.zero_grad()
                    if steps.stop_after(loss):
                        break

        result = autotune(train_fn=train, total_steps=1_000, current_peak=3e-4)
    """

    def __init__(
        self,
        run: LoopRun,
        accelerator: Any,
        model: nn.Module,
        optimizer: Any,
        evaluate: Callable[[], float | Mapping[str, float]],
    ) -> None:
        from accelerate.optimizer import AcceleratedOptimizer

        if not isinstance(optimizer, AcceleratedOptimizer):
            raise InputError(
                f"optimizer must be what accelerator.prepare(optimizer) returned, got {type(optimizer).__name__}: it "
                f"makes a step after so many batches as the Accelerator accumulates"
            )
        if hasattr(accelerator.state, "deepspeed_plugin") and accelerator.state.deepspeed_plugin is not None:
            raise InputError(
                "the Accelerator uses DeepSpeed, whose engine makes the optimizer steps: it can't be tuned"
            )
        check_optimizer(optimizer.optimizer, "the loop")
        forget_loaders()
        self._accelerator, self._evaluate = accelerator, evaluate
        self._norm = GradNorm(accelerator)
        plain, processes = accelerator.unwrap_model(model), accelerator.num_processes
        self._steps = Steps(run, plain, optimizer.optimizer, self._evaluated, own_gradient_state, processes)
        self._losses: list[Tensor] = []

    def stop_after(self, loss: Tensor) -> bool:
        """A batch has been trained on. Where that completed an optimizer step, the step is reported, and the learning
        rate is set to that of the next. Returns whether the loop has to end.

        Args:
            loss: the batch's loss, as it was passed to ``accelerator.backward``.

        Raises:
            InputError: the loss is no single number.
        """
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise InputError(f"stop_after(loss) takes the loss of a batch, a tensor of one number, got {short(loss)}")
        self._losses.append(loss.detach().reshape(()).float())
        if not self._accelerator.sync_gradients:
            return False
        mean = self._accelerator.reduce(torch.stack(self._losses).mean(), reduction="mean").item()
        self._losses.clear()
        skipped = self._accelerator.optimizer_step_was_skipped
        if not skipped:
            self._steps.scheduler.step()
        return self._steps.made(mean, self._norm.taken(), skipped=skipped)

    def _evaluated(self) -> Mapping[str, float]:
        values = self._evaluate()
        return values if isinstance(values, Mapping) else {"loss": values}
