"""Losses and gradients that are not finite."""

from __future__ import annotations

import math

from autowarmup.instability.history import Step
from autowarmup.instability.instability import MAX_SEVERITY, Instability, found


class NonFinite:
    """Reports a loss that is NaN or infinite, a gradient that is not finite and was applied, and more than
    ``max_skips`` steps in a row that a loss scaler skipped."""

    def __init__(self, max_skips: int) -> None:
        self.max_skips = max_skips
        self.skips = 0

    def observe(self, step: Step) -> Instability | None:
        if not math.isfinite(step.loss):
            return found("non-finite", step, step, MAX_SEVERITY, True, f"the loss is {step.loss}")
        if not math.isinf(step.grad_norm):
            self.skips = 0
            return None
        self.skips += 1
        if step.lr == 0.0 and self.skips <= self.max_skips:
            return None
        return found("non-finite", step, step, MAX_SEVERITY, True, "the gradient is not finite")
