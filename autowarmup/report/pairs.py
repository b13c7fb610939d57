"""Who was compared with whom on the fresh seeds, and how a difference is written."""

from __future__ import annotations

from autowarmup.search.verdict import Comparison
from autowarmup.study.result import TuneResult


def searched_and_rivals(result: TuneResult) -> tuple[Comparison | None, tuple[Comparison, ...]]:
    """The searched schedule, None where none got that far, and the baselines that it met."""
    comparisons = result.verdict.comparisons
    baselines = {record.candidate for record in result.records if record.role == "baseline"}
    if not comparisons or comparisons[0].candidate in baselines:
        return None, comparisons
    return comparisons[0], comparisons[1:]


def signed(value: float) -> str:
    """A difference of losses, with its sign."""
    if abs(value) >= 1e4 or 0.0 < abs(value) < 1e-5:
        text = f"{value:+.1e}"
    else:
        text = f"{value:+.4f}" if value == 0.0 or abs(value) >= 1e-3 else f"{value:+.5f}"
    return text.replace("-", "\N{MINUS SIGN}")
