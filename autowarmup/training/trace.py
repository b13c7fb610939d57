"""What one trial recorded, step by step."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Self

import numpy as np

Column = np.ndarray[Any, np.dtype[np.float64]]

Outcome = Literal["completed", "pruned", "unstable", "failed"]
"""How a trial ended: at its horizon, given up for better ones, by an instability, by the user's code
raising."""


@dataclass(frozen=True)
class Evaluation:
    """A validation, with the raw weights and with their exponential moving average (EMA).

    Args:
        step: optimizer steps made before it, >= 1.
        val_loss: mean validation loss with the raw weights; may be non-finite.
        val_loss_ema: the same with the EMA weights; NaN where there are none (a loop of the user's own).
        metrics: further validation metrics by name; those with EMA weights end in ``_ema``.
    """

    step: int
    val_loss: float
    val_loss_ema: float
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """What ranks unfinished trials: the EMA weights' loss where it is finite, else the raw loss."""
        return self.val_loss_ema if np.isfinite(self.val_loss_ema) else self.val_loss


def is_evaluated(step: int, every: int, horizon: int) -> bool:
    """Whether models are validated after ``step`` optimizer steps: after each ``every`` steps, and at the horizon."""
    return step % every == 0 or step == horizon


@dataclass(frozen=True, eq=False)
class Trace:
    """Consecutive optimizer steps of one trial, from step ``start`` on, and the evaluations among them.

    Args:
        lr: the learning rate each step applied (of the group with the highest one), shape ``(n,)``.
        loss: each step's training loss, shape ``(n,)``; may be non-finite.
        grad_norm: the gradient's norm before clipping, shape ``(n,)``. NaN: not measured; infinity: not
            finite.
        evaluations: in the order of their steps.
        start: the first step, counted from 0.

    Example:
        >>> first = Trace(np.array([0.1]), np.array([2.0]), np.array([1.0]))
        >>> evaluation = Evaluation(step=2, val_loss=1.6, val_loss_ema=1.7)
        >>> second = Trace(np.array([0.2]), np.array([1.5]), np.array([0.9]), (evaluation,), start=1)
        >>> whole = Trace.from_bytes(Trace.join([first, second]).to_bytes())
        >>> len(whole), whole.loss.tolist(), whole.evaluations[0].val_loss
        (2, [2.0, 1.5], 1.6)
    """

    lr: Column
    loss: Column
    grad_norm: Column
    evaluations: tuple[Evaluation, ...] = ()
    start: int = 0

    def __post_init__(self) -> None:
        assert self.lr.shape == self.loss.shape == self.grad_norm.shape == (len(self),)

    def __len__(self) -> int:
        return len(self.lr)

    @property
    def steps(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The steps' numbers, shape ``(n,)``."""
        return np.arange(self.start, self.start + len(self))

    @property
    def end(self) -> int:
        """The step after the last one."""
        return self.start + len(self)

    @classmethod
    def empty(cls, start: int = 0) -> Self:
        """A trace of no steps, which would go on at ``start``."""
        return cls(np.empty(0), np.empty(0), np.empty(0), (), start)

    @classmethod
    def join(cls, parts: Sequence[Trace], start: int = 0) -> Self:
        """Consecutive parts as one trace; none of them as the empty one that would go on at ``start``."""
        if not parts:
            return cls.empty(start)
        assert all(part.end == following.start for part, following in pairwise(parts)), "a gap between parts"
        return cls(
            np.concatenate([part.lr for part in parts]),
            np.concatenate([part.loss for part in parts]),
            np.concatenate([part.grad_norm for part in parts]),
            tuple(evaluation for part in parts for evaluation in part.evaluations),
            parts[0].start,
        )

    @property
    def final_evaluation(self) -> Evaluation | None:
        """The validation at the end of a run: the last one, where it is of the last tenth. Loops of the user's own may
        have none.

        >>> Trace(*[np.ones(40)] * 3, (Evaluation(10, 1.0, 1.0),)).final_evaluation is None
        True
        """
        last = self.evaluations[-1] if self.evaluations else None
        return last if last is not None and self.end - last.step <= self.end // 10 else None

    @property
    def tail_loss(self) -> float:
        """The mean training loss of the last tenth; infinite where there is no step."""
        tail = self.loss[-max(1, len(self) // 10) :]
        return float(np.mean(tail)) if len(tail) else math.inf

    def to_bytes(self) -> bytes:
        """Compressed ``.npz``, readable by NumPy alone. Metrics make one table: where an evaluation lacks one
        that others have, it comes back as NaN."""
        names = sorted({name for evaluation in self.evaluations for name in evaluation.metrics})
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            start=np.int64(self.start),
            lr=self.lr,
            loss=self.loss,
            grad_norm=self.grad_norm,
            evaluation_step=np.array([c.step for c in self.evaluations], np.int64),
            val_loss=np.array([c.val_loss for c in self.evaluations], np.float64),
            val_loss_ema=np.array([c.val_loss_ema for c in self.evaluations], np.float64),
            metric_names=np.array(names, np.str_),
            metrics=np.array(
                [[c.metrics.get(name, np.nan) for name in names] for c in self.evaluations], np.float64
            ).reshape(len(self.evaluations), len(names)),
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of :meth:`to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            names = arrays["metric_names"].tolist()
            evaluations = tuple(
                Evaluation(int(step), float(raw), float(ema), dict(zip(names, row, strict=True)))
                for step, raw, ema, row in zip(
                    arrays["evaluation_step"],
                    arrays["val_loss"],
                    arrays["val_loss_ema"],
                    arrays["metrics"].tolist(),
                    strict=True,
                )
            )
            return cls(arrays["lr"], arrays["loss"], arrays["grad_norm"], evaluations, int(arrays["start"]))


class Mark(NamedTuple):
    """How a trial stood at a step: the loss with averaged weights where it has one, and the raw loss."""

    step: int
    score: float
    loss: float


def marks(trace: Trace, every: int) -> list[Mark]:
    """How a trial stood along its run: at its evaluations, and before the first of them the mean training loss of every
    ``every`` steps.

    Args:
        trace: what the trial recorded, from its start.
        every: optimizer steps between two marks before the first evaluation.
    """
    first = trace.evaluations[0].step if trace.evaluations else trace.end + 1
    means = [(end, float(trace.loss[end - every : end].mean())) for end in range(every, first, every)]
    early = [Mark(end, mean, mean) for end, mean in means]
    return [*early, *(Mark(item.step, item.score, item.val_loss) for item in trace.evaluations)]
