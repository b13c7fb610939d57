"""The schedules that a search may propose: the first ones, the pool, and what is harsher than what broke."""

from __future__ import annotations

import math
from typing import Any

import pytest

from autowarmup import Schedule, SearchSpace
from autowarmup.schedule.space import PeakRange
from autowarmup.search.candidates import PARAMETERS, Candidate, Candidates, UnitCubePoint, harsher
from autowarmup.search.config import TuneConfig

WIDE = PeakRange(low=1e-6, high=1e3)
SHAPES: Any = ["cosine", "linear", "polynomial"]


def source(current_peak: float = 0.01, **space: Any) -> Candidates:
    made = SearchSpace.model_validate({"warmup": {"low": 4, "high": 25}} | space)
    return Candidates(TuneConfig(total_steps=100, budget=5000, space=made, current_peak=current_peak))


@pytest.mark.parametrize(
    ("current_peak", "step"),
    [
        (1.0, 0.8),  # today's peak is where the best one is expected
        (10**0.5, 0.4),  # a step on the way to today's: at least 0.4 decades
        (10**-0.5, -0.4),
        (10**1.2, 0.6),  # half the way
        (10**-1.2, -0.6),
        (10**3.0, 0.8),  # at most 0.8
        (10**-3.0, -0.8),
    ],
)
def test_the_first_peaks(current_peak: float, step: float) -> None:
    """The expected one, one towards today's, then in turn above and below by 0.8 decades, 1.2, ..."""
    offsets = list(dict.fromkeys([0.0, step, 0.8, -0.8, 1.2, -1.2, 1.6]))[:6]
    for expected in (1.0, 0.01):
        starts = source(current_peak * expected).starts(expected, WIDE, 6)
        assert [start.schedule.peak for start in starts] == pytest.approx([expected * 10.0**k for k in offsets])


def test_the_first_peaks_get_to_the_far_end_of_the_range() -> None:
    """From its low end, in steps of 0.4 decades."""
    starts = source(1e-4).starts(1e-4, PeakRange(low=1e-4, high=1e4), 20)
    assert [start.schedule.peak for start in starts] == pytest.approx(
        [10.0 ** (0.4 * k - 4.0) for k in (0, *range(2, 21))]
    )


def test_the_first_peaks_stay_in_the_range_and_the_rest_comes_from_the_pool() -> None:
    made, peaks = source(1.0), PeakRange(low=0.5, high=2.0)
    starts = made.starts(1.0, peaks, 5)
    assert [start.schedule.peak for start in starts[:3]] == pytest.approx([1.0, 2.0, 0.5])
    assert starts[3:] == made.pool(peaks)[:2]
    assert len(made.starts(1.0, WIDE, 40)) == 40


def test_the_first_candidates_have_the_longest_linear_warmup_and_the_linear_decay() -> None:
    (start,) = source(shapes=SHAPES, decay=["cosine", "linear"], start_factor=0.5).starts(0.1, WIDE, 1)
    assert start.schedule == Schedule(
        peak=0.1, horizon=100, warmup_steps=25, shape="linear", decay="linear", start_factor=0.5
    )
    assert start.params == {"peak": 0.1, "shape": "linear", "decay": "linear", "warmup_steps_sqrt": 5.0}
    assert start.end == 0
    (start,) = source(shapes=["sqrt"], decay=["cosine"]).starts(0.1, WIDE, 1)
    assert (start.schedule.shape.kind, start.schedule.decay.kind, start.schedule.duration) == ("sqrt", "cosine", 25)


def test_the_pool_covers_the_space_evenly() -> None:
    made = source(shapes=SHAPES, power={"low": 0.5, "high": 2.0, "scale": "log"})
    pool = made.pool(PeakRange(low=1e-4, high=1.0))
    assert len(pool) == 512
    decades = [sum(10.0**k <= item.schedule.peak < 10.0 ** (k + 1) for item in pool) for k in range(-4, 0)]
    assert decades == [128] * 4
    kinds = [item.schedule.shape.kind for item in pool]
    assert all(160 <= kinds.count(kind) <= 180 for kind in SHAPES)
    assert {item.schedule.duration for item in pool} == set(range(4, 26))
    assert made.pool(PeakRange(low=1e-4, high=1.0)) == pool
    other = Candidates(made.config.model_copy(update={"seed": 1}))
    assert other.pool(PeakRange(low=1e-4, high=1.0)) != pool


def test_a_point_of_the_unit_cube_is_stretched_over_the_ranges() -> None:
    point = [0.25, 0.5, 0.99, 0.75, 0.0, 1.0, 0.5]
    chooser = UnitCubePoint({}, point)
    assert chooser.suggest_float("peak", 1e-4, 1.0, log=True) == pytest.approx(1e-3)
    assert chooser.suggest_float("final_factor", 1.0, 3.0) == 2.5
    assert chooser.suggest_float("warmup_steps_sqrt", 2.0, 5.0) == 2.0
    assert chooser.suggest_float("power", 0.5, 4.0, log=True) == 4.0
    assert chooser.suggest_categorical("shape", ["a", "b", "c"]) == "b"
    assert chooser.suggest_categorical("decay", ["a", "b", "c"]) == "c"
    assert set(chooser.params) == set(PARAMETERS) - {"start_factor"}
    fixed = UnitCubePoint({"peak": 9.0, "power": 0.1, "shape": "c"}, point)
    assert fixed.suggest_float("peak", 1.0, 3.0) == 3.0
    assert fixed.suggest_float("power", 0.5, 3.0) == 0.5
    assert fixed.suggest_categorical("shape", ["a", "b", "c"]) == "c"
    assert fixed.params == {"peak": 3.0, "power": 0.5, "shape": "c"}


def test_peaks_within_the_space() -> None:
    assert source().within(1e9) == 1e9
    bounded = source(peak={"low": 0.1, "high": 2.0})
    assert [bounded.within(peak) for peak in (0.01, 0.1, 1.0, 2.0, 3.0)] == [0.1, 0.1, 1.0, 2.0, 2.0]


def test_what_is_harsher() -> None:
    """No lower peak, no gentler warm-up: both count, and as much is harsh enough."""

    def made(peak: float, steps: int) -> Schedule:
        return Schedule(peak=peak, horizon=100, warmup_steps=steps, shape="linear")

    broken = made(0.1, 20)
    assert [harsher(made(*other), broken) for other in [(0.1, 20), (0.2, 10), (0.1, 10), (0.2, 20)]] == [True] * 4
    assert [harsher(made(*other), broken) for other in [(0.09, 20), (0.2, 21), (0.09, 21), (0.09, 10)]] == [False] * 4


def test_candidates_of_one_schedule_are_told_apart_by_their_parameters() -> None:
    first, second = (Candidate(Schedule(peak=0.1, horizon=10), {"peak": peak}) for peak in (0.1, 0.2))
    assert first != second
    assert hash(first) == hash(second)
    assert math.isclose(first.schedule.peak, 0.1)
