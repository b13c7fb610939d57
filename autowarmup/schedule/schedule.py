"""Schedules: the whole plan from optimizer step to learning rate, as pure arithmetic.

A schedule is a peak, a warm-up that climbs to it and a decay that leaves it, over a horizon::

    lr(t) = peak * warmup_factor(t) * decay_factor(t),    t = 0, 1, ..., horizon - 1

``warmup_steps`` is the number of steps *below* the peak: the peak is first applied at step ``warmup_steps``.
The decay starts there and reaches its final factor at step ``horizon``, one step after the run's last.
Everything here is a frozen value: it compares, hashes, pickles and goes through JSON. Nothing here imports
torch.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from numbers import Integral
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from autowarmup.errors import InputError
from autowarmup.schedule.decays import ConstantDecay, CosineDecay, Decay, ExponentialDecay
from autowarmup.schedule.shapes import Exponential, Linear, NoWarmup, Polynomial, Rule, Shape, UntunedLinear
from autowarmup.values import Frozen, Number, Whole, short

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from autowarmup.export.base import Export, Kind
    from autowarmup.schedule.torch_scheduler import ScheduleLR

FULL = 0.99
"""A rule's warm-up counts as over once it applies this share of the rate."""

Fraction = Annotated[Number, Field(ge=0.0, le=1.0)]


class Schedule(Frozen):
    """The whole plan step -> learning rate: warm-up, then decay, over a horizon.

    Args:
        peak: the highest learning rate, > 0.
        horizon: optimizer steps of the run, >= 1.
        warmup_steps: steps below the peak, from 0 to ``horizon``; the peak is first applied at this step.
            Left at 0 for ``shape="none"`` and for the rules, whose duration follows from ``beta2``. For a
            duration in epochs or percent see :func:`duration_steps`.
        shape: the warm-up's curve, by name (``"linear"``) or with its settings (``Polynomial(power=3)``).
        start_factor: the first step's rate as a fraction of the peak, 0 to 1. Left out, the curve starts one
            step in (an exponential one at 1%), so that the first step's rate is never 0. Rules have none.
        decay: the curve after the warm-up, by name or with its settings.
        final_factor: the fraction of the peak that the decay ends at, 0 to 1.

    Raises:
        InputError: a value of the wrong type or out of its range, or settings that contradict one another.

    Example:
        >>> schedule = Schedule(peak=0.01, horizon=100, warmup_steps=4, shape="linear", decay="constant")
        >>> [round(schedule.lr_at(step), 4) for step in range(6)]
        [0.002, 0.004, 0.006, 0.008, 0.01, 0.01]
        >>> Schedule.model_validate_json(schedule.model_dump_json()) == schedule
        True
    """

    peak: Number = Field(gt=0.0)
    horizon: Whole = Field(ge=1)
    warmup_steps: Whole = Field(default=0, ge=0)
    shape: Shape = Field(default_factory=NoWarmup)
    start_factor: Fraction | None = None
    decay: Decay = Field(default_factory=CosineDecay)
    final_factor: Fraction = 0.0

    @field_validator("shape", "decay", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.shape, NoWarmup | Rule):
            if self.warmup_steps or self.start_factor is not None:
                instead = "; for a warm-up give a shape, such as 'linear'" if isinstance(self.shape, NoWarmup) else ""
                raise ValueError(
                    f"shape {self.shape.kind!r} takes no warmup_steps and no start_factor, "
                    f"got warmup_steps={self.warmup_steps}, start_factor={self.start_factor}{instead}"
                )
        elif self.warmup_steps == 0:
            raise ValueError(
                f"shape {self.shape.kind!r} needs warmup_steps >= 1, got 0; for no warm-up use shape 'none'"
            )
        if self.warmup_steps > self.horizon:
            raise ValueError(f"warmup_steps={self.warmup_steps} is longer than the horizon of {self.horizon} steps")
        if isinstance(self.shape, Exponential) and self.start_factor == 0.0:
            raise ValueError("an exponential warm-up can't start at 0: start_factor must be above 0")
        if isinstance(self.decay, ExponentialDecay) and self.final_factor == 0.0:
            raise ValueError("an exponential decay can't end at 0: final_factor must be above 0")
        return self

    @classmethod
    def untuned_linear(cls, peak: float, horizon: int, beta2: float = 0.999, **decay: Any) -> Self:
        """The untuned linear rule, clipped to half the horizon where it asks for more.

        With ``beta2 = 0.999`` the rule wants 2,000 steps, longer than many whole runs; half the horizon is
        the longest warm-up that still leaves the decay as long as itself. ``decay`` takes ``decay`` and
        ``final_factor``.

        >>> Schedule.untuned_linear(peak=0.1, horizon=10_000, beta2=0.98).duration
        99
        >>> Schedule.untuned_linear(peak=0.1, horizon=300, beta2=0.999).duration
        150
        """
        rule = UntunedLinear(beta2=beta2)
        if rule.tau <= horizon // 2:
            return cls(peak=peak, horizon=horizon, shape=rule, **decay)
        return cls(peak=peak, horizon=horizon, warmup_steps=max(1, horizon // 2), shape=Linear(), **decay)

    @property
    def duration(self) -> int:
        """Warm-up duration in steps: those below the peak; for a rule, those below what it multiplies (99% of
        it for the rules that only approach it), at most the horizon."""
        if not isinstance(self.shape, Rule):
            return self.warmup_steps
        return _rule_duration(self.shape, self.horizon)

    def lr_at(self, step: int) -> float:
        """The learning rate of optimizer step ``step``, counted from 0. Constant from the horizon on.

        Raises:
            InputError: ``step`` is not a whole number, or negative.
        """
        if not isinstance(step, Integral) or step < 0:
            raise InputError(f"step={short(step)}: must be a whole number, counted from 0")
        step = min(step, self.horizon)
        rate = self.peak * self.shape.share(step, self)
        return rate if step < self.warmup_steps else rate * self.decay.share(step, self)

    def curve(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """All rates, shape ``(horizon,)``: ``curve()[t] == lr_at(t)``, to the bit."""
        return np.fromiter((self.lr_at(step) for step in range(self.horizon)), np.float64, self.horizon)

    def scheduler(self, optimizer: Optimizer, last_step: int = -1, base_lr: float | None = None) -> ScheduleLR:
        """A ``torch.optim.lr_scheduler.LRScheduler`` that applies this schedule to ``optimizer``.

        Call its ``step()`` after each ``optimizer.step()``. The group with the highest learning rate gets the
        schedule, the others keep their ratio to it. ``last_step`` is the number, counted from 0, of the last
        optimizer step that was made before; -1 for none. Where a run has several optimizers, make a scheduler
        for each and pass the highest learning rate of them all as ``base_lr``.
        """
        from autowarmup.schedule.torch_scheduler import ScheduleLR

        return ScheduleLR(optimizer, self, last_epoch=last_step, base_lr=base_lr)

    def export(self, framework: str, kind: Kind = "code", exact: bool = False, tolerance: float = 1e-6) -> Export:
        """This schedule written down for a framework, such as ``"transformers"`` or ``"keras"``.

        Args:
            framework: its name; a wrong one is answered with those that are known.
            kind: ``"code"`` is Python that applies any schedule and needs no autowarmup. ``"config"`` is a schedule of
                the framework's own with its settings, the nearest there is.
            exact: whether to refuse a deviation above ``tolerance``.
            tolerance: the largest deviation that is taken as exact, as a share of the peak, from 0 to 1.

        Raises:
            InputError: an unknown framework, one without schedules of its own near this one, or a deviation above
                ``tolerance`` where ``exact`` is asked for.

        Example:
            >>> schedule = Schedule(peak=3e-3, horizon=300, warmup_steps=60, shape="sqrt")
            >>> exported = schedule.export("lightning")
            >>> exported.exact, "def configure_optimizers(self):" in exported.code
            (True, True)
        """
        from autowarmup.export.exporting import export

        return export(self, framework, kind, exact, tolerance)

    def describe(self) -> str:
        """One line for people.

        >>> Schedule(peak=3e-3, horizon=300, warmup_steps=60, shape="linear").describe()
        'peak 0.003, linear warm-up over 60 steps (20%), cosine decay to 0 at step 300'
        """
        shape: str = self.shape.kind
        if isinstance(self.shape, Polynomial):
            shape += f" (power {self.shape.power:g})"
        warmup = "no warm-up"
        if self.duration:
            warmup = f"{shape} warm-up over {self.duration:,} steps ({self.duration / self.horizon:.0%})"
        if self.start_factor is not None:
            warmup += f" from {self.start_factor:g} x peak"
        if isinstance(self.decay, ConstantDecay):
            return f"peak {self.peak:.4g}, {warmup}, no decay, {self.horizon:,} steps"
        return (
            f"peak {self.peak:.4g}, {warmup}, {self.decay.kind} decay to {self.lr_at(self.horizon):.3g} "
            f"at step {self.horizon:,}"
        )


@lru_cache
def _rule_duration(rule: Rule, horizon: int) -> int:
    full = 1.0 if isinstance(rule, UntunedLinear) else FULL
    return bisect_left(range(horizon), full, key=rule.factor)
