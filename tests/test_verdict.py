"""The verdict: what a study concludes from its runs and its pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autowarmup import Schedule
from autowarmup.search.config import TuneConfig
from autowarmup.search.pairs import NoisePrior, Posterior
from autowarmup.search.search import Search
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.search.verdict import Comparison, Interval
from autowarmup.training.trace import Evaluation, Trace
from tests.simulation import Answer, Played, answered, config, play, smooth, unstable

CURRENT = Schedule(peak=0.01, horizon=100)


def differing(*fresh: float, at_halfway: bool = False) -> Answer:
    """The current schedule ends at 2, what is searched at 1 on the search's seed. On the fresh seeds the current one is
    behind by these amounts in turn: from the start, or more and more from halfway on. The jitter is 0.01."""
    seeds: list[int] = []

    def answer(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        if spec.role == "probe":
            return smooth(spec, start, until)
        today, own = spec.schedule == CURRENT, spec.role != "confirmation"
        if not own and spec.seed not in seeds:
            seeds.append(spec.seed)
        behind = 1.0 if own else fresh[seeds.index(spec.seed)]
        steps = np.arange(start + 1, until + 1)
        rng = np.random.default_rng([spec.number, start])
        off = behind if today else 0.1 * abs(math.log10(spec.schedule.peak / 0.1)) * own
        loss = (
            1.0
            + off * (1.0 if own or at_halfway else np.clip((steps - 50) / 50, 0.0, 1.0))
            + 0.01 * rng.normal(size=len(steps))
        )
        marks = tuple(
            Evaluation(s, float(x), float(x)) for s, x in zip(steps.tolist(), loss, strict=True) if s % 5 == 0
        )
        return SegmentResult(spec.number, until, Trace(loss, loss, loss, marks, start))

    return answer


def concluded(answer: Answer, **changes: object) -> Played:
    return play(Search(config(**changes)), answer)


def pairs_of(played: Played) -> list[tuple[bool, int]]:
    """Each run on a fresh seed: whether it is the current schedule's, and the step that it was trained to."""
    ends: dict[int, tuple[bool, int]] = {}
    for spec, _, until in played.fresh():
        ends[spec.number] = spec.schedule == CURRENT, until
    return list(ends.values())


def test_one_pair_is_enough_where_the_difference_is_plain() -> None:
    played = concluded(differing(1.0, 1.0, 1.0, 1.0))
    assert played.conclusion is not None
    verdict = played.conclusion.verdict
    assert verdict.kind == "tuned"
    assert pairs_of(played) == [(False, 100), (True, 100)]
    assert verdict.message.startswith("The tuned schedule beats the current one by 0.9")
    tuned, current = verdict.comparisons
    assert (tuned.name, tuned.interval) == ("tuned", None)
    assert (current.name, current.schedule) == ("current", CURRENT)
    assert current.interval is not None
    assert current.interval.high < 0.0


def test_a_current_schedule_that_is_far_behind_halfway_stops_there() -> None:
    played = concluded(differing(1.0, 1.0, 1.0, 1.0, at_halfway=True))
    assert played.kind == "tuned"
    assert pairs_of(played) == [(False, 50), (True, 50)]
    assert played.conclusion is not None
    assert "behind the tuned one halfway" in played.conclusion.verdict.message
    assert [comparison.final_losses for comparison in played.conclusion.verdict.comparisons] == [(None,), (None,)]


def test_no_difference_is_a_tie_that_keeps_the_current_schedule() -> None:
    played = concluded(differing(0.0, 0.0, 0.0, 0.0), margin=0.05)
    assert played.kind == "tie"
    assert played.conclusion is not None
    verdict = played.conclusion.verdict
    assert verdict.schedule == CURRENT
    assert verdict.searched is not None
    assert verdict.searched != CURRENT
    assert verdict.margin == 0.05
    assert verdict.message.endswith("Keep the current one.")


def test_pairs_that_contradict_each_other_are_all_made_and_lean_one_way() -> None:
    played = concluded(differing(0.3, -0.25, 0.3, -0.1), margin=0.0)
    assert len(pairs_of(played)) == 8
    assert played.kind == "leaning"
    assert played.conclusion is not None
    assert played.conclusion.verdict.schedule != CURRENT
    assert "expected to be better than the current one, which is not shown" in played.conclusion.verdict.message
    other = concluded(differing(-0.3, 0.25, -0.3, 0.1), margin=0.0)
    assert other.kind == "tie"


def test_a_schedule_that_loses_on_fresh_seeds_is_not_handed_back() -> None:
    played = concluded(differing(-1.0, -1.0, -1.0, -1.0))
    assert played.kind == "tie"
    assert len(pairs_of(played)) == 2


@pytest.mark.parametrize("margin", [0.0, 0.005])
def test_losses_that_are_equal_are_a_tie(margin: float) -> None:
    """Also where they are 0, on the fresh seeds or on all."""

    def equal(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        return answered(spec, start, until, 0.0)

    def on_fresh_seeds(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        return (equal if spec.role == "confirmation" else smooth)(spec, start, until)

    for answer in (equal, on_fresh_seeds):
        for slots in (1, 8):
            played = play(Search(config(margin=margin), slots=slots), answer)
            assert played.kind == "tie"


def test_without_pairs_the_better_one_is_expected_not_shown() -> None:
    played = concluded(smooth, confirm_seeds=0)
    assert played.conclusion is not None
    verdict = played.conclusion.verdict
    assert (verdict.kind, verdict.comparisons) == ("leaning", ())
    assert "no pairs of runs were asked for, so this is not shown" in verdict.message
    assert verdict.schedule == verdict.searched

    def best_today(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        return answered(spec, start, until, 0.5) if spec.schedule == CURRENT else smooth(spec, start, until)

    kept = concluded(best_today, confirm_seeds=0)
    assert kept.conclusion is not None
    assert (kept.kind, kept.conclusion.verdict.schedule) == ("tie", CURRENT)
    assert kept.conclusion.verdict.message.endswith("Keep the current one.")


def test_the_smallest_budget_without_pairs_has_room_for_the_current_schedule() -> None:
    """It used to go on beyond the budget, which ``play`` checks."""
    for seed in range(10):
        made = config(confirm_seeds=0, budget=310, seed=seed)
        assert made.least_budget == 310
        for slots in (1, 8):
            play(Search(made, slots=slots), differing())
    with pytest.raises(
        ValueError, match="needs at least 310 .a probe, two runs for the search, and one of the current"
    ):
        config(confirm_seeds=0, budget=309)


def test_where_the_current_schedule_breaks_what_is_stable_is_better() -> None:
    """On a fresh seed, or on the search's, where the fresh ones show no difference."""

    def on_fresh(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        today = spec.role == "confirmation" and spec.schedule == CURRENT
        return (unstable if today else differing(0.0, 0.0))(spec, start, until)

    played = concluded(on_fresh)
    assert played.conclusion is not None
    assert played.kind == "tuned"
    assert played.conclusion.verdict.message == (
        "The current schedule became unstable on 1 fresh seed, where the tuned one is stable."
    )
    alike = differing(0.0, 0.0, 0.0, 0.0)

    def on_the_search_s(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        return (unstable if spec.role == "baseline" else alike)(spec, start, until)

    played = concluded(on_the_search_s)
    assert played.conclusion is not None
    assert played.kind == "tuned"
    assert "unstable on the search's seed, where the tuned one is stable." in played.conclusion.verdict.message


def breaking_on_fresh_seeds(stable_below: float, *, current_too: bool = False) -> Answer:
    """What is searched breaks on fresh seeds, but at low peaks; the current schedule breaks too, or nowhere."""

    def answer(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        if spec.schedule == CURRENT:
            return unstable(spec, start, until) if current_too else answered(spec, start, until, 2.0)
        fragile = spec.role == "confirmation" and spec.schedule.peak >= stable_below
        return (unstable if fragile else smooth)(spec, start, until)

    return answer


@pytest.mark.parametrize(("current_too", "kind"), [(False, "tie"), (True, "nothing stable")])
def test_what_breaks_on_every_fresh_seed_is_not_handed_back(current_too: bool, kind: str) -> None:
    played = concluded(breaking_on_fresh_seeds(0.0, current_too=current_too))
    assert played.conclusion is not None
    verdict = played.conclusion.verdict
    assert verdict.kind == kind
    assert verdict.schedule == (None if current_too else CURRENT)
    assert "on fresh seeds" in verdict.message
    fresh = list(dict.fromkeys(spec.schedule for spec, _, _ in played.fresh() if spec.schedule != CURRENT))
    completed = [spec.schedule for spec, _, until in played.segments if spec.role == "proposal" and until == 100]
    assert set(fresh) >= set(completed)
    assert fresh[-1].peak == pytest.approx(fresh[0].peak / 2.0)


@pytest.mark.parametrize("current_too", [False, True])
def test_at_last_half_the_peak_is_tried_and_trained_to_its_end(current_too: bool) -> None:
    first = concluded(breaking_on_fresh_seeds(0.0)).fresh()[0][0].schedule.peak
    played = concluded(breaking_on_fresh_seeds(0.75 * first, current_too=current_too))
    assert played.conclusion is not None
    verdict = played.conclusion.verdict
    assert verdict.kind == "tuned"
    assert verdict.schedule is not None
    assert verdict.schedule.peak < 0.75 * first
    ends = {until for spec, _, until in played.segments if spec.schedule == verdict.schedule}
    assert 100 in ends


def test_where_the_budget_ends_before_the_gentler_one_is_trained_it_is_not_handed_back() -> None:
    """It has never been trained; the current schedule is kept."""
    tight = config().least_budget

    def late(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        fragile = spec.role == "confirmation" and spec.schedule != CURRENT and until == 100
        return (unstable if fragile else differing(0.3, 0.3))(spec, start, until)

    for budget in range(tight, tight + 200, 20):
        played = concluded(late, budget=budget)
        assert played.conclusion is not None
        assert played.kind == "tie"
        assert played.conclusion.verdict.schedule == CURRENT
        assert "became unstable on fresh seeds" in played.conclusion.verdict.message


def test_nothing_is_stable_where_everything_breaks() -> None:
    for slots in (1, 8):
        played = play(Search(config(), slots=slots), unstable)
        assert played.conclusion is not None
        verdict = played.conclusion.verdict
        assert (verdict.kind, verdict.schedule, verdict.candidate, verdict.searched) == (
            "nothing stable",
            None,
            None,
            None,
        )
        assert verdict.message == "No schedule got to its horizon: all became unstable, the current one too."


def test_the_current_schedule_may_be_any() -> None:
    """With a warm-up, outside the search space."""
    current = Schedule(peak=2.0, horizon=100, warmup_steps=60, shape="cosine", decay="linear")
    made = TuneConfig(**config().model_dump() | {"current": current, "current_peak": 2.0})

    def answer(spec: TrialSpec, start: int, until: int) -> SegmentResult:
        return answered(spec, start, until, 0.1) if spec.schedule == current else smooth(spec, start, until)

    played = play(Search(made), answer)
    assert played.conclusion is not None
    assert (played.kind, played.conclusion.verdict.schedule) == ("tie", current)


# --- Comparisons ----------------------------------------------------------------------------------------------


def test_a_comparison_counts_the_runs_that_ended() -> None:
    made = Comparison(candidate=0, name="tuned", schedule=CURRENT, final_losses=(1.0, None, 2.0), unstable=1)
    assert made.losses == (1.0, 2.0)
    assert not made.stable
    assert made.model_copy(update={"unstable": 0}).stable


def test_an_interval_is_wider_than_one_that_knows_its_noise() -> None:
    posterior = Posterior(differences=(-0.5,), prior=NoisePrior(expected=0.1, spread=1.0))
    interval = Interval.of(posterior)
    assert (interval.mean, interval.confidence) == (-0.5, 0.95)
    assert interval.high - interval.mean > 1.96 * 0.1
    assert interval.high - interval.mean == pytest.approx(interval.mean - interval.low)
