"""A schedule as a PyTorch learning-rate scheduler."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autowarmup.errors import InputError


class HasRates(Protocol):
    """Anything that knows the rate of each step: a ``Schedule``."""

    def lr_at(self, step: int) -> float: ...


class ScheduleLR(LRScheduler):
    """Applies a schedule to an optimizer; what ``Schedule.scheduler`` returns.

    The parameter group with the highest rate gets the schedule's rate, the others keep their ratio to it. The
    state dict holds plain numbers only, and loading it sets the optimizer's rates at once: a run that resumes
    goes on where it was and does not warm up again, whichever of the two is loaded first.

    Args:
        optimizer: its groups' rates at construction give the ratios (their ``initial_lr`` where an earlier
            scheduler left one). Groups that are added later are refused.
        schedule: what to apply.
        last_epoch: the last optimizer step already made, -1 for none (the name is PyTorch's).

    Raises:
        InputError: no group has a learning rate above 0.

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

    def __init__(self, optimizer: Optimizer, schedule: HasRates, last_epoch: int = -1) -> None:
        rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        if not max(rates) > 0.0:
            raise InputError(f"no parameter group has a learning rate above 0: {rates}")
        self.schedule = schedule
        self.ratios = [rate / max(rates) for rate in rates]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["initial_lr"] = rate
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Any]:
        self._check_groups(self.ratios)
        rate = self.schedule.lr_at(self.last_epoch)
        return [rate * ratio for ratio in self.ratios]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: the step and the groups' ratios."""
        return {"last_epoch": self.last_epoch, "ratios": list(self.ratios)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on at the saved step, and sets the optimizer's rates to that step's.

        Raises:
            InputError: the state is of an optimizer with another number of parameter groups.
        """
        self._check_groups(state_dict["ratios"])
        self.last_epoch = state_dict["last_epoch"]
        self.ratios = list(state_dict["ratios"])
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            if isinstance(group["lr"], Tensor):  # a captured graph reads this very tensor
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _check_groups(self, ratios: list[float]) -> None:
        groups = len(self.optimizer.param_groups)
        if groups != len(ratios):
            raise InputError(
                f"the optimizer has {groups} parameter groups, the scheduler knows {len(ratios)}: "
                f"add every group before the scheduler is made"
            )
