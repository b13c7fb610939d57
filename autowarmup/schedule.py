"""Schedules: the whole plan from optimizer step to learning rate, as pure arithmetic.

A schedule is a peak, a warm-up that climbs to it and a decay that leaves it, over a horizon::

    lr(t) = peak * warmup_factor(t) * decay_factor(t),    t = 0, 1, ..., horizon - 1

``warmup_steps`` is the number of steps *below* the peak: the peak is first applied at step ``warmup_steps``.
The decay starts there and reaches its final factor at step ``horizon``, one step after the run's last.
Everything here is a frozen value: it compares, hashes, pickles and goes through JSON. Nothing here imports
torch.
"""

from __future__ import annotations

import math
import re
import reprlib
from abc import abstractmethod
from bisect import bisect_left
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from autowarmup.errors import InputError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from autowarmup.scheduler import ScheduleLR

FULL = 0.99
"""A rule's warm-up counts as over once it applies this share of the rate."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Beta2 = Annotated[float, Field(ge=0.0, lt=1.0)]


def _half_wave(progress: float) -> float:
    """``(1 - cos(pi * progress)) / 2``, accurate near 0 too, where the difference would cancel."""
    sine = math.sin(0.5 * math.pi * progress)
    return sine * sine


class Frozen(BaseModel):
    """A value: immutable, without unknown keys, without NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# --- Warm-up shapes: the share of the peak that a step applies --------------------------------------------


class NoWarmup(Frozen):
    """The peak from the first step on."""

    kind: Literal["none"] = "none"

    def share(self, step: int, plan: Schedule) -> float:
        return 1.0


class Ramp(Frozen):
    """A curve from the start factor up to the peak, over ``warmup_steps``."""

    @abstractmethod
    def climb(self, progress: float) -> float:
        """The height of the curve, from 0 to 1, at a progress from 0 to 1."""

    def share(self, step: int, plan: Schedule) -> float:
        steps, start = plan.warmup_steps, plan.start_factor
        if step >= steps:
            return 1.0
        if start is None:
            return self.climb((step + 1) / (steps + 1))
        return start + (1.0 - start) * self.climb(step / steps)


class Linear(Ramp):
    """A straight line: the polynomial of power 1."""

    kind: Literal["linear"] = "linear"

    def climb(self, progress: float) -> float:
        return progress


class Polynomial(Ramp):
    """``progress ** power``: below 1 steep at first (0.5 is the square root), above 1 slow at first."""

    kind: Literal["polynomial"] = "polynomial"
    power: float = Field(default=2.0, gt=0.0, le=10.0)

    def climb(self, progress: float) -> float:
        return math.pow(progress, self.power)


class Sqrt(Ramp):
    """The square root: the polynomial of power 0.5."""

    kind: Literal["sqrt"] = "sqrt"

    def climb(self, progress: float) -> float:
        return math.sqrt(progress)


class Cosine(Ramp):
    """Half a cosine wave, ``(1 - cos(pi * progress)) / 2``: slow at both ends."""

    kind: Literal["cosine"] = "cosine"

    def climb(self, progress: float) -> float:
        return _half_wave(progress)


class Exponential(Frozen):
    """Geometric growth: every step multiplies the rate by the same number. Starts at 1% of the peak unless
    told."""

    kind: Literal["exponential"] = "exponential"

    def share(self, step: int, plan: Schedule) -> float:
        if step >= plan.warmup_steps:
            return 1.0
        start = 0.01 if plan.start_factor is None else plan.start_factor
        return math.pow(start, 1.0 - step / plan.warmup_steps)


# --- Rules: shapes that need no search, because beta2 fixes their duration -------------------------------


class Rule(Frozen):
    """A shape whose duration follows from Adam's ``beta2``. It multiplies the rate at every step, decay
    included, as it would if it were built into the optimizer."""

    beta2: Beta2 = 0.999

    @abstractmethod
    def factor(self, step: int) -> float:
        """The share of the rate that step ``step``, counted from 0, applies."""

    def share(self, step: int, plan: Schedule) -> float:
        return self.factor(step)


class UntunedLinear(Rule):
    """``min(1, (t+1)/tau)``, ``tau = round(2/(1-beta2))``. Ma & Yarats 2019, arXiv 1910.04209."""

    kind: Literal["untuned-linear"] = "untuned-linear"

    @property
    def tau(self) -> int:
        return round(2.0 / (1.0 - self.beta2))

    def factor(self, step: int) -> float:
        return min(1.0, (step + 1) / self.tau)


class UntunedExponential(Rule):
    """``1 - exp(-(t+1)/tau)``, ``tau = 1/(1-beta2)``. Ma & Yarats 2019, arXiv 1910.04209."""

    kind: Literal["untuned-exponential"] = "untuned-exponential"

    def factor(self, step: int) -> float:
        return -math.expm1(-(step + 1) * (1.0 - self.beta2))


class RAdam(Rule):
    """The variance rectification of Liu et al. 2019, arXiv 1908.03265, algorithm 2::

        sqrt((rho_t - 4) * (rho_t - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho_t)),
        rho_t = rho_inf - 2 * t * beta2^t / (1 - beta2^t),  rho_inf = 2 / (1 - beta2) - 1,  t counted from 1

    It is undefined while ``rho_t <= 4``, the first four steps. There RAdam falls back to plain momentum,
    which no learning rate of Adam expresses: those steps apply the first factor that is defined.
    """

    kind: Literal["radam"] = "radam"

    @field_validator("beta2")
    @classmethod
    def _defined(cls, beta2: float) -> float:
        if 2.0 / (1.0 - beta2) - 1.0 <= 4.0:
            raise ValueError(f"RAdam's rectification needs beta2 > 0.6, got {beta2}")
        return beta2

    def factor(self, step: int) -> float:
        rho_inf = 2.0 / (1.0 - self.beta2) - 1.0
        t = step + 1
        while (rho := self._rho(t, rho_inf)) <= 4.0:
            t += 1
        return math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))

    def _rho(self, t: int, rho_inf: float) -> float:
        power = self.beta2**t
        return rho_inf - 2.0 * t * power / (1.0 - power)


class GIAdam(Rule):
    """``sqrt(1 - beta2^(t+1))``, the warm-up inside GI-Adam. Kalra & Barkeshli 2024, arXiv 2406.09405.

    GI-Adam is Adam whose second moment starts at the first squared gradient. The bias correction is then not
    needed, and what it still does is to multiply the rate by this factor. On plain Adam the schedule gives
    GI-Adam's updates as long as the gradients keep their magnitudes, and close ones after that.
    """

    kind: Literal["gi-adam"] = "gi-adam"

    def factor(self, step: int) -> float:
        return math.sqrt(1.0 - self.beta2 ** (step + 1))


Shape = Annotated[
    NoWarmup | Linear | Polynomial | Sqrt | Exponential | Cosine | UntunedLinear | UntunedExponential | RAdam | GIAdam,
    Field(discriminator="kind"),
]

# --- Decays: the share of the peak that is left, from 1 (end of the warm-up) to the final factor (horizon) --


def _left(step: int, plan: Schedule) -> float:
    """How much of the decay lies ahead, from 1 at the end of the warm-up to 0 at the horizon."""
    return (plan.horizon - step) / max(1, plan.horizon - plan.warmup_steps)


def _between(final: float, height: float) -> float:
    return final + (1.0 - final) * height


class CosineDecay(Frozen):
    """Half a cosine wave down to the final factor. Loshchilov & Hutter 2016, arXiv 1608.03983, equation 5."""

    kind: Literal["cosine"] = "cosine"

    def share(self, step: int, plan: Schedule) -> float:
        return _between(plan.final_factor, _half_wave(_left(step, plan)))


class LinearDecay(Frozen):
    """A straight line down to the final factor."""

    kind: Literal["linear"] = "linear"

    def share(self, step: int, plan: Schedule) -> float:
        return _between(plan.final_factor, _left(step, plan))


class ExponentialDecay(Frozen):
    """Geometric decay down to the final factor, which must be above 0."""

    kind: Literal["exponential"] = "exponential"

    def share(self, step: int, plan: Schedule) -> float:
        return math.pow(plan.final_factor, 1.0 - _left(step, plan))


class InverseSqrtDecay(Frozen):
    """``sqrt(s / (s + t))``, ``t`` steps after the peak, not below the final factor.

    ``timescale`` is ``s``, in steps. Left out, it counts the steps up to and including the first one at the
    peak; with a linear warm-up this is the schedule of Vaswani et al. 2017, arXiv 1706.03762, section 5.3.
    """

    kind: Literal["inverse-sqrt"] = "inverse-sqrt"
    timescale: int | None = Field(default=None, ge=1)

    def share(self, step: int, plan: Schedule) -> float:
        scale = self.timescale or plan.duration + 1
        return max(plan.final_factor, math.sqrt(scale / (scale + step - plan.warmup_steps)))


class ConstantDecay(Frozen):
    """No decay: the peak to the end, whatever the final factor."""

    kind: Literal["constant"] = "constant"

    def share(self, step: int, plan: Schedule) -> float:
        return 1.0


class WarmupStableDecay(Frozen):
    """The peak, then a straight line to the final factor over the last ``cooldown`` share of the horizon, or
    from the end of the warm-up where that is later. Hu et al. 2024 (MiniCPM), arXiv 2404.06395; the linear
    cool-down of Hägele et al. 2024, arXiv 2405.18392."""

    kind: Literal["wsd"] = "wsd"
    cooldown: float = Field(default=0.2, gt=0.0, le=1.0)

    def share(self, step: int, plan: Schedule) -> float:
        length = max(1.0, min(self.cooldown * plan.horizon, plan.horizon - plan.warmup_steps))
        return _between(plan.final_factor, min(1.0, (plan.horizon - step) / length))


Decay = Annotated[
    CosineDecay | LinearDecay | ExponentialDecay | InverseSqrtDecay | ConstantDecay | WarmupStableDecay,
    Field(discriminator="kind"),
]


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
        ValidationError: (a ``ValueError``) a value out of its range, or settings that contradict one another.

    Example:
        >>> schedule = Schedule(peak=0.01, horizon=100, warmup_steps=4, shape="linear", decay="constant")
        >>> [round(schedule.lr_at(step), 4) for step in range(6)]
        [0.002, 0.004, 0.006, 0.008, 0.01, 0.01]
        >>> Schedule.model_validate_json(schedule.model_dump_json()) == schedule
        True
    """

    peak: float = Field(gt=0.0)
    horizon: int = Field(ge=1)
    warmup_steps: int = Field(default=0, ge=0)
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
                raise ValueError(
                    f"shape {self.shape.kind!r} takes no warmup_steps and no start_factor, "
                    f"got warmup_steps={self.warmup_steps}, start_factor={self.start_factor}"
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
            InputError: ``step`` is negative.
        """
        if step < 0:
            raise InputError(f"step={step}: steps are counted from 0")
        step = min(step, self.horizon)
        rate = self.peak * self.shape.share(step, self)
        return rate if step < self.warmup_steps else rate * self.decay.share(step, self)

    def curve(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """All rates, shape ``(horizon,)``: ``curve()[t] == lr_at(t)``, to the bit."""
        return np.fromiter((self.lr_at(step) for step in range(self.horizon)), np.float64, self.horizon)

    def scheduler(self, optimizer: Optimizer, last_step: int = -1) -> ScheduleLR:
        """A ``torch.optim.lr_scheduler.LRScheduler`` that applies this schedule to ``optimizer``.

        Call its ``step()`` after each ``optimizer.step()``. The group with the highest rate gets the
        schedule, the others keep their ratio to it. ``last_step`` is the number, counted from 0, of the last
        optimizer step that was made before; -1 for none.
        """
        from autowarmup.scheduler import ScheduleLR

        return ScheduleLR(optimizer, self, last_epoch=last_step)

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


Duration = int | float | str
"""A duration as people write it: ``500`` steps, ``"10%"`` of the horizon, ``"2 epochs"``."""

_DURATION = re.compile(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*(%|epochs?|steps?|)\s*")


def parse_duration(duration: Duration) -> tuple[float, Literal["step", "%", "epoch"]]:
    """The amount and the unit of a duration.

    Raises:
        InputError: not a duration, or above 100%.

    Example:
        >>> parse_duration(500), parse_duration("2.5 %"), parse_duration("2 epochs")
        ((500.0, 'step'), (2.5, '%'), (2.0, 'epoch'))
    """
    match = _DURATION.fullmatch(str(duration))
    if match is None:
        raise InputError(
            f"duration {reprlib.repr(duration)} is not a number of steps such as 500, a share of the horizon "
            f"such as '10%', or '2 epochs'"
        )
    amount, unit = float(match[1]), match[2]
    if unit == "%":
        if amount > 100.0:
            raise InputError(f"duration {duration!r} is longer than the horizon: a share is from 0% to 100%")
        return amount, "%"
    if unit.startswith("epoch"):
        return amount, "epoch"
    if not amount.is_integer():
        raise InputError(f"duration {duration!r}: steps are whole numbers; for a share of the horizon write '10%'")
    return amount, "step"


def duration_steps(duration: Duration, horizon: int, steps_per_epoch: int | None = None) -> int:
    """``duration`` in optimizer steps.

    Args:
        duration: ``500`` or ``"500 steps"``, ``"10%"`` of ``horizon``, ``"2 epochs"`` or ``"0.5 epochs"``.
        horizon: optimizer steps of the run.
        steps_per_epoch: optimizer steps of an epoch; needed where the duration is in epochs.

    Raises:
        InputError: not a duration, negative, above 100%, or in epochs without ``steps_per_epoch``.

    Example:
        >>> duration_steps("10%", horizon=300), duration_steps("2 epochs", 300, steps_per_epoch=40)
        (30, 80)
    """
    amount, unit = parse_duration(duration)
    if unit == "%":
        return round(amount / 100.0 * horizon)
    if unit == "step":
        return int(amount)
    if steps_per_epoch is None:
        raise InputError(f"duration {duration!r} is in epochs: steps_per_epoch is needed to turn it into steps")
    return round(amount * steps_per_epoch)


__all__ = [
    "ConstantDecay",
    "Cosine",
    "CosineDecay",
    "Decay",
    "Duration",
    "Exponential",
    "ExponentialDecay",
    "GIAdam",
    "InverseSqrtDecay",
    "Linear",
    "LinearDecay",
    "NoWarmup",
    "Polynomial",
    "RAdam",
    "Schedule",
    "Shape",
    "Sqrt",
    "UntunedExponential",
    "UntunedLinear",
    "ValidationError",
    "WarmupStableDecay",
    "duration_steps",
    "parse_duration",
]
