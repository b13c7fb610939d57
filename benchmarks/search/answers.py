"""Figures of merit of whole studies: what an answer costs, and whether it is right."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from autowarmup.search.verdict import Verdict
from benchmarks.search.merit import Standard, quantile, spread
from benchmarks.search.ours import Answer
from benchmarks.search.snapping import nearest


def study_summary(standard: Standard, answers: Sequence[Answer]) -> dict[str, Any]:
    """The figures of studies of one table; see docs/search.md."""
    kinds = [answer.verdict.kind for answer in answers]
    regrets = [_regret(standard, answer) for answer in answers]
    relative = [_relative(standard, answer) for answer in answers]
    covered = [hit for answer in answers for hit in _covered(standard, answer.verdict)]
    near = sum(kind == "leaning" and regret <= 1.0 for kind, regret in zip(kinds, regrets, strict=True))
    return {
        "runs": spread([answer.runs for answer in answers]),
        "time": spread([answer.time for answer in answers]),
        "verdicts": dict(Counter(kinds)),
        "true_verdict": standard.truth,
        "right": kinds.count(standard.truth) / len(kinds),  # type: ignore[arg-type]
        "leaning_within": near / len(kinds),
        "false_tuned": kinds.count("tuned") / len(kinds) if standard.truth == "tie" else 0.0,
        "pairs": quantile([_pairs(answer.verdict) for answer in answers], 0.5),
        "intervals": len(covered),
        "coverage": sum(covered) / len(covered) if covered else None,
        "regret": spread(regrets) | {"worst": max(regrets)},
        "regret_to_current": spread(relative) | {"worst": max(relative)},
    }


def _regret(standard: Standard, answer: Answer) -> float:
    """That of what is handed back, in noises; infinite where nothing is."""
    return math.inf if answer.schedule is None else standard.regret(answer.schedule)


def _relative(standard: Standard, answer: Answer) -> float:
    """How much worse than today's schedule what is handed back is, in noises; negative where it is better."""
    if answer.schedule is None:
        return math.inf
    current = standard.mean[standard.current]
    if not math.isfinite(current):
        return 0.0 if answer.schedule == standard.current else -math.inf
    return (standard.mean[answer.schedule] - current) / standard.noise


def _covered(standard: Standard, verdict: Verdict) -> list[bool]:
    """For each interval of a verdict, whether it holds the difference between the means over the table's seeds."""
    known = list(standard.mean)
    hits = []
    for comparison in verdict.comparisons:
        if comparison.interval is not None:
            tuned, other = (nearest(item.schedule, known) for item in (verdict.comparisons[0], comparison))
            difference = standard.mean[tuned] - standard.mean[other]
            hits.append(comparison.interval.low <= difference <= comparison.interval.high)
    return hits


def _pairs(verdict: Verdict) -> int:
    """Pairs behind the verdict's best-known interval."""
    return max((len(c.interval.differences) for c in verdict.comparisons if c.interval is not None), default=0)
