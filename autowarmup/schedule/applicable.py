"""What every plan from step to learning rate can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from autowarmup.schedule.groups import ParameterGroup

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from autowarmup.schedule.torch_scheduler import ScheduleLR


class Rates(Protocol):
    """A plan that knows the learning rate of each step of a run."""

    @property
    def horizon(self) -> int: ...

    @property
    def groups(self) -> tuple[ParameterGroup, ...]: ...

    def lr_at(self, step: int) -> float: ...

    def rates_at(self, step: int) -> dict[str, float]: ...


class Applicable:
    """What every plan from step to learning rate can do."""

    def curve(self: Rates) -> np.ndarray[Any, np.dtype[np.float64]]:
        """All rates, shape ``(horizon,)``: ``curve()[t] == lr_at(t)``, to the bit."""
        return np.fromiter((self.lr_at(step) for step in range(self.horizon)), np.float64, self.horizon)

    def scheduler(self: Rates, optimizer: Optimizer, last_step: int = -1, base_lr: float | None = None) -> ScheduleLR:
        """A ``torch.optim.lr_scheduler.LRScheduler`` that applies this schedule to ``optimizer``.

        Call its ``step()`` after each ``optimizer.step()``. The parameter group with the highest learning rate gets the
        schedule, the others keep their ratio to it. ``last_step`` is the number, counted from 0, of the last optimizer
        step that was made before; -1 for none. Where a run has several optimizers, make a scheduler for each and pass
        the highest learning rate of them all as ``base_lr``.

        A schedule with groups finds them by the ``"name"`` of the optimizer's parameter groups, as
        :meth:`Schedule.parameter_groups` makes them.
        """
        from autowarmup.schedule.grouped_scheduler import GroupedScheduleLR
        from autowarmup.schedule.torch_scheduler import ScheduleLR

        kind = GroupedScheduleLR if self.groups else ScheduleLR
        return kind(optimizer, self, last_epoch=last_step, base_lr=base_lr)
