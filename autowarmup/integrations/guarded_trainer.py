"""A guard for Transformers' Trainer."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from autowarmup.errors import InputError
from autowarmup.guard.events import Event
from autowarmup.guard.guard import Guard, Mode
from autowarmup.guard.planned import planned
from autowarmup.integrations.guarded_accelerate import judge_steps, made_guard
from autowarmup.integrations.steps import imported
from autowarmup.schedule.schedule import Schedule
from autowarmup.study.result import TuneResult

LOG = logging.getLogger("autowarmup.guard")


def guard_trainer(trainer: Any, schedule: Schedule | TuneResult, mode: Mode = "observe", **settings: Any) -> Any:
    """Guards what a Trainer trains: each of its optimizer steps is judged before it is made.

    Call it before ``trainer.train()``. The Trainer's own scheduler is not used: the guard sets the learning rates, and
    they are what the Trainer logs. Its accumulation, clipping and precision stay as they are. A run that the guard
    stops ends as with ``control.should_training_stop``. The guard's state is in the Trainer's checkpoints, in
    ``scheduler.pt``; a run that goes on from one made without a guard is guarded from there.

    Args:
        trainer: a ``transformers.Trainer``.
        schedule: that of the run, or a study's result.
        mode: ``"observe"`` or ``"protect"``.
        settings: as for :class:`autowarmup.guard.guard.Guard`; model, optimizer and scaler are known.

    Returns:
        A callback that the Trainer has got, with the attributes ``guard``, the :class:`autowarmup.guard.guard.Guard` of
        the last ``train()`` or None, and ``events``.

    Raises:
        InputError: it is no Trainer, or DeepSpeed makes its steps. Later, from ``train()``: a setting can't be used.

    Example::

        trainer = Trainer(model, args, train_dataset=data)
        guarded = guard_trainer(trainer, schedule, mode="protect", record="run.jsonl")
        trainer.train()
        print(*(event.describe() for event in guarded.events), sep="\\n")
    """
    transformers = imported("transformers")
    if not isinstance(trainer, transformers.Trainer):
        raise InputError(f"trainer must be a transformers.Trainer, got {type(trainer).__name__}")
    if trainer.is_deepspeed_enabled:
        raise InputError("the Trainer uses DeepSpeed, whose engine makes the optimizer steps: none can be held back")
    horizon = planned(schedule)[0].horizon
    callback = _callback()
    losses: list[Tensor] = []
    own_step = trainer.training_step

    def training_step(*args: Any, **keywords: Any) -> Any:
        losses.append(own_step(*args, **keywords))
        return losses[-1]

    def loss_of_step() -> Tensor:
        """The sum over the batches of a step, each of which was divided by their number, or by that of the tokens."""
        loss = torch.stack([one.float() for one in losses]).sum()
        losses.clear()
        return loss

    def create_scheduler(num_training_steps: int, *_: Any, **__: Any) -> Any:
        """Called when the Trainer has its optimizer, and before it loads a checkpoint."""
        losses.clear()
        guard = made_guard(schedule, trainer.accelerator, trainer.model, trainer.optimizer, mode, settings)
        _compare_lengths(horizon, num_training_steps)
        judge_steps(guard, trainer.accelerator, trainer.optimizer, loss_of_step)
        callback.guard = guard
        trainer.lr_scheduler = AppliedRates(guard, trainer.optimizer)
        return trainer.lr_scheduler

    trainer.training_step, trainer.create_scheduler = training_step, create_scheduler
    trainer.add_callback(callback)
    return callback


class AppliedRates:
    """Stands in the place of a Trainer's scheduler: it changes nothing, tells the learning rates that were applied, and
    takes the guard's state into checkpoints and out of them."""

    def __init__(self, guard: Guard, optimizer: Any) -> None:
        self._guard, self._optimizer = guard, optimizer

    def step(self, *_: Any) -> None:
        """The guard sets the learning rates."""

    def get_last_lr(self) -> list[float]:
        """The learning rates of the last step."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The guard's."""
        return self._guard.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The guard's, or that of a scheduler of the Trainer's: then its step, and what is normal is learnt anew."""
        if "judge" not in state_dict and "last_epoch" in state_dict:
            state_dict = self._guard.state_dict() | {"step": state_dict["last_epoch"]}
        self._guard.load_state_dict(state_dict)


def _callback() -> Any:
    from transformers import TrainerCallback

    class Guarded(TrainerCallback):  # type: ignore[misc]
        guard: Guard | None = None

        @property
        def events(self) -> list[Event]:
            """Those of the last ``train()``."""
            return self.guard.events if self.guard else []

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.guard and self.guard.should_stop:
                control.should_training_stop = True

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.guard:
                self.guard.close()

    return Guarded()


def _compare_lengths(horizon: int, steps: int) -> None:
    """A schedule of another length than the run is most likely a mistake, but may be meant."""
    if steps != horizon:
        LOG.warning("the schedule is for %d optimizer steps, and the Trainer makes %d", horizon, steps)
