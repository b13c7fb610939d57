"""What the search's model forecasts for schedules that were not tried, in units of the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np

from autowarmup.schedule.schedule import Schedule
from autowarmup.search.candidates import Candidates
from autowarmup.search.prior import Prior
from autowarmup.search.surrogate import Evidence, Surrogate
from autowarmup.search.trial_state import TrialState
from autowarmup.search.trials import COMPARED, TrialSpec
from autowarmup.study.result import TrialRecord, TuneResult
from autowarmup.training.trace import Trace

Traces = Mapping[int, Trace]
"""Traces by trial number."""

Vector = np.ndarray[Any, np.dtype[np.float64]]


class Losses(NamedTuple):
    """Forecasts of final losses, one a schedule: the median, the ends of the central 68% (one standard deviation to
    each side on the model's own scale), and how little the trials say there: 0 where a trial tells exactly, 1 where
    none is near and the forecast is the search's prior alone."""

    median: Vector
    low: Vector
    high: Vector
    doubt: Vector


def searched(result: TuneResult) -> list[TrialRecord]:
    """One trial of each candidate: those of the search, on its seed. The probe and the confirmation are left out."""
    return [record for record in result.records if record.role in COMPARED]


class Forecast:
    """The search's model of the final loss, fitted to a study's trials on the search's seed: the proposals and the
    current schedule, unfinished and unstable ones included. Where the current schedule got further on fresh seeds,
    its difference from the tuned one there counts too.

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
        further = current_by_pairs(result, traces)
        known = [
            replace(item, scores=(*item.scores, *further)) if item.schedule == result.config.current_schedule else item
            for item in known
        ]
        evidence = [item for item in known if item.scores or item.broke]
        finals = [item.scores[-1][1] for item in evidence if not item.broke and item.end == result.config.horizon]
        if not finals or len({item.schedule for item in evidence if item.scores}) < 2:
            return None
        peak = _expected_peak(result, traces)
        return cls(Surrogate(evidence, peak, margin=result.config.margin), min(finals))

    def losses(self, schedules: Sequence[Schedule]) -> Losses:
        """The final losses to expect of schedules, on the search's seed.

        The model works on the inverse hyperbolic sine of the difference from the reference, in typical differences.
        That scale is monotone, so the quantiles of its normal distribution are turned back into quantiles of the loss.
        """
        mean, deviation = self.model.predict(schedules)

        def loss(value: Vector) -> Vector:
            return np.asarray(self.reference_loss + self.model.scale * np.sinh(np.clip(value, -700.0, 700.0)))

        return Losses(loss(mean), loss(mean - deviation), loss(mean + deviation), np.clip(deviation, 0.0, 1.0))


def current_by_pairs(result: TuneResult, traces: Traces) -> tuple[tuple[int, float], ...]:
    """The scores to expect of the current schedule on the search's seed beyond those of its run there: those of the
    tuned schedule, and by how much the current one is behind at the same step on the fresh seeds where both ran."""
    if not result.verdict.comparisons:
        return ()
    tuned, current = (comparison.candidate for comparison in result.verdict.comparisons)
    known: dict[tuple[int, int], dict[int, float]] = {}
    for record in result.records:
        if record.number in traces and record.role != "probe":
            known[record.candidate, record.seed] = dict(_evidence(result, record, traces).scores)
    seed = result.config.seed
    there = known.get((current, seed), {})
    found = []
    for step, score in known.get((tuned, seed), {}).items():
        pairs = [(known.get((tuned, s), {}), runs) for (c, s), runs in known.items() if c == current and s != seed]
        behind = [runs[step] - other[step] for other, runs in pairs if step in runs and step in other]
        if behind and step > max(there, default=0):
            found.append((step, score + math.fsum(behind) / len(behind)))
    return tuple(found)


def _evidence(result: TuneResult, record: TrialRecord, traces: Traces) -> Evidence:
    """What a trial tells the model; evaluations that are not finite are left out."""
    spec = TrialSpec(
        number=record.number,
        candidate=record.candidate,
        role=record.role,
        seed=record.seed,
        schedule=record.schedule,
    )
    trial = TrialState(
        spec, traces[record.number], record.instability, record.error, record.outcome, result.config.objective
    )
    if record.outcome == "failed":
        return Evidence(record.schedule, ())
    found = trial.evidence(result.config)
    return replace(found, scores=tuple((step, score) for step, score in found.scores if math.isfinite(score)))


def _expected_peak(result: TuneResult, traces: Traces) -> float:
    """The peak that the search expected to be best."""
    probes = [traces[record.number] for record in result.records if record.role == "probe" and record.number in traces]
    return Candidates(result.config).expected_peak(probes[0] if probes else None, Prior.learned())
