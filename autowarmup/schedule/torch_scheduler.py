"""A schedule as a PyTorch learning-rate scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autowarmup.errors import InputError


class HasLR(Protocol):
    """Anything that knows the learning rate of each step: a ``Schedule``."""

    def lr_at(self, step: int) -> float: ...


class ScheduleLR(LRScheduler):
    """Applies a schedule to an optimizer; what ``Schedule.scheduler`` returns.

    The parameter group with the highest learning rate gets the schedule's, the others keep their ratio to it. The
    state dict holds plain numbers only, and loading it sets the optimizer's learning rates at once: a run that resumes
    goes on where it was and does not warm up again, whichever of the two is loaded first.

    Args:
        optimizer: its groups' learning rates at construction give the ratios (their ``initial_lr`` where an earlier
            scheduler left one). Groups that are added later are refused.
        schedule: what to apply.
        last_epoch: the last optimizer step already made, -1 for none (the name is PyTorch's).
        base_lr: the learning rate that the schedule stands for, where another optimizer of the run has a higher one
            than this; left out, the highest of this optimizer.

    Raises:
        InputError: no group has a learning rate above 0, or one has a higher one than ``base_lr``.

    Example:
        >>> import torch
        >>> from autowarmup import Schedule
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> schedule = Schedule(peak=1.0, horizon=10, warmup_steps=3, shape="linear")
        >>> scheduler = schedule.scheduler(optimizer)
        >>> optimizer.param_groups[0]["lr"]
        0.25
        >>> optimizer.step(); scheduler.step(); optimizer.param_groups[0]["lr"]
        0.5
    """

    def __init__(
        self, optimizer: Optimizer, schedule: HasLR, last_epoch: int = -1, base_lr: float | None = None
    ) -> None:
        lrs = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        self.ratios = lr_ratios(lrs, base_lr)
        self.schedule = schedule
        self.base_lr = max(lrs) if base_lr is None else base_lr
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["initial_lr"] = lr
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Any]:
        """The groups' learning rates at the step that comes next."""
        check_count(self.optimizer, self.ratios)
        lr = self.schedule.lr_at(self.last_epoch)
        return [lr * ratio for ratio in self.ratios]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: the step and the groups' ratios."""
        return {"last_epoch": self.last_epoch, "ratios": list(self.ratios)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on at the saved step, and sets the optimizer's learning rates to that step's.

        Raises:
            InputError: the state is another scheduler's, or of an optimizer with another number of parameter groups.
        """
        if not {"last_epoch", "ratios"} <= set(state_dict):
            raise InputError(
                f"this is not the state of a ScheduleLR, which has last_epoch and ratios; it has {sorted(state_dict)}. "
                f"To go on from another scheduler's run, make it anew: schedule.scheduler(optimizer, last_step=...)"
            )
        check_count(self.optimizer, state_dict["ratios"])
        self.ratios = list(state_dict["ratios"])
        self.apply(state_dict["last_epoch"])

    def apply(self, step: int) -> None:
        """Sets the optimizer's learning rates to those of a step, counted from 0."""
        self.last_epoch = step
        self._last_lr = self.get_lr()
        set_lrs(self.optimizer, self._last_lr)


def check_count(optimizer: Optimizer, ratios: Sequence[float]) -> None:
    """Refuses an optimizer with another number of parameter groups than there are ratios.

    Raises:
        InputError: it has.
    """
    groups = len(optimizer.param_groups)
    if groups != len(ratios):
        raise InputError(
            f"the optimizer has {groups} parameter groups, the scheduler knows {len(ratios)}: "
            f"add every group before the scheduler is made"
        )


def lr_ratios(lrs: Sequence[float], base_lr: float | None = None) -> list[float]:
    """Each parameter group's learning rate as a share of the highest, or of ``base_lr``.

    Raises:
        InputError: none is above 0, or one is above ``base_lr``.

    >>> lr_ratios([0.5, 2.0]), lr_ratios([0.5], base_lr=2.0)
    ([0.25, 1.0], [0.25])
    """
    if not max(lrs) > 0.0:
        raise InputError(f"no parameter group has a learning rate above 0: {list(lrs)}")
    highest = max(lrs) if base_lr is None else base_lr
    if not highest >= max(lrs):
        raise InputError(f"base_lr={base_lr!r} must be at least the optimizer's highest learning rate, {max(lrs)}")
    return [lr / highest for lr in lrs]


def set_lrs(optimizer: Optimizer, lrs: Sequence[float | Tensor]) -> None:
    """Sets the learning rates of all parameter groups, in their order."""
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        set_lr(group, lr)


def set_lr(group: dict[str, Any], lr: float | Tensor) -> None:
    """Sets a parameter group's learning rate; a tensor is filled in place, because captured graphs read it."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr
