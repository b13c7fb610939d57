"""Gradients that explode or vanish."""

from __future__ import annotations

import math
from collections import deque

from autowarmup.instability.history import Step, median
from autowarmup.instability.instability import Instability, found
from autowarmup.instability.windows import SortedWindow


class Gradients:
    """Reports gradient norms that explode, and gradients that vanish although the loss has not fallen with them.

    Args:
        explosion_factor: a gradient explodes above this many times the largest norm of the last 40 steps.
        vanishing_factor: a gradient vanishes below this share of the median norm of the last ``ALIVE`` steps.
    """

    BEFORE_FATAL = 10
    """Consecutive steps of exploding or vanishing gradients that end the trial."""
    ALIVE = 20
    """Steps with an ordinary gradient that must come before a gradient can count as vanished. A run that converges in
    fewer steps than that is not judged."""

    def __init__(self, explosion_factor: float, vanishing_factor: float) -> None:
        self.explosion_factor, self.vanishing_factor = explosion_factor, vanishing_factor
        self.norms = SortedWindow(40)
        self.latest = SortedWindow(self.ALIVE)
        self.losses: deque[float] = deque(maxlen=20)
        self.high: list[Step] = []
        self.dead: list[Step] = []

    def observe(self, step: Step) -> Instability | None:
        norm = step.grad_norm
        if not math.isfinite(norm):
            return None
        self.losses.append(step.loss)
        exploding = dead = False
        if len(self.norms) >= 8:
            exploding = norm > self.explosion_factor * self.norms.ordered[-1] > 0
        if len(self.norms) >= self.ALIVE:
            dead = norm < self.vanishing_factor * self.latest.median
            dead = dead and abs(step.loss) > 0.1 * abs(median(self.losses))
        self.high = [*self.high, step] if exploding else []
        self.dead = [*self.dead, step] if dead else []
        if not exploding and not dead:
            self.norms.add(norm)
            self.latest.add(norm)
        if len(self.high) in (1, self.BEFORE_FATAL):
            fatal = len(self.high) > 1
            factor = norm / self.norms.ordered[-1]
            message = f"the gradient's norm of {norm:.3g} is {factor:.3g} times the largest of the last 40 steps"
            return found("gradient-explosion", self.high[0], step, math.log10(factor), fatal, message)
        if len(self.dead) == self.BEFORE_FATAL:
            return found("silent-failure", self.dead[0], step, 1.0, True, f"the gradient died: its norm is {norm:.3g}")
        return None
