"""Decays: the learning rate after the warm-up as a share of the peak, down to the final factor at the horizon."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from autowarmup.schedule.shapes import Plan, half_wave
from autowarmup.values import Frozen, Number, Whole


def _left(step: int, plan: Plan) -> float:
    """The share of the decay's steps that is still ahead: 1 at the end of the warm-up, 0 at the horizon."""
    return (plan.horizon - step) / max(1, plan.horizon - plan.warmup_steps)


def _between(final: float, height: float) -> float:
    return final + (1.0 - final) * height


class CosineDecay(Frozen):
    """Half a cosine wave down to the final factor. Loshchilov & Hutter 2016, arXiv 1608.03983, equation 5."""

    kind: Literal["cosine"] = "cosine"

    def share(self, step: int, plan: Plan) -> float:
        return _between(plan.final_factor, half_wave(_left(step, plan)))


class LinearDecay(Frozen):
    """A straight line down to the final factor."""

    kind: Literal["linear"] = "linear"

    def share(self, step: int, plan: Plan) -> float:
        return _between(plan.final_factor, _left(step, plan))


class ExponentialDecay(Frozen):
    """Geometric decay down to the final factor, which must be above 0."""

    kind: Literal["exponential"] = "exponential"

    def share(self, step: int, plan: Plan) -> float:
        return math.pow(plan.final_factor, 1.0 - _left(step, plan))


class InverseSqrtDecay(Frozen):
    """``sqrt(s / (s + t))``, ``t`` steps after the peak, not below the final factor.

    ``timescale`` is ``s``, in steps. Left out, it counts the steps up to and including the first one at the
    peak; with a linear warm-up this is the schedule of Vaswani et al. 2017, arXiv 1706.03762, section 5.3.
    """

    kind: Literal["inverse-sqrt"] = "inverse-sqrt"
    timescale: Whole | None = Field(default=None, ge=1)

    def share(self, step: int, plan: Plan) -> float:
        scale = self.timescale or plan.duration + 1
        return max(plan.final_factor, math.sqrt(scale / (scale + step - plan.warmup_steps)))


class ConstantDecay(Frozen):
    """No decay: the learning rate stays at the peak. The final factor is ignored."""

    kind: Literal["constant"] = "constant"

    def share(self, step: int, plan: Plan) -> float:
        return 1.0


class WarmupStableDecay(Frozen):
    """The peak, then a straight line down to the final factor over the last part of the run: ``cooldown`` is its share
    of the horizon. It never begins before the end of the warm-up. Hu et al. 2024 (MiniCPM), arXiv 2404.06395; the
    linear cool-down of Hägele et al. 2024, arXiv 2405.18392."""

    kind: Literal["wsd"] = "wsd"
    cooldown: Number = Field(default=0.2, gt=0.0, le=1.0)

    def share(self, step: int, plan: Plan) -> float:
        length = max(1.0, min(self.cooldown * plan.horizon, plan.horizon - plan.warmup_steps))
        return _between(plan.final_factor, min(1.0, (plan.horizon - step) / length))


Decay = Annotated[
    CosineDecay | LinearDecay | ExponentialDecay | InverseSqrtDecay | ConstantDecay | WarmupStableDecay,
    Field(discriminator="kind"),
]
