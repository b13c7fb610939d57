"""A run judged from its numbers alone, after each update: where nobody can hold one back."""

from __future__ import annotations

import math
from typing import NamedTuple

from autowarmup.guard.events import Action, Finding
from autowarmup.guard.expected import Band
from autowarmup.guard.judge import Judge
from autowarmup.guard.policy import Policy
from autowarmup.instability.monitor import Detectors

NEW_DATA = "so many batches in a row are unlike those before that the data must have changed"


class Decision(NamedTuple):
    """A finding, what a guard would do about it, and whether it is about a single batch."""

    action: Action
    finding: Finding
    of_batch: bool


class Onlooker:
    """Says what a :class:`autowarmup.guard.guard.Guard` finds in a run and would do, told of the losses only when the
    updates have been made. Neither model nor optimizer is needed.

    Args:
        horizon: steps of the run.
        duration: those of its warm-up.
        most: interventions; the next one is a stop.
        can_rewind: whether there would be snapshots.
        detectors: the thresholds.
        trivial_loss: the loss of the best predictor that ignores its input; None where it isn't known.
        band: the loss that a study expects at each step; None where there is no study.

    Example:
        >>> onlooker = Onlooker(horizon=100, duration=10, most=10)
        >>> onlooker.see(0, lr=0.1, loss=2.3, warming_up=True)
        []
        >>> onlooker.see(1, lr=0.1, loss=math.nan, warming_up=True)[0].action
        'skip'
    """

    def __init__(
        self,
        horizon: int,
        duration: int,
        most: int,
        *,
        can_rewind: bool = True,
        detectors: Detectors | None = None,
        trivial_loss: float | None = None,
        band: Band | None = None,
    ) -> None:
        self.judge = Judge(detectors or Detectors(), horizon, trivial_loss, band)
        self.policy = Policy(horizon, duration, most)
        self._can_rewind = can_rewind
        self._told: str | None = None
        """The reason of the last decision."""

    def see(
        self, step: int, lr: float, loss: float, grad_norm: float = math.nan, *, warming_up: bool
    ) -> list[Decision]:
        """Takes in a step whose update has been made.

        A gradient that isn't finite beside a loss that is was kept from the weights by a loss scaler or by the
        optimizer's wrapper, or else the next loss shows it.

        Args:
            step: its number.
            lr: its learning rate.
            loss: its training loss.
            grad_norm: its gradient's norm before clipping; NaN where it isn't known, infinite where the gradient is
                not finite.
            warming_up: whether the warm-up isn't over.

        Returns:
            What is decided: first about the batch, then about the run. What is let pass is told once.
        """
        kept_out = math.isinf(grad_norm) and math.isfinite(loss)
        decisions: list[Decision] = []
        finding = None if kept_out else self.judge.look(loss, grad_norm)
        if finding is None:
            self.policy.healthy()
        else:
            decisions.append(self._about_batch(finding))
            if finding.reason == "non-finite":
                return self._new(decisions)
        if (finding := self.judge.add(0.0 if kept_out else lr, loss, grad_norm)) is not None:
            action = self.policy.for_run(step, finding, warming_up, self._can_rewind)
            decisions.append(Decision(action, finding, of_batch=False))
        return self._new(decisions)

    def _new(self, decisions: list[Decision]) -> list[Decision]:
        new = [one for one in decisions if one.action != "ok" or one.finding.reason != self._told]
        if decisions:
            self._told = decisions[-1].finding.reason
        return new

    def _about_batch(self, finding: Finding) -> Decision:
        """As :meth:`Policy.for_batch`, but nothing is held back: that doesn't count as an intervention."""
        self.policy.skipped += 1
        if self.policy.skipped <= self.policy.burst:
            return Decision("skip", finding, of_batch=True)
        self.policy.skipped = 0
        if finding.reason == "non-finite":
            return Decision("rewind" if self._can_rewind else "stop", finding, of_batch=True)
        self.judge.forget_data()
        finding = finding.model_copy(update={"reason": "new-data", "message": NEW_DATA})
        return Decision("ok", finding, of_batch=True)
