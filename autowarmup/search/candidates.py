"""The schedules that a search may propose: the first ones, and a pool that covers the space."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from autowarmup.schedule import Schedule, group_ranges
from autowarmup.schedule.ranges import PeakRange
from autowarmup.search.config import GROUPED_STARTS, TuneConfig
from autowarmup.search.prior import Prior
from autowarmup.search.probe import peak_of_ramp
from autowarmup.search.surrogate import features, of_groups
from autowarmup.seeds import derive_seed
from autowarmup.training.trace import Trace

POOL_BITS, POOL_BITS_WITH_GROUPS = 9, 11
"""Candidates to choose from: two to this power. A space with groups has more dimensions."""

PARAMETERS = ("peak", "shape", "decay", "final_factor", "warmup_steps_sqrt", "power", "start_factor")
"""What a space may ask for, by name."""
DIMENSIONS = len(PARAMETERS)
WITH_GROUPS = (*PARAMETERS, *group_ranges.PARAMETERS)
"""The same for a space with groups."""


@dataclass(frozen=True)
class Candidate:
    """A schedule that may be proposed, and the space's parameters behind it."""

    schedule: Schedule
    params: dict[str, float | str]
    end: int = 0

    def __hash__(self) -> int:
        return hash(self.schedule)


class Candidates:
    """The schedules of a study's search space."""

    def __init__(self, config: TuneConfig) -> None:
        self.config = config
        self._pools: dict[PeakRange, list[Candidate]] = {}

    def pool(self, peaks: PeakRange) -> list[Candidate]:
        """The schedules to choose from: evenly spread over the space. Owen 1998, Scrambling Sobol' points."""
        from scipy.stats import qmc

        if peaks not in self._pools:
            grouped = self.config.space.groups is not None
            dimensions, bits = (len(WITH_GROUPS), POOL_BITS_WITH_GROUPS) if grouped else (DIMENSIONS, POOL_BITS)
            sobol = qmc.Sobol(d=dimensions, seed=derive_seed(self.config.seed, "pool"))
            points = sobol.random_base2(bits)
            self._pools[peaks] = [self._candidate(peaks, {}, point.tolist()) for point in points]
        return self._pools[peaks]

    def plain(self, peaks: PeakRange) -> list[Candidate]:
        """The current schedule with no warm-up, and with that of the untuned rule (Ma & Yarats 2021, On the Adequacy of
        Untuned Warmup for Adaptive Optimization, arXiv 1910.04209), as far as the space holds them."""
        config, current = self.config, self.config.current_schedule
        decay = {"decay": current.decay, "final_factor": current.final_factor}
        plain = [
            Schedule(peak=current.peak, horizon=config.horizon, **decay),
            Schedule.untuned_linear(current.peak, config.horizon, config.beta2, **decay),
        ]
        params = {
            schedule: config.space.params_of(schedule, config.steps_per_epoch, config.groups) for schedule in plain
        }
        return [
            Candidate(schedule, known)
            for schedule, known in params.items()
            if known is not None and schedule != current and peaks.low <= schedule.peak <= peaks.high
        ]

    def starts(self, expected: float, peaks: PeakRange, count: int) -> list[Candidate]:
        """The first candidates: long linear warm-ups, which forgive most, to the expected peak, to one on the way from
        there to today's, and to further ones in turn above and below, as far as the range of peaks goes. Where it holds
        fewer than ``count``, the rest come from the pool. Where the space has groups, two more follow to the expected
        peak: a fixed ratio, and gradual unfreezing. The decay is linear where the space has it (Defazio et al.
        2023, Optimal Linear Decay Learning Rate Schedules and Further Refinements, arXiv 2310.07831)."""
        space, config = self.config.space, self.config
        longest = space.warmup.steps(config.horizon, config.steps_per_epoch)[1]
        fixed: dict[str, float | str] = {"warmup_steps_sqrt": math.sqrt(longest)}
        for part, choices in (("shape", space.shapes), ("decay", space.decay)):
            if "linear" in choices:
                fixed[part] = "linear"
        wanted = islice(self._first_peaks(expected, peaks), count)
        plain = [fixed | self._one_curve | {"peak": peak} for peak in wanted]
        starts = [self._candidate(peaks, one, [0.0] * len(WITH_GROUPS)) for one in plain]
        if space.groups:
            for one in space.groups.starts(len(config.groups)):
                starts.append(self._candidate(peaks, plain[0] | one, [0.0] * len(WITH_GROUPS)))
            count += GROUPED_STARTS
        return [*starts, *self.pool(peaks)[: count - len(starts)]]

    @property
    def _one_curve(self) -> dict[str, str]:
        """The parameter that stands for a schedule without groups."""
        return {group_ranges.MODES: group_ranges.ONE_CURVE} if self.config.space.groups else {}

    def _first_peaks(self, expected: float, peaks: PeakRange) -> Iterator[float]:
        """Distinct peaks of the range, the expected one first."""
        way = math.log10(self.config.current_peak / expected) / 2.0
        step = math.copysign(min(max(abs(way), 0.4), 0.8), way) if way else 0.8
        widest = math.ceil(math.log10(peaks.high / peaks.low) / 0.4) + 4
        offsets = [0.0, step, *(0.4 * (k // 2) * (-1) ** k for k in range(4, 2 * widest + 4))]
        clamped = (min(max(expected * 10.0**offset, peaks.low), peaks.high) for offset in offsets)
        yield from dict.fromkeys(clamped)

    def _candidate(self, peaks: PeakRange, fixed: dict[str, float | str], point: Sequence[float]) -> Candidate:
        """The space's schedule at a point of the unit cube, some parameters fixed."""
        config = self.config
        chooser = UnitCubePoint(fixed, point)
        schedule = config.space.suggest(
            chooser, peaks, config.horizon, config.steps_per_epoch, config.beta2, config.groups
        )
        return Candidate(schedule, chooser.params)

    def expected_peak(self, probe: Trace | None, prior: Prior) -> float:
        """The best peak to expect, within the space.

        Args:
            probe: what the probe recorded; None where there is none.
            prior: what is expected of schedules.
        """
        current, bounds = self.config.current_peak, self.config.space.peak
        if probe is not None and len(probe):
            return self.within(prior.expected_peak(current, peak_of_ramp(probe, current)))
        return current if bounds is None else math.sqrt(bounds.low * bounds.high)

    def within(self, peak: float) -> float:
        """The nearest peak of the space."""
        bounds = self.config.space.peak
        return peak if bounds is None else min(max(peak, bounds.low), bounds.high)


def harsher(schedule: Schedule, broken: Schedule) -> bool:
    """Whether a schedule asks for at least as much as one that broke: no lower peak, no gentler warm-up, and no gentler
    treatment of its groups."""
    if schedule.peak < broken.peak or features(schedule)[1] > features(broken)[1]:
        return False
    return all(one <= other for one, other in zip(of_groups(schedule), of_groups(broken), strict=True))


@dataclass
class UnitCubePoint:
    """Answers what a space asks like an Optuna trial: with a fixed value, or with the next coordinate of a point of the
    unit cube, stretched over the range."""

    fixed: dict[str, float | str]
    point: Sequence[float]
    params: dict[str, float | str] = field(default_factory=dict)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        share = self.point[WITH_GROUPS.index(name)]
        value = low * (high / low) ** share if log else low + (high - low) * share
        self.params[name] = min(max(float(self.fixed.get(name, value)), low), high)
        return float(self.params[name])

    def suggest_categorical(self, name: str, choices: list[str]) -> Any:
        share = self.point[WITH_GROUPS.index(name)]
        self.params[name] = self.fixed.get(name, choices[int(share * len(choices))])
        return self.params[name]
