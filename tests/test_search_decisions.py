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
            "proposal 1: 1 after 30: 25 unstable",
            "proposal 2: 0.158 after 30: 25 50 100 completed",
            "proposal 3: 0.455 after 0: 25 unstable",
            "proposal 4: 0.263 after 28: 25 pruned",
            "proposal 5: 0.107 after 28: 25 50 100 completed",
            "proposal 6: 0.069 after 28: 25 50 pruned",
            "baseline 7: 0.01 after 0: 25 50 100 completed",
            "baseline 8: 0.01 after 50: 25 50 100 completed",
            "confirmation 8: 0.01 after 50: 25 50 100 completed",
            "confirmation 5: 0.107 after 28: 25 50 100 completed",
        ],
        1084,
        "tuned",
    ),
    Case(
        "smooth, more budget, another seed",
        smooth,
        {"budget": 2500, "seed": 1},
        [
            "probe 0: 1 after 10: 10 unstable",
            "proposal 1: 1 after 30: 25 unstable",
            "proposal 2: 0.158 after 30: 25 50 100 completed",
            "proposal 3: 0.421 after 0: 25 unstable",
            "proposal 4: 0.311 after 30: 25 unstable",
            "proposal 5: 0.0946 after 26: 25 50 100 completed",
            "proposal 6: 0.0618 after 25: 25 50 pruned",
            "baseline 7: 0.01 after 0: 25 50 100 completed",
            "baseline 8: 0.01 after 50: 25 50 100 completed",
            "confirmation 8: 0.01 after 50: 25 50 100 completed",
            "confirmation 5: 0.0946 after 26: 25 50 100 completed",
        ],
        1062,
        "tuned",
    ),
    Case(
        "three at a time",
        smooth,
        {"cohort": 3, "budget": 1600},
        [
            "probe 0: 1 after 10: 10 unstable",
            "proposal 1: 1 after 30: 25 unstable",
            "proposal 2: 0.158 after 30: 25 50 100 completed",
            "proposal 3: 0.0631 after 30: 25 50 100 completed",
            "proposal 4: 0.566 after 0: 25 unstable",
            "proposal 5: 0.107 after 28: 25 50 100 completed",
            "proposal 6: 0.0972 after 4: 25 50 pruned",
            "proposal 7: 0.0996 after 25: 25 50 pruned",
            "baseline 8: 0.01 after 0: 25 50 100 completed",
            "baseline 9: 0.01 after 50: 25 50 100 completed",
            "confirmation 9: 0.01 after 50: 25 50 100 completed",
            "confirmation 5: 0.107 after 28: 25 50 100 completed",
        ],
        1209,
        "tuned",
    ),
    Case(
        "no range of peaks",
        ramped,
        {"space": SearchSpace()},
        [
            "probe 0: 1 after 10: 10 completed",
            "proposal 1: 0.18 after 30: 25 50 100 completed",
            "proposal 2: 0.0424 after 30: 25 pruned",
            "proposal 3: 0.203 after 0: 25 pruned",
            "proposal 4: 0.36 after 29: 25 unstable",
            "proposal 5: 0.108 after 28: 25 50 100 completed",
            "proposal 6: 0.0796 after 27: 25 50 100 completed",
            "proposal 7: 0.0824 after 10: 25 pruned",
            "baseline 8: 0.01 after 0: 25 50 100 completed",
            "baseline 9: 0.01 after 50: 25 50 100 completed",
            "confirmation 9: 0.01 after 50: 25 50 100 completed",
            "confirmation 5: 0.108 after 28: 25 50 100 completed",
        ],
        1188,
        "tuned",
    ),
    Case(
        "the best is today's",
        low,
        {"budget": 1700, "space": SearchSpace(peak={"low": 0.004, "high": 4.0})},
        [
            "probe 0: 1 after 10: 10 completed",
            "proposal 1: 1.08 after 30: 25 pruned",
            "proposal 2: 0.172 after 30: 25 50 100 completed",
            "proposal 3: 0.708 after 0: 25 pruned",
            "proposal 4: 0.323 after 29: 25 50 100 completed",
            "proposal 5: 0.106 after 26: 25 50 100 completed",
            "proposal 6: 0.109 after 5: 25 50 100 completed",
            "proposal 7: 0.0775 after 12: 25 50 100 completed",
            "proposal 8: 3.6 after 0: 25 pruned",
            "proposal 9: 0.0568 after 13: 25 50 100 completed",
            "proposal 10: 0.0455 after 5: 25 50 100 completed",
            "baseline 11: 0.01 after 0: 25 50 100 completed",
            "baseline 12: 0.01 after 50: 25 50 100 completed",
            "proposal 13: 0.0169 after 11: 25 50 100 completed",
            "confirmation 11: 0.01 after 0: 25 50 100 completed",
            "confirmation 13: 0.0169 after 11: 25 50 100 completed",
        ],
        1685,
        "tuned",
    ),
    Case(
        "to the last step of the budget",
        low,
        {"budget": 1160},
        [
            "probe 0: 1 after 10: 10 completed",
            "proposal 1: 1 after 30: 25 pruned",
            "proposal 2: 0.158 after 30: 25 50 100 completed",
            "proposal 3: 0.604 after 0: 25 pruned",
            "proposal 4: 0.331 after 25: 25 50 pruned",
            "proposal 5: 0.141 after 6: 25 50 pruned",
            "baseline 6: 0.01 after 0: 25 50 100 completed",
            "baseline 7: 0.01 after 50: 25 50 100 completed",
            "proposal 8: 0.0221 after 6: 25 50 100 completed",
            "confirmation 6: 0.01 after 0: 25 50 100 completed",
            "confirmation 8: 0.0221 after 6: 25 50 100 completed",
        ],
        1160,
        "tuned",
    ),
    Case(
        "the searched ones break on fresh seeds",
        fragile,
        {"budget": 2600},
        [
            "probe 0: 1 after 10: 10 unstable",
            "proposal 1: 1 after 30: 25 unstable",
            "proposal 2: 0.158 after 30: 25 50 100 completed",
            "proposal 3: 0.455 after 0: 25 unstable",
            "proposal 4: 0.263 after 28: 25 pruned",
            "proposal 5: 0.107 after 28: 25 50 100 completed",
            "proposal 6: 0.069 after 28: 25 50 pruned",
            "baseline 7: 0.01 after 0: 25 50 100 completed",
            "baseline 8: 0.01 after 50: 25 50 100 completed",
            "confirmation 8: 0.01 after 50: 25 50 100 completed",
            "confirmation 5: 0.107 after 28: 25 unstable",
            "confirmation 2: 0.158 after 30: 25 unstable",
            "confirmation 9: 0.0536 after 28: 25 unstable",
        ],
        811,
        "tie",
    ),
    Case(
        "most peaks break",
        breaking,
        {},
        [
            "probe 0: 1 after 10: 10 unstable",
            "proposal 1: 1 after 30: 25 unstable",
            "proposal 2: 0.158 after 30: 25 unstable",
            "proposal 3: 0.0525 after 1: 25 unstable",
            "proposal 4: 0.0174 after 3: 25 unstable",
            "proposal 5: 0.00575 after 8: 25 unstable",
            "proposal 6: 0.00191 after 16: 25 50 100 completed",
            "proposal 7: 0.00259 after 27: 25 50 100 completed",
            "proposal 8: 0.0039 after 30: 25 50 100 completed",
            "baseline 9: 0.01 after 0: 25 unstable",
            "baseline 10: 0.01 after 50: 25 unstable",
            "confirmation 8: 0.0039 after 30: 25 50 100 completed",
        ],
        624,
        "tuned",
    ),
    Case(
        "one proposal fails",
        failing_once,
        {"cohort": 2},
        [
            "probe 0: 1 after 10: 10 unstable",
            "proposal 1: 1 after 30: 25 unstable",
            "proposal 2: 0.158 after 30: 25 failed",
            "proposal 3: 0.331 after 25: 25 unstable",
            "proposal 4: 0.337 after 10: 25 unstable",
            "proposal 5: 0.11 after 6: 25 50 100 completed",
            "proposal 6: 0.111 after 0: 25 50 100 completed",
            "proposal 7: 0.0751 after 13: 25 50 100 completed",
            "proposal 8: 0.0807 after 29: 25 50 pruned",
            "proposal 9: 0.0718 after 12: 25 pruned",
            "baseline 10: 0.01 after 0: 25 50 100 completed",
            "baseline 11: 0.01 after 50: 25 50 100 completed",
            "confirmation 11: 0.01 after 50: 25 50 100 completed",
            "confirmation 7: 0.0751 after 13: 25 50 100 completed",
        ],
        1187,
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


def test_what_runs_at_the_same_time() -> None:
    """The first trials together, later ones up to a cohort, baselines together, and each schedule's fresh seeds."""
    search = Search(config(cohort=3, budget=1600))
    _, segments, _ = conducted(search, smooth)
    found = [(spec.number, until) for spec, _, until in segments]
    assert found[:11] == [
        (0, 10),
        (1, 25),
        (2, 25),
        (3, 25),
        (2, 50),
        (3, 50),
        (4, 25),
        (2, 100),
        (3, 100),
        (5, 25),
        (5, 50),
    ]
    fresh = [(spec.number, until) for spec, _, until in segments if spec.role == "confirmation"]
    assert fresh[:9] == [(number, until) for until in (25, 50, 100) for number in (10, 11, 12)]


def test_baselines_are_stopped_only_where_the_loss_is_not_finite() -> None:
    """A false alarm must not make them lose; what is searched is stopped by every instability."""
    _, segments, _ = conducted(Search(config()), smooth)
    baselines = {spec.candidate for spec, _, _ in segments if spec.role == "baseline"}
    for spec, _, _ in segments:
        assert spec.stop_only_on_nonfinite == (spec.candidate in baselines)


@pytest.mark.parametrize("budget", range(1150, 1650, 100))
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
    first, *_ = segments
    assert first[0].role == "proposal"
    assert first[0].schedule.peak == pytest.approx(0.08)


def test_a_single_failure_is_not_said_to_be_one_of_several() -> None:
    def answer(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        return (failing if spec.role == "baseline" and not spec.schedule.duration else smooth)(spec, start, until)

    with pytest.raises(TaskFailedError, match=r"trial \d+ \(baseline\) failed, so the study stops here"):
        conducted(Search(config()), answer)


def test_one_baseline_that_is_better_than_all_proposals_is_enough_for_a_tie() -> None:
    """However bad the other one is."""

    def answer(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        losses = {"no warm-up": 0.5, "untuned rule": 9.0, "proposal": 2.0 + spec.schedule.peak}
        name = "proposal" if spec.role != "baseline" else "untuned rule" if spec.schedule.duration else "no warm-up"
        return SegmentResult(spec.number, until, trace(start, until - start, losses[name]))

    conclusion, segments, _ = conducted(Search(config()), answer)
    assert not [spec for spec, _, _ in segments if spec.role == "confirmation"]
    assert conclusion.verdict.schedule is not None
    assert conclusion.verdict.schedule.duration == 0
