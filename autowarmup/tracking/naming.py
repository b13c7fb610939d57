"""What a trial is called in MLflow, and the colour of its line there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from autowarmup.schedule import Schedule
from autowarmup.search.trials import TrialSpec
from autowarmup.tracking.overview import TrialOverview

STUDY_COLOUR, TUNED, CURRENT, PROPOSAL, PROBE = "#222222", "#0072B2", "#E69F00", "#009E73", "#666666"
ENDED = {"pruned": "#9a9a9a", "unstable": "#D55E00", "failed": "#CC79A7"}
"""The colours of the report's figures."""


@dataclass(frozen=True)
class Lineup:
    """Which candidates met on the fresh seeds.

    Args:
        current: the current schedule's candidate; None before it has begun.
        tuned: the searched candidate that met them; None before one has. Of several, the last one: the others broke.
        seeds: the fresh seeds, in order.
    """

    current: int | None = None
    tuned: int | None = None
    seeds: tuple[int, ...] = ()

    @classmethod
    def of(cls, specs: Iterable[TrialSpec]) -> Self:
        """The lineup of a study's trials, given in their order."""
        trials = list(specs)
        current = next((spec.candidate for spec in trials if spec.role == "baseline"), None)
        confirming = [spec for spec in trials if spec.role == "confirmation"]
        searched = [spec.candidate for spec in confirming if spec.candidate != current]
        seeds = tuple(dict.fromkeys(spec.seed for spec in confirming))
        return cls(current, searched[-1] if searched else None, seeds)


def run_name(trial: TrialOverview, lineup: Lineup) -> str:
    """What the trial is, shortly: how it ended where that was early, its part in the study, its schedule.

    >>> schedule = Schedule(peak=5.36e-3, horizon=240, warmup_steps=72, shape="linear")
    >>> spec = TrialSpec(number=14, candidate=4, role="confirmation", seed=7, schedule=schedule)
    >>> run_name(TrialOverview(spec, "pruned", 60, None), Lineup(tuned=4, seeds=(5, 7)))
    'pruned at step 60: tuned, seed 2: linear 30% to 5.4e-3'
    """
    spec = trial.spec
    if spec.role == "probe":
        return _probe_name(trial)
    part = {lineup.current: "current", lineup.tuned: "tuned"}.get(spec.candidate, "")
    seed = f"seed {lineup.seeds.index(spec.seed) + 1}" if spec.role == "confirmation" else ""
    schedule = _schedule_name(spec.schedule) if spec.climb is None else "adapts"
    words = (_ending(trial), ", ".join(filter(None, (part, seed))), schedule)
    return ": ".join(filter(None, words))


def run_colour(trial: TrialOverview, lineup: Lineup) -> str:
    """The colour of the trial's points and lines: as it ended, else its part in the study."""
    spec = trial.spec
    if spec.role == "probe":
        return PROBE
    if trial.outcome in ENDED:
        return ENDED[trial.outcome]
    return {lineup.current: CURRENT, lineup.tuned: TUNED}.get(spec.candidate, PROPOSAL)


def _probe_name(trial: TrialOverview) -> str:
    if trial.outcome == "failed":
        return "failed: probe"
    if trial.instability is not None:
        return f"probe: unstable at rate {_number(trial.instability.lr)}"
    return f"probe: a ramp to rate {_number(trial.spec.schedule.peak)}"


def _ending(trial: TrialOverview) -> str:
    """How a trial ended that didn't get to its horizon."""
    if trial.outcome == "unstable" and trial.instability is not None:
        return f"unstable at step {trial.instability.step}"
    if trial.outcome == "pruned":
        return f"pruned at step {trial.until}"
    return "failed" if trial.outcome == "failed" else ""


def _schedule_name(schedule: Schedule) -> str:
    groups = f", {schedule.treatment}" if schedule.groups else ""
    if not schedule.duration:
        return f"no warm-up, peak {_number(schedule.peak)}{groups}"
    share = schedule.duration / schedule.horizon
    percent = f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"
    return f"{schedule.shape.kind} {percent} to {_number(schedule.peak)}{groups}"


def _number(value: float) -> str:
    """Two digits and an exponent.

    >>> _number(5.36e-3), _number(1e-3), _number(12.0)
    ('5.4e-3', '1e-3', '1.2e1')
    """
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"
