"""Search spaces exactly: bounds, defaults, and what a trial is asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from autowarmup import Schedule, SearchSpace
from autowarmup.errors import InputError
from autowarmup.schedule.ranges import DurationRange, PeakRange, Range
from autowarmup.schedule.shapes import Polynomial

PEAK = PeakRange(low=1e-4, high=1e-1)


class Asked:
    """An Optuna trial that notes what it is asked, and answers what it is told to."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.questions: list[tuple[Any, ...]] = []

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.questions.append((name, low, high, log))
        return float(self.answers[name])

    def suggest_categorical(self, name: str, choices: list[str]) -> Any:
        self.questions.append((name, choices))
        return self.answers[name]


def test_what_a_trial_is_asked() -> None:
    space = SearchSpace(
        shapes=["linear", "polynomial", "radam", "none"],
        warmup={"low": 4, "high": "25%"},
        power={"low": 0.5, "high": 2.0, "scale": "log"},
        start_factor={"low": 0.1, "high": 0.2},
        decay=["cosine", "constant"],
        final_factor={"low": 0.0, "high": 0.1},
    )
    peak = ("peak", 1e-4, 1e-1, True)
    choices = [("shape", ["linear", "polynomial", "radam", "none"]), ("decay", ["cosine", "constant"])]
    final, steps = ("final_factor", 0.0, 0.1, False), ("warmup_steps_sqrt", 2.0, 5.0, False)
    start, power = ("start_factor", 0.1, 0.2, False), ("power", 0.5, 2.0, True)
    answers = {"peak": 0.01, "final_factor": 0.05, "warmup_steps_sqrt": 4.1, "start_factor": 0.15, "power": 1.5}

    asked = Asked(shape="linear", decay="cosine", **answers)
    expected = Schedule(peak=0.01, horizon=100, warmup_steps=17, shape="linear", start_factor=0.15, final_factor=0.05)
    assert space.suggest(asked, PEAK, 100) == expected
    assert asked.questions == [peak, *choices, final, steps, start]

    asked = Asked(shape="polynomial", decay="constant", **answers)
    shape = Polynomial(power=1.5)
    expected = Schedule(peak=0.01, horizon=100, warmup_steps=17, shape=shape, start_factor=0.15, decay="constant")
    assert space.suggest(asked, PEAK, 100) == expected
    assert asked.questions == [peak, *choices, steps, power, start]

    asked = Asked(shape="radam", decay="constant", **answers)
    assert space.suggest(asked, PEAK, 100).shape.beta2 == 0.999  # type: ignore[union-attr]
    assert asked.questions == [peak, *choices]

    asked = Asked(shape="none", decay="constant", **answers)
    assert space.suggest(asked, PEAK, 100) == Schedule(peak=0.01, horizon=100, decay="constant")
    assert asked.questions == [peak, *choices]


@pytest.mark.parametrize(("root", "steps"), [(0.0, 9), (3.0, 9), (4.6, 21), (5.0, 25), (9.0, 25)])
def test_a_duration_is_the_square_of_what_is_suggested_within_the_range(root: float, steps: int) -> None:
    space = SearchSpace(warmup={"low": 9, "high": 25})
    assert space.suggest(Asked(peak=0.1, warmup_steps_sqrt=root), PEAK, 100).duration == steps


def test_a_duration_of_no_steps_is_no_warmup() -> None:
    space = SearchSpace(warmup={"low": 0, "high": 25}, start_factor=0.5)
    schedule = space.suggest(Asked(peak=0.1, warmup_steps_sqrt=0.1), PEAK, 100)
    assert (schedule.duration, schedule.shape.kind, schedule.start_factor) == (0, "none", None)


def test_the_defaults() -> None:
    assert SearchSpace().model_dump() == {
        "description": "",
        "shapes": ("linear",),
        "warmup": {"low": 0, "high": "30%"},
        "peak": None,
        "power": {"low": 0.5, "high": 3.0, "scale": "log"},
        "start_factor": None,
        "decay": ("cosine",),
        "final_factor": {"low": 0.0, "high": 0.0, "scale": "linear"},
    }


def test_64_kib_are_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    text = "shapes: [linear]\n".ljust(64 * 1024, "#")
    assert SearchSpace.parse(text).shapes == ("linear",)
    for name, content, fits in (("fits", text, True), ("large", text + "#", False)):
        file = tmp_path / f"{name}.yaml"
        file.write_text(content)
        if fits:
            assert SearchSpace.load(file) == SearchSpace()
        else:
            with pytest.raises(InputError, match="larger than 64 KiB"):
                SearchSpace.load(file)
    with pytest.raises(InputError, match="larger than 64 KiB"):
        SearchSpace.parse(text + "#")


def test_what_is_just_allowed() -> None:
    assert SearchSpace(power=10).power.high == 10
    assert SearchSpace(power={"low": 1e-9, "high": 10}).power.low == 1e-9
    assert SearchSpace(start_factor={"low": 0, "high": 1}).start_factor == Range(low=0, high=1)
    assert SearchSpace(final_factor={"low": 0, "high": 1}).final_factor == Range(low=0, high=1)
    assert SearchSpace(shapes="exponential", start_factor=1e-9).shapes == ("exponential",)
    assert SearchSpace(shapes="exponential").start_factor is None
    assert SearchSpace(shapes=["linear"], start_factor=0).start_factor == Range(low=0, high=0)
    assert SearchSpace(decay="exponential", final_factor=1e-9).decay == ("exponential",)
    assert Range(low=-1, high=-1).scale == "linear"
    assert DurationRange(low=5, high=5).steps(6, None) == (5, 5)
    assert DurationRange(low="20%", high=10).steps(50, None) == (10, 10)  # of different units only steps are compared
    for low in (0.0, -1.0):
        with pytest.raises(InputError, match="a log scale needs bounds above 0"):
            Range(low=low, high=1.0, scale="log")
    for power in (0, -1):
        with pytest.raises(InputError, match="must be above 0 and at most 10"):
            SearchSpace(power=power)
    with pytest.raises(InputError, match="must be within 0 to 1"):
        SearchSpace(final_factor={"low": -0.1, "high": 0.5})


def test_a_hundred_choices_are_looked_at() -> None:
    names = [f"s{number}" for number in range(100)]
    cases: list[tuple[Any, str]] = [
        ([*names[1:], "s99"], "a choice stands twice"),
        (names, "must be 'none', 'linear'"),
        ([*names, "s100"], "has 101 choices; allowed: up to 100"),
    ]
    for choices, message in cases:
        with pytest.raises(InputError, match=message):
            SearchSpace(shapes=choices)


def test_parameters_have_a_name_only_where_there_is_a_choice() -> None:
    schedule = Schedule(peak=0.1, horizon=100, warmup_steps=16, shape="linear")
    assert SearchSpace().params_of(schedule) == {"peak": 0.1, "warmup_steps_sqrt": 4.0}
    assert SearchSpace(warmup=16).params_of(schedule) == {"peak": 0.1}
    two = SearchSpace(shapes=["linear", "sqrt"], decay=["cosine", "linear"])
    named = {"peak": 0.1, "shape": "linear", "decay": "cosine", "warmup_steps_sqrt": 4.0}
    assert two.params_of(schedule) == named
    constant = SearchSpace(decay=["cosine", "constant"], final_factor={"low": 0.1, "high": 0.2})
    without = schedule.model_copy(update={"decay": Schedule(peak=1, horizon=1, decay="constant").decay})
    assert constant.params_of(without) == {"peak": 0.1, "decay": "constant", "warmup_steps_sqrt": 4.0}


@pytest.mark.parametrize("duration", [9, 25])
def test_the_bounds_of_a_range_belong_to_it(duration: int) -> None:
    space = SearchSpace(warmup={"low": 9, "high": 25}, start_factor={"low": 0.1, "high": 0.5})
    for start in (0.1, 0.5):
        schedule = Schedule(peak=0.1, horizon=100, warmup_steps=duration, shape="linear", start_factor=start)
        expected = {"peak": 0.1, "warmup_steps_sqrt": duration**0.5, "start_factor": start}
        assert space.params_of(schedule) == expected
    for outside in (8, 26):
        assert space.params_of(Schedule(peak=0.1, horizon=100, warmup_steps=outside, shape="linear")) is None


def test_what_stands_in_for_shapes_that_are_not_searched() -> None:
    none, untuned = Schedule(peak=0.1, horizon=100), Schedule.untuned_linear(peak=0.1, horizon=100, beta2=0.9)
    assert SearchSpace(shapes=["radam", "sqrt", "linear"]).params_of(none) == {
        "peak": 0.1,
        "shape": "sqrt",
        "warmup_steps_sqrt": 0.0,
    }
    assert SearchSpace(shapes=["sqrt"]).params_of(untuned) is None
    assert SearchSpace().params_of(untuned) == {"peak": 0.1, "warmup_steps_sqrt": untuned.duration**0.5}


@pytest.mark.parametrize(("low", "high"), [(1e-12, 1e6), (1.0, 1.0)])
def test_peaks_that_are_just_allowed(low: float, high: float) -> None:
    assert SearchSpace(peak={"low": low, "high": high}).peak == PeakRange(low=low, high=high)
    for bounds in ({"low": low / 1e13, "high": high}, {"low": low, "high": high * 1e13}):
        with pytest.raises(InputError, match="must be within 1e-12 to 1e"):
            SearchSpace(peak=bounds)


def test_a_pipe_that_is_refused_is_closed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(InputError, match="not a regular file"):
        SearchSpace.load(tmp_path / "pipe.yaml")
    assert len(os.listdir("/dev/fd")) == before
