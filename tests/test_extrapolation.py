"""From a short horizon to a long one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autowarmup import Schedule, autotune
from autowarmup.errors import InputError
from autowarmup.schedule.extrapolation import extrapolated
from tests.tasks import settings


@given(st.integers(10, 1000), st.integers(1, 1000), st.floats(1e-6, 10.0), st.floats(0.0, 1.0))
def test_the_share_stays_and_the_peak_lies_within_its_range(steps: int, factor: int, peak: float, share: float) -> None:
    warmup = round(share * steps)
    plan = {"warmup_steps": warmup, "shape": "cosine"} if warmup else {}
    tuned = Schedule(peak=peak, horizon=steps, **plan)  # type: ignore[arg-type]
    longer = extrapolated(tuned, steps * factor)
    assert longer.schedule.horizon == steps * factor
    assert longer.schedule.warmup_steps == warmup * factor
    assert longer.peak_low * 0.999999 <= longer.schedule.peak <= longer.peak_high * 1.000001
    assert longer.peak_high == pytest.approx(peak)


def test_the_tuned_horizon_itself_is_left_alone() -> None:
    tuned = Schedule(peak=0.1, horizon=100, warmup_steps=10, shape="linear")
    assert extrapolated(tuned, 100).schedule == tuned


def test_rules_keep_their_duration() -> None:
    tuned = Schedule.untuned_linear(peak=0.1, horizon=1000, beta2=0.95)
    assert extrapolated(tuned, 10_000).schedule.duration == tuned.duration == 39


def test_a_study_of_short_runs_says_what_it_measured_and_what_not(tmp_path: Path) -> None:
    result = autotune(**settings(study=tmp_path, total_steps=4000, tune_steps="1%"))
    assert (result.config.total_steps, result.config.horizon) == (4000, 40)
    assert result.schedule is not None
    assert result.verdict.schedule is not None
    assert (result.schedule.horizon, result.verdict.schedule.horizon) == (4000, 40)
    assert result.schedule.peak < result.verdict.schedule.peak
    assert "tuned at 40 steps; at 4,000 steps the peak is extrapolated" in result.summary()
    assert Schedule.model_validate_json((tmp_path / "schedule.json").read_text()) == result.schedule


def test_a_longer_horizon_than_the_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tune_steps=80 is longer than total_steps=40"):
        autotune(**settings(study=tmp_path, total_steps=40, tune_steps=80))
