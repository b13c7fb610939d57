"""What every plan from step to learning rate can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from autowarmup.schedule.torch_scheduler import ScheduleLR


class Rates(Protocol):
    """A plan that knows the learning rate of each step of a run."""

    @property
    def horizon(self) -> int: ...

    def lr_at(self, step: int) -> float: ...


class Applicable:
    """What every plan from step to learning rate can do."""

    def curve(self: Rates) -> np.ndarray[Any, np.dtype[np.float64]]:
        """All rates, shape ``(horizon,)``: ``curve()[t] == lr_at(t)``, to the bit."""
        return np.fromiter((self.lr_at(step) for step in range(self.horizon)), np.float64, self.horizon)

    def scheduler(self: Rates, optimizer: Optimizer, last_step: int = -1, base_lr: float | None = None) -> ScheduleLR:
        """A ``torch.optim.lr_scheduler.LRScheduler`` that applies this schedule to ``optimizer``.

        Call its ``step()`` after each ``optimizer.step()``. The group with the highest learning rate gets the
        schedule, the others keep their ratio to it. ``last_step`` is the number, counted from 0, of the last
        optimizer step that was made before; -1 for none. Where a run has several optimizers, make a scheduler
        for each and pass the highest learning rate of them all as ``base_lr``.
        """
        from autowarmup.schedule.torch_scheduler import ScheduleLR

        return ScheduleLR(optimizer, self, last_epoch=last_step, base_lr=base_lr)
