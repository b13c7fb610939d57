"""How often the verdict is right: the pairs of a study, simulated with a known difference and a known noise.

    python -m benchmarks.verdict            # prints the page, about a minute
    python -m benchmarks.verdict --write    # and writes benchmarks/results/verdict.md

First the noise that is expected of a pair is compared with the true one on the tables of the search benchmark. What is
fitted there, the spread of the true noise around the expected one, is fitted to all tasks but the one that is judged.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autowarmup.schedule.schedule import Schedule
from autowarmup.search.config import TuneConfig, validation_interval
from autowarmup.search.confirmation import FAR_BEHIND, SPREAD, SURE, UNLIKELY, Pair, judged
from autowarmup.search.pairs import NoisePrior, Posterior, expected_noise
from autowarmup.search.trial_state import TrialState
from autowarmup.search.trials import TrialSpec
from autowarmup.search.verdict import STOPPED_EARLY
from benchmarks.search.tables import FOLDER, Table

RESULTS = Path(__file__).parent / "results" / "verdict.md"
MOST_PAIRS: int = TuneConfig.model_fields["confirm_seeds"].default
STUDIES, STUDIES_OF_TASK = 800, 200
DIFFERENCES = (0.0, 1.0, 2.0, 4.0, 8.0)
"""By how much the schedule is better, in units of a pair's noise."""
PAIRS_OF_TABLE = 40
"""Pairs of schedules that are drawn from a table."""


@dataclass(frozen=True)
class Studies:
    """What simulated studies came to.

    Args:
        verdicts: *tuned*, *leaning* or *tie*, one a study.
        pairs: how many pairs each took.
        below: the posterior probability of a difference below the true one.
    """

    verdicts: list[str]
    pairs: list[int]
    below: list[float]

    def covered(self, probability: float = STOPPED_EARLY) -> float:
        """Share of the studies whose central interval of this posterior probability holds the true difference."""
        tail = (1.0 - probability) / 2.0
        return float(np.mean([tail <= below <= 1.0 - tail for below in self.below]))

    def share(self, kind: str) -> float:
        return self.verdicts.count(kind) / len(self.verdicts)


def simulated(
    better_by: float, ratios: Sequence[float], spread: float, worth: float, *, together: bool, studies: int, seed: int
) -> Studies:
    """Studies whose pairs are taken as a study takes them.

    Args:
        better_by: by how much the schedule is better, in units of a pair's noise.
        ratios: the true noise over the expected one; each study draws one.
        spread: of the prior on the noise.
        worth: the smallest difference that matters, in units of a pair's noise.
        together: whether all pairs run at once; else one after the other, until they have decided.
        studies: how many.
        seed: of the random numbers.
    """
    generator = np.random.default_rng(seed)
    found = Studies([], [], [])
    for ratio in generator.choice(np.asarray(ratios), studies).tolist():
        drawn = generator.normal(-better_by * ratio, ratio, MOST_PAIRS).tolist()
        for count in (MOST_PAIRS,) if together else range(1, MOST_PAIRS + 1):
            posterior = Posterior(differences=tuple(drawn[:count]), prior=NoisePrior(expected=1.0, spread=spread))
            standing = judged(posterior, worth * ratio)
            if standing != "undecided":
                break
        expected = "leaning" if posterior.mean < -worth * ratio else "tie"
        found.verdicts.append({"better": "tuned", "no better": "tie"}.get(standing, expected))
        found.pairs.append(count)
        found.below.append(posterior.chance_below(-better_by * ratio))
    return found


@dataclass(frozen=True)
class Noise:
    """The noise of a table's pairs.

    Args:
        task: its name.
        logs: natural logarithm of the true noise over the expected one, for each pair of schedules.
        seeds: that the true one was measured on.
        far_ahead: share of the runs of pairs in which a schedule that is no better on average is said to be far ahead
            halfway.
        caught_up: share of those that are said to be far ahead, and are not ahead at the end.
    """

    task: str
    logs: list[float]
    seeds: int
    far_ahead: float
    caught_up: float

    @property
    def error(self) -> float:
        """Variance of the logarithm of a standard deviation that was estimated from so many seeds."""
        from scipy.special import polygamma

        return float(polygamma(1, (self.seeds - 1) / 2.0)) / 4.0


def noise_of(table: Table) -> Noise:
    """Pairs of schedules of the better half; the differences are taken seed by seed."""
    generator = np.random.default_rng(0)
    order = np.argsort(table.means)[: len(table.grid) // 2]
    order = [int(row) for row in order if np.isfinite(table.finals[row]).all()]
    every = validation_interval(table.horizon)
    step = math.ceil(table.horizon / 2 / every) * every
    logs: list[float] = []
    far = no_better = reversed_ = ahead = 0
    for _ in range(PAIRS_OF_TABLE):
        rows = generator.choice(order, 2, replace=False)
        first, second = (table.grid[int(row)] for row in rows)
        differences = table.finals[rows[0]] - table.finals[rows[1]]
        expected = [
            expected_noise(table.traces[first, seed], table.traces[second, seed], every) for seed in table.seeds
        ]
        true = float(differences.std(ddof=1))
        if true > 0.0:
            logs.append(math.log(true / float(np.median(expected))))
        for number, seed in enumerate(table.seeds):
            pair = Pair(_state(table, first, seed), _state(table, second, seed), every, step)
            if pair.far_ahead:
                ahead += 1
                reversed_ += differences[number] >= 0.0
            if differences.mean() >= 0.0:
                no_better += 1
                far += pair.far_ahead
    return Noise(table.name, logs, len(table.seeds), far / max(1, no_better), reversed_ / max(1, ahead))


def _state(table: Table, schedule: Schedule, seed: int) -> TrialState:
    spec = TrialSpec(number=0, candidate=0, role="confirmation", seed=seed, schedule=schedule)
    return TrialState(spec, table.traces[schedule, seed])


def fitted(noises: Sequence[Noise]) -> tuple[float, float]:
    """Median ratio of the true noise to the expected one, and the spread of its logarithm, without what comes from
    measuring the true one on few seeds."""
    logs = np.concatenate([noise.logs for noise in noises])
    error = float(np.mean([noise.error for noise in noises]))
    return math.exp(float(np.median(logs))), math.sqrt(max(0.0, float(np.var(logs)) - error))


def page() -> str:
    noises = [noise_of(Table.load(path)) for path in sorted(FOLDER.glob("*.npz")) if "@" not in path.stem]
    ratio, spread = fitted(noises)
    known = np.exp(np.random.default_rng(1).normal(0.0, SPREAD, STUDIES)).tolist()
    lines = [
        "# The verdict, simulated",
        "",
        "Made by `python -m benchmarks.verdict --write`. Differences and the smallest one that matters are in units",
        f"of the noise of a pair. Pairs decide with a probability of {SURE:g} that one schedule is better, or of",
        f"{UNLIKELY:g} that it is better by an amount that matters; there are at most {MOST_PAIRS}.",
        "",
        f"## The noise is around the expected one with a spread of {SPREAD:g}",
        "",
        f"{STUDIES:,} studies a row. Intervals have a posterior probability of {STOPPED_EARLY:g}, since pairs stop",
        "when they look decided; unwidened: of 0.95.",
        "",
        "| pairs | matters | better by | tuned | leaning | tie | pairs used | 95% interval covers | unwidened |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for together in (False, True):
        for worth in (0.0, 1.0):
            for number, better_by in enumerate(DIFFERENCES):
                found = simulated(better_by, known, SPREAD, worth, together=together, studies=STUDIES, seed=number)
                kinds = " | ".join(f"{found.share(kind):.1%}" for kind in ("tuned", "leaning", "tie"))
                lines.append(
                    f"| {'all at once' if together else 'one after the other'} | {worth:g} | {better_by:g} | {kinds} "
                    f"| {np.mean(found.pairs):.1f} | {found.covered():.1%} | {found.covered(0.95):.1%} |"
                )
    lines += [
        "",
        "## Tasks of the search benchmark",
        "",
        f"The true noise over the expected one has a median of {ratio:.2f}, its logarithm a spread of {spread:.2f}.",
        "For each task the spread is fitted to the other ones; its studies draw from its own ratios.",
        f"{STUDIES_OF_TASK} studies a task and difference, pairs one after the other; 0.5 noises matter.",
        f"Far ahead halfway: by more than {FAR_BEHIND:g} times the jitter; how often that is said of a schedule that",
        "is no better on average, and how many of those that are said to be far ahead are not ahead at the end.",
        "",
        "| task | seeds | true / expected noise | spread, fitted | tuned at 0 | at 2 | at 4 | covers | far ahead, no "
        "better | caught up |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    false, covers = [], []
    for noise in noises:
        _, others = fitted([other for other in noises if other is not noise])
        ratios = np.exp(noise.logs).tolist()
        found_at = [
            simulated(at, ratios, others, 0.5, together=False, studies=STUDIES_OF_TASK, seed=7)
            for at in (0.0, 2.0, 4.0)
        ]
        covered = float(np.mean([found.covered() for found in found_at]))
        false.append(found_at[0].share("tuned"))
        covers.append(covered)
        shares = " | ".join(f"{found.share('tuned'):.1%}" for found in found_at)
        lines.append(
            f"| {noise.task} | {noise.seeds} | {math.exp(float(np.median(noise.logs))):.2f} | {others:.2f} | {shares} "
            f"| {covered:.1%} | {noise.far_ahead:.1%} | {noise.caught_up:.1%} |"
        )
    lines.append(
        f"| all | | {ratio:.2f} | | {np.mean(false):.1%} | | | {np.mean(covers):.1%} | "
        f"{np.mean([n.far_ahead for n in noises]):.1%} | {np.mean([n.caught_up for n in noises]):.1%} |"
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    made = page()
    print(made)
    if parser.parse_args().write:
        RESULTS.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
