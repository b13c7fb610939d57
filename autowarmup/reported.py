"""What the integrations with other tuners share: their configuration, and trials by what these report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autowarmup.engines.base import MonitorSettings
from autowarmup.engines.segment import first_fatal, recorded_events
from autowarmup.errors import InputError
from autowarmup.instability.instability import Instability
from autowarmup.schedule.duration import budget_steps
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.config import TuneConfig
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.training.objective import LOSS, Objective
from autowarmup.training.trace import Evaluation, Trace


def configured(
    total_steps: int,
    current_peak: float | None,
    *,
    current: Schedule | None,
    space: SearchSpace | str,
    budget: int | str | None,
    confirm_seeds: int,
    **settings: Any,
) -> TuneConfig:
    """A search's configuration from the arguments of a searcher or a sampler.

    Raises:
        InputError: a value is out of its range or of the wrong type.
    """
    if current_peak is None and current is None:
        raise InputError("pass current_peak, the learning rate that you use today, or current, your schedule")
    return TuneConfig(
        total_steps=total_steps,
        current=current,
        current_peak=current.peak if current is not None and current_peak is None else current_peak,
        space=space if isinstance(space, SearchSpace) else SearchSpace.load(space),
        confirm_seeds=confirm_seeds,
        budget=None if budget is None else budget_steps(budget, settings.get("tune_steps") or total_steps),
        **settings,
    )


def checked_slots(slots: Any) -> int:
    """How many trials can run at once.

    Raises:
        InputError: not a whole number of at least 1.
    """
    if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
        raise InputError(f"slots={slots!r}: must be a whole number of trials, at least 1")
    return slots


MOST_PARTS = 64
"""Parts that :meth:`ReportedTrial.pack` leaves apart. One of ten steps takes three times the memory of its numbers."""


@dataclass
class ReportedTrial:
    """A trial by what it has reported.

    Args:
        spec: the trial.
        monitoring: its detectors.
        objective: what it is judged by.

    Attributes:
        step: optimizer steps reported so far.
        parts: what was reported since the last segment ended.
    """

    spec: TrialSpec
    monitoring: MonitorSettings
    objective: Objective = LOSS
    step: int = 0
    parts: list[Trace] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._monitor = self.monitoring.detectors.monitor(self.spec.schedule.horizon, self.monitoring.trivial_loss)
        self._seen = 0

    def recall(self, past: Trace) -> None:
        """Goes back to where a trial stood that has recorded ``past`` in segments that have ended."""
        first_fatal(self._monitor, past, stop_only_on_nonfinite=self.spec.stop_only_on_nonfinite)
        self._seen, self.step = len(self._monitor.events), past.end

    def observe(self, result: dict[str, Any]) -> Instability | None:
        """Adds a report and returns the fatal instability in it, if any. Steps that were reported before are skipped: a
        trial that is run again from its start repeats them.

        Raises:
            InputError: steps are missing between the last report and this one.
        """
        losses = _listed(result, "loss")
        norms = _listed(result, "grad_norm") if "grad_norm" in result else [math.nan] * len(losses)
        step = int(result["step"])
        start = step - len(losses)
        if start > self.step:
            raise InputError(f"a report for steps {start} to {step}, but the last one ended at step {self.step}")
        known = self.step - start
        if known >= len(losses):
            return None
        lr = np.array([self.spec.schedule.lr_at(at) for at in range(self.step, step)])
        evaluations: tuple[Evaluation, ...] = ()
        if "val_loss" in result:
            averaged = float(result.get("val_loss_ema", math.nan))
            names = (self.objective.name, f"{self.objective.name}_ema")
            metrics = {name: float(result[name]) for name in names if name in result and not self.objective.is_loss}
            evaluations = (Evaluation(step, float(result["val_loss"]), averaged, metrics),)
        return self.add(Trace(lr, np.array(losses[known:]), np.array(norms[known:]), evaluations, self.step))

    def add(self, block: Trace) -> Instability | None:
        """Adds the next steps and returns the fatal instability in them, if any."""
        self.step = block.end
        self.parts.append(block)
        return first_fatal(self._monitor, block, stop_only_on_nonfinite=self.spec.stop_only_on_nonfinite)

    def pack(self) -> None:
        """Puts the parts together once there are many, for the sake of memory."""
        if len(self.parts) > MOST_PARTS:
            self.parts = [Trace.join(self.parts)]

    def end_segment(
        self, until: int, instability: Instability | None = None, error: str | None = None
    ) -> SegmentResult:
        """The result of the segment that ends now: what was reported since the last one."""
        trace = Trace.join(self.parts, start=self.step)
        events = recorded_events(self._monitor.events, self._seen)
        self.parts, self._seen = [], len(self._monitor.events)
        return SegmentResult(self.spec.number, until, trace, instability, events, error)


def _listed(result: dict[str, Any], name: str) -> list[float]:
    """A metric as a list; a single value is a list of one."""
    value = result[name]
    return [float(part) for part in value] if isinstance(value, Sequence | np.ndarray) else [float(value)]
