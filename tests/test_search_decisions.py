"""What a search runs, trial by trial, on losses that a formula gives: the whole of its decisions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from autowarmup import SearchSpace
from autowarmup.errors import TaskFailedError
from autowarmup.search.search import Search
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.training.trace import Trace
from tests.simulation import Answer, conducted, config, failing, smooth, trace, unstable


def fragile(spec: TrialSpec, start: int, until: int) -> SegmentResult:
    """What is searched breaks on the fresh seeds; baselines don't."""
    searched = spec.role == "confirmation" and not spec.stop_only_on_nonfinite
    return unstable(spec, start, until) if searched else smooth(spec, start, until)


def low(spec: TrialSpec, start: int, until: int) -> SegmentResult:
    """The best peak is 0.02, near today's."""
    loss = 1.0 + abs(np.log10(spec.schedule.peak / 0.02)) + 0.001 * spec.schedule.duration
    return SegmentResult(spec.number, until, trace(start, until - start, loss))


def ramped(spec: TrialSpec, start: int, until: int) -> SegmentResult:
    """The probe's loss is lowest at a rate of 0.25."""
    if spec.role != "probe":
        return smooth(spec, start, until)
    rates = np.array([spec.schedule.lr_at(step) for step in range(until)])
    losses = 2.0 + np.log10(rates / 0.25) ** 2
    return SegmentResult(spec.number, until, Trace(rates, losses, losses))


def breaking(spec: TrialSpec, start: int, until: int) -> SegmentResult:
    """Only peaks below 0.004 get anywhere."""
    return smooth(spec, start, until) if spec.schedule.peak < 0.004 else unstable(spec, start, until)


def failing_once(spec: TrialSpec, start: int, until: int) -> SegmentResult:
    """One proposal fails after some steps."""
    failed = spec.number == 2 and start == 0
    return failing(spec, start, until) if failed else smooth(spec, start, until)


class Case(NamedTuple):
    """A study, and what it comes to."""

    name: str
    answer: Answer
    changes: dict[str, Any]
    trials: list[str]
    spent: int
    kind: str


def told(search: Search, answer: Answer) -> tuple[list[str], str]:
    """One line a trial, in the order of their numbers: role, candidate, peak, duration, the steps that it was trained
    to, outcome; those of the fresh seeds once where they are alike. And the verdict."""
    conclusion, segments, outcomes = conducted(search, answer)
    trials = {spec.number: spec for spec, _, _ in segments}
    lines = []
    for number, spec in sorted(trials.items()):
        ends = " ".join(str(until) for other, _, until in segments if other.number == number)
        schedule = spec.schedule
        lines.append(
            f"{spec.role} {spec.candidate}: {schedule.peak:.3g} after {schedule.duration}: {ends} {outcomes[number]}"
        )
    return list(dict.fromkeys(lines)), conclusion.verdict.kind


CASES = (
    Case(
        "smooth",
        smooth,
        {},
        [
            "probe 0: 1 after 10: 10 unstable",
            "baseline 1: 0.01 after 0: 25 pruned",
            "proposal 2: 0.403 after 30: 25 unstable",
            "proposal 3: 0.0639 after 30: 25 50 100 completed",
            "proposal 4: 0.0312 after 0: 25 pruned",
            "proposal 5: 0.111 after 0: 25 pruned",
            "proposal 6: 0.107 after 28: 25 50 100 completed",
            "confirmation 6: 0.107 after 28: 25 50 pruned",
            "confirmation 1: 0.01 after 0: 25 50 pruned",
        ],
        381,
        "tuned",
    ),
    Case(
        "smooth, more budget, another seed",
        smooth,
        {"budget": 2500, "seed": 1},
        [
            "probe 0: 1 after 10: 10 unstable",
            "baseline 1: 0.01 after 0: 25 pruned",
            "proposal 2: 0.403 after 30: 25 unstable",
            "proposal 3: 0.0639 after 30: 25 50 100 completed",
            "proposal 4: 0.0305 after 0: 25 pruned",
            "proposal 5: 0.113 after 0: 25 pruned",
            "proposal 6: 0.108 after 30: 25 50 100 completed",
            "confirmation 6: 0.108 after 30: 25 50 pruned",
            "confirmation 1: 0.01 after 0: 25 50 pruned",
        ],
        381,
        "tuned",
    ),
    Case(
        "three at a time",
        smooth,
        {"cohort": 3, "budget": 800},
        [
            "probe 0: 1 after 10: 10 unstable",
            "baseline 1: 0.01 after 0: 25 pruned",
            "proposal 2: 0.403 after 30: 25 unstable",
            "proposal 3: 0.0639 after 30: 25 50 100 completed",
            "proposal 4: 0.438 after 28: 25 unstable",
            "proposal 5: 0.041 after 0: 25 pruned",
            "proposal 6: 0.0961 after 0: 25 pruned",
            "proposal 7: 0.107 after 28: 25 50 100 completed",
            "proposal 8: 0.0807 after 29: 25 50 100 completed",
            "proposal 9: 0.129 after 28: 25 50 pruned",
            "confirmation 7: 0.107 after 28: 25 50 pruned",
            "confirmation 1: 0.01 after 0: 25 50 pruned",
        ],
        584,
        "tuned",
    ),
    Case(
        "no range of peaks",
        ramped,
        {"space": SearchSpace()},
        [
            "probe 0: 1 after 10: 10 completed",
            "baseline 1: 0.01 after 0: 25 pruned",
            "proposal 2: 0.0939 after 30: 25 50 100 completed",
            "proposal 3: 0.0306 after 30: 25 50 pruned",
            "proposal 4: 0.22 after 29: 25 50 100 completed",
            "confirmation 2: 0.0939 after 30: 25 50 pruned",
            "confirmation 1: 0.01 after 0: 25 50 pruned",
        ],
        385,
        "tuned",
    ),
    Case(
        "the best is today's",
        low,
        {"budget": 900, "space": SearchSpace(peak={"low": 0.004, "high": 4.0})},
        [
            "probe 0: 1 after 10: 10 completed",
            "baseline 1: 0.01 after 0: 25 50 100 completed",
            "proposal 2: 0.225 after 30: 25 pruned",
            "proposal 3: 0.0474 after 30: 25 50 pruned",
            "proposal 4: 0.0156 after 30: 25 50 100 completed",
            "confirmation 4: 0.0156 after 30: 25 50 pruned",
            "confirmation 1: 0.01 after 0: 25 50 pruned",
        ],
        385,
        "tuned",
    ),
    Case(
        "to the last step of the budget",
        low,
        {"budget": 410},
        [
            "probe 0: 1 after 10: 10 completed",
            "baseline 1: 0.01 after 0: 25 50 pruned",
            "proposal 2: 0.225 after 30: 25 pruned",
            "proposal 3: 0.0474 after 30: 25 50 100 completed",
            "proposal 4: 0.0123 after 0: 25 pruned",
            "confirmation 3: 0.0474 after 30: 25 50 100 completed",
            "confirmation 1: 0.01 after 0: 25 50 100 completed",
        ],
        410,
        "tie",
    ),
    Case(
        "the searched ones break on fresh seeds",
        fragile,
        {"budget": 1500},
        [
            "probe 0: 1 after 10: 10 unstable",
            "baseline 1: 0.01 after 0: 25 50 100 completed",
            "proposal 2: 0.403 after 30: 25 unstable",
            "proposal 3: 0.0639 after 30: 25 50 100 completed",
            "proposal 4: 0.0312 after 0: 25 pruned",
            "proposal 5: 0.111 after 0: 25 pruned",
            "proposal 6: 0.107 after 28: 25 50 100 completed",
            "confirmation 6: 0.107 after 28: 25 unstable",
            "confirmation 3: 0.0639 after 30: 25 unstable",
            "confirmation 7: 0.0536 after 28: 25 unstable",
        ],
        365,
        "tie",
    ),
    Case(
        "most peaks break",
        breaking,
        {},
        [
            "probe 0: 1 after 10: 10 unstable",
            "baseline 1: 0.01 after 0: 25 unstable",
            "proposal 2: 0.403 after 30: 25 unstable",
            "proposal 3: 0.0639 after 30: 25 unstable",
            "proposal 4: 0.00334 after 26: 25 50 100 completed",
            "proposal 5: 0.001 after 0: 25 50 pruned",
            "proposal 6: 0.003 after 0: 25 pruned",
            "proposal 7: 0.0039 after 30: 25 50 100 completed",
            "confirmation 7: 0.0039 after 30: 25 50 100 completed",
            "confirmation 1: 0.01 after 0: 25 unstable",
        ],
        390,
        "tuned",
    ),
    Case(
        "one proposal fails",
        failing_once,
        {"cohort": 2},
        [
            "probe 0: 1 after 10: 10 unstable",
            "baseline 1: 0.01 after 0: 25 pruned",
            "proposal 2: 0.403 after 30: 25 failed",
            "proposal 3: 0.0639 after 30: 25 50 100 completed",
            "proposal 4: 0.403 after 30: 25 unstable",
            "proposal 5: 0.0312 after 0: 25 pruned",
            "proposal 6: 0.111 after 0: 25 pruned",
            "proposal 7: 0.107 after 28: 25 50 100 completed",
            "proposal 8: 0.129 after 28: 25 50 pruned",
            "confirmation 7: 0.107 after 28: 25 50 pruned",
            "confirmation 1: 0.01 after 0: 25 50 pruned",
        ],
        431,
        "tuned",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_what_a_search_runs(case: Case) -> None:
    search = Search(config(**case.changes))
    assert told(search, case.answer) == (case.trials, case.kind)
    assert search.spent == case.spent


def test_twenty_proposals_that_fail_each_in_its_own_way_end_the_exploration() -> None:
    def each(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        proposed = spec.role == "proposal"
        return failing(spec, start, until, "x" * spec.number) if proposed else smooth(spec, start, until)

    _, _, outcomes = conducted(Search(config()), each)
    assert list(outcomes.values()).count("failed") == 20


def test_baselines_are_stopped_only_where_the_loss_is_not_finite() -> None:
    """A false alarm must not make them lose; what is searched is stopped by every instability."""
    _, segments, _ = conducted(Search(config()), smooth)
    baselines = {spec.candidate for spec, _, _ in segments if spec.role == "baseline"}
    for spec, _, _ in segments:
        assert spec.stop_only_on_nonfinite == (spec.candidate in baselines)


@pytest.mark.parametrize("budget", range(410, 1000, 60))
def test_challengers_that_break_on_fresh_seeds_stay_within_the_budget(budget: int) -> None:
    def late(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        return fragile(spec, start, until) if until == 100 else smooth(spec, start, until)

    search = Search(config(budget=budget))
    _, segments, _ = conducted(search, late)
    assert search.spent <= budget
    assert any(spec.role == "confirmation" and not spec.stop_only_on_nonfinite for spec, _, _ in segments)


def test_a_challenger_at_the_lowest_peak_is_not_repeated() -> None:
    space = SearchSpace(peak={"low": 0.1, "high": 0.15}, shapes=["linear"], warmup=16)  # type: ignore[arg-type]
    _, segments, _ = conducted(Search(config(space=space, current_peak=0.1, budget=3000)), fragile)
    fresh = {spec.candidate: spec.schedule for spec, _, _ in segments if spec.role == "confirmation"}
    assert len(set(fresh.values())) == len(fresh)


def test_without_a_probe_the_first_peak_is_the_middle_of_the_space() -> None:
    space = SearchSpace(peak={"low": 0.04, "high": 0.16})  # type: ignore[arg-type]
    _, segments, _ = conducted(Search(config(space=space, current_peak=0.08)), smooth)
    _, first, *_ = segments
    assert first[0].role == "proposal"
    assert first[0].schedule.peak == pytest.approx(0.08)


def test_a_single_failure_is_not_said_to_be_one_of_several() -> None:
    def answer(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        return (failing if spec.role == "baseline" else smooth)(spec, start, until)

    with pytest.raises(TaskFailedError, match=r"trial \d+ \(baseline\) failed, so the study stops here"):
        conducted(Search(config()), answer)
