"""Whether a training loop of the user's own lets its warm-up adapt."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from autowarmup.adaptive.climb import ClimbSettings
from autowarmup.errors import InputError
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.step_rates import on_each_step
from autowarmup.training.applied_lr import AppliedLR

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from autowarmup.adaptive.scheduler import AdaptiveWarmup

USE = (
    "the learning rate is decided while the run trains, from the gradients of its optimizer: make a scheduler with "
    "run.schedule.scheduler(optimizer), for an optimizer of PyTorch, and call its step() once after each optimizer step"
)


class AdaptedLR(AppliedLR):
    """Observes the learning rates of a loop whose warm-up adapts.

    Args:
        schedule: says how long the run is.
        settings: those of its climb.
    """

    def __init__(self, schedule: Schedule, settings: ClimbSettings) -> None:
        super().__init__(schedule)
        self._settings = settings
        self._scheduler: AdaptiveWarmup | None = None

    def asked(self, step: int | None = None, *, by_group: bool = False) -> None:
        """Refuses to tell a learning rate beforehand.

        Raises:
            InputError: always.
        """
        raise InputError(f"run.schedule can't tell a learning rate beforehand: {USE}")

    def scheduler(self, optimizer: Optimizer, last_step: int, base_lr: float | None) -> LRScheduler:
        """The scheduler that adapts.

        Raises:
            InputError: the loop has made one before.
        """
        from autowarmup.adaptive.scheduler import AdaptiveWarmup

        if self._scheduler is not None:
            raise InputError(
                "train_fn makes a second scheduler: a warm-up that adapts needs one optimizer for the whole model"
            )
        self._scheduler = AdaptiveWarmup(optimizer, **dict(self._settings))
        on_each_step(optimizer, partial(self._observe, self._scheduler))
        return self._scheduler

    def of_step(self, step: int, reported: float | None) -> float:
        """The learning rate of a step that the loop reports: the one that its optimizer applied; 0 where a loss scaler
        skipped the step.

        Raises:
            InputError: the loop has no scheduler, or doesn't step it once after each optimizer step.
        """
        if self._scheduler is None:
            raise InputError(f"train_fn doesn't use the schedule: {USE}")
        applied, self._applied = self._applied, []
        self._check_steps(step, applied)
        called = self._scheduler.last_epoch
        if not step - self._missed <= called <= step + 1:
            raise InputError(
                f"train_fn reports optimizer step {step + 1}, and its scheduler's step() was called {called} times: "
                f"call it once after each optimizer step"
            )
        return max((rate for _, rate in applied), default=0.0)
