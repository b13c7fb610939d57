"""The search's decisions, on losses that a formula gives: what is run how far, within which budget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from autowarmup import Schedule, SearchSpace
from autowarmup.errors import TaskFailedError
from autowarmup.schedule.space import PeakRange
from autowarmup.search.candidates import Candidates
from autowarmup.search.search import Search
from autowarmup.search.surrogate import features
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.training.trace import Evaluation, Trace
from tests.simulation import SPACE, Answer, answered, conducted, config, failing, proposals, smooth, trace, unstable


def test_finds_the_best_schedule_of_a_smooth_surface() -> None:
    conclusion, _, _ = conducted(Search(config()), smooth)
    assert conclusion.verdict.kind == "tuned"
    assert conclusion.verdict.schedule is not None
    assert 0.03 < conclusion.verdict.schedule.peak < 0.3


@pytest.mark.parametrize("budget", [410, 450, 550, 1500, 5000])
@pytest.mark.parametrize("cohort", [1, 3])
@pytest.mark.parametrize("seed", range(2))
def test_the_budget_counts_everything_and_is_kept(budget: int, cohort: int, seed: int) -> None:
    search = Search(config(budget=budget, cohort=cohort, seed=seed))
    _, segments, outcomes = conducted(search, smooth)
    assert search.spent <= budget
    assert set(outcomes) == {spec.number for spec, _, _ in segments}


def test_the_smallest_budget_still_gives_a_verdict() -> None:
    least = config().least_budget
    search = Search(config(budget=least))
    conclusion, _, _ = conducted(search, smooth)
    assert conclusion.verdict.kind == "tuned"
    with pytest.raises(ValueError, match=f"needs at least {least:,}"):
        config(budget=least - 1)


@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize("seeds", [0, 1, 4, 10])
def test_a_budget_that_is_left_out_suffices_for_any_number_of_seeds(seeds: int, slots: int) -> None:
    """And grows with the slots."""
    made = config(confirm_seeds=seeds)
    search = Search(made, slots=slots)
    conclusion, _, _ = conducted(search, smooth)
    assert conclusion.verdict.kind == ("tuned" if seeds else "leaning")
    assert made.least_budget <= made.budget_with(slots) < made.budget_with(slots + 1)


def test_every_segment_starts_where_the_last_one_ended() -> None:
    search = Search(config(cohort=4))
    _, segments, _ = conducted(search, smooth)
    rungs = search.config.rungs
    assert rungs == (25, 50, 100)
    for spec, start, until in segments:
        if spec.role == "proposal":
            assert (start, until) in zip((0, *rungs), rungs, strict=False)


def test_the_first_candidates_are_long_linear_warm_ups_to_different_peaks() -> None:
    """Beside the current schedule, and as many more as there is room for."""
    for cohort, count in ((1, 2), (4, 3), (8, 7)):
        _, segments, _ = conducted(Search(config(cohort=cohort)), smooth)
        assert [spec.role for spec, _, _ in segments[:2]] == ["probe", "baseline"]
        first = proposals(segments)[:count]
        assert {(spec.schedule.shape.kind, spec.schedule.duration) for spec in first} == {("linear", 30)}
        assert len({spec.schedule.peak for spec in first}) == len(first)


def test_one_schedule_gets_to_its_end_for_little_more_than_its_own_run() -> None:
    _, segments, _ = conducted(Search(config()), smooth)
    spent = 0
    for spec, start, until in segments:
        spent += until - start
        if spec.role == "proposal" and until == 100:
            break
    assert spent <= 190


def test_nothing_harsher_is_proposed_than_what_broke() -> None:
    """A schedule of no lower peak and no gentler warm-up than one that was unstable is never tried."""
    search = Search(config(budget=3000, current_peak=0.9))
    _, segments, _ = conducted(search, smooth)
    started = proposals(segments)
    broken = [spec.schedule for spec in started if spec.schedule.peak > 0.3]
    assert broken
    for i, first in enumerate(started):
        if first.schedule.peak > 0.3:
            for later in started[max(2, i + 1) :]:
                held_back = features(later.schedule)[1], features(first.schedule)[1]
                assert later.schedule.peak < first.schedule.peak or held_back[0] > held_back[1]


def test_where_everything_breaks_at_once_gentler_peaks_are_tried() -> None:
    def fragile(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        peak = spec.schedule.peak * 100.0  # breaks above 0.003, before its first rung
        return smooth(
            spec.model_copy(update={"schedule": spec.schedule.model_copy(update={"peak": peak})}), start, until
        )

    conclusion, segments, outcomes = conducted(Search(config()), fragile)
    assert conclusion.verdict.schedule is not None
    assert conclusion.verdict.schedule.peak < 0.003
    assert sum(outcomes[spec.number] == "unstable" for spec in proposals(segments)) < 8


@pytest.mark.parametrize("budget", [None, 410, 4000])
def test_where_nothing_is_better_the_current_schedule_is_kept(budget: int | None) -> None:
    def best_today(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        today = spec.schedule == search.config.current_schedule
        return answered(spec, start, until, 0.5) if today else smooth(spec, start, until)

    search = Search(config(budget=budget))
    conclusion, segments, _ = conducted(search, best_today)
    assert conclusion.verdict.kind == "tie"
    assert conclusion.verdict.schedule == search.config.current_schedule
    fresh = {spec.number for spec, _, _ in segments if spec.role == "confirmation"}
    assert len(fresh) <= 2  # one pair at most


def test_without_a_peak_range_one_ramp_tells_what_to_expect() -> None:
    def ramped(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        if spec.role != "probe":
            return smooth(spec, start, until)
        rate = spec.schedule.curve()
        loss = 3.0 - np.log1p(100 * rate) + (rate / 0.1) ** 2
        return SegmentResult(spec.number, until, Trace(rate, loss, loss))

    conclusion, segments, _ = conducted(Search(config(space=SearchSpace())), ramped)
    assert [spec.role for spec, _, _ in segments[:3]] == ["probe", "baseline", "proposal"]
    assert segments[0][2] == 10
    assert conclusion.peak_range.low < 0.05 < conclusion.peak_range.high


def among(roles: set[str], fails: Callable[[TrialSpec], bool] = lambda spec: True) -> Answer:
    """Trials of these roles fail where they may; the others train."""

    def answer(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        return failing(spec, start, until) if spec.role in roles and fails(spec) else smooth(spec, start, until)

    return answer


def test_proposals_that_fail_in_the_same_way_stop_it() -> None:
    with pytest.raises(TaskFailedError, match="(?s)proposal. failed, as 2 trials did.*OSError: no disk"):
        conducted(Search(config()), among({"proposal"}))


@pytest.mark.parametrize("role", ["baseline", "confirmation"])
def test_where_one_run_of_the_verdict_fails_it_stops(role: str) -> None:
    """No schedule is called unstable because the code failed."""
    with pytest.raises(TaskFailedError, match=f"(?s)\\({role}\\) failed.*OSError: no disk"):
        conducted(Search(config(space=SearchSpace())), among({role}))


def test_a_probe_that_fails_in_a_way_of_its_own_is_done_without() -> None:
    conclusion, segments, outcomes = conducted(Search(config(space=SearchSpace())), among({"probe"}))
    first = next(spec for spec, _, _ in segments if spec.role == "proposal")
    assert outcomes[0] == "failed"
    assert first.schedule.peak == config().current_peak
    assert conclusion.verdict.kind == "tuned"


def test_where_the_probe_and_a_proposal_fail_alike_it_stops() -> None:
    with pytest.raises(TaskFailedError, match="failed, as 2 trials did"):
        conducted(Search(config(space=SearchSpace())), among({"probe", "proposal"}))


def test_a_proposal_that_fails_once_is_tried_again() -> None:
    """Where there is only this one, at once."""
    only = SearchSpace(peak=0.1, shapes=["linear"], warmup=16)  # type: ignore[arg-type]
    answer = among({"proposal"}, lambda spec: spec.number == 1)
    conclusion, segments, outcomes = conducted(Search(config(space=only)), answer)
    assert [outcomes[spec.number] for spec in proposals(segments)][:2] == ["failed", "completed"]
    assert len({spec.schedule for spec in proposals(segments)}) == 1
    assert conclusion.verdict.kind == "tuned"


def test_proposals_that_fail_each_in_its_own_way_still_end() -> None:
    """They cost no steps, so the budget alone would never end the search."""

    def each(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        message = "x" * spec.number
        return failing(spec, start, until, message) if spec.role == "proposal" else smooth(spec, start, until)

    conclusion, segments, outcomes = conducted(Search(config()), each)
    assert conclusion.verdict.schedule == config().current_schedule
    assert {outcomes[spec.number] for spec, _, _ in segments if spec.role == "proposal"} == {"failed"}
    assert len(segments) < 100


def test_failures_with_messages_of_their_own_but_one_cause_stop_it() -> None:
    """As out-of-memory errors, which name another size every time."""

    def exhausted(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        error = (
            f'Traceback ...\n  File "train.py", line 7, in forward\n    x @ w\nRuntimeError: out of {spec.number} MiB'
        )
        failed = SegmentResult(spec.number, until, Trace.empty(start), error=error)
        return failed if spec.role == "proposal" else smooth(spec, start, until)

    with pytest.raises(TaskFailedError, match="as 2 trials did"):
        conducted(Search(config()), exhausted)


def test_where_a_baseline_is_best_the_exploration_goes_on_from_it() -> None:
    """The first looks lie far above the best peak, which only the baseline comes near."""
    space = SearchSpace(peak={"low": 0.004, "high": 4.0})  # type: ignore[arg-type]

    def low(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        return SegmentResult(
            spec.number, until, trace(start, until - start, 1.0 + abs(np.log10(spec.schedule.peak / 0.02)))
        )

    _, segments, _ = conducted(Search(config(space=space)), low)
    roles = [spec.role for spec, _, _ in segments]
    assert "proposal" in roles[roles.index("baseline") :]


@pytest.mark.parametrize("count", [2, 8, 40, 400])
@pytest.mark.parametrize("space", [SPACE, SearchSpace(), SearchSpace(peak={"low": 0.05, "high": 0.3})])  # type: ignore[arg-type]
def test_the_first_candidates_are_as_many_as_asked_for_and_distinct(count: int, space: SearchSpace) -> None:
    source = Candidates(config(space=space))
    peaks = space.peak or PeakRange(low=1e-4, high=1.0)
    starts = source.starts(0.1, peaks, count)
    assert len({start.schedule for start in starts}) == count
    assert all(peaks.low <= start.schedule.peak <= peaks.high for start in starts)


def test_every_parameter_of_the_space_has_a_coordinate_of_its_own() -> None:
    space = SearchSpace(
        shapes=["polynomial", "linear"],  # type: ignore[arg-type]
        decay=["linear", "cosine"],  # type: ignore[arg-type]
        start_factor={"low": 0.0, "high": 0.5},  # type: ignore[arg-type]
        final_factor={"low": 0.0, "high": 0.5},  # type: ignore[arg-type]
    )
    pool = Candidates(config(space=space)).pool(PeakRange(low=1e-3, high=1.0))
    rows = [candidate for candidate in pool if candidate.schedule.shape.kind == "polynomial"]
    columns = [[float(row.params[name]) for row in rows] for name in ("peak", "start_factor", "power", "final_factor")]
    columns[0] = np.log(columns[0]).tolist()
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlations).max() < 0.3


def test_a_challenger_at_half_the_peak_stays_within_the_space() -> None:
    space = SearchSpace(peak={"low": 0.09, "high": 0.2})  # type: ignore[arg-type]

    def fragile(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        return unstable(spec, start, until) if spec.role == "confirmation" else smooth(spec, start, until)

    _, segments, _ = conducted(Search(config(space=space, budget=4000)), fragile)
    confirmed = {spec.schedule.peak for spec, _, _ in segments if spec.role == "confirmation"} - {0.01}
    assert min(confirmed) == 0.09


def test_where_the_best_breaks_on_a_fresh_seed_the_next_best_is_tried() -> None:
    def fragile(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        if spec.role == "baseline" or (spec.role == "confirmation" and spec.candidate in broken):
            changed = spec.schedule.model_copy(update={"peak": 1.0})
            return smooth(spec.model_copy(update={"schedule": changed}), start, until)
        return smooth(spec, start, until)

    broken: set[int] = set()
    first, _, _ = conducted(Search(config()), fragile)
    assert first.verdict.candidate is not None
    broken.add(first.verdict.candidate)
    second, _, _ = conducted(Search(config()), fragile)
    assert second.verdict.kind == "tuned"
    assert second.verdict.candidate not in {None, first.verdict.candidate}


@pytest.mark.parametrize("steps", [(), (60,), (10,), (90,)])
def test_loops_that_validate_seldom_or_never_are_searched_too(steps: tuple[int, ...]) -> None:
    """At one step of the run, or at none; never at its end."""

    def seldom(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        result = smooth(spec, start, until)
        loss = float(result.trace.loss[0])
        marks = tuple(Evaluation(step, loss, np.nan) for step in steps if start < step <= result.trace.end)
        whole = result.trace
        return SegmentResult(
            spec.number, until, Trace(whole.lr, whole.loss, whole.loss, marks, start), result.instability
        )

    search = Search(config())
    conclusion, segments, _ = conducted(search, seldom)
    assert conclusion.verdict.kind == "tuned"
    assert len(proposals(segments)) >= 2
    assert sum(until == 100 for spec, _, until in segments if spec.role == "proposal") >= 1


def test_a_fixed_peak_is_searched_without_warnings() -> None:
    fixed = SearchSpace(peak=0.0123)  # type: ignore[arg-type]
    conclusion, _, _ = conducted(Search(config(space=fixed)), smooth)
    assert conclusion.verdict.comparisons[0].schedule.peak == pytest.approx(0.0123)


def test_where_only_the_current_schedule_is_stable_it_is_kept() -> None:
    def breaking(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        return (unstable if spec.role == "proposal" else smooth)(spec, start, until)

    conclusion, _, _ = conducted(Search(config()), breaking)
    assert conclusion.verdict.kind == "tie"
    assert conclusion.verdict.schedule == Schedule(peak=0.01, horizon=100)
    assert conclusion.verdict.message == "No other schedule got to its horizon. Keep the current one."


def test_replaying_the_reports_gives_the_same_decisions() -> None:
    first = conducted(Search(config(seed=5)), smooth)
    second = conducted(Search(config(seed=5)), smooth)
    assert first == second
    other = conducted(Search(config(seed=6)), smooth)
    assert [s for s, _, _ in other[1]] != [s for s, _, _ in first[1]]
