"""The verdict: does the searched schedule beat the baselines by more than the noise?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

from autowarmup.schedule.schedule import Schedule
from autowarmup.values import Frozen

CONFIDENCE = 0.95


class Interval(Frozen):
    """A paired comparison: final validation loss of one schedule minus another's, seed by seed.

    Negative: the first is better. ``low`` and ``high`` bound the mean difference at the given confidence, by
    Student's t over the seeds.

    Example:
        >>> interval = Interval.of([2.0, 2.1, 2.2], [2.5, 2.5, 2.8])
        >>> round(interval.mean, 2), round(interval.low, 2), round(interval.high, 2)
        (-0.5, -0.75, -0.25)
    """

    mean: float
    low: float
    high: float
    confidence: float
    differences: tuple[float, ...]

    @classmethod
    def of(cls, first: Sequence[float], second: Sequence[float]) -> Self:
        """The interval of ``first - second``, each at least two losses, paired by position."""
        from scipy import stats

        differences = tuple(a - b for a, b in zip(first, second, strict=True))
        count = len(differences)
        mean = math.fsum(differences) / count
        deviation = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (count - 1))
        half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * deviation / math.sqrt(count)
        return cls(mean=mean, low=mean - half, high=mean + half, confidence=CONFIDENCE, differences=differences)


class Comparison(Frozen):
    """One of the schedules that met on the fresh seeds.

    Args:
        candidate: its number in the study.
        name: ``"tuned"``, ``"no warm-up"`` or ``"untuned rule"``.
        schedule: what it applied.
        final_losses: final validation losses seed by seed, None where the run didn't get to its horizon: it became
            unstable, failed, or was given up because another seed's did.
        interval: the searched schedule minus this one; None for the searched one itself and where a run was unstable.
    """

    candidate: int
    name: str
    schedule: Schedule
    final_losses: tuple[float | None, ...]
    interval: Interval | None = None

    @property
    def stable(self) -> bool:
        """Whether it got to its horizon on every seed."""
        return bool(self.final_losses) and None not in self.final_losses

    @property
    def losses(self) -> tuple[float, ...]:
        return tuple(loss for loss in self.final_losses if loss is not None)

    @property
    def mean(self) -> float:
        return math.fsum(self.losses) / len(self.losses)


class Verdict(Frozen):
    """What a study concludes.

    *tuned*: the searched schedule beats the baselines by more than the noise. *tie*: it doesn't, and ``schedule`` is
    the baseline that ties with the best, of two the one with the shorter warm-up. *leaning*: ``schedule`` is the best
    that was found, but the budget was spent while better ones were still expected. *nothing stable*: no schedule got
    to its horizon.

    ``comparisons`` hold the searched schedule first (where one completed), then the baselines.
    """

    kind: Literal["tuned", "tie", "leaning", "nothing stable"]
    candidate: int | None
    schedule: Schedule | None
    comparisons: tuple[Comparison, ...] = ()
    message: str


def keep(name: str, candidate: int, schedule: Schedule, *, settled: bool) -> Verdict:
    """The verdict where no searched schedule is better than a baseline on the very seed of the search: a tie where the
    search has ``settled``, so that nothing better is expected."""
    if not settled:
        message = (
            f"The {name} schedule is the best that was found, but the budget was spent while the search still expected "
            f"better ones: a study with a larger budget looks further."
        )
        return Verdict(kind="leaning", candidate=candidate, schedule=schedule, message=message)
    return Verdict(
        kind="tie",
        candidate=candidate,
        schedule=schedule,
        message=f"The search has nothing better than the {name} schedule, not even on its own seed, which favours "
        f"what it found. Keep that; no paired runs were needed.",
    )


def judge(
    tuned: Comparison | None, baselines: Sequence[Comparison], broken: int = 0, unseen: Sequence[str] = ()
) -> Verdict:
    """The verdict after the paired runs.

    Args:
        tuned: the searched schedule, None where none completed.
        baselines: those that were run on the fresh seeds.
        broken: further baselines, which had become unstable on the search's seed.
        unseen: the names of baselines that the budget did not allow to run on the fresh seeds.
    """
    compared = tuple(_against(tuned, baseline) for baseline in baselines)
    everyone = (*((tuned,) if tuned else ()), *compared)
    stable = [comparison for comparison in everyone if comparison.stable]
    if not stable:
        message = (
            "No schedule got to its horizon on every fresh seed: candidates and baselines became unstable or failed."
        )
        return Verdict(kind="nothing stable", candidate=None, schedule=None, comparisons=everyone, message=message)
    rivals = [comparison for comparison in stable if comparison is not tuned]
    if tuned is not None and tuned.stable and all(c.interval and c.interval.high < 0 for c in rivals):
        return Verdict(
            kind="tuned",
            candidate=tuned.candidate,
            schedule=tuned.schedule,
            comparisons=everyone,
            message=_victory(rivals, len(compared) + broken, unseen),
        )
    best = min(stable, key=lambda comparison: comparison.mean)
    ties = [c for c in stable if c is best or Interval.of(c.losses, best.losses).low <= 0]
    choice = min(ties, key=lambda comparison: (comparison is tuned, comparison.schedule.duration))
    return Verdict(
        kind="tie",
        candidate=choice.candidate,
        schedule=choice.schedule,
        comparisons=everyone,
        message=_draw(choice, ties),
    )


def _against(tuned: Comparison | None, baseline: Comparison) -> Comparison:
    if tuned is None or not (tuned.stable and baseline.stable):
        return baseline
    return baseline.model_copy(update={"interval": Interval.of(tuned.losses, baseline.losses)})


def _victory(rivals: Sequence[Comparison], baselines: int, unseen: Sequence[str]) -> str:
    if not rivals and unseen:
        return (
            f"The tuned schedule is stable on every fresh seed; the baselines that were run there became unstable. The "
            f"{' and the '.join(unseen)} schedule ended worse on the search's seed; the budget did not allow to run it "
            f"on the fresh ones."
        )
    if not rivals:
        return "The tuned schedule is stable on every seed; no baseline is."
    closest = max((c for c in rivals if c.interval), key=lambda c: c.interval.mean if c.interval else 0.0)
    assert closest.interval is not None
    interval = closest.interval
    lost = f"; {baselines - len(rivals)} of {baselines} baselines became unstable" if len(rivals) < baselines else ""
    return (
        f"The tuned schedule beats the best baseline ({closest.name}) by {-interval.mean:.4f} in final "
        f"loss, {interval.confidence:.0%} interval {-interval.high:.4f} to {-interval.low:.4f} "
        f"over {len(interval.differences)} fresh seeds{lost}."
    )


def _draw(choice: Comparison, ties: Sequence[Comparison]) -> str:
    if len(ties) == 1:
        return f"The {choice.name} schedule is the best that was found: the search has nothing better. Keep it."
    others = " and ".join(comparison.name for comparison in ties if comparison is not choice)
    return (
        f"The {choice.name} schedule ties with {others} within the noise of {len(choice.losses)} fresh seeds: keep it."
    )
