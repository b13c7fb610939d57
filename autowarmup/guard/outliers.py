"""Single batches whose loss and gradient are far from all before, told before the weights have seen them."""

from __future__ import annotations

import math
import operator
from collections import deque

from autowarmup.guard.events import Finding
from autowarmup.instability.history import History, Step


class Outliers:
    """Compares a step's loss and gradient norm with those of the steps that were applied.

    Three factors tell an outlier, and their geometric mean counts: the loss's excess over its trend as a multiple of
    the highest excess of the last 500 steps; the same excess as a share of the progress that the run has made; the
    gradient's norm as a multiple of the largest of the last 40 steps. During warm-up loss and gradient fall, so a
    record says more than a number of standard deviations, which the fall inflates. Right after an outlier less is
    enough: bad batches come in bursts.
    """

    MEAN, LEAST = 3.7, (3.0, 1.0, 1.0)
    """The geometric mean of the factors, and what each must be at least."""
    MEAN_AFTER, LEAST_AFTER = 1.8, (1.5, 0.5, 0.7)
    """The same right after an outlier."""
    MOST = 100.0
    """What more of a factor counts as."""
    GRADIENT, LOSS = 20.0, 10.0
    """The multiple of the gradient that counts alone, and that of the loss where the gradient isn't known."""
    FIRST = 20
    """Steps before the first judgement, and norms before that of one."""

    def __init__(self) -> None:
        self._history = History()
        self._excesses: deque[float] = deque(maxlen=500)
        self._norms: deque[float] = deque(maxlen=40)
        self.bursting = False

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
        height = _multiple(excess, record)
        share = _multiple(excess, history.progress)
        measured = math.isfinite(grad_norm) and len(self._norms) >= self.FIRST  # a scaler may have skipped all so far
        growth = _multiple(grad_norm, max(self._norms, default=0.0)) if measured else 0.0
        mean, least = (self.MEAN_AFTER, self.LEAST_AFTER) if self.bursting else (self.MEAN, self.LEAST)
        factors = [min(factor, self.MOST) for factor in (height, share, growth)]
        together = all(map(operator.ge, factors, least)) and math.prod(factors) > mean**3
        alone = growth > self.GRADIENT if measured else height > self.LOSS and share >= 1.0
        if not together and not alone:
            return None
        self.bursting = True
        evidence = {"loss": loss, "expected": expected, "excess over record": height, "excess over progress": share}
        message = f"the loss of this batch is {loss:.4g}, expected {expected:.4g}"
        if measured:
            evidence |= {"gradient norm": grad_norm, "norm over record": growth}
            message += f"; the gradient's norm is {growth:.3g} times the largest of the last {len(self._norms)}"
        return Finding(reason="outlier", message=message, evidence=evidence)

    def near_start(self, loss: float) -> bool:
        """Whether a loss is not above that of the first steps by more than a quarter."""
        start = self._history.start
        return loss - start <= 0.25 * abs(start)

    def add(self, lr: float, loss: float, grad_norm: float) -> None:
        """Takes in a step that is applied; its loss is finite."""
        history = self._history
        self.bursting = False
        if history.count > 8:
            self._excesses.append(loss - history.expected())
        history.add(Step(history.count, lr, loss, grad_norm))
        if math.isfinite(grad_norm):
            self._norms.append(grad_norm)


def _multiple(value: float, unit: float) -> float:
    """The value as a multiple of a unit, from 0 to a million."""
    return min(1e6, max(0.0, value) / unit) if unit > 0.0 else 1e6 * (value > 0.0)
