"""What the search's model forecasts for schedules that were not tried, in units of the loss."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np

from autowarmup.report.trials import Traces, searched
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.shapes import Linear, NoWarmup, Rule
from autowarmup.search.candidates import Candidates
from autowarmup.search.prior import Prior
from autowarmup.search.surrogate import Evidence, Surrogate
from autowarmup.search.trial_state import TrialState
from autowarmup.search.trials import TrialSpec
from autowarmup.study.result import TrialRecord, TuneResult

Vector = np.ndarray[Any, np.dtype[np.float64]]


class Losses(NamedTuple):
    """Forecasts of final losses, one a schedule: the median, the ends of the central 68% (one standard deviation to
    each side on the model's own scale), and how little the trials say there: 0 where a trial tells exactly, 1 where
    none is near and the forecast is the search's prior alone."""

    median: Vector
    low: Vector
    high: Vector
    doubt: Vector


class Forecast:
    """The search's model of the final loss, fitted to a study's trials on the search's seed: the proposals and the
    baselines, unfinished and unstable ones included.

    Args:
        model: the model; its reference got to the end of its run.
        reference_loss: the final loss of the model's reference.
    """

    def __init__(self, model: Surrogate, reference_loss: float) -> None:
        self.model, self.reference_loss = model, reference_loss

    @classmethod
    def of(cls, result: TuneResult, traces: Traces) -> Self | None:
        """The forecast of a study; None where no trial got to its end, or no two of its schedules can be compared."""
        known = [_evidence(result, record, traces) for record in searched(result) if record.number in traces]
        evidence = [item for item in known if item.scores or item.broke]
        finals = [item.scores[-1][1] for item in evidence if not item.broke and item.end == result.config.horizon]
        if not finals or len({item.schedule for item in evidence if item.scores}) < 2:
            return None
        return cls(Surrogate(evidence, _expected_peak(result, traces)), min(finals))

    def losses(self, schedules: Sequence[Schedule]) -> Losses:
        """The final losses to expect of schedules, on the search's seed.

        The model works on the inverse hyperbolic sine of the difference from the reference, in typical differences.
        That scale is monotone, so the quantiles of its normal distribution are turned back into quantiles of the loss.
        """
        mean, deviation = self.model.predict(schedules)

        def loss(value: Vector) -> Vector:
            return np.asarray(self.reference_loss + self.model.scale * np.sinh(np.clip(value, -700.0, 700.0)))

        return Losses(loss(mean), loss(mean - deviation), loss(mean + deviation), np.clip(deviation, 0.0, 1.0))


def _evidence(result: TuneResult, record: TrialRecord, traces: Traces) -> Evidence:
    """What a trial tells the model; evaluations that are not finite are left out."""
    spec = TrialSpec(
        number=record.number,
        candidate=record.candidate,
        role=record.role,
        seed=record.seed,
        schedule=record.schedule,
    )
    trial = TrialState(spec, traces[record.number], record.instability, record.error, record.outcome)
    if record.outcome == "failed":
        return Evidence(record.schedule, ())
    found = trial.evidence(result.config)
    return replace(found, scores=tuple((step, score) for step, score in found.scores if math.isfinite(score)))


def _expected_peak(result: TuneResult, traces: Traces) -> float:
    """The peak that the search expected to be best."""
    probes = [traces[record.number] for record in result.records if record.role == "probe" and record.number in traces]
    return Candidates(result.config).expected_peak(probes[0] if probes else None, Prior.learned())


def usual_schedule(result: TuneResult) -> Schedule:
    """The schedule whose peak and warm-up duration the figures vary: the chosen one. Where that has no duration to vary
    (no warm-up, or one that follows a rule), the curve and the decay that most proposals have; where none has one, a
    linear warm-up."""
    chosen = result.verdict.schedule
    if chosen is not None and _varies(chosen):
        return chosen
    kinds = Counter(
        record.schedule.model_copy(update={"peak": 1.0, "warmup_steps": 1})
        for record in result.records
        if record.role == "proposal" and _varies(record.schedule)
    )
    plain = result.config.baselines[0].model_copy(update={"shape": Linear(), "warmup_steps": 1})
    return kinds.most_common(1)[0][0] if kinds else plain


def _varies(schedule: Schedule) -> bool:
    return not isinstance(schedule.shape, NoWarmup | Rule)


def durations(longest: int, count: int) -> list[int]:
    """Warm-up durations from 0 to ``longest`` steps, evenly spaced on the square-root scale that is searched."""
    return sorted({round(root**2) for root in np.linspace(0.0, math.sqrt(longest), count)})


def varied(schedule: Schedule, peak: float, warmup_steps: int) -> Schedule:
    """A schedule with another peak and warm-up duration; 0 is no warm-up."""
    if warmup_steps == 0:
        changes: dict[str, Any] = {"shape": NoWarmup(), "start_factor": None}
        return schedule.model_copy(update={"peak": peak, "warmup_steps": 0} | changes)
    return schedule.model_copy(update={"peak": peak, "warmup_steps": warmup_steps})
