"""Fits the search's prior to the tables, and for each task one that has not seen it.

    python -m benchmarks.search.prior        # 10 minutes; writes autowarmup/search/prior.json and left_out.json

The mean is fitted by least squares, robustly, to the differences of all schedules of a table from one near the expected
peak; each task weighs the same, however many horizons and seeds its tables have. The kernel's length scales and the
noise are those with which a few trials, drawn at random and trained to random rungs, forecast best how other schedules
end.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import Pool
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy starts

import numpy as np

import autowarmup.search
from autowarmup.search.config import validation_interval
from autowarmup.search.prior import Prior, terms
from autowarmup.search.probe import peak_of_ramp
from autowarmup.search.surrogate import features, scores
from benchmarks.search.merit import Standard
from benchmarks.search.tables import FOLDER, Table

Array = np.ndarray[Any, np.dtype[np.float64]]

SHIPPED = Path(autowarmup.search.__path__[0]) / "prior.json"
LEFT_OUT = FOLDER / "left_out.json"
"""By task: the prior that was fitted to all others."""
PROCESSES = 2

EVALUATIONS = 20
SHARES = np.arange(1, EVALUATIONS + 1) / EVALUATIONS
FIRST = 4
"""Index of the first evaluation that the search uses: that at a quarter of the run."""
MARKS = (4, 6, 9, 13, 16, 19)
"""Indices of the evaluations that the mean is fitted to."""
WITHIN = 1.8
"""Decades around the expected peak within which schedules are used."""
RIDGE, OUTLIER, ROUNDS = 0.002, 1.5, 8
"""The least squares: weight of the coefficients' squares, residual beyond which an error counts linearly, rounds."""
DRAWS = 2
"""Draws of trials from each table and seed, for the kernel."""
USUAL = np.log([0.5, 0.5, 1.0, 0.5, 1.0, 0.1])
"""Logarithms of length scales and noise that the fit is drawn to, as weakly as by this many standard deviations:"""
LOOSE = 3.0


@dataclass(frozen=True)
class Run:
    """A table under one of its seeds.

    Args:
        table: the table's name.
        current: decimal logarithm of the current peak.
        reading: of the peak that the probe tells.
        best: of the best peak.
        features: of the schedules, shape ``(n, 4)``.
        scores: at each twentieth of the horizon, shape ``(n, 20)``; NaN where a trial had broken by then.
    """

    table: str
    current: float
    reading: float
    best: float
    features: Array
    scores: Array

    @property
    def task(self) -> str:
        """The task's name, that of its tables at all horizons."""
        return self.table.partition("@")[0]


def runs_of(path: Path) -> list[Run]:
    """What a table has to say, seed by seed."""
    table = Table.load(path)
    judged, every = Standard(table), validation_interval(table.horizon)
    places = np.array([features(schedule) for schedule in table.grid])
    regrets = (table.means - judged.best) / judged.noise
    near = regrets <= max(2.0, float(np.sort(regrets)[5]))
    ramp = min(table.ramps, key=lambda schedule: abs(schedule.horizon - max(10, table.horizon // 10)))
    runs = []
    for seed in table.seeds:
        found = np.full((len(table.grid), EVALUATIONS), np.nan)
        for row, schedule in enumerate(table.grid):
            known = scores(table.traces[schedule, seed], table.horizon, every, table.trivial_loss)
            if known:
                found[row] = np.interp(SHARES * table.horizon, *zip(*known, strict=True), right=np.nan)
        reading = peak_of_ramp(table.traces[ramp, seed], table.current_peak)
        best = float(places[near, 0].mean())
        runs.append(Run(path.stem, math.log10(table.current_peak), math.log10(reading), best, places, found))
    return runs


def fitted(runs: Sequence[Run]) -> Prior:
    """The prior of some tables' runs."""
    peak = _fitted_peak(runs)
    examples = [_Example(run, peak) for run in runs]
    mean = _fitted_mean(examples)
    lengths, noise, trust = _fitted_kernel([e for e in examples if "@" not in e.run.table], mean)
    return Prior(peak=peak, mean=_rounded(trust * mean), lengths=_rounded(lengths), noise=round(noise, 4))


def _fitted_peak(runs: Sequence[Run]) -> tuple[float, float]:
    """Best peak over the current one, by what the probe tells over the current one; least squares."""
    weights = np.sqrt(_weights(runs))
    told = np.array([run.reading - run.current for run in runs])
    best = np.array([run.best - run.current for run in runs])
    design = np.stack([np.ones_like(told), told], axis=1) * weights[:, None]
    offset, slope = np.linalg.lstsq(design, best * weights, rcond=None)[0]
    return round(float(offset), 3), round(float(slope), 3)


def _weights(runs: Sequence[Run]) -> Array:
    """Each task weighs the same."""
    tasks = [run.task for run in runs]
    weights = np.array([1.0 / tasks.count(task) for task in tasks])
    return weights / weights.sum()


class _Example:
    """A run as the surrogate would see it, were all of its schedules trained."""

    def __init__(self, run: Run, peak: tuple[float, float]) -> None:
        self.run = run
        self.expected = run.current + peak[0] + peak[1] * (run.reading - run.current)
        off = run.features[:, 0] - self.expected
        self.whole = np.isfinite(run.scores[:, FIRST:]).all(axis=1)
        self.near = np.abs(off) < WITHIN
        distance = (off / 0.5) ** 2 + ((run.features[:, 1] - 0.45) / 0.3) ** 2
        self.reference = int(np.argmin(np.where(self.whole, distance, np.inf)))

    def rows(self, schedules: Array, mark: int) -> Array:
        """Schedules at an evaluation, as rows for the prior."""
        return np.column_stack([self.run.features[schedules], np.full(len(schedules), (mark + 1) / EVALUATIONS)])

    def equations(self) -> tuple[Array, Array]:
        """Terms of the mean and what they should add up to, for all schedules at all marks."""
        differences = self.run.scores - self.run.scores[self.reference]
        sizes = np.abs(differences[self.near & self.whole][:, FIRST:])
        scale = float(np.median(sizes[sizes > 0]))
        left, right = [], []
        for mark in MARKS:
            known = np.flatnonzero(self.near & np.isfinite(differences[:, mark]))
            reference = terms(self.rows(np.array([self.reference]), mark), self.expected)
            left.append(terms(self.rows(known, mark), self.expected) - reference)
            right.append(np.arcsinh(differences[known, mark] / scale))
        return np.concatenate(left), np.concatenate(right)


def _fitted_mean(examples: Sequence[_Example]) -> Array:
    equations = [example.equations() for example in examples]
    shares = _weights([example.run for example in examples])
    left = np.concatenate([part for part, _ in equations])
    right = np.concatenate([part for _, part in equations])
    weighed = zip(equations, shares, strict=True)
    equal = np.concatenate([np.full(len(part), share / len(part)) for (_, part), share in weighed])
    weights, solution = equal, np.zeros(left.shape[1])
    for _ in range(ROUNDS):
        weighted = (left * weights[:, None]).T
        solution = np.linalg.solve(weighted @ left + RIDGE * np.eye(left.shape[1]), weighted @ right)
        weights = equal * np.minimum(1.0, OUTLIER / np.maximum(np.abs(right - left @ solution), 1e-9))
    return solution


@dataclass(frozen=True)
class _Draw:
    """Some trials of a run, and how other schedules end: rows, values and means of both."""

    rows: Array
    values: Array
    means: Array
    rows_asked: Array
    values_asked: Array
    means_asked: Array


def _draws(example: _Example, mean: Array, generator: np.random.Generator) -> list[_Draw]:
    usable = np.flatnonzero(example.whole & (np.abs(example.run.features[:, 0] - example.expected) < 1.3))
    close = usable[np.abs(example.run.features[usable, 0] - example.expected) < 0.6]
    found = []
    for number in range(DRAWS if len(close) and len(usable) > 30 else 0):
        count = int(generator.integers(3, 8))
        tried = generator.choice(usable, count, replace=False)
        tried[0] = generator.choice(close)
        ends = generator.choice([5, 10, 20], count, p=[0.5, 0.2, 0.3])
        if number % 2:
            ends[int(np.argmin(example.run.scores[tried, FIRST]))] = 20
        asked = generator.choice(usable, 25, replace=False)
        reference = min(range(count), key=lambda i: (-ends[i], example.run.scores[tried[i], ends[i] - 1]))
        differences = example.run.scores - example.run.scores[tried[reference]]
        seen = [
            (schedule, mark)
            for schedule, end in zip(tried.tolist(), ends.tolist(), strict=True)
            for mark in range(FIRST, min(end, int(ends[reference])))
        ]
        raw = np.array([differences[schedule, mark] for schedule, mark in seen])
        if not raw.any():
            continue
        scale = float(np.median(np.abs(raw[raw != 0.0])))
        rows = np.concatenate([example.rows(np.array([schedule]), mark) for schedule, mark in seen])
        rows_asked = example.rows(asked, EVALUATIONS - 1)
        found.append(
            _Draw(
                rows, np.arcsinh(raw / scale), terms(rows, example.expected) @ mean,
                rows_asked, np.arcsinh(differences[asked, -1] / scale), terms(rows_asked, example.expected) @ mean,
            )
        )  # fmt: skip
    return found


def _fitted_kernel(examples: Sequence[_Example], mean: Array) -> tuple[Array, float, float]:
    """Length scales, noise, and the share of the mean that is to be trusted."""
    from scipy.optimize import minimize

    generator = np.random.default_rng(0)
    draws = [draw for example in examples for draw in _draws(example, mean, generator)]

    def loss(parameters: Array) -> float:
        *logs, trust = parameters
        lengths, noise = np.exp(logs[:5]), math.exp(logs[5])
        away = float((((np.array(logs) - USUAL) / LOOSE) ** 2).sum()) / 2.0
        return float(np.mean([_surprise(draw, lengths, noise, trust) for draw in draws])) + away / 24.0

    best = minimize(loss, [*USUAL, 0.6], method="Powell", options={"maxfev": 140, "ftol": 1e-3}).x
    return np.exp(best[:5]), math.exp(best[5]), float(best[6])


def _surprise(draw: _Draw, lengths: Array, noise: float, trust: float) -> float:
    """Minus the mean log density of how the schedules ended, with tails of Student's t with four degrees of freedom."""
    from sklearn.gaussian_process.kernels import Matern

    residuals = draw.values - trust * draw.means
    offset = residuals.mean()
    kernel = Matern(length_scale=lengths, nu=2.5)
    own = kernel(draw.rows) + noise * np.eye(len(draw.rows))
    cross = kernel(draw.rows_asked, draw.rows)
    solved = np.linalg.solve(own, np.column_stack([residuals - offset, cross.T]))
    forecast = cross @ solved[:, 0] + offset + trust * draw.means_asked
    variance = np.maximum(1.0 + noise - np.einsum("ij,ji->i", cross, solved[:, 1:]), 1e-6)
    squares = (draw.values_asked - forecast) ** 2 / variance
    return float(np.mean(0.5 * np.log(variance) + 2.5 * np.log1p(squares / 4.0)))


def _rounded(values: Array) -> Any:
    return tuple(round(float(value), 4) for value in values)


@cache
def left_out() -> dict[str, Prior]:
    """By task: the prior that was fitted to all others."""
    return {task: Prior.model_validate(item) for task, item in json.loads(LEFT_OUT.read_text()).items()}


def prior_for(table: str) -> Prior:
    """The prior that has not seen a table's task: for one that is not stored, the shipped one."""
    return left_out().get(table.partition("@")[0]) or Prior.learned()


def main() -> None:
    with Pool(PROCESSES) as pool:
        runs = [run for part in pool.imap(runs_of, sorted(FOLDER.glob("*.npz"))) for run in part]
        tasks = sorted({run.task for run in runs})
        jobs = [[run for run in runs if run.task != task] for task in tasks]
        whole, *others = pool.map(fitted, [runs, *jobs], chunksize=1)
    SHIPPED.write_text(whole.model_dump_json() + "\n")
    lines = [f"{json.dumps(task)}: {prior.model_dump_json()}" for task, prior in zip(tasks, others, strict=True)]
    LEFT_OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(whole)


if __name__ == "__main__":
    main()
