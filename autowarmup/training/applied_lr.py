"""Whether a training loop of the user's own applies the schedule that it was given."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import PrivateAttr

from autowarmup.errors import InputError
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.step_rates import on_each_step

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from autowarmup.adaptive.scheduler import AdaptiveWarmup
    from autowarmup.schedule.torch_scheduler import ScheduleLR

MIN_STEPS = 10
"""Reports after which most of them must have seen an optimizer step. A loss scaler skips some of the first."""

MAX_JUMPS = 3
"""Reports in a row between which ``lr_at`` moved on by more than one step."""


class AppliedLR:
    """Observes a loop's learning rates: those that its optimizers apply, where it uses ``schedule.scheduler``; those
    that it asks for with ``schedule.lr_at``; those that it reports.

    Args:
        schedule: what it is to apply.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.used = self.used_by_group = False
        self._schedulers: list[ScheduleLR] = []
        self._applied: list[tuple[str | None, float]] = []
        self._steps = self._missed = 0
        self._asked = self._asked_before = -1
        self._jumps = 0

    def asked(self, step: int | None = None, *, by_group: bool = False) -> None:
        """The loop asked for the learning rate of a step, or of all steps; or for that of each group."""
        self.used = True
        self.used_by_group |= by_group
        if step is not None and step < self.schedule.horizon:
            self._asked = step

    def scheduler(self, optimizer: Optimizer, last_step: int, base_lr: float | None) -> LRScheduler:
        """What the loop gets to apply the schedule to an optimizer.

        Raises:
            InputError: it made one for another optimizer before, and both would get the same learning rate although
                they have different ones.
        """
        scheduler = self.schedule.scheduler(optimizer, last_step, base_lr)
        self.used = self.used_by_group = True
        bases = sorted({known.base_lr for known in (*self._schedulers, scheduler)})
        if not math.isclose(bases[0], bases[-1]):
            raise InputError(
                f"two optimizers with learning rates of {bases[-1]:g} and {bases[0]:g} would both get the schedule's. "
                f"Pass the highest to each scheduler, run.schedule.scheduler(optimizer, base_lr={bases[-1]:g}): the "
                f"others then keep their ratio to it"
            )
        self._schedulers.append(scheduler)
        on_each_step(optimizer, partial(self._observe, scheduler))
        return scheduler

    def of_step(self, step: int, reported: float | None) -> float:
        """The learning rate of a step that the loop reports: the one that its optimizers applied, or else the one that
        it reports, or else the schedule's.

        Raises:
            InputError: it isn't the schedule's, or nothing tells which it is.
        """
        if reported is not None and not 0.0 <= reported < math.inf:
            raise InputError(f"report(lr={reported!r}): a learning rate must be at least 0 and finite")
        if not self.used and reported is None:
            raise InputError(
                "train_fn doesn't use the schedule: make a scheduler with run.schedule.scheduler(optimizer), or set "
                "each step's learning rate to run.schedule.lr_at(step). Where something else applies it, report the "
                "learning rates: run.report(loss, lr=...)"
            )
        if self.schedule.groups and not self.used_by_group:
            raise InputError(
                "train_fn uses one learning rate for all parameters, and the schedule has groups: make a scheduler "
                "with run.schedule.scheduler(optimizer), or set each group's learning rate to "
                "run.schedule.rates_at(step)"
            )
        applied, self._applied = self._applied, []
        if self._schedulers:
            self._check_steps(step, applied)
        if applied:
            self._check_applied(step, applied)
            top = self.schedule.groups[-1].name if self.schedule.groups else None
            return max((rate for name, rate in applied if name == top), default=self.schedule.lr_at(step))
        if reported is not None:
            self._check_reported(step, reported)
            return reported
        self._check_asked(step)
        return self.schedule.lr_at(step)

    def _observe(self, scheduler: ScheduleLR | AdaptiveWarmup, rates: list[float]) -> None:
        """Called before each step of an optimizer. Without groups one learning rate tells of all."""
        if self.schedule.groups:
            named = zip(scheduler.optimizer.param_groups, scheduler.ratios, rates, strict=False)
            self._applied += [(group["name"], rate / ratio) for group, ratio, rate in named if ratio]
            return
        ratio, rate = max(zip(scheduler.ratios, rates, strict=False), key=lambda pair: pair[0])
        self._applied.append((None, rate / ratio))

    def _check_steps(self, step: int, applied: list[tuple[str | None, float]]) -> None:
        self._steps += bool(applied)
        self._missed += not applied
        if self._steps and step + 1 >= MIN_STEPS and self._missed > self._steps:
            raise InputError(
                f"train_fn reported {step + 1} steps, and its optimizers made {self._steps}: it must report once after "
                f"each optimizer step, not after each batch"
            )

    def _check_applied(self, step: int, applied: list[tuple[str | None, float]]) -> None:
        """After steps that a loss scaler skipped, the scheduler may lag behind the loop."""
        expected: dict[str | None, float] = {None: self.schedule.lr_at(step)}
        expected.update(self.schedule.rates_at(step))
        wrong = (
            []
            if self._missed
            else [
                (name, lr) for name, lr in applied if not math.isclose(lr, expected[name], rel_tol=1e-4, abs_tol=1e-12)
            ]
        )
        if wrong:
            name, lr = wrong[0]
            where = "" if name is None else f" in group {name!r}"
            made = max(scheduler.last_epoch for scheduler in self._schedulers)
            raise InputError(
                f"step {step + 1} was made with a learning rate of {lr:.4g}{where}, the schedule's is "
                f"{expected[name]:.4g}. "
                f"The scheduler's step() was called {made} times: call it once after each optimizer step, report each "
                f"optimizer step, and change the learning rate nowhere else"
            )

    def _check_reported(self, step: int, reported: float) -> None:
        """0 is a skipped step. The steps before and after count too: some schedulers are one step ahead or behind."""
        near = [self.schedule.lr_at(max(0, step + shift)) for shift in (-1, 0, 1)]
        if reported != 0.0 and not 0.99 * min(near) <= reported <= 1.01 * max(near):
            raise InputError(
                f"step {step + 1} is reported with a learning rate of {reported:.4g}, the schedule's is {near[1]:.4g}: "
                f"apply the schedule to every optimizer step, report each of them, and report the highest learning "
                f"rate where parameter groups have several"
            )

    def _check_asked(self, step: int) -> None:
        moved = self._asked - self._asked_before
        self._asked_before = self._asked
        self._jumps = self._jumps + 1 if moved > 1 else 0
        if self._jumps >= MAX_JUMPS:
            raise InputError(
                f"run.schedule.lr_at was last asked for step {self._asked}, and the loop reports step {step}: it must "
                f"report every optimizer step, counted from 0 for lr_at"
            )


class RunSchedule(Schedule):
    """The schedule that a loop gets: a ``Schedule`` whose use is observed. Copied or pickled it is a plain one."""

    _observer: AppliedLR = PrivateAttr()

    @classmethod
    def observed(cls, observer: AppliedLR) -> RunSchedule:
        """The observer's schedule."""
        made = cls.model_validate(observer.schedule.model_dump())
        made._observer = observer
        return made

    def lr_at(self, step: int) -> float:
        """See :meth:`Schedule.lr_at`."""
        self._observer.asked(step)
        return self._observer.schedule.lr_at(step)

    def rates_at(self, step: int) -> dict[str, float]:
        """See :meth:`Schedule.rates_at`."""
        self._observer.asked(step, by_group=True)
        return self._observer.schedule.rates_at(step)

    def curve(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """See :meth:`Schedule.curve`."""
        self._observer.asked()
        return self._observer.schedule.curve()

    def curves(self) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
        """See :meth:`Schedule.curves`."""
        self._observer.asked(by_group=True)
        return self._observer.schedule.curves()

    def scheduler(self, optimizer: Optimizer, last_step: int = -1, base_lr: float | None = None) -> Any:
        """See :meth:`Schedule.scheduler`."""
        return self._observer.scheduler(optimizer, last_step, base_lr)

    def describe(self) -> str:
        """See :meth:`Schedule.describe`."""
        return self._observer.schedule.describe()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.model_dump() == other.model_dump()

    __hash__ = Schedule.__hash__

    def __reduce__(self) -> Any:
        return Schedule.model_validate, (self._observer.schedule.model_dump(),)

    def __copy__(self) -> Any:
        return self._observer.schedule.model_copy()

    def __deepcopy__(self, memo: Any = None) -> Any:
        return self._observer.schedule.model_copy()
