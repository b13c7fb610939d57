"""A schedule with groups as a PyTorch learning-rate scheduler."""

from __future__ import annotations

from typing import Any, Protocol

from torch.optim import Optimizer

from autowarmup.errors import InputError
from autowarmup.schedule.groups import checked_name
from autowarmup.schedule.torch_scheduler import HasLR, ScheduleLR, check_count, set_lr


class HasRates(HasLR, Protocol):
    """A schedule that knows the learning rate of each of its groups."""

    def rates_at(self, step: int) -> dict[str, float]: ...


class GroupedScheduleLR(ScheduleLR):
    """Applies a schedule with groups to an optimizer whose parameter groups have their names; what
    ``Schedule.scheduler`` returns for one.

    A parameter group gets the learning rate of the schedule's group of that name, times the ratio of its own learning
    rate to the highest. Several may have one name, such as those with and without weight decay. Parameter groups that
    are added later get theirs too, from the next optimizer step on.

    Args:
        optimizer: each of its parameter groups has the ``"name"`` of a group of the schedule.
        schedule: what to apply.
        last_epoch: as for :class:`ScheduleLR`.
        base_lr: as for :class:`ScheduleLR`.

    Raises:
        InputError: a parameter group without a name, or with an unknown one; or as for :class:`ScheduleLR`.
    """

    schedule: HasRates

    def __init__(
        self, optimizer: Optimizer, schedule: HasRates, last_epoch: int = -1, base_lr: float | None = None
    ) -> None:
        self.names = list(schedule.rates_at(0))
        for group in optimizer.param_groups:
            checked_name(group, self.names)
        super().__init__(optimizer, schedule, last_epoch, base_lr)
        optimizer.register_step_pre_hook(self._before_step)

    def get_lr(self) -> list[float | Any]:
        """The groups' learning rates at the step that comes next."""
        self._take_new_groups()
        check_count(self.optimizer, self.ratios)
        rates = self.schedule.rates_at(self.last_epoch)
        groups = self.optimizer.param_groups
        return [
            rates[checked_name(group, self.names)] * ratio for group, ratio in zip(groups, self.ratios, strict=True)
        ]

    def _before_step(self, *_: Any) -> None:
        """Called before each step of the optimizer: a group that was added since takes part in it."""
        known = len(self.ratios)
        if len(self.optimizer.param_groups) > known:
            self._last_lr = self.get_lr()
            for group, lr in zip(self.optimizer.param_groups[known:], self._last_lr[known:], strict=True):
                set_lr(group, lr)

    def _take_new_groups(self) -> None:
        for group in self.optimizer.param_groups[len(self.ratios) :]:
            checked_name(group, self.names)
            lr = float(group.get("initial_lr", group["lr"]))
            if not lr <= self.base_lr:
                raise InputError(
                    f"a parameter group was added with a learning rate of {lr:g}, above the highest of those that the "
                    f"scheduler was made with, {self.base_lr:g}"
                )
            group["initial_lr"] = lr
            self.ratios.append(lr / self.base_lr)
