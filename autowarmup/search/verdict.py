"""The verdict: what a study hands back, and how sure it is that this is better than the current schedule."""

from __future__ import annotations

from typing import Literal, Self

from autowarmup.schedule.schedule import Schedule
from autowarmup.search.pairs import Posterior
from autowarmup.training.objective import LOSS, Objective
from autowarmup.values import Frozen

CONFIDENCE = 0.95
STOPPED_EARLY = 0.97
"""The posterior probability that an interval of :data:`CONFIDENCE` holds: pairs stop when they look decided, and what
looks decided is a little luckier than the truth. Simulated in benchmarks/results/verdict.md."""

TUNED, CURRENT = "tuned", "current"
"""What the two schedules of a comparison are called."""


class Interval(Frozen):
    """A paired comparison: the final loss, or the final value of another objective, of one schedule minus another's,
    seed by seed.

    Negative: the first is better; with an objective that is maximized, positive. ``low`` and ``high`` bound the mean
    difference at the given confidence; see :mod:`autowarmup.search.pairs`.

    Example:
        >>> from autowarmup.search.pairs import NoisePrior
        >>> differences = (-0.5, -0.4, -0.6)
        >>> interval = Interval.of(Posterior(differences=differences, prior=NoisePrior(expected=0.1, spread=1.0)))
        >>> round(interval.mean, 2), round(interval.low, 1), round(interval.high, 1)
        (-0.5, -0.7, -0.3)
    """

    mean: float
    low: float
    high: float
    confidence: float
    differences: tuple[float, ...]

    @classmethod
    def of(cls, posterior: Posterior, objective: Objective = LOSS) -> Self:
        """The interval of what pairs say, in the sign of the objective that they are judged by."""
        mean, low, high = objective.shown_range(posterior.mean, *posterior.interval(STOPPED_EARLY))
        differences = tuple(map(objective.shown, posterior.differences))
        return cls(mean=mean, low=low, high=high, confidence=CONFIDENCE, differences=differences)


class Comparison(Frozen):
    """One of the schedules that met on the fresh seeds.

    Args:
        candidate: its number in the study.
        name: ``"tuned"`` or ``"current"``.
        schedule: what it applied.
        final_losses: final validation losses seed by seed, or final values of another objective, None where the run
            didn't get to its horizon: it became unstable, or was stopped since the pair was decided.
        unstable: how many of its runs became unstable.
        interval: the searched schedule minus this one; None for the searched one itself, and where a pair was decided
            before its end.
    """

    candidate: int
    name: str
    schedule: Schedule
    final_losses: tuple[float | None, ...]
    unstable: int = 0
    interval: Interval | None = None

    @property
    def stable(self) -> bool:
        """Whether none of its runs became unstable."""
        return self.unstable == 0

    @property
    def ends(self) -> tuple[str, ...]:
        """How its runs ended, seed by seed: with their final loss, or why they have none.

        >>> plain = Schedule(peak=1e-3, horizon=100)
        >>> Comparison(candidate=1, name="current", schedule=plain, final_losses=(0.25, None)).ends
        ('0.2500', 'stopped early')
        """
        missing = self.final_losses.count(None)
        reason = "unstable" if self.unstable == missing else "stopped early"
        if 0 < self.unstable < missing:
            reason = "unstable or stopped early"
        return tuple(reason if loss is None else f"{loss:.4f}" for loss in self.final_losses)

    @property
    def losses(self) -> tuple[float, ...]:
        return tuple(loss for loss in self.final_losses if loss is not None)


class Verdict(Frozen):
    """What a study concludes.

    *tuned*: fresh seeds show that the searched schedule is better than the current one. *leaning*: it is expected to be
    better, which is not shown. *tie*: there is no difference that matters; ``schedule`` is the current one. *nothing
    stable*: no schedule got to its horizon. *not compared*: there was one run, whose warm-up adapted; ``schedule`` is
    the nearest to what it applied.

    Args:
        kind: one of these.
        candidate: the number of ``schedule`` in the study.
        schedule: what the study hands back; None where nothing was stable.
        searched: the best schedule that the search found, also where it is not handed back; None where none got to its
            horizon.
        margin: the smallest difference that matters, as a share of the loss.
        comparisons: the searched schedule and the current one on fresh seeds, in this order; empty where there were no
            pairs.
        message: the findings in a few sentences.
    """

    kind: Literal["tuned", "leaning", "tie", "nothing stable", "not compared"]
    candidate: int | None
    schedule: Schedule | None
    searched: Schedule | None = None
    margin: float
    comparisons: tuple[Comparison, ...] = ()
    message: str
