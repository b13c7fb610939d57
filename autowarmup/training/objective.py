"""What schedules are judged by: the validation loss, or a validation metric of the user's choice."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from autowarmup.errors import InputError
from autowarmup.training.trace import Evaluation, Mark, Trace, marks
from autowarmup.values import Frozen, nearest


class Objective(Frozen):
    """What schedules are judged by. Inside, lower is better: the values of a metric that is maximized are negated.

    Args:
        name: ``"loss"`` for the validation loss, else the name of a validation metric.
        direction: whether lower or higher values are better.

    Example:
        >>> accuracy = Objective(name="accuracy", direction="maximize")
        >>> evaluation = Evaluation(10, 0.5, 0.4, {"accuracy": 0.8, "accuracy_ema": 0.9})
        >>> accuracy.of(evaluation), accuracy.averaged(evaluation), accuracy.shown(-0.8), str(accuracy)
        (-0.8, -0.9, 0.8, 'accuracy (higher is better)')
        >>> Objective().of(evaluation), Objective().averaged(evaluation)
        (0.5, 0.4)
    """

    name: str = Field(default="loss", min_length=1, max_length=200)
    direction: Literal["minimize", "maximize"] = "minimize"

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.is_loss and self.direction == "maximize":
            raise ValueError("the loss can't be maximized: name a metric as the objective, or minimize")
        return self

    @property
    def is_loss(self) -> bool:
        return self.name == "loss"

    def of(self, evaluation: Evaluation) -> float:
        """The value with the raw weights, lower being better; NaN where it was not reported."""
        if self.is_loss:
            return evaluation.val_loss
        return self.shown(evaluation.metrics.get(self.name, math.nan))

    def averaged(self, evaluation: Evaluation) -> float:
        """What ranks unfinished trials: the value with the averaged weights where it is finite, else :meth:`of`."""
        if self.is_loss:
            return evaluation.score
        averaged = self.shown(evaluation.metrics.get(f"{self.name}_ema", math.nan))
        return averaged if math.isfinite(averaged) else self.of(evaluation)

    def marks(self, trace: Trace, every: int) -> list[Mark]:
        """How a trial stood along its run, lower being better: for the loss as
        :func:`autowarmup.training.trace.marks` says, for a metric its finite values alone.

        Args:
            trace: what the trial recorded, from its start.
            every: optimizer steps between two marks before the first evaluation.
        """
        if self.is_loss:
            return marks(trace, every)
        found = [Mark(e.step, self.averaged(e), self.of(e)) for e in trace.evaluations]
        return [mark for mark in found if math.isfinite(mark.score) and math.isfinite(mark.loss)]

    def final(self, trace: Trace) -> float:
        """What a trial that got to its horizon is judged by, lower being better: the value of the last validation,
        where that is of the last tenth of the run. Else for the loss the mean training loss of the last tenth, for a
        metric infinity."""
        last = trace.final_evaluation
        if last is not None:
            value = self.of(last)
            return value if self.is_loss or math.isfinite(value) else math.inf
        return trace.tail_loss if self.is_loss else math.inf

    def shown(self, value: float) -> float:
        """A value in the metric's own sign from one of which lower is better, or the other way round."""
        return -value if self.direction == "maximize" else value

    def shown_range(self, mean: float, low: float, high: float) -> tuple[float, float, float]:
        """A difference and its bounds in the metric's own sign."""
        if self.direction == "minimize":
            return mean, low, high
        return -mean, -high, -low

    def check(self, trace: Trace, *, ended: bool, current: bool) -> None:
        """Checks that a trial without failure reports the metric.

        Args:
            trace: what it has recorded from its start.
            ended: whether it got to its horizon, where it is judged.
            current: whether it trains with the current schedule, from which some value must be finite.

        Raises:
            InputError: its validations, or the one at the horizon, lack the metric; or that of the current schedule is
                never finite.
        """
        if self.is_loss:
            return
        names = sorted({name for one in trace.evaluations for name in one.metrics if not name.endswith("_ema")})
        has = f"reported are: {', '.join(['loss', *names])}"
        if trace.evaluations and self.name not in names:
            raise InputError(
                f"objective={self.name!r}: no validation up to step {trace.end} reported it"
                f"{nearest(self.name, names)}; {has}. Report it with every val_loss"
            )
        last = trace.final_evaluation
        if ended and (last is None or self.name not in last.metrics):
            raise InputError(
                f"objective={self.name!r}: a run of {trace.end} steps ended without it, as every run must report it "
                f"with a validation at its last step; {has}"
            )
        if current and ended and not any(math.isfinite(self.of(one)) for one in trace.evaluations):
            raise InputError(
                f"objective={self.name!r}: with the current schedule all {len(trace.evaluations)} validations reported "
                f"{self.shown(self.of(trace.evaluations[-1]))}; schedules can be judged by finite values only"
            )

    @property
    def better(self) -> str:
        """``"lower"`` or ``"higher"``."""
        return "lower" if self.direction == "minimize" else "higher"

    def __str__(self) -> str:
        return f"{'validation loss' if self.is_loss else self.name} ({self.better} is better)"


LOSS = Objective()
"""The validation loss."""
