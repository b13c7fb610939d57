"""Warm-up shapes: the learning rate of each step of the warm-up as a share of the peak."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, field_validator

from autowarmup.values import Frozen, Number

Beta2 = Annotated[Number, Field(ge=0.0, lt=1.0)]
"""The decay of Adam's second moment."""


class Plan(Protocol):
    """The settings of a schedule that its shape and its decay are computed from; a ``Schedule`` has them."""

    @property
    def horizon(self) -> int: ...

    @property
    def warmup_steps(self) -> int: ...

    @property
    def start_factor(self) -> float | None: ...

    @property
    def final_factor(self) -> float: ...

    @property
    def duration(self) -> int: ...


def half_wave(progress: float) -> float:
    """``(1 - cos(pi * progress)) / 2``, accurate near 0 too, where the difference would cancel."""
    sine = math.sin(0.5 * math.pi * progress)
    return sine * sine


class NoWarmup(Frozen):
    """The peak from the first step on."""

    kind: Literal["none"] = "none"

    def share(self, step: int, plan: Plan) -> float:
        return 1.0


WITHOUT_WARMUP: dict[str, Any] = {"shape": NoWarmup(), "warmup_steps": 0, "start_factor": None}
"""The settings of a schedule without a warm-up."""


class Ramp(Frozen):
    """A curve that rises from the start factor to the peak over ``warmup_steps`` steps."""

    @abstractmethod
    def climb(self, progress: float) -> float:
        """The height of the curve, 0 to 1, at a share of the warm-up, 0 to 1."""

    def share(self, step: int, plan: Plan) -> float:
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
    """``progress ** power``. A power below 1 rises steeply at first (0.5 is the square root), one above 1 slowly."""

    kind: Literal["polynomial"] = "polynomial"
    power: Number = Field(default=2.0, gt=0.0, le=10.0)

    def climb(self, progress: float) -> float:
        return math.pow(progress, self.power)


class Sqrt(Ramp):
    """The square root: the polynomial of power 0.5."""

    kind: Literal["sqrt"] = "sqrt"

    def climb(self, progress: float) -> float:
        return math.sqrt(progress)


class Cosine(Ramp):
    """Half a cosine wave, ``(1 - cos(pi * progress)) / 2``. It rises slowly at both ends."""

    kind: Literal["cosine"] = "cosine"

    def climb(self, progress: float) -> float:
        return half_wave(progress)


class Exponential(Frozen):
    """Geometric growth: every step multiplies the learning rate by the same number. It starts at 1% of the peak unless
    ``start_factor`` says otherwise."""

    kind: Literal["exponential"] = "exponential"

    def share(self, step: int, plan: Plan) -> float:
        if step >= plan.warmup_steps:
            return 1.0
        start = 0.01 if plan.start_factor is None else plan.start_factor
        return math.pow(start, 1.0 - step / plan.warmup_steps)


# --- Rules: shapes whose duration follows from beta2 and need not be searched ---------------------------


class Rule(Frozen):
    """A shape whose duration follows from Adam's ``beta2``. It multiplies the learning rate at every step, during the
    decay too, as if it were built into the optimizer."""

    beta2: Beta2 = 0.999

    @abstractmethod
    def factor(self, step: int) -> float:
        """The factor on the learning rate at ``step``, counted from 0."""

    def share(self, step: int, plan: Plan) -> float:
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

    It is undefined while ``rho_t <= 4``, which are the first four steps. There RAdam falls back to plain momentum. No
    learning rate of Adam can express that, so these steps use the first factor that is defined.
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

    GI-Adam is Adam with a second moment that starts at the first squared gradient. It keeps Adam's bias correction,
    which then amounts to this factor on the learning rate. With plain Adam the schedule gives the updates of GI-Adam
    while gradients keep their magnitude, and similar ones after that.
    """

    kind: Literal["gi-adam"] = "gi-adam"

    def factor(self, step: int) -> float:
        return math.sqrt(1.0 - self.beta2 ** (step + 1))


Shape = Annotated[
    NoWarmup | Linear | Polynomial | Sqrt | Exponential | Cosine | UntunedLinear | UntunedExponential | RAdam | GIAdam,
    Field(discriminator="kind"),
]
