"""Who was compared with whom on the fresh seeds."""

from __future__ import annotations

from autowarmup.result import TuneResult
from autowarmup.verdict import Comparison


def searched_and_rivals(result: TuneResult) -> tuple[Comparison | None, tuple[Comparison, ...]]:
    """The searched schedule, None where none got that far, and the baselines that it met."""
    comparisons = result.verdict.comparisons
    baselines = {record.candidate for record in result.records if record.role == "baseline"}
    if not comparisons or comparisons[0].candidate in baselines:
        return None, comparisons
    return comparisons[0], comparisons[1:]
