"""Transfer learning: one curve for all parameters, groups with a fixed ratio, ULMFiT's recipe, and groups searched.

    make bench-transfer

Each study starts from today's learning rate without groups. What it hands back is trained on fresh seeds, the same for
all methods. The regret is to the best mean loss that any schedule has there: those of the methods, and the best of a
random sample of the space. Weights and images of faces are those of two packages, read as files from ``.faces``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autowarmup import Schedule, SearchSpace, autotune
from autowarmup.schedule.group_ranges import FIXED_RATIO, FROZEN, LAYER_DECAY, LONGER, ULMFIT_DECAY, made
from autowarmup.schedule.ranges import PeakRange
from autowarmup.search.candidates import Candidates
from autowarmup.search.config import TuneConfig
from autowarmup.training.settings import TrainSettings
from autowarmup.training.task import ModelTask
from benchmarks.search import image_tasks, text_tasks
from benchmarks.search.optimizers import adamw

ROOT = Path(__file__).parent.parent
FACES = ROOT / ".faces"
RESULTS = ROOT / "benchmarks" / "results" / "transfer.md"

STUDIES = (0, 1, 2)
"""Seeds of the studies."""
FRESH = (1001, 1002, 1003)
"""Seeds on which schedules are judged."""
SAMPLE, FINALISTS = 20, 2
"""Schedules of the space that are trained on one fresh seed, and those of them that are trained on all."""

Patterns = dict[str, list[str]]
Images = np.ndarray[Any, np.dtype[np.float32]]


class RNet(nn.Module):
    """The second stage of MTCNN, which tells faces from other patches of 24 x 24 pixels (Zhang et al. 2016)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.head = nn.Linear(128, classes)
        self.pool1, self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.prelu3(self.conv3(x)).permute(0, 3, 2, 1).flatten(1)
        return self.head(self.prelu4(self.dense4(x)))


@cache
def _rnet_weights() -> dict[str, Tensor]:
    weights = torch.load(FACES / "facenet_pytorch" / "data" / "rnet.pt", weights_only=True)
    return {name: tensor for name, tensor in weights.items() if not name.startswith("dense5")}


def _rnet(classes: int) -> nn.Module:
    model = RNet(classes)
    model.load_state_dict(_rnet_weights(), strict=False)
    return model


def _pixels() -> Images:
    """100 faces and then 100 other patches."""
    patches = np.load(FACES / "skimage" / "data" / "lfw_subset.npy").astype(np.float32)[:, :24, :24]
    return np.repeat((patches[:, None] * 255.0 - 127.5) / 128.0, 3, axis=1)


def patches() -> dict[str, Any]:
    """MTCNN's RNet with a new last layer learns again what it knew, faces from other patches, from 60 of scikit-image's
    200, by AdamW."""
    images, labels = _pixels(), np.repeat([1, 0], 100)
    order = np.random.default_rng(0).permutation(200)
    parts = [(images[chosen], labels[chosen]) for chosen in (order[:60], order[60:])]
    return {"model_fn": lambda: _rnet(2), "data": (parts[0], parts[1]), "optimizer": adamw(1e-3, 0.999, 0.01)}


def faces() -> dict[str, Any]:
    """MTCNN's RNet with a new last layer learns which way a face is turned (Gidaris et al. 2018, arXiv 1803.07728), by
    AdamW: scikit-image's 100 faces by 0, 90, 180 and 270 degrees, half of them to validate with."""
    images, order = _pixels(), np.random.default_rng(0).permutation(100)
    parts = [_turned(images[chosen]) for chosen in (order[:50], order[50:])]
    return {"model_fn": lambda: _rnet(4), "data": (parts[0], parts[1]), "optimizer": adamw(1e-3, 0.999, 0.01)}


def _turned(images: Images) -> tuple[Images, np.ndarray[Any, np.dtype[np.int64]]]:
    """Images by quarter turns, and by how many."""
    turned = [np.rot90(images, turns, axes=(2, 3)) for turns in range(4)]
    return np.ascontiguousarray(np.concatenate(turned)), np.repeat(np.arange(4), len(images))


@dataclass(frozen=True)
class Transfer:
    """A fine-tuning task.

    Args:
        title: what it is, in the table.
        settings: what ``autotune`` takes, but for the batch size.
        groups: from the input to the output.
        batch_size: examples.
        horizon: optimizer steps.
    """

    title: str
    settings: Callable[[], dict[str, Any]]
    groups: Patterns
    batch_size: int
    horizon: int


RNET_GROUPS = {
    "convolutions": ["conv1.*", "prelu1.*", "conv2.*", "prelu2.*"],
    "upper": ["conv3.*", "prelu3.*", "dense4.*", "prelu4.*"],
    "head": ["head.*"],
}

TASKS = {
    "digits": Transfer(
        "perceptron, digits 0-4 to 5-9, new head, SGD with momentum", image_tasks.transfer,
        {"first": ["1.*"], "second": ["3.*"], "head": ["5.*"]}, 32, 100,
    ),
    "code": Transfer(
        "GPT, prose to source code, AdamW", text_tasks.fine_tuning,
        {
            "embeddings": ["embed.*", "position.*"], "block 1": ["blocks.0.*"], "block 2": ["blocks.1.*"],
            "block 3": ["blocks.2.*"], "head": ["norm.*", "head.*"],
        }, 8, 120,
    ),
    "faces": Transfer(
        "RNet of MTCNN, which way a face is turned, new head, AdamW", faces,
        RNET_GROUPS, 16, 80,
    ),
    "patches": Transfer("RNet of MTCNN, faces from other patches, new head, AdamW", patches, RNET_GROUPS, 16, 80),
}  # fmt: skip

GROUPED = SearchSpace.load("transfer-learning")
PLAIN = GROUPED.model_copy(update={"groups": None})


@dataclass(frozen=True)
class Found:
    """What a method proposes: a schedule, the runs that it cost, and its verdict where it is a study."""

    schedule: Schedule
    runs: float = 0.0
    verdict: str = ""


class Bench:
    """One task: studies, and schedules judged on fresh seeds."""

    def __init__(self, name: str) -> None:
        self.transfer = TASKS[name]
        settings = TrainSettings(batch_size=self.transfer.batch_size, device="cpu")
        self.task = ModelTask(**self.transfer.settings(), groups=self.transfer.groups, settings=settings)
        self._losses: dict[tuple[Schedule, int], float] = {}

    def loss(self, schedule: Schedule, seeds: Sequence[int] = FRESH) -> float:
        """The mean final validation loss over the seeds; infinite where it isn't finite."""
        for seed in seeds:
            if (schedule, seed) not in self._losses:
                self._losses[schedule, seed] = self._trained(schedule, seed)
        return fmean(self._losses[schedule, seed] for seed in seeds)

    def _trained(self, schedule: Schedule, seed: int) -> float:
        trial = self.task.trial(schedule, seed, schedule.horizon, None)
        *_, last = trial.run(schedule.horizon)
        loss = last.evaluations[-1].val_loss
        return loss if np.isfinite(loss) else float("inf")

    def by_group(self, schedule: Schedule, decay: float, frozen: float = 0.0) -> Schedule:
        """A schedule with groups."""
        chosen = {LAYER_DECAY: decay, FROZEN: frozen, LONGER: 0.0}
        groups = made(self.transfer.groups, schedule.horizon, schedule.warmup_steps, chosen)
        return schedule.model_copy(update={"groups": groups})

    def fixed(self, schedule: Schedule) -> Schedule:
        """The lowest group at a tenth, those between evenly spaced in logarithms."""
        return self.by_group(schedule, FIXED_RATIO ** (1.0 / (len(self.transfer.groups) - 1)))

    def ulmfit(self, schedule: Schedule) -> Schedule:
        """Discriminative rates and gradual unfreezing over half the run."""
        return self.by_group(schedule, ULMFIT_DECAY, min(0.1, 0.5 / (len(self.transfer.groups) - 1)))

    def study(self, space: SearchSpace, seed: int) -> Found:
        """What ``autotune`` hands back."""
        groups = {"groups": self.transfer.groups} if space.groups else {}
        with tempfile.TemporaryDirectory() as folder:
            result = autotune(
                **self.transfer.settings(), **groups, batch_size=self.transfer.batch_size, device="cpu",
                total_steps=self.transfer.horizon, space=space, seed=seed, study=folder, mlflow=False, progress=False,
            )  # fmt: skip
        assert result.schedule is not None
        return Found(result.schedule, result.cost.runs, result.verdict.kind)

    def today(self) -> Schedule:
        """Today's learning rate with the decay of the space, and no warm-up."""
        return Schedule(peak=self.task.current_peak, horizon=self.transfer.horizon, decay="linear")

    def sample(self) -> list[Schedule]:
        """Random schedules of the space."""
        peak = self.task.current_peak
        config = TuneConfig(
            total_steps=self.transfer.horizon, space=GROUPED, groups=self.task.groups, current_peak=peak
        )
        pool = Candidates(config).pool(PeakRange(low=peak / 10.0, high=peak * 30.0))
        return [candidate.schedule for candidate in pool[:SAMPLE]]

    def methods(self) -> dict[str, list[Found]]:
        """What each method proposes: once, or once a study."""
        warm = self.today().model_copy(update={"warmup_steps": self.transfer.horizon // 10})
        warm = Schedule(**(warm.model_dump() | {"shape": "linear"}))
        one_curve = [self.study(PLAIN, seed) for seed in STUDIES]
        return {
            "today's learning rate": [Found(self.today())],
            "today's, fixed ratio": [Found(self.fixed(warm))],
            "today's, ULMFiT": [Found(self.ulmfit(warm))],
            "one curve, searched": one_curve,
            "one curve, searched, then a fixed ratio": [Found(self.fixed(f.schedule), f.runs) for f in one_curve],
            "one curve, searched, then ULMFiT": [Found(self.ulmfit(f.schedule), f.runs) for f in one_curve],
            "groups, searched": [self.study(GROUPED, seed) for seed in STUDIES],
        }

    def best(self) -> tuple[float, Schedule]:
        """The best mean loss that is known, and its schedule."""
        first = sorted(self.sample(), key=lambda schedule: self.loss(schedule, FRESH[:1]))
        for schedule in first[:FINALISTS]:
            self.loss(schedule)
        whole = {schedule for schedule, _ in self._losses if all((schedule, s) in self._losses for s in FRESH)}
        return min(((self.loss(schedule), schedule) for schedule in whole), key=lambda pair: pair[0])


def table(name: str) -> str:
    """A task's part of the page."""
    torch.set_num_threads(1)
    bench = Bench(name)
    methods = bench.methods()
    losses = {method: [bench.loss(found.schedule) for found in founds] for method, founds in methods.items()}
    best, schedule = bench.best()
    lines = [
        f"## {name}: {bench.transfer.title}", "",
        f"{len(bench.transfer.groups)} groups, {bench.transfer.horizon} steps, batches of {bench.transfer.batch_size}. "
        f"Best known: {best:.4g} ({schedule.describe()}).", "",
        "| method | final loss | regret | with groups | runs | verdicts |", "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for method, founds in methods.items():
        ends, grouped = losses[method], sum(bool(found.schedule.groups) for found in founds)
        each = f" ({', '.join(f'{end:.4g}' for end in ends)})" if len(ends) > 1 else ""
        lines.append(
            f"| {method} | {fmean(ends):.4g}{each} | {fmean(ends) - best:.2g} | {grouped} of {len(founds)} | "
            f"{fmean(found.runs for found in founds):.1f} | {', '.join(f.verdict for f in founds if f.verdict)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=[], help=f"of {', '.join(TASKS)}; all if left out")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    given = parser.parse_args()
    names = given.tasks or list(TASKS)
    if {"faces", "patches"} & set(names) and not FACES.is_dir():
        sys.exit(f"{FACES} is missing: make bench-transfer installs it")
    with ProcessPoolExecutor(max_workers=len(names)) as pool:
        parts = list(pool.map(table, names))
    text = "\n\n".join([HEAD, *parts]) + "\n"
    if given.write:
        RESULTS.write_text(text, encoding="utf-8")
    print(text)


HEAD = f"""\
# Transfer learning with groups

Made by `make bench-transfer`. The final loss is the mean validation loss over {len(FRESH)} fresh
seeds, the same for all methods; for searched schedules the mean over {len(STUDIES)} studies, each in parentheses.
The regret is to the best mean loss that is known of any schedule: those of the table, and the best of {SAMPLE} random
schedules of the space. The cost of a study is in whole runs, everything included."""


if __name__ == "__main__":
    main()
