"""A schedule that waits and is lowered while the run goes on."""

from __future__ import annotations

from typing import Any

from autowarmup.schedule.applicable import Applicable
from autowarmup.schedule.groups import ParameterGroup
from autowarmup.schedule.schedule import Schedule


class Plan(Applicable):
    """What is left of a schedule after interventions. Without any it is the schedule itself, to the bit.

    Steps of the run and steps of the schedule are the same until the warm-up is held. While it is held the schedule
    stays where it is; afterwards its decay is traversed faster, so that it still ends at the horizon.

    Args:
        schedule: what was planned.

    Attributes:
        held: steps for which the warm-up was held so far.
        factor: what every learning rate is multiplied by.

    Example:
        >>> plan = Plan(Schedule(peak=1.0, horizon=10, warmup_steps=4, shape="linear", decay="linear"))
        >>> plan.hold(2)
        >>> [round(plan.lr_at(step), 2) for step in range(2, 11)]
        [0.2, 0.4, 0.6, 0.8, 1.0, 0.67, 0.5, 0.33, 0.0]
        >>> plan.lower(0.5)
        >>> plan.lr_at(6)
        0.5
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.held = 0
        self.factor = 1.0

    @property
    def horizon(self) -> int:
        """Optimizer steps of the run."""
        return self.schedule.horizon

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """Those of the schedule."""
        return self.schedule.groups

    @property
    def room(self) -> int:
        """For how many steps more the warm-up can be held: at least half of the decay's steps are left to it."""
        return (self.schedule.horizon - self.schedule.duration) // 2 - self.held

    def warming_up(self, step: int) -> bool:
        """Whether the warm-up isn't over at this step of the run."""
        return step < self.schedule.duration + self.held

    def hold(self, steps: int) -> None:
        """Has the warm-up wait for so many steps, at most :attr:`room`."""
        self.held += min(steps, self.room)

    def return_to(self, position: int, step: int) -> None:
        """Has a step of the run be the schedule's step ``position``, where that is in the warm-up."""
        if position < self.schedule.duration:
            self.hold(self.position(step) - position)

    def lower(self, factor: float) -> None:
        """Multiplies all learning rates from now on."""
        self.factor *= factor

    def position(self, step: int) -> int:
        """The schedule's step at a step of the run."""
        duration, horizon = self.schedule.duration, self.schedule.horizon
        after = step - self.held - duration
        if after <= 0 or not self.held:
            return max(0, step - self.held)
        return duration + round(after * (horizon - duration) / (horizon - duration - self.held))

    def lr_at(self, step: int) -> float:
        """The learning rate of a step of the run, counted from 0."""
        return self.factor * self.schedule.lr_at(self.position(step))

    def rates_at(self, step: int) -> dict[str, float]:
        """The learning rate of each group, by its name."""
        return {name: self.factor * rate for name, rate in self.schedule.rates_at(self.position(step)).items()}

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"held": self.held, "factor": self.factor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with saved numbers."""
        self.held, self.factor = state_dict["held"], state_dict["factor"]
