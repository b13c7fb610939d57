"""The training loss that a study expects at each step of the run with its schedule, with its spread."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autowarmup.guard.events import Finding
from autowarmup.instability.history import Lasting, Step, median

if TYPE_CHECKING:
    from autowarmup.study.result import TuneResult

Column = np.ndarray[tuple[int], np.dtype[np.float64]]

WINDOW = 20
"""Steps whose median loss is compared."""
WIDTH = 8.0
"""How many spreads above the expected loss count as having left it."""
PATIENCE = 0.05
"""For how long, as a share of the horizon, but at least 20 steps."""


@dataclass(frozen=True, eq=False)
class Band:
    """The level of the loss in the study's own runs of the schedule.

    The level is the median of the last 20 losses. Its spread is that between runs under several seeds, pooled over a
    tenth of the horizon, but at least the standard error of a level and a hundredth of the level.

    Args:
        level: the expected level at each step.
        spread: its spread at each step.
    """

    level: Column
    spread: Column

    @classmethod
    def of(cls, result: TuneResult) -> Band | None:
        """From a study's runs of its schedule; None where it trained shorter runs than the schedule's, or none of them
        to the end."""
        schedule = result.schedule
        numbers = [one.number for one in result.records if one.schedule == schedule and one.outcome == "completed"]
        if not numbers:
            return None
        return cls.from_runs(np.array([result.trace(number).loss for number in numbers]))

    @classmethod
    def from_runs(cls, losses: np.ndarray[Any, np.dtype[np.float64]]) -> Band:
        """From the losses of some runs, shape ``(runs, steps)``."""
        levels = np.array([_levels(run) for run in losses])
        level = np.median(levels, axis=0)
        noise = np.array([np.std(np.diff(run)) / math.sqrt(2.0) for run in losses]).mean()
        least = np.maximum(1.2533 * noise / math.sqrt(WINDOW), 0.01 * np.abs(level))
        between = levels.std(axis=0, ddof=1) if len(levels) > 1 else np.zeros_like(level)
        return cls(level, np.maximum(_pooled(between, max(1, len(level) // 10)), least))


class ExpectedLoss:
    """Compares a run's loss with the band.

    Args:
        band: what is expected.
    """

    def __init__(self, band: Band) -> None:
        self.band = band
        self._losses: list[float] = []
        self._patience = max(20, round(PATIENCE * len(band.level)))
        self._above = Lasting()

    def observe(self, step: int, loss: float) -> Finding | None:
        """Whether the run has left what is expected.

        Args:
            step: the step of the run, counted from 0.
            loss: its loss, finite.
        """
        self._losses = [*self._losses[-WINDOW + 1 :], loss]
        if step >= len(self.band.level) or step < WINDOW:
            return None
        level, limit = median(self._losses), self.band.level[step] + WIDTH * self.band.spread[step]
        self._above.add(Step(step, 0.0, loss, math.nan), bool(level > limit))
        if self._above.since is None or self._above.steps < self._patience:
            return None
        ago, self._above = step - self._above.since.number, Lasting()
        expected = float(self.band.level[step])
        return Finding(
            reason="off-forecast",
            ago=ago,
            fatal=True,
            message=f"the loss is at {level:.4g}, where the study's runs were at {expected:.4g}",
            evidence={"level": level, "expected": expected, "spread": float(self.band.spread[step])},
        )


def _levels(losses: Column) -> Column:
    return np.array([np.median(losses[max(0, step - WINDOW + 1) : step + 1]) for step in range(len(losses))])


def _pooled(values: Column, width: int) -> Column:
    """The root mean square over neighbouring steps."""
    padded = np.pad(values**2, width // 2, mode="edge")
    means = np.convolve(padded, np.ones(width) / width, mode="same")
    return np.sqrt(means[width // 2 : width // 2 + len(values)])
