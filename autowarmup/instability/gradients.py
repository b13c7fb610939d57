"""Gradients that explode or vanish."""

from __future__ import annotations

import math
from collections import deque

from autowarmup.instability.history import Step, median, unsure
from autowarmup.instability.instability import Instability, found
from autowarmup.instability.windows import SortedWindow


class Gradients:
    """Reports gradient norms that explode, and gradients that vanish although the loss has not fallen with them.

    Args:
        explosion_factor: a gradient explodes above this many times the largest ordinary norm of the last ``MEMORY``
            steps.
        vanishing_factor: a gradient vanishes below this share of the median norm of the last ``ALIVE`` steps.
    """

    MEMORY = 200
    """Ordinary norms that are remembered."""
    BEFORE_FATAL = 10
    """Steps of exploding gradients, of the last ``LAST``, or of vanishing ones in a row, that end the trial."""
    LAST = 14
    """Steps without an explosion after which a further one is another one."""
    ALIVE = 20
    """Steps with an ordinary gradient that must come before a gradient can count as vanished. A run that converges in
    fewer steps than that is not judged."""

    def __init__(self, explosion_factor: float, vanishing_factor: float) -> None:
        self.explosion_factor, self.vanishing_factor = explosion_factor, vanishing_factor
        self.norms = SortedWindow(self.MEMORY)
        self.latest = SortedWindow(self.ALIVE)
        self.losses: deque[float] = deque(maxlen=20)
        self.high: list[Step] = []
        self.began: Step | None = None
        self.fatal = False
        self.dead: list[Step] = []

    def observe(self, step: Step) -> Instability | None:
        norm = step.grad_norm
        if not math.isfinite(norm):
            return None
        self.losses.append(step.loss)
        exploding = dead = False
        if len(self.norms) >= 8:
            exploding = norm > self.explosion_factor * unsure(len(self.norms)) * self.norms.ordered[-1] > 0
        if len(self.norms) >= self.ALIVE:
            dead = norm < self.vanishing_factor * self.latest.median
            dead = dead and abs(step.loss) > 0.1 * abs(median(self.losses))
        self.dead = [*self.dead, step] if dead else []
        self.high = [past for past in self.high if step.number - past.number < self.LAST]
        if not self.high:
            self.began, self.fatal = None, False
        if exploding:
            return self._exploding(step)
        if not self.high and not dead:
            self.norms.add(norm)
            self.latest.add(norm)
        if len(self.dead) == self.BEFORE_FATAL:
            return found("silent-failure", self.dead[0], step, 1.0, True, f"the gradient died: its norm is {norm:.3g}")
        return None

    def _exploding(self, step: Step) -> Instability | None:
        """Records an explosion's first step, and once as fatal that it lasts."""
        self.high.append(step)
        first, lasts = self.began is None, len(self.high) >= self.BEFORE_FATAL
        self.began = self.began or step
        if not first and (self.fatal or not lasts):
            return None
        self.fatal = lasts
        factor = step.grad_norm / self.norms.ordered[-1]
        message = (
            f"the gradient's norm of {step.grad_norm:.3g} is {factor:.3g} times the largest of {len(self.norms)} before"
        )
        return found("gradient-explosion", self.began, step, math.log10(factor), lasts, message)
