"""Traces: joining, and the round trip through bytes."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autowarmup.training.trace import Evaluation, Trace

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")

numbers = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def traces(draw: st.DrawFn, start: int | None = None) -> Trace:
    size = draw(st.integers(0, 8))
    columns = [np.array(draw(st.lists(numbers, min_size=size, max_size=size)), np.float64) for _ in range(3)]
    first = draw(st.integers(0, 10**9)) if start is None else start
    names = draw(st.sets(st.text(min_size=1, max_size=5).filter(lambda name: "\0" not in name), max_size=3))
    evaluations = tuple(
        Evaluation(first + step, draw(numbers), draw(numbers), {name: draw(numbers) for name in sorted(names)})
        for step in sorted(draw(st.sets(st.integers(1, 8), max_size=3)))
    )
    return Trace(columns[0], columns[1], columns[2], evaluations, first)


def assert_same(one: Trace, other: Trace) -> None:
    for name in ("lr", "loss", "grad_norm", "steps"):
        assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)
        assert getattr(one, name).dtype == getattr(other, name).dtype
    assert one.start == other.start
    assert len(one.evaluations) == len(other.evaluations)
    for ours, theirs in zip(one.evaluations, other.evaluations, strict=True):
        assert repr(ours) == repr(theirs)  # NaN does not equal itself


@given(traces())
def test_bytes_round_trip(trace: Trace) -> None:
    assert_same(Trace.from_bytes(trace.to_bytes()), trace)


@given(traces())
def test_the_same_trace_gives_the_same_bytes(trace: Trace) -> None:
    assert trace.to_bytes() == Trace.from_bytes(trace.to_bytes()).to_bytes()


@given(traces(), st.data())
def test_consecutive_parts_join(first: Trace, data: st.DataObject) -> None:
    second = data.draw(traces(start=first.end))
    whole = Trace.join([first, second])
    assert len(whole) == len(first) + len(second)
    assert (whole.start, whole.end) == (first.start, second.end)
    assert whole.steps.tolist() == [*first.steps.tolist(), *second.steps.tolist()]
    assert np.array_equal(whole.loss, np.concatenate([first.loss, second.loss]), equal_nan=True)
    assert whole.evaluations == first.evaluations + second.evaluations
    assert_same(Trace.join([whole]), whole)


def test_nothing_joins_to_the_empty_trace() -> None:
    assert_same(Trace.join([]), Trace.empty())
    assert_same(Trace.join([], start=5), Trace.empty(start=5))
    assert (len(Trace.empty(start=5)), Trace.empty(start=5).end) == (0, 5)


def test_a_gap_between_parts_is_a_bug() -> None:
    one = np.ones(1)
    with pytest.raises(AssertionError, match="a gap between parts"):
        Trace.join([Trace(one, one, one), Trace(one, one, one, start=2)])


def test_columns_of_different_lengths_are_a_bug() -> None:
    with pytest.raises(AssertionError):
        Trace(np.ones(2), np.ones(2), np.ones(1))


def test_a_metric_that_one_evaluation_lacks_comes_back_as_nan() -> None:
    evaluations = (Evaluation(1, 1.0, 1.0, {"accuracy": 0.5}), Evaluation(2, 1.0, 1.0, {"f1": 0.25}))
    trace = Trace(np.ones(2), np.ones(2), np.ones(2), evaluations)
    first, second = Trace.from_bytes(trace.to_bytes()).evaluations
    assert first.metrics["accuracy"] == 0.5
    assert math.isnan(first.metrics["f1"])
    assert second.metrics["f1"] == 0.25


def test_the_score_is_the_ema_loss_where_it_is_finite() -> None:
    assert Evaluation(1, val_loss=2.0, val_loss_ema=1.0).score == 1.0
    assert Evaluation(1, val_loss=2.0, val_loss_ema=math.nan).score == 2.0
    assert Evaluation(1, val_loss=2.0, val_loss_ema=math.inf).score == 2.0


def test_numpy_alone_reads_the_bytes() -> None:
    trace = Trace(np.array([0.1]), np.array([2.0]), np.array([math.nan]), (Evaluation(1, 1.5, math.inf),))
    with np.load(io.BytesIO(trace.to_bytes()), allow_pickle=False) as arrays:
        assert arrays["loss"].tolist() == [2.0]
        assert arrays["val_loss_ema"].tolist() == [math.inf]
