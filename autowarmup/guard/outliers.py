"""Single batches whose loss and gradient are far from all before, told before the weights have seen them."""

from __future__ import annotations

import math
from collections import deque

from autowarmup.guard.events import Finding
from autowarmup.instability.history import History, Step


class Outliers:
    """Compares a step's loss and gradient norm with those of the steps that were applied.

    A batch is an outlier where both are records by a wide margin: the loss's excess over its trend against the highest
    excess of the last 500 steps, the gradient's norm against the largest of the last 40. Each alone counts from a
    much wider margin on. During warm-up both fall, so a record says more than a number of standard deviations, which
    the fall inflates.
    """

    BOTH = 3.0
    """Where loss and gradient are records, by how much each must be one."""
    GRADIENT, LOSS = 20.0, 10.0
    """By how much the gradient or the loss alone must be a record."""
    SHARE = 0.3
    """The least excess of the loss, as a share of the progress made."""
    FIRST = 20
    """Steps before the first judgement."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begins anew, as where the data have changed."""
        self._history = History()
        self._excesses: deque[float] = deque(maxlen=500)
        self._norms: deque[float] = deque(maxlen=40)

    def look(self, loss: float, grad_norm: float) -> Finding | None:
        """What is wrong with a batch.

        Args:
            loss: its loss, finite.
            grad_norm: its gradient's norm, finite, or NaN where it isn't known.
        """
        history = self._history
        if history.count < self.FIRST:
            return None
        expected = history.expected()
        excess = loss - expected
        record = max(history.reach, max(self._excesses, default=0.0))
        height = excess / record if record > 0 else math.inf if excess > 0 else 0.0
        if excess < self.SHARE * history.progress:
            height = 0.0
        largest = max(self._norms, default=0.0)
        growth = grad_norm / largest if largest > 0 and math.isfinite(grad_norm) else 0.0
        if min(height, growth) <= self.BOTH and growth <= self.GRADIENT and height <= self.LOSS:
            return None
        evidence = {"loss": loss, "expected": expected, "excess over record": min(height, 1e6)}
        message = f"the loss of this batch is {loss:.4g}, expected {expected:.4g}"
        if math.isfinite(grad_norm):
            evidence |= {"gradient norm": grad_norm, "norm over record": growth}
            message += f"; the gradient's norm is {growth:.3g} times the largest of the last {len(self._norms)}"
        return Finding(reason="outlier", message=message, evidence=evidence)

    def add(self, lr: float, loss: float, grad_norm: float) -> None:
        """Takes in a step that is applied; its loss is finite."""
        history = self._history
        if history.count > 8:
            self._excesses.append(loss - history.expected())
        history.add(Step(history.count, lr, loss, grad_norm))
        if math.isfinite(grad_norm):
            self._norms.append(grad_norm)
