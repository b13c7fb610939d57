"""The verdict: only what the paired runs support."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from autowarmup import Schedule
from autowarmup.search.verdict import Comparison, Interval, judge, keep

NAMES = ("tuned", "no warm-up", "untuned rule")
DURATIONS = (30, 0, 50)


def compared(name: str, losses: Sequence[float | None]) -> Comparison:
    number = NAMES.index(name)
    duration = DURATIONS[number]
    shape = {"warmup_steps": duration, "shape": "linear"} if duration else {}
    schedule = Schedule(peak=0.1, horizon=100, **shape)  # type: ignore[arg-type]
    return Comparison(candidate=number, name=name, schedule=schedule, final_losses=tuple(losses))


@given(st.lists(st.tuples(*[st.floats(-1e3, 1e3)] * 2), min_size=2, max_size=20))
def test_the_interval_is_that_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    interval = Interval.of(first, second)
    assert interval.low <= interval.mean <= interval.high
    differences = [a - b for a, b in pairs]
    spread = statistics.stdev(differences)
    if spread > 1e-6:
        low, high = stats.t.interval(0.95, len(pairs) - 1, loc=interval.mean, scale=stats.sem(differences))
        assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-6, abs=1e-6)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.floats(-5, 5))
def test_what_both_share_is_no_difference(losses: list[float], shift: float) -> None:
    """Pairing takes out the seed: a constant difference has an interval of (nearly) no width."""
    interval = Interval.of([loss + shift for loss in losses], losses)
    assert interval.mean == pytest.approx(shift, abs=1e-9)
    assert interval.high - interval.low < 1e-9


def test_tuned_where_every_baseline_loses_by_more_than_the_noise() -> None:
    verdict = judge(
        compared("tuned", [1.0, 1.1, 1.2]),
        [compared("no warm-up", [1.5, 1.6, 1.75]), compared("untuned rule", [1.3, 1.4, 1.52])],
    )
    assert (verdict.kind, verdict.candidate) == ("tuned", 0)
    assert "best baseline (untuned rule)" in verdict.message
    assert [c.interval is not None for c in verdict.comparisons] == [False, True, True]


def test_tie_takes_the_shortest_warm_up_that_ties() -> None:
    verdict = judge(
        compared("tuned", [1.0, 1.1, 1.2]),
        [compared("no warm-up", [1.05, 1.0, 1.3]), compared("untuned rule", [1.0, 1.2, 1.1])],
    )
    assert verdict.kind == "tie"
    assert verdict.candidate == 1
    assert verdict.schedule is not None
    assert verdict.schedule.duration == 0
    assert "ties with tuned and untuned rule" in verdict.message


def test_tie_leaves_out_what_is_worse_and_keeps_the_default() -> None:
    """No warm-up is clearly worse; the tuned schedule and the rule tie: the rule needs no search."""
    verdict = judge(
        compared("tuned", [1.0, 1.1, 1.2]),
        [compared("no warm-up", [2.0, 2.1, 2.2]), compared("untuned rule", [1.0, 1.2, 1.1])],
    )
    assert (verdict.kind, verdict.candidate) == ("tie", 2)


def test_a_better_baseline_is_kept() -> None:
    verdict = judge(compared("tuned", [1.5, 1.6, 1.75]), [compared("no warm-up", [1.0, 1.1, 1.2])])
    assert (verdict.kind, verdict.candidate) == ("tie", 1)
    assert "nothing better" in verdict.message


def test_baselines_that_break_lose() -> None:
    verdict = judge(compared("tuned", [1.0, 1.1]), [compared("no warm-up", []), compared("untuned rule", [None, 1.0])])
    assert verdict.kind == "tuned"
    assert "no baseline is" in verdict.message


def test_a_winner_that_breaks_on_a_fresh_seed_is_no_winner() -> None:
    verdict = judge(compared("tuned", [0.1, None]), [compared("no warm-up", [1.0, 1.1])])
    assert (verdict.kind, verdict.candidate) == ("tie", 1)


@pytest.mark.parametrize("tuned", [None, compared("tuned", [None, None])])
def test_nothing_stable_has_no_schedule(tuned: Comparison | None) -> None:
    verdict = judge(tuned, [compared("no warm-up", []), compared("untuned rule", [None, 1.0])])
    assert (verdict.kind, verdict.schedule, verdict.candidate) == ("nothing stable", None, None)


def test_two_seeds_that_differ_wildly_are_no_evidence() -> None:
    verdict = judge(compared("tuned", [1.0, 1.0]), [compared("no warm-up", [1.1, 3.0])])
    assert verdict.kind == "tie"
    assert math.isfinite(verdict.comparisons[1].interval.high)  # type: ignore[union-attr]


# --- Exactly ----------------------------------------------------------------------------------------------


def test_a_comparison_is_stable_where_every_seed_ended() -> None:
    assert compared("tuned", [1.0, 2.0, 4.5]).mean == 2.5
    assert compared("tuned", [1.0, None]).losses == (1.0,)
    stable = [compared("tuned", losses).stable for losses in ([1.0], [0.0, 0.0], [1.0, None], [])]
    assert stable == [True, True, False, False]


def test_the_messages() -> None:
    tuned = compared("tuned", [1.0, 1.1, 1.2])
    worse, rule = compared("no warm-up", [1.5, 1.6, 1.75]), compared("untuned rule", [1.3, 1.4, 1.52])
    beats = (
        "The tuned schedule beats the best baseline (untuned rule) by 0.3067 in final loss, "
        "95% interval 0.2780 to 0.3354 over 3 fresh seeds"
    )
    assert judge(tuned, [worse, rule]).message == f"{beats}."
    assert judge(tuned, [compared("no warm-up", [1.0, None]), rule]).message == (
        f"{beats}; 1 of 2 baselines became unstable."
    )
    tied = judge(tuned, [worse, compared("untuned rule", [1.0, 1.2, 1.1])])
    assert tied.message == "The untuned rule schedule ties with tuned within the noise of 3 fresh seeds: keep it."
    best = judge(compared("tuned", [1.5, 1.6, 1.75]), [compared("no warm-up", [1.0, 1.1, 1.2])])
    assert best.message == (
        "The no warm-up schedule is the best that was found: the search has nothing better. Keep it."
    )


def test_an_interval_that_reaches_zero_is_a_tie() -> None:
    """The searched schedule is better on each seed by 1 or 2: with two seeds that is not enough, with six it is."""
    for seeds, kind in ((2, "tie"), (6, "tuned")):
        losses = [3.0] * seeds
        verdict = judge(compared("tuned", losses), [compared("no warm-up", [4.0, 5.0] * (seeds // 2))])
        assert verdict.kind == kind


def test_of_what_ties_the_searched_schedule_comes_last_though_its_warmup_is_shorter() -> None:
    verdict = judge(compared("tuned", [1.0, 1.1, 1.2]), [compared("untuned rule", [1.0, 1.2, 1.1])])
    assert (verdict.candidate, verdict.kind) == (2, "tie")
    assert DURATIONS[0] < DURATIONS[2]


def test_where_a_baseline_is_kept_it_says_whether_the_search_had_settled() -> None:
    schedule = Schedule(peak=0.1, horizon=100)
    tie, leaning = (keep("no warm-up", 4, schedule, settled=settled) for settled in (True, False))
    assert (tie.kind, tie.candidate, tie.schedule) == ("tie", 4, schedule)
    assert tie.message.startswith(
        "The search has nothing better than the no warm-up schedule, not even on its own seed"
    )
    assert (leaning.kind, leaning.candidate, leaning.schedule) == ("leaning", 4, schedule)
    assert leaning.message.startswith("The no warm-up schedule is the best that was found, but the budget was spent")


def test_baselines_that_had_broken_before_and_those_that_were_not_run_are_told_of() -> None:
    tuned, rule = compared("tuned", [1.0, 1.1, 1.2]), compared("untuned rule", [1.3, 1.4, 1.52])
    assert judge(tuned, [rule], broken=1).message.endswith("fresh seeds; 1 of 2 baselines became unstable.")
    unstable = compared("no warm-up", [None, 1.0, 1.0])
    assert judge(tuned, [unstable], unseen=["untuned rule"]).message == (
        "The tuned schedule is stable on every fresh seed; the baselines that were run there became unstable. The "
        "untuned rule schedule ended worse on the search's seed; the budget did not allow to run it on the fresh ones."
    )


def test_a_schedule_that_ends_like_a_baseline_is_no_better() -> None:
    verdict = judge(compared("tuned", [1.0, 1.1]), [compared("no warm-up", [1.0, 1.1])])
    assert (verdict.kind, verdict.candidate) == ("tie", 1)
