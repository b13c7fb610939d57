"""The pairs on fresh seeds, and how a difference is written."""

from __future__ import annotations

from autowarmup.search.verdict import Comparison
from autowarmup.study.result import TuneResult


def paired(result: TuneResult) -> tuple[Comparison, Comparison] | None:
    """The searched schedule and the current one on fresh seeds; None where there were no pairs."""
    compared = result.verdict.comparisons
    return (compared[0], compared[1]) if compared else None


def signed(value: float) -> str:
    """A difference of losses, with its sign."""
    if abs(value) >= 1e4 or 0.0 < abs(value) < 1e-5:
        text = f"{value:+.1e}"
    else:
        text = f"{value:+.4f}" if value == 0.0 or abs(value) >= 1e-3 else f"{value:+.5f}"
    return text.replace("-", "\N{MINUS SIGN}")
