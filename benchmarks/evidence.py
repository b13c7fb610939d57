"""Would the detectors find more with more evidence? Scores of damage, fitted with and without each kind of it.

    python -m benchmarks.evidence fresh       # judges the traces of ``benchmarks/evidence_runs.py``: prints the figures
    python -m benchmarks.evidence left-out

The truth is the loss on examples that stay the same, so a hard batch is not damage. A score tells each step whether the
weights are damaged. It is fitted to some tasks and judged on other tasks and seeds; or fitted to all of them but one
and judged on that one.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from autowarmup.instability import Detectors
from autowarmup.instability.history import History, Settled, Step
from autowarmup.instability.signs import Signs
from autowarmup.schedule import Schedule
from benchmarks import detectors
from benchmarks.evidence_runs import COLUMNS, FOLDER, PARTS, Column, Run

SETS: dict[str, tuple[str, ...]] = {
    "loss and norm": (),
    "+ layers": ("layers",),
    "+ angles": ("angles",),
    "+ critical rate": ("critical",),
    "+ forecast's spread": ("forecast",),
    "+ all": ("layers", "angles", "critical", "forecast"),
}
FIRST = 12
"""Steps before the first judgement."""
ROWS = 16_000
"""Steps that a score is fitted to."""
CLIMB = 0.25
"""The weights are damaged where the loss has climbed by this share of the progress made."""


@dataclass(frozen=True)
class Trial:
    """A run's trace, and what a task's good runs reach."""

    run: Run
    rate: Column
    columns: dict[str, Column]
    trivial: float
    reachable: float
    good_rate: float
    label: str = ""
    onset: int | None = None
    damaged: np.ndarray[Any, np.dtype[np.bool_]] = field(default_factory=lambda: np.zeros(0, bool))

    @property
    def healthy_steps(self) -> int:
        """Steps before the damage, and before the fault."""
        ends = [len(self.rate)]
        if self.onset is not None:
            ends += [self.onset - 10, *(np.flatnonzero(self.damaged)[:1] - 10).tolist()]
        if self.run.fault:
            ends.append(self.run.fault.at - 2)
        return max(0, min(ends))

    @property
    def in_time(self) -> slice:
        """The steps at which an alarm finds the damage, as in ``benchmarks/detectors.py``."""
        assert self.onset is not None
        limit = max(50, (self.run.schedule["horizon"] - self.onset) // 2)
        return slice(max(0, self.onset - 10), self.onset + limit + 1)

    @cached_property
    def signs(self) -> dict[str, Column]:
        """The evidence at each step up to the first loss that is not finite, by kind."""
        finite = np.isfinite(self.columns["loss"])
        length = len(finite) if finite.all() else int(np.argmin(finite))
        columns = {name: column[:length] for name, column in self.columns.items()}
        rate = np.maximum(self.rate[:length], 1e-12)
        norms, angles = ([columns[f"{kind} {part}"] for part in PARTS] for kind in ("grad_norm", "angle"))
        ends = norms[0] / norms[2]
        return {
            "basic": np.hstack([basic(self, columns), recent(columns["grad_norm"])]),
            "layers": np.column_stack(
                [against_earlier(x) for x in norms]
                + [log(before(ends, 5), before(ends, 40, 5)), log(before(ends, 5), np.nanmedian(ends[:10]))]
                + [log(before(x, 20), np.nanmedian(x[:5])) for x in norms]
            ),
            "angles": np.column_stack(
                [log(before(x, 3, f=np.max), 1.0) for x in angles]
                + [against_earlier(x) for x in angles]
                + [against_earlier(x / rate) for x in angles]
                + [before(columns["cosine"], 5), before(columns["cosine"], 20, f=np.mean)]
            ),
            "critical": critical(columns["critical"]),
            "forecast": forecast(columns["loss"]),
        }


def before(x: Column, width: int, lag: int = 0, f: Callable[[Column], Any] = np.median) -> Column:
    """``f`` of the last ``width`` finite values up to ``lag`` steps before each; NaN where there are fewer than 3."""
    out = np.full(len(x), np.nan)
    for i in range(lag + 3, len(x)):
        values = x[max(0, i - lag - width + 1) : i - lag + 1]
        values = values[np.isfinite(values)]
        if len(values) >= 3:
            out[i] = f(values)
    return out


def log(a: Any, b: Any) -> Column:
    ratio: Column = np.log(np.maximum(a, 1e-12) / np.maximum(b, 1e-12))
    return ratio


def against_earlier(x: Column) -> Column:
    return log(before(x, 3), before(x, 20, 4))


def recent(norm: Column) -> Column:
    return np.column_stack([against_earlier(norm), log(before(norm, 3, f=np.max), before(norm, 40, 4, np.max))])


def basic(trial: Trial, columns: dict[str, Column]) -> Column:
    """What the detectors look at today: the signs of a silent failure, and those of a spike."""
    history = History()
    settled = Settled(history)
    signs = Signs(history, settled, trial.run.schedule["horizon"], trial.trivial)
    rows, excesses = [], []
    for i, (loss, norm) in enumerate(zip(columns["loss"].tolist(), columns["grad_norm"].tolist(), strict=True)):
        step = Step(i, float(trial.rate[i]), loss, norm)
        history.add(step)
        settled.add(step)
        excesses.append(history.excess)
        last = sorted(excesses[-4:])
        height = last[1] if len(last) == 4 else 0.0
        highest = max(excesses[10:-4], default=0.0) if i > 14 else 0.0
        climb = history.recent - history.lowest if math.isfinite(history.lowest) else math.nan
        rows.append(
            (
                *signs.of(step),
                np.clip(height / (history.reach + 1e-9), -9, 99),
                np.clip(height / (highest + 1e-9), -9, 99),
                np.clip(height / (history.progress + 1e-9), -9, 9),
                np.clip(history.excess / (history.sigma + 1e-9), -20, 50),
                np.clip(last[0] / (history.sigma + 1e-9), -20, 50),
                climb / (history.progress + 1e-9),
            )
        )
    return np.array(rows).reshape(len(rows), 24)


def critical(measured: Column) -> Column:
    """The rate over the critical one: the last that was measured, the highest of three, and their median over 40
    steps."""
    held = np.clip(measured, -5, 50)
    for i in range(1, len(held)):
        if np.isnan(held[i]):
            held[i] = held[i - 1]
    return np.column_stack([held, before(held, 15, f=np.max), before(held, 40)])


def forecast(loss: Column) -> Column:
    """How far the last five losses lie above what the 45 before them forecast, in standard errors of that forecast, and
    the logarithm of the standard error. The forecast is a line against the logarithm of the step."""
    out = np.full((len(loss), 2), np.nan)
    loss = np.clip(loss, -1e6, 1e6)
    for i in range(30, len(loss)):
        first = max(3, i - 50)
        x, y = np.log(np.arange(first, i - 4)), loss[first : i - 4]
        if len(x) < 15:
            continue
        centred = x - x.mean()
        slope = (centred * y).sum() / (centred**2).sum()
        noise = 1.4826 * np.median(np.abs(y - y.mean() - slope * centred)) + 1e-9
        ahead = np.log(i - 2) - x.mean()
        error = noise * np.sqrt(1 / 5 + 1 / len(x) + ahead**2 / (centred**2).sum())
        out[i] = (loss[i - 4 : i + 1].mean() - y.mean() - slope * ahead) / error, np.log(error / (abs(loss[0]) + 1e-9))
    out[:, 0] = np.clip(out[:, 0], -20, 50)
    return out


# --- Truth -------------------------------------------------------------------------------------------------


def end_of(loss: Column) -> float:
    return float(np.median(loss[-max(10, len(loss) // 10) :]))


def labelled(trial: Trial) -> dict[str, Any]:
    """Label, onset and damaged steps, from the loss on fixed examples. ``spiking``: it climbs and comes back; ``jump``:
    it doesn't; ``failed`` and ``borderline`` as in ``benchmarks/detectors.py``."""
    broken = ~np.isfinite(trial.columns["fixed"]) | ~np.isfinite(trial.columns["loss"])
    loss = np.where(np.isfinite(trial.columns["fixed"]), trial.columns["fixed"], 1e30)
    gap = trial.trivial - trial.reachable
    level = detectors.smoothed(loss, 3)
    lowest = np.minimum.accumulate(np.r_[loss[0], level[:-1]])
    progress = np.maximum(min(loss[0], trial.trivial) - lowest, 0.3 * gap)
    noise = detectors.local_noise(np.abs(loss - detectors.smoothed(loss, 15)))
    high = level - lowest > np.maximum(CLIMB * progress, 2 * noise)
    high[:10] = False
    if broken.any():
        onset = int(np.flatnonzero(broken | high)[0])
        return {"label": "non-finite", "onset": onset, "damaged": high | (np.arange(len(loss)) >= onset)}
    end, failing = end_of(loss), trial.trivial - detectors.FAILED_SHARE * gap
    if end >= failing:
        onset = onset_of_failure(trial, loss, failing)
        if onset is None:
            return {"label": "stable", "onset": None, "damaged": high}
        return {"label": "failed", "onset": onset, "damaged": high | (np.arange(len(loss)) >= onset)}
    if high.any():
        tail = slice(-max(10, len(loss) // 10), None)
        stays = np.mean(level[tail] - lowest[tail] > CLIMB * progress[tail]) > 0.5
        return {"label": "jump" if stays else "spiking", "onset": int(np.flatnonzero(high)[0]), "damaged": high}
    slow = end >= trial.trivial - detectors.BORDERLINE_SHARE * gap and trial.rate.max() >= trial.good_rate
    return {"label": "borderline" if slow else "stable", "onset": None, "damaged": high}


def onset_of_failure(trial: Trial, loss: Column, failing: float) -> int | None:
    """Since when the loss never again came below the failing level; None where the rate was too low to judge."""
    level = detectors.smoothed(loss, 9)
    below = np.flatnonzero(level < failing)
    if len(below):
        return int(below[-1]) + 1
    high = np.flatnonzero(trial.rate >= trial.good_rate)
    if not len(high):
        return None
    end, start = end_of(loss), loss[0]
    fallen = np.flatnonzero((level <= end + 0.1 * max(0.0, start - end)) | (level > 1.5 * start))
    return max(int(high[0]), int(fallen[0]) if len(fallen) else 0)


def load(part: str) -> list[Trial]:
    """The stored trials with their labels, but for those that are neither stable nor failed."""
    with np.load(FOLDER / f"evidence_{part}.npz") as stored:
        runs = [Run.of(run) for run in json.loads(str(stored["runs"]))]
        costs = json.loads(str(stored["costs"]))
        traces = np.split(stored["columns"].astype(float), np.cumsum(stored["lengths"])[:-1])
    trials = []
    for task in dict.fromkeys(run.task for run in runs):
        alike = [(run, dict(zip(COLUMNS, trace.T, strict=True))) for run, trace in zip(runs, traces, strict=True)
                 if run.task == task]  # fmt: skip
        healthy = [pair for pair in alike if pair[0].fault is None and np.isfinite(pair[1]["fixed"]).all()]
        best = sorted(healthy, key=lambda pair: end_of(pair[1]["fixed"]))[: max(1, len(healthy) // 4)]
        reachable = float(np.median([end_of(columns["fixed"]) for _, columns in best]))
        good = float(np.median([run.schedule["peak"] for run, _ in best]))
        for run, columns in alike:
            rate = Schedule.model_validate(run.schedule).curve()[: len(columns["loss"])]
            bare = Trial(run, rate, columns, costs[task]["trivial"], reachable, good)
            trials.append(Trial(**{**bare.__dict__, **labelled(bare)}))
    return [trial for trial in trials if trial.label != "borderline"]


# --- Scores ------------------------------------------------------------------------------------------------


def matrix(trial: Trial, kinds: Sequence[str]) -> Column:
    return np.hstack([trial.signs[kind] for kind in ("basic", *kinds)])


def scores(fitted: Sequence[Trial], judged: Sequence[Trial], kinds: Sequence[str]) -> list[Column]:
    """For each trial that is judged a score a step: the lower one of two in a row, infinite where the loss is not
    finite."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows, damaged, weights = [], [], []
    for trial in fitted:
        x = matrix(trial, kinds)
        steps = np.arange(len(x))
        healthy = len(trial.rate) if trial.onset is None else trial.healthy_steps
        after = trial.damaged[: len(x)] & (steps >= (trial.onset or 0))
        for chosen, value in ((steps < healthy) & (steps >= FIRST), False), (after & (steps >= FIRST), True):
            rows.append(x[chosen])
            damaged += [value] * int(chosen.sum())
            weights += [1 / math.sqrt(max(1, chosen.sum()))] * int(chosen.sum())
    keep = np.random.default_rng(0).permutation(len(damaged))[:ROWS]
    model = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=8, learning_rate=0.12, min_samples_leaf=40, early_stopping=False, random_state=0
    )
    weight = np.array(weights)[keep]
    model.fit(np.concatenate(rows)[keep], np.array(damaged)[keep], sample_weight=weight / weight.mean())
    found = []
    for trial in judged:
        x = matrix(trial, kinds)
        score = np.full(len(trial.rate), np.inf)
        score[: len(x)] = model.decision_function(x) if len(x) else []
        score[:FIRST] = -np.inf
        both = np.r_[-np.inf, np.minimum(score[1:], score[:-1])]
        found.append(np.where(np.isfinite(trial.columns["loss"]), both, np.inf))
    return found


def alarms(trial: Trial, fatal_only: bool) -> Column:
    """Today's verdicts as a score: infinite at the steps of an alarm."""
    monitor = Detectors().monitor(trial.run.schedule["horizon"], trial.trivial)
    columns = (trial.rate.tolist(), trial.columns["loss"].tolist(), trial.columns["grad_norm"].tolist())
    for step, row in enumerate(zip(*columns, strict=True)):
        verdict = monitor.observe(step, *row)
        if verdict is not None and verdict.fatal:
            break
    found = [event for event in monitor.events if event.fatal or (event.kind != "stall" and not fatal_only)]
    score = np.full(len(trial.rate), -np.inf)
    score[[event.detected for event in found]] = np.inf
    return score


def recall(trials: Sequence[Trial], found: Sequence[Column], most: int) -> float:
    """The share of the damaged runs that are found in time, at the threshold that so many healthy stretches exceed."""
    highest = sorted((max(s[: t.healthy_steps], default=-np.inf) for t, s in zip(trials, found, strict=True)))[::-1]
    limit = highest[most]
    hits = [
        max(s[t.in_time], default=-np.inf) > limit for t, s in zip(trials, found, strict=True) if t.onset is not None
    ]
    return float(np.mean(hits))


def today(name: str, trials: Sequence[Trial], fatal_only: bool) -> str:
    found = [alarms(trial, fatal_only) for trial in trials]
    false = sum((s[: t.healthy_steps] > 0).any() for t, s in zip(trials, found, strict=True))
    caught: Counter[str] = Counter()
    for trial, score in zip(trials, found, strict=True):
        if trial.onset is not None:
            caught[trial.label] += bool((score[trial.in_time] > 0).any())
    of = Counter(trial.label for trial in trials if trial.onset is not None)
    parts = ", ".join(f"{label} {caught[label]} of {count}" for label, count in of.items())
    return f"{name}: recall {caught.total() / of.total():.2f} ({parts}); {false} runs with a false alarm"


def judge(name: str, trials: Sequence[Trial], score: Callable[[tuple[str, ...]], list[Column]]) -> None:
    steps = sum(trial.healthy_steps for trial in trials)
    print(f"{name}: {len(trials)} runs, {steps:,} healthy steps")
    print(today("  verdicts", trials, False), today("  fatal ones", trials, True), sep="\n", flush=True)
    for kinds_name, kinds in SETS.items():
        found = score(kinds)
        at = [recall(trials, found, most) for most in range(16)]
        cells = ", ".join(f"{most}: {at[most]:.2f}" for most in (0, 1, 2, 4, 8))
        print(
            f"  {kinds_name}: recall by runs with a false alarm {cells}; mean of 0 to 15: {np.mean(at):.2f}", flush=True
        )


def main() -> None:
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # all of a window's values may be missing
    fitting = load("fitting")
    if sys.argv[1] == "fresh":
        fresh = load("fresh")
        judge("Other tasks and seeds", fresh, lambda kinds: scores(fitting, fresh, kinds))
        return

    def left_out(kinds: tuple[str, ...]) -> list[Column]:
        found: dict[int, Column] = {}
        for task in dict.fromkeys(trial.run.task for trial in fitting):
            judged = [trial for trial in fitting if trial.run.task == task]
            others = [trial for trial in fitting if trial.run.task != task]
            found |= {id(t): s for t, s in zip(judged, scores(others, judged, kinds), strict=True)}
        return [found[id(trial)] for trial in fitting]

    judge("Each task judged by a score that was fitted to the others", fitting, left_out)


if __name__ == "__main__":
    main()
