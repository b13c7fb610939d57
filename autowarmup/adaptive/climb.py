"""The rule of a warm-up that adapts: from the slope of the loss along the last update to the next learning rate.

Along its last update, the loss is about a parabola. Its *critical rate* is the learning rate at which that update would
have left the loss as it was (Kalra & Barkeshli 2024, arXiv 2406.09405, appendix B; Kalra et al. 2026, arXiv
2601.16979). Half of it leads to the parabola's lowest point. So where the slope at the update's end still points
downhill, the critical rate is more than twice the learning rate: there is *headroom*. On the next batch the slope is
the product of its gradient with the update, so no forward pass is needed; hypergradient descent (Baydin et al. 2018,
arXiv 1703.04782) follows the same sign.

One batch says little, so the learning rate takes small steps: up where there is headroom, down by a third of that where
there is none. It settles where three of four updates go too far for the next batch. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from autowarmup.schedule.decays import Decay, LinearDecay
from autowarmup.schedule.duration import Duration, duration_steps
from autowarmup.schedule.schedule import Schedule
from autowarmup.values import Frozen, Number, Whole

DOUBLINGS = 10.0
"""How often the learning rate can double in the longest warm-up."""
FIRST = 1.0 / 8.0
"""The first learning rate as a share of the one that is used today."""
BACK = 1.0 / 3.0
"""A step down, as a share of a step up."""
SHAPES = ("exponential", "linear", "sqrt")
"""Of which the shape that comes nearest to a climb is one."""

Above0 = Annotated[Number, Field(gt=0.0)]


class ClimbSettings(Frozen):
    """What a climb is given.

    Args:
        total_steps: optimizer steps of the run, at least 10.
        longest: the longest warm-up, from one step to ``total_steps``: optimizer steps, or a share such as ``"40%"``.
        first_lr: the learning rate of the first step, > 0.
        peak: the highest learning rate that is allowed, > 0; None for any.
        decay: the curve after the warm-up, by name or with its settings.
        final_factor: the share of the peak that the decay ends at, 0 to 1.

    Raises:
        InputError: a value of the wrong type or out of its range, or settings that contradict one another.
    """

    total_steps: Whole = Field(ge=10)
    longest: Duration = "40%"
    first_lr: Above0
    peak: Above0 | None = None
    decay: Decay = Field(default_factory=LinearDecay)
    final_factor: Annotated[Number, Field(ge=0.0, le=1.0)] = 0.0

    @field_validator("decay", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not 1 <= self.longest_steps <= self.total_steps:
            raise ValueError(
                f"longest={self.longest!r} is {self.longest_steps} steps: must be from 1 to the total_steps, "
                f"{self.total_steps}"
            )
        self.followed_by_decay(self.first_lr, self.longest_steps, "linear")
        return self

    @property
    def longest_steps(self) -> int:
        """``longest`` in optimizer steps."""
        return duration_steps(self.longest, self.total_steps)

    def followed_by_decay(self, peak: float, warmup_steps: int, shape: str, start: float | None = None) -> Schedule:
        """A schedule with this warm-up and the given decay."""
        return Schedule(
            peak=peak, horizon=self.total_steps, warmup_steps=warmup_steps, shape=shape, start_factor=start,
            decay=self.decay, final_factor=self.final_factor,
        )  # fmt: skip

    def nearest(self, peak: float, warmup_steps: int, total: float) -> Schedule:
        """The schedule with this peak and duration whose learning rates in the warm-up come nearest to ``total`` in
        sum."""
        if warmup_steps == 0:
            return self.followed_by_decay(peak, 0, "none")
        start = min(1.0, self.first_lr / peak)
        found = [self.followed_by_decay(peak, warmup_steps, shape, start) for shape in SHAPES]
        return min(found, key=lambda schedule: abs(sum(map(schedule.lr_at, range(warmup_steps))) - total))

    def schedule_of(self, lrs: Sequence[float]) -> Schedule:
        """The nearest schedule to a climb, told by the learning rates of its first steps.

        Args:
            lrs: one for each step, 0 where a loss scaler skipped it. Where the warm-up goes on after them, the schedule
                is that of a warm-up which ends with the last one.

        Example:
            >>> settings = ClimbSettings(total_steps=100, longest=20, first_lr=1e-3)
            >>> settings.schedule_of([1e-3, 2e-3, 4e-3]).describe()
            'peak 0.004, exponential warm-up over 2 steps (2%) from 0.25 x peak, linear decay to 0 at step 100'
        """
        climbed = _without_gaps(lrs[: self.longest_steps + 1], self.first_lr)
        if not climbed:
            return self.nearest(min(self.first_lr, self.peak or math.inf), 0, 0.0)
        reached = (step for step, lr in enumerate(climbed) if self.peak is not None and lr >= self.peak)
        end = next(reached, len(climbed) - 1)
        return self.nearest(climbed[end], end, sum(climbed[:end]))


class Climb:
    """The learning rate of a run whose warm-up adapts, step by step.

    Args:
        settings: see :class:`ClimbSettings`.

    Attributes:
        step: the optimizer step that comes next, counted from 0.
        schedule: once the warm-up has ended, the nearest schedule: what comes next is exactly its decay.

    Example:
        >>> climb = Climb(ClimbSettings(total_steps=100, longest=20, first_lr=1e-3))
        >>> for _ in range(20):
        ...     climb.advance(slope=-1.0 if climb.lr < 4e-3 else 1.0)
        >>> climb.schedule.warmup_steps, round(climb.schedule.peak, 4)
        (20, 0.004)
        >>> for _ in range(80):
        ...     climb.advance(slope=None)
        >>> climb.lr
        0.0
    """

    def __init__(self, settings: ClimbSettings) -> None:
        self._settings = settings
        self.step = 0
        self.schedule: Schedule | None = None
        self._warmup_lr = settings.first_lr
        self._sum = 0.0
        self._end_where_due()

    @property
    def lr(self) -> float:
        """The learning rate of the step that comes next."""
        return self._warmup_lr if self.schedule is None else self.schedule.lr_at(self.step)

    def advance(self, slope: float | None) -> None:
        """Takes in a step that was made.

        Args:
            slope: of the loss along the update before it; only the sign counts, and what is not finite counts as
                uphill. None: not known; the learning rate stays as it is.
        """
        self.step += 1
        if self.schedule is not None:
            return
        self._sum += self._warmup_lr
        growth = math.log(2.0) * DOUBLINGS / self._settings.longest_steps
        if slope is not None and slope != 0.0:
            self._warmup_lr *= math.exp(growth if slope < 0.0 else -BACK * growth)
        self._end_where_due()

    def state(self) -> dict[str, Any]:
        """All that changes, as plain numbers."""
        schedule = None if self.schedule is None else self.schedule.model_dump(mode="json")
        return {"step": self.step, "lr": self._warmup_lr, "sum": self._sum, "schedule": schedule}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on at a saved state."""
        self.step, self._warmup_lr, self._sum = state["step"], state["lr"], state["sum"]
        self.schedule = None if state["schedule"] is None else Schedule.model_validate(state["schedule"])

    def _end_where_due(self) -> None:
        settings = self._settings
        reached = settings.peak is not None and self._warmup_lr >= settings.peak
        if reached or self.step >= settings.longest_steps:
            peak = settings.peak if reached and settings.peak is not None else self._warmup_lr
            self.schedule = settings.nearest(peak, self.step, self._sum)


def _without_gaps(lrs: Sequence[float], first_lr: float) -> list[float]:
    """The learning rates with those of steps that were skipped: a climb stays where it is then, so the step that comes
    next has it too."""
    known = next((lr for lr in reversed(lrs) if lr), first_lr)
    climbed = []
    for lr in reversed(lrs):
        known = lr or known
        climbed.append(known)
    return climbed[::-1]
