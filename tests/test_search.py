"""The search's decisions, on losses that a formula gives: what is run how far, within which budget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from autowarmup import Instability, SearchSpace
from autowarmup.config import TuneConfig
from autowarmup.errors import TaskFailedError
from autowarmup.search import Conclusion, Finish, Run, Search
from autowarmup.store import Report, TrialSpec
from autowarmup.trace import Checkpoint, Outcome, Trace

Answer = Callable[[TrialSpec, int, int], Report]
SPACE = SearchSpace(peak={"low": 1e-3, "high": 1.0})  # type: ignore[arg-type]


def config(**changes: object) -> TuneConfig:
    settings = {"total_steps": 100, "budget": 2400, "space": SPACE, "current_peak": 0.01}
    return TuneConfig(**settings | changes)  # type: ignore[arg-type]


def smooth(spec: TrialSpec, start: int, until: int) -> Report:
    """The best peak is 0.1 and the best duration 16 steps; above 0.3 a run breaks after three steps."""
    steps = until - start
    schedule = spec.schedule
    if schedule.peak > 0.3:
        verdict = Instability(
            kind="divergence",
            severity=schedule.peak,
            step=start + 1,
            rate=schedule.peak,
            detected=start + 3,
            fatal=True,
            message="",
        )
        return Report(spec.number, until, trace(start, 3, 9.0), verdict)
    loss = np.log10(schedule.peak / 0.1) ** 2 + 0.01 * (np.sqrt(schedule.duration) - 4) ** 2 + 1.0
    return Report(spec.number, until, trace(start, steps, loss + spec.seed % 7 * 1e-3))


def trace(start: int, steps: int, loss: float) -> Trace:
    column = np.full(steps, loss)
    return Trace(column, column, column, (Checkpoint(start + steps, loss, loss),), start)


def conducted(
    search: Search, answer: Answer
) -> tuple[Conclusion, list[tuple[TrialSpec, int, int]], dict[int, Outcome]]:
    """Answers every decision; returns the conclusion, the segments run and how each trial ended."""
    ends: dict[int, int] = {}
    segments, outcomes = [], {}
    decisions = search.decisions()
    decision = next(decisions)
    try:
        while True:
            reports = []
            match decision:
                case Run(wanted):
                    for spec, until in wanted:
                        start = ends.get(spec.number, 0)
                        segments.append((spec, start, until))
                        reports.append(answer(spec, start, until))
                        ends[spec.number] = until
                case Finish(number, outcome):
                    assert number not in outcomes
                    outcomes[number] = outcome
            decision = decisions.send(reports)
    except StopIteration as stop:
        return stop.value, segments, outcomes


def test_finds_the_best_schedule_of_a_smooth_surface() -> None:
    conclusion, _, _ = conducted(Search(config()), smooth)
    assert conclusion.verdict.kind == "tuned"
    assert conclusion.verdict.schedule is not None
    assert 0.03 < conclusion.verdict.schedule.peak < 0.3


@pytest.mark.parametrize("budget", [1400, 1500, 1750, 2400, 5000])
@pytest.mark.parametrize("seed", range(3))
def test_the_budget_counts_everything_and_is_kept(budget: int, seed: int) -> None:
    search = Search(config(budget=budget, seed=seed))
    _, segments, outcomes = conducted(search, lambda spec, start, until: smooth(spec.model_copy(), start, until))
    assert search.spent <= budget
    assert search.spent >= 0.5 * budget
    assert set(outcomes) == {spec.number for spec, _, _ in segments}


def test_every_segment_starts_where_the_last_one_ended_and_survivors_are_the_best() -> None:
    search = Search(config())
    _, segments, outcomes = conducted(search, smooth)
    rungs = search.config.rungs
    assert rungs == (30, 65, 100)
    for spec, start, until in segments:
        if spec.role == "proposal":
            assert (start, until) in zip((0, *rungs), rungs, strict=False)
    cohort = [spec for spec, _, _ in segments if spec.role == "proposal"][:8]
    stable = sorted((s for s in cohort if s.schedule.peak <= 0.3), key=lambda s: smooth(s, 0, 30).trace.loss[0])
    went_on = {spec.number for spec, start, _ in segments if start == 30}
    assert {spec.number for spec in stable[: -(-len(stable) // 3)]} <= went_on
    assert all(outcomes[spec.number] == "unstable" for spec in cohort if spec.schedule.peak > 0.3)


def test_the_first_cohort_is_spread_over_peaks_and_durations() -> None:
    _, segments, _ = conducted(Search(config()), smooth)
    cohort = [spec for spec, start, _ in segments if spec.role == "proposal" and start == 0][:8]
    peaks = np.sort(np.log10([spec.schedule.peak for spec in cohort]))
    np.testing.assert_allclose(np.diff(peaks), 3 / 8, rtol=1e-6)
    parts = np.sqrt([spec.schedule.duration for spec in cohort]) / np.sqrt(30) * 8
    assert len({int(part) for part in parts}) >= 7  # rounding to whole steps may move one


def test_later_proposals_learn_from_instability() -> None:
    """Of the second half of the proposals fewer are unstable than of the first."""
    search = Search(config(budget=6000))
    _, _, outcomes = conducted(search, smooth)
    ended = [outcomes[trial.spec.number] == "unstable" for trial in search._trials if trial.spec.role == "proposal"]
    half = len(ended) // 2
    assert sum(ended[half:]) < sum(ended[:half])


def test_without_a_peak_range_one_ramp_measures_it() -> None:
    def ramped(spec: TrialSpec, start: int, until: int) -> Report:
        if spec.role != "probe":
            return smooth(spec, start, until)
        rate = spec.schedule.curve()
        loss = 3.0 - np.log1p(100 * rate) + (rate / 0.1) ** 2
        return Report(spec.number, until, Trace(rate, loss, loss))

    conclusion, segments, _ = conducted(Search(config(space=SearchSpace())), ramped)
    assert [spec.role for spec, _, _ in segments[:2]] == ["probe", "baseline"]
    assert segments[0][2] == 50
    assert conclusion.peak_range.low < 0.05 < conclusion.peak_range.high < 0.5


def failing(spec: TrialSpec, start: int, until: int, message: str = "no disk") -> Report:
    frame = f'  File "train.py", line {len(message)}, in load'
    return Report(
        spec.number, until, Trace.empty(start), error=f"Traceback ...\n{frame}\n    open()\nOSError: {message}"
    )


def test_the_first_trials_failing_in_the_same_way_stop_it() -> None:
    with pytest.raises(TaskFailedError, match="(?s)first 3 trials all failed.*OSError: no disk"):
        conducted(Search(config()), failing)


def test_trials_that_fail_each_in_its_own_way_still_end() -> None:
    """They cost no steps, so the budget alone would never end the search."""
    conclusion, segments, outcomes = conducted(
        Search(config()), lambda spec, start, until: failing(spec, start, until, "x" * spec.number)
    )
    assert conclusion.verdict.kind == "nothing stable"
    assert set(outcomes.values()) == {"failed"}
    assert len(segments) < 100


def test_failures_with_messages_of_their_own_but_one_cause_stop_it() -> None:
    """As out-of-memory errors, which name another size every time."""

    def exhausted(spec: TrialSpec, start: int, until: int) -> Report:
        error = (
            f'Traceback ...\n  File "train.py", line 7, in forward\n    x @ w\nRuntimeError: out of {spec.number} MiB'
        )
        return Report(spec.number, until, Trace.empty(start), error=error)

    with pytest.raises(TaskFailedError, match="first 3 trials all failed"):
        conducted(Search(config()), exhausted)


def test_where_the_best_breaks_on_a_fresh_seed_the_next_best_is_tried() -> None:
    def fragile(spec: TrialSpec, start: int, until: int) -> Report:
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


def test_a_fixed_peak_is_searched_without_warnings() -> None:
    fixed = SearchSpace(peak=0.0123)  # type: ignore[arg-type]
    conclusion, _, _ = conducted(Search(config(space=fixed)), smooth)
    assert conclusion.verdict.comparisons[0].schedule.peak == pytest.approx(0.0123)


def test_where_only_a_baseline_is_stable_it_is_kept() -> None:
    def breaking(spec: TrialSpec, start: int, until: int) -> Report:
        proposal = spec.role == "proposal"
        changed = (
            spec.model_copy(update={"schedule": spec.schedule.model_copy(update={"peak": 1.0})}) if proposal else spec
        )
        return smooth(changed, start, until)

    conclusion, _, _ = conducted(Search(config()), breaking)
    assert conclusion.verdict.kind == "tie"
    assert conclusion.verdict.schedule is not None
    assert conclusion.verdict.schedule.peak == 0.01


def test_replaying_the_reports_gives_the_same_decisions() -> None:
    first = conducted(Search(config(seed=5)), smooth)
    second = conducted(Search(config(seed=5)), smooth)
    assert first == second
    other = conducted(Search(config(seed=6)), smooth)
    assert [s for s, _, _ in other[1]] != [s for s, _, _ in first[1]]
