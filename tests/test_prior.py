"""The prior that was learned from other tasks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autowarmup import Schedule
from autowarmup.search.prior import Prior
from autowarmup.search.surrogate import Evidence, Surrogate, features
from benchmarks.search import prior as fitting
from benchmarks.search.tables import FOLDER

RATES = st.floats(1e-9, 1e3)


def rows(peaks: np.ndarray, duration: int, share: float) -> np.ndarray:
    """Schedules with these peaks at a share of the run, as the prior takes them."""
    shape = "linear" if duration else "none"
    schedules = [Schedule(peak=float(peak), horizon=100, warmup_steps=duration, shape=shape) for peak in peaks]
    return np.array([(*features(schedule), share) for schedule in schedules])


@given(RATES, RATES, st.floats(1e-3, 1e3))
def test_the_expected_peak_scales_with_the_rates(current: float, reading: float, unit: float) -> None:
    """Rates of another optimizer or another scale of the model: the prior knows ratios only."""
    prior = Prior.learned()
    assert prior.expected_peak(unit * current, unit * reading) == pytest.approx(
        unit * prior.expected_peak(current, reading)
    )


@pytest.mark.parametrize("duration", [0, 10, 40])
def test_the_best_peak_looks_higher_early_in_a_run_than_at_its_end(duration: int) -> None:
    peaks = np.geomspace(1e-4, 1e-1, 121)
    best = [peaks[int(np.argmin(Prior.learned().mean_of(rows(peaks, duration, share), 3e-3)))] for share in (0.25, 1.0)]
    assert best[0] >= best[1]
    assert 1e-3 < best[1] < 1e-2


def test_a_high_peak_that_is_level_early_is_forecast_to_end_behind() -> None:
    """Two trials at a quarter of the run, with the same loss."""
    low, high = (Schedule(peak=peak, horizon=100, warmup_steps=40, shape="linear") for peak in (3e-3, 3e-2))
    model = Surrogate([Evidence(schedule, ((25, 1.0),)) for schedule in (low, high)], expected_peak=3e-3)
    forecast, _ = model.predict([low, high])
    assert forecast[0] < forecast[1]


def test_each_task_of_the_benchmark_has_a_prior_that_has_not_seen_it() -> None:
    stored = json.loads(fitting.LEFT_OUT.read_text())
    assert set(stored) == {path.stem.partition("@")[0] for path in FOLDER.glob("*.npz")}
    assert fitting.prior_for("mlp@100") == fitting.left_out()["mlp"] != Prior.learned()
    assert fitting.prior_for("a-table-that-is-not-stored") == Prior.learned()


def test_a_fit_finds_what_the_tables_have_in_common(tmp_path: Path) -> None:
    """Of two small tables: the fit is deterministic, and finite."""
    runs = [run for name in ("tabular@50", "autoencoder@50") for run in fitting.runs_of(FOLDER / f"{name}.npz")]
    examples = [fitting._Example(run, (0.4, 0.5)) for run in runs]
    mean = fitting._fitted_mean(examples)
    assert np.isfinite(mean).all()
    assert (mean == fitting._fitted_mean(examples)).all()
    whole = Prior(peak=(0.4, 0.5), mean=tuple(mean.tolist()), lengths=(1.0,) * 5, noise=0.1)
    left, right = (np.concatenate(parts) for parts in zip(*(example.equations() for example in examples), strict=True))
    assert np.square(right - left @ np.array(whole.mean)).mean() < 0.7 * np.square(right).mean()
