"""The warm-up that adapts, as a PyTorch learning-rate scheduler."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autowarmup.adaptive.climb import FIRST, ClimbSettings
from autowarmup.adaptive.measured import MeasuredClimb
from autowarmup.errors import InputError
from autowarmup.schedule.duration import Duration
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.torch_scheduler import check_count, lr_ratios, set_lrs
from autowarmup.values import short

STATE = {"last_epoch", "ratios", "climb", "before"}
"""What a state has."""


class AdaptiveWarmup(LRScheduler):
    """A warm-up that adapts to the run, then a decay over what is left of it: for a single run, without a study.

    The learning rate climbs as long as the last update ends where the loss still falls along it, on the batch that
    comes next; where it doesn't, the learning rate goes back a little. The warm-up ends after ``longest`` steps, or
    earlier where the learning rate has reached ``peak``. :mod:`autowarmup.adaptive.climb` says what this has to do with
    the critical rate, and docs/adaptive.md what it is worth. A silent collapse, as of deep transformers with post-norm,
    doesn't show in the slope: give these a ``peak``. There are no further forward passes. During the warm-up each step
    takes a copy of the weights, a product with the gradient, and a wait for the device.

    It is used like every scheduler of PyTorch: ``scheduler.step()`` after each ``optimizer.step()``. The parameter
    group with the highest learning rate gets the scheduler's, the others keep their ratio to it. Where several
    processes train together, each has such a scheduler.

    Args:
        optimizer: of PyTorch. Its highest learning rate is the scale at which the climb begins. Groups that are added
            later are refused.
        total_steps: optimizer steps of the run, at least 10.
        peak: the highest learning rate that is allowed, > 0; left out, any.
        longest: the longest warm-up: optimizer steps, or a share of the run such as ``"40%"``. In that time the
            learning rate can at most double ten times.
        first_lr: the learning rate of the first step, > 0; left out, an eighth of the optimizer's.
        decay: the curve after the warm-up, by name (``"linear"``) or with its settings, as for ``Schedule``.
        final_factor: the share of the highest learning rate that the decay ends at, 0 to 1.

    Attributes:
        schedule: after the warm-up, the schedule that comes nearest to what is applied; None before. Its peak, its
            duration and its decay are exact, the shape is the nearest. It may be kept, for the next run.

    Raises:
        InputError: a value of the wrong type or out of its range, or an optimizer without a learning rate above 0.

    Example:
        >>> import torch
        >>> from autowarmup import AdaptiveWarmup
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> scheduler = AdaptiveWarmup(optimizer, total_steps=100)
        >>> for step in range(100):
        ...     optimizer.zero_grad()
        ...     (weight**2 / 2).sum().backward()  # updates go too far from a learning rate of 1 on
        ...     optimizer.step(); scheduler.step()
        >>> scheduler.schedule.warmup_steps, 0.8 < scheduler.schedule.peak < 1.3
        (40, True)
        >>> scheduler.get_last_lr()
        [0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        *,
        peak: float | None = None,
        longest: Duration = "40%",
        first_lr: float | None = None,
        decay: Any = "linear",
        final_factor: float = 0.0,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise InputError(f"optimizer={short(optimizer)}: must be an optimizer of PyTorch")
        lrs = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        self.ratios = lr_ratios(lrs)
        settings = ClimbSettings(
            total_steps=total_steps,
            longest=longest,
            first_lr=FIRST * max(lrs) if first_lr is None else first_lr,
            peak=peak,
            decay=decay,
            final_factor=final_factor,
        )
        self._climb = MeasuredClimb(settings, [optimizer])
        super().__init__(optimizer)

    @property
    def schedule(self) -> Schedule | None:
        return self._climb.schedule

    def step(self, epoch: int | None = None) -> None:
        """Sets the learning rates for the next optimizer step.

        Args:
            epoch: of PyTorch's schedulers; it can't be given, and neither is a loss needed.
        """
        if epoch is not None:
            raise InputError(
                f"step({short(epoch)}): takes nothing. The losses aren't needed, since it reads the gradients; and no "
                f"epoch can be jumped to, since what comes next depends on every step before"
            )
        if self.last_epoch >= 0:
            self._climb.advance()
        super().step()

    def get_lr(self) -> list[float | Any]:
        """The groups' learning rates at the step that comes next."""
        check_count(self.optimizer, self.ratios)
        return [self._climb.lr * ratio for ratio in self.ratios]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, and during the warm-up a copy of the weights before the last update. What was given at
        construction is not in it."""
        return {"last_epoch": self.last_epoch, "ratios": list(self.ratios), **self._climb.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on at the saved step, and sets the optimizer's learning rates to that step's.

        Raises:
            InputError: the state is another scheduler's, or of an optimizer with another number of parameter groups.
        """
        if set(state_dict) != STATE:
            raise InputError(
                f"this is not the state of an AdaptiveWarmup, which has {sorted(STATE)}; it has {sorted(state_dict)}"
            )
        check_count(self.optimizer, state_dict["ratios"])
        self.last_epoch = state_dict["last_epoch"]
        self.ratios = list(state_dict["ratios"])
        self._climb.load(state_dict)
        self._last_lr = self.get_lr()
        set_lrs(self.optimizer, self._last_lr)
