"""A score of silent failure, learned from many runs: boosted decision trees over the signs of a trial."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
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
        >>> forest.score((0.0, 0.0, 0.4)), forest.score((0.0, 0.0, 0.6)), forest.score((0.0, 0.0, float("nan")))
        (-0.75, 2.0, -0.75)
    """

    def __init__(self, base: float, trees: Sequence[Node]) -> None:
        self.base, self.trees = base, trees
        self._exceeds = _compiled(trees)

    def score(self, signs: Sequence[float]) -> float:
        """The log-odds for these signs, in the order of :data:`autowarmup.instability.signs.NAMES`."""
        return self.base + sum(_value(tree, signs) for tree in self.trees)

    def exceeds(self, signs: Sequence[float], limit: float) -> bool:
        """Whether the log-odds are above ``limit``. It ends at the first tree from which on they can't be any more, and
        begins with the trees that tell most."""
        return self._exceeds(signs, limit, self.base)


def _compiled(trees: Sequence[Node]) -> Callable[[Sequence[float], float, float], bool]:
    """Whether the trees bring a total above a limit, as one expression of Python: it takes a quarter of the time of a
    walk along the nodes."""
    ordered = sorted(trees, key=lambda tree: max(_leaves(tree)) - min(_leaves(tree)), reverse=True)
    highest = [max(_leaves(tree)) for tree in ordered]
    checks = [
        f"total + {sum(highest[position:])!r} > limit and ((total := total + {_source(tree)}) or True)"
        for position, tree in enumerate(ordered)
    ]
    source = " and ".join([*checks, "total > limit"])
    function: Callable[[Sequence[float], float, float], bool] = eval(f"lambda signs, limit, total: {source}")
    return function


def _source(node: Node) -> str:
    """A node as an expression. Nothing but numbers gets into it, whatever the node is."""
    if not isinstance(node, list):
        return repr(float(node))
    sign, threshold, unknown_below, below, above = node
    value, split = f"signs[{int(sign)}]", repr(float(threshold))  # type: ignore[arg-type]
    goes_below = f"not {value} > {split}" if unknown_below else f"{value} <= {split}"
    return f"({_source(below)} if {goes_below} else {_source(above)})"


def _value(node: Node, signs: Sequence[float]) -> float:
    """The leaf to which the signs lead."""
    while type(node) is list:
        sign, threshold, unknown_below, below, above = node
        value = signs[sign]  # type: ignore[index]
        node = below if value <= threshold or (unknown_below and value != value) else above  # type: ignore[operator]
    return node  # type: ignore[return-value]


def _leaves(node: Node) -> Iterator[float]:
    if isinstance(node, list):
        yield from _leaves(node[3])
        yield from _leaves(node[4])
    else:
        yield node


@cache
def shipped() -> Forest:
    """The forest that comes with the package; ``python -m benchmarks.silent_failure fit`` makes it."""
    stored = json.loads((files(__package__) / "silent_failure.json").read_text(encoding="utf-8"))
    assert stored["signs"] == [*NAMES], "the forest was fitted to other signs"
    return Forest(stored["base"], stored["trees"])
