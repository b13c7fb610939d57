"""A score of silent failure, learned from many runs: boosted decision trees over the signs of a trial."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from autowarmup.instability.signs import NAMES

Node = float | list["float | int | bool | Node"]
"""A leaf's value, or a split: sign, threshold, whether an unknown sign goes below, the node for values up to the
threshold, and the one above it."""


class Forest:
    """The sum of decision trees, as the log-odds that a run has silently failed.

    Args:
        base: the log-odds before any tree.
        trees: their roots.

    Example:
        >>> forest = Forest(-1.0, [[2, 0.5, True, 0.25, 3.0]])  # one split, at half of the run
        >>> forest.score((0.0, 0.0, 0.4)), forest.score((0.0, 0.0, 0.6)), forest.score((0.0, 0.0, math.nan))
        (-0.75, 2.0, -0.75)
    """

    def __init__(self, base: float, trees: Sequence[Node]) -> None:
        self.base, self.trees = base, trees

    def score(self, signs: Sequence[float]) -> float:
        """The log-odds for these signs, in the order of :data:`autowarmup.instability.signs.NAMES`."""
        total = self.base
        for node in self.trees:
            while type(node) is list:
                sign, threshold, unknown_below, below, above = node
                value = signs[sign]  # type: ignore[index]
                node = below if (unknown_below if math.isnan(value) else value <= threshold) else above  # type: ignore[operator]
            total += node  # type: ignore[operator]
        return total


@cache
def shipped() -> Forest:
    """The forest that comes with the package; ``python -m benchmarks.silent_failure fit`` makes it."""
    stored = json.loads((files(__package__) / "silent_failure.json").read_text(encoding="utf-8"))
    assert stored["signs"] == [*NAMES], "the forest was fitted to other signs"
    return Forest(stored["base"], stored["trees"])
