"""A guard for what Lightning's Trainer trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autowarmup.errors import InputError
from autowarmup.guard.events import Event
from autowarmup.guard.guard import Guard, Mode
from autowarmup.integrations.steps import check_optimizer, imported
from autowarmup.schedule.schedule import Schedule
from autowarmup.study.result import TuneResult
from autowarmup.training.gradients import gradient_norm
from autowarmup.training.optimizers import parameters_of

WHOLE = ("SingleDeviceStrategy", "DDPStrategy", "SingleDeviceXLAStrategy")
"""Strategies with which each process has the whole model."""


def guard_lightning(schedule: Schedule | TuneResult, mode: Mode = "observe", **settings: Any) -> Any:
    """A callback that guards what Lightning trains: each optimizer step is judged before it is made.

    The module's own schedulers are not used: the guard sets the learning rates, and they are what a
    ``LearningRateMonitor`` logs that comes after it among the callbacks. Accumulation, clipping and precision stay as
    they are. A run that the guard stops ends as with ``trainer.should_stop``. The guard's state is in Lightning's
    checkpoints, among the callbacks'.

    Args:
        schedule: that of the run, or a study's result.
        mode: ``"observe"`` or ``"protect"``.
        settings: as for :class:`autowarmup.guard.guard.Guard`; model, optimizer and scaler are known.

    Returns:
        The callback, with the attributes ``guard``, the :class:`autowarmup.guard.guard.Guard` of the last ``fit()`` or
        None, and ``events``.

    Raises:
        InputError: Lightning isn't installed. Later, from ``fit()``: the module optimizes manually, has no optimizer
            that can be given a schedule, is in pieces and can't be protected, or a setting can't be used.

    Example::

        guarded = guard_lightning(schedule, mode="protect", record="run.jsonl")
        Trainer(max_steps=10_000, callbacks=[guarded]).fit(module, data)
    """
    imported("lightning.pytorch")
    from lightning.pytorch import Callback

    class Guarded(Callback):  # type: ignore[misc]
        state_key = "autowarmup.guard"

        def __init__(self) -> None:
            self.guard: Guard | None = None
            self._saved: dict[str, Any] | None = None
            self._losses: list[Tensor] = []
            self._applied = True

        @property
        def events(self) -> list[Event]:
            """Those of the last ``fit()``."""
            return self.guard.events if self.guard else []

        def on_train_start(self, trainer: Any, module: Any) -> None:
            optimizer = _optimizer(trainer, module, mode)
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            self._losses.clear()
            self.guard = Guard(schedule, optimizer, mode, model=module, scaler=scaler, **settings)
            trainer.strategy.lr_scheduler_configs = []
            if self._saved is not None:
                self.guard.load_state_dict(self._saved)
                self._saved = None
            self._hold_back(optimizer)

        def on_train_batch_start(self, *_: Any) -> None:
            """``LearningRateMonitor`` looks at the learning rates then."""
            if self.guard:
                self.guard.set_rates()

        def on_before_backward(self, trainer: Any, module: Any, loss: Tensor) -> None:
            """The loss is divided by the batches of a step, and multiplied by the scaler's factor."""
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            scale = 1.0 if scaler is None else scaler.get_scale()
            self._losses.append(loss.detach().float() * (trainer.accumulate_grad_batches / scale))

        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            """Called before clipping, with gradients that a scaler has scaled back."""
            self._applied = True
            if self.guard is None or not self._losses:  # training_step has returned None
                return
            norm = gradient_norm(parameters_of([optimizer]))
            loss = torch.stack(self._losses).mean()
            self._losses.clear()
            self._applied = self.guard.step(loss, norm)

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if self.guard and self.guard.should_stop:
                trainer.should_stop = True

        def on_train_end(self, *_: Any) -> None:
            if self.guard:
                self.guard.close()

        def state_dict(self) -> dict[str, Any]:
            return self.guard.state_dict() if self.guard else {}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            """Called before there is an optimizer."""
            self._saved = state_dict or None

        def _hold_back(self, optimizer: Any) -> None:
            """Lightning's closure makes the backward pass within the optimizer's step: that is judged in between."""
            own_step = optimizer.step

            def step(closure: Any = None, **keywords: Any) -> Any:
                loss = None
                if closure is not None:
                    with torch.enable_grad():
                        loss = closure()
                if self._applied:
                    own_step(**keywords)
                return loss

            optimizer.step = step

    return Guarded()


def _optimizer(trainer: Any, module: Any, mode: Mode) -> Any:
    """The one optimizer.

    Raises:
        InputError: there is none, or it can't be guarded.
    """
    name, strategy = type(module).__name__, type(trainer.strategy).__name__
    if not module.automatic_optimization:
        raise InputError(
            f"{name} has automatic_optimization=False: its training_step makes the optimizer steps. Make a Guard "
            f"there, and make a step only where its step(loss) says so"
        )
    if mode == "protect" and strategy not in WHOLE:
        raise InputError(
            f"mode='protect': a model that {strategy} may divide among processes can only be observed here: use "
            f"mode='observe', or fully_shard and a Guard in a loop of your own"
        )
    made = trainer.optimizers
    if len(made) != 1 or not isinstance(made[0], torch.optim.Optimizer) or not made[0].param_groups:
        raise InputError(f"configure_optimizers of {name} must return one torch.optim.Optimizer")
    if isinstance(made[0], torch.optim.LBFGS):
        raise InputError(f"{name} uses LBFGS, which computes several losses for each of its steps: it can't be guarded")
    check_optimizer(made[0], name)
    return made[0]
