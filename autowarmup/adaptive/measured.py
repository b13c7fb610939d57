"""A climb that is told the slopes by the optimizers that it is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autowarmup.adaptive.climb import Climb, ClimbSettings
from autowarmup.adaptive.slope import UpdateSlope
from autowarmup.schedule.schedule import Schedule

if TYPE_CHECKING:
    from torch.optim import Optimizer


class MeasuredClimb:
    """A climb, and what it needs to know of the training.

    Args:
        settings: see :class:`autowarmup.adaptive.climb.ClimbSettings`.
        optimizers: of PyTorch; those that train the model. Their slopes are added up.
    """

    def __init__(self, settings: ClimbSettings, optimizers: Sequence[Optimizer]) -> None:
        self._climb = Climb(settings)
        self._slopes = [UpdateSlope(optimizer) for optimizer in optimizers]
        self._stop_where_ended()

    @property
    def lr(self) -> float:
        """The learning rate of the step that comes next."""
        return self._climb.lr

    @property
    def schedule(self) -> Schedule | None:
        """After the warm-up, the schedule that comes nearest to what is applied."""
        return self._climb.schedule

    def advance(self) -> None:
        """A step has been made; one that a loss scaler skipped counts too. Waits for the device during the warm-up."""
        known = [slope for measured in self._slopes if (slope := measured.take()) is not None]
        self._climb.advance(sum(known) if known else None)
        self._stop_where_ended()

    def state(self) -> dict[str, Any]:
        """Plain numbers, and during the warm-up a copy of each optimizer's weights before its last update."""
        return {"climb": self._climb.state(), "before": [slope.state() for slope in self._slopes]}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on at a saved state."""
        self._climb.load(state["climb"])
        for slope, before in zip(self._slopes, state["before"], strict=True):
            slope.load(before)
        self._stop_where_ended()

    def _stop_where_ended(self) -> None:
        if self.schedule is not None:
            for slope in self._slopes:
                slope.stop()
