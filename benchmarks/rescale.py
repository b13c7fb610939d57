"""What the rules for another batch size or width are worth: small models at two batch sizes and two widths.

    python -m benchmarks.rescale            # 15 minutes; --write stores the page

Each task is trained with a grid of schedules at three settings: a small batch, one four times as large over a quarter
of the steps, and that with four times the width. The best schedule of one setting is carried over to another in several
ways, trained there, and compared with the best of the grid there.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autowarmup import autotune
from autowarmup.schedule.rescaling import ADAM
from autowarmup.schedule.schedule import Schedule
from autowarmup.search.config import validation_interval
from autowarmup.training.settings import TrainSettings
from autowarmup.training.task import ModelTask
from benchmarks.search import image_tasks, text_tasks
from benchmarks.search.lanes import Lanes
from benchmarks.search.merit import Standard
from benchmarks.search.pages import header, row
from benchmarks.search.tables import Table
from examples import char_gpt, digits

PAGE = Path(__file__).parent / "results" / "rescale.md"
LARGER = 4.0
"""How many times as large the larger batch and the larger width are."""
PEAKS, DURATIONS = 9, (0.0, 0.05, 0.15, 0.4)
"""Of a grid: peaks, a quarter of a decade apart, and warm-up durations as shares of the horizon."""
SEEDS = (0, 1, 2)
SHORTER = 8
"""Runs of a study are shorter by this factor."""
ABOUT = """\
Made by `python -m benchmarks.rescale --write`: grids of nine peaks, a quarter of a decade apart, and four warm-up
durations, three seeds. The best schedule of one setting is carried over to the other, over as many samples, and trained
there. The regret is to the best of the grid there, cross-validated, in seed noises; below 0 it is better. Schedules are
told by their peak and their warm-up's share of the run. A study has the unchanged schedule as the current one, and runs
of an eighth of the steps; its cost is in whole runs."""
COLUMNS = ["task", "change", "best there", "carried over", "schedule", "regret"]

Factory = Callable[[nn.Module], list[torch.optim.Optimizer]]


@dataclass(frozen=True)
class Settings:
    """Of an optimizer, but for the learning rate.

    Args:
        beta2, beta1: Adam's decays; beta1 is the momentum of SGD.
        eps: Adam's.
        weight_decay: AdamW's.
        inner: the learning rate of the matrices whose inputs grow with the width, as a ratio to that of the rest; their
            weight decay is divided by it.
    """

    beta2: float = 0.999
    beta1: float = 0.9
    eps: float = 1e-8
    weight_decay: float = 0.0
    inner: float = 1.0


@dataclass(frozen=True)
class ScalableTask:
    """A task whose batch and width can be chosen.

    Args:
        name, about: for people.
        model_of: makes a function that builds the model of a width.
        data: train and validation data.
        optimizer: ``"adamw"`` or ``"sgd"``.
        settings: of the optimizer.
        lr: today's learning rate.
        lowest_peak: of the grids.
        is_inner: whether a parameter is a matrix whose inputs grow with the width, by its name and itself.
        batch, width, horizon: the smaller batch and width, and the steps with that batch.
    """

    name: str
    about: str
    model_of: Callable[[int], Callable[[], nn.Module]]
    data: Callable[[], Any]
    optimizer: str
    settings: Settings
    lr: float
    lowest_peak: float
    is_inner: Callable[[str, nn.Parameter], bool]
    batch: int
    width: int
    horizon: int

    def factory(self, settings: Settings) -> Factory:
        """Builds optimizers with these settings."""

        def made(parameters: list[nn.Parameter], ratio: float) -> torch.optim.Optimizer:
            if self.optimizer == "sgd":
                return torch.optim.SGD(parameters, lr=self.lr, momentum=settings.beta1)
            return torch.optim.AdamW(
                parameters, lr=self.lr * ratio, betas=(settings.beta1, settings.beta2), eps=settings.eps,
                weight_decay=settings.weight_decay / ratio,
            )  # fmt: skip

        def factory(model: nn.Module) -> list[torch.optim.Optimizer]:
            if settings.inner == 1.0:
                return [made(list(model.parameters()), 1.0)]
            inner = {name for name, parameter in model.named_parameters() if self.is_inner(name, parameter)}
            parts = [[p for n, p in model.named_parameters() if (n in inner) == side] for side in (True, False)]
            return [made(parts[0], settings.inner), made(parts[1], 1.0)]

        return factory

    def arguments(self, place: Place, settings: Settings) -> dict[str, Any]:
        """The model, the data and the optimizer."""
        return {
            "model_fn": self.model_of(place.width),
            "data": self.data(),
            "optimizer": self.factory(settings),
        }

    def traces(self, place: Place, schedules: Sequence[Schedule], settings: Settings) -> dict[Any, Any]:
        """Every schedule, trained under every seed."""
        training = TrainSettings(batch_size=place.batch, device="cpu")
        task = ModelTask(**self.arguments(place, settings), settings=training)
        every = validation_interval(place.horizon)
        return {
            (schedule, seed): trace
            for seed in SEEDS
            for schedule, trace in zip(schedules, Lanes(task, schedules, seed, every).run(), strict=True)
        }

    def table(self, place: Place) -> Standard:
        """The grid at a place, with the settings of today."""
        peaks = [float(f"{self.lowest_peak * 10 ** (i / 4):.3g}") for i in range(PEAKS)]
        grid = tuple(_schedule(peak, place.horizon, share) for peak in peaks for share in DURATIONS)
        current = Schedule(peak=self.lr, horizon=place.horizon, decay="linear")
        traces = self.traces(place, list(dict.fromkeys([*grid, current])), self.settings)
        table = Table(
            self.name, self.about, place.horizon, self.lr, self.settings.beta2, None,
            grid, (), (current,), SEEDS, traces,
        )  # fmt: skip
        return Standard(table)


@dataclass(frozen=True)
class Place:
    """A batch size and a width, and the optimizer steps of a run."""

    batch: int
    width: int
    horizon: int


def _schedule(peak: float, horizon: int, share: float) -> Schedule:
    steps = round(share * horizon)
    return Schedule(
        peak=peak, horizon=horizon, warmup_steps=steps, shape="linear" if steps else "none", decay="linear"
    )  # fmt: skip


def _perceptron(width: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


def _rows(width: int) -> Callable[[], nn.Module]:
    return lambda: image_tasks.Rows(width)


def _gpt(width: int) -> Callable[[], nn.Module]:
    symbols = char_gpt.corpus()[1]
    return lambda: char_gpt.GPT(symbols, width=width, layers=2, heads=2, post_norm=False)


def _text() -> Any:
    return text_tasks.windows(char_gpt.corpus()[0])


def _is_matrix_after(*first: str) -> Callable[[str, nn.Parameter], bool]:
    """Matrices, but for those that read the input."""
    return lambda name, parameter: parameter.dim() == 2 and not name.startswith(first)


TASKS = (
    ScalableTask(
        "perceptron", "digits, AdamW", _perceptron, digits.data, "adamw", Settings(weight_decay=0.01),
        lr=1e-3, lowest_peak=10**-2.5, is_inner=_is_matrix_after("1."), batch=16, width=32, horizon=640,
    ),
    ScalableTask(
        "perceptron, SGD", "digits, SGD with momentum", _perceptron, digits.data, "sgd", Settings(),
        lr=1e-2, lowest_peak=1e-2, is_inner=_is_matrix_after("1."), batch=16, width=32, horizon=640,
    ),
    ScalableTask(
        "rows", "transformer on rows of digits, AdamW", _rows, digits.data, "adamw",
        Settings(beta2=0.98, weight_decay=0.05), lr=3e-3, lowest_peak=10**-2.75,
        is_inner=_is_matrix_after("embed", "position"), batch=8, width=8, horizon=480,
    ),
    ScalableTask(
        "gpt", "GPT of 2 pre-norm layers, text, AdamW", _gpt, _text, "adamw",
        Settings(beta2=0.95, weight_decay=0.1), lr=3e-3, lowest_peak=10**-2.75,
        is_inner=_is_matrix_after("embed", "position"), batch=4, width=12, horizon=480,
    ),
)  # fmt: skip


def ways(task: ScalableTask, best: Schedule, here: Place, there: Place) -> list[tuple[str, Schedule, Settings]]:
    """How the best schedule of one place is carried over to another."""
    batch, width = there.batch / here.batch, there.width / here.width
    share, settings = best.duration / best.horizon, task.settings

    def with_peak(factor: float) -> Schedule:
        return _schedule(best.peak * factor, there.horizon, share)

    found = [("unchanged", with_peak(1.0), settings)]
    if batch != 1.0:
        found += [("linear", with_peak(batch), settings), ("square root", with_peak(batch**0.5), settings)]
        if task.optimizer in ADAM:
            rule = best.rescaled(batch=batch, optimizer=task.optimizer).rule
            changed = replace(
                settings, beta1=rule.new_beta(settings.beta1), beta2=rule.new_beta(settings.beta2),
                eps=settings.eps * rule.eps, weight_decay=settings.weight_decay * rule.weight_decay,
            )  # fmt: skip
            found.append(("square root with betas, eps, weight decay (rule)", with_peak(rule.peak), changed))
        else:
            found[1] = ("linear (rule)", *found[1][1:])
    elif task.optimizer in ADAM:
        found.append(("1 / width for all parameters", with_peak(1.0 / width), settings))
        inner = replace(settings, inner=1.0 / width)  # a schedule is that of the parameters with the highest rate
        found.append(("1 / width for inner matrices (rule)", with_peak(max(1.0, 1.0 / width)), inner))
    return found


def studied(task: ScalableTask, place: Place, current: Schedule) -> tuple[Schedule | None, float]:
    """What a study of short runs hands back where the schedule carried over is the current one, and its cost in whole
    runs."""
    with tempfile.TemporaryDirectory() as folder:
        result = autotune(
            **task.arguments(place, task.settings), total_steps=place.horizon, tune_steps=place.horizon // SHORTER,
            batch_size=place.batch, current=current, study=Path(folder) / "study", mlflow=False, progress=False,
        )  # fmt: skip
    return result.schedule, sum(trial.steps for trial in result.records) / place.horizon


def compared(task: ScalableTask, here: Standard, there: Standard, places: tuple[Place, Place]) -> list[str]:
    """The rows of one change."""
    best = here.table.grid[int(np.argmin(here.table.means))]
    target = there.table.grid[int(np.argmin(there.table.means))]
    carried = ways(task, best, *places)
    measured = [(way, schedule, settings, "") for way, schedule, settings in carried]
    schedule, runs = studied(task, places[1], carried[0][1])
    if schedule is not None:
        measured.append((f"study of 1/{SHORTER} of the steps", schedule, task.settings, f"{runs:.1f} runs"))
    change = f"batch {places[0].batch} to {places[1].batch}"
    if places[0].batch == places[1].batch:
        change = f"width {places[0].width} to {places[1].width}"
    rows = []
    for way, schedule, settings, cost in measured:
        traces = task.traces(places[1], [schedule], settings)
        loss = float(np.mean([traces[schedule, seed].evaluations[-1].val_loss for seed in SEEDS]))
        regret = (loss - there.best) / there.noise
        told = f"peak {schedule.peak:.3g}, {schedule.duration / schedule.horizon:.0%}"
        there_is = f"peak {target.peak:.3g}, {target.duration / target.horizon:.0%}"
        rows.append(row([task.name, change, there_is, f"{way}{', ' if cost else ''}{cost}", told, f"{regret:.1f}"]))
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="store the page")
    parser.add_argument("--tasks", nargs="*", default=[task.name for task in TASKS])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    lines = header(COLUMNS)
    for task in TASKS:
        if task.name not in options.tasks:
            continue
        small = Place(task.batch, task.width, task.horizon)
        large = Place(round(task.batch * LARGER), task.width, round(task.horizon / LARGER))
        wide = replace(large, width=round(task.width * LARGER))
        began = time.monotonic()
        tables = {place: task.table(place) for place in (small, large, wide)}
        print(f"{task.name}: {time.monotonic() - began:.0f} s", flush=True)
        for here, there in ((small, large), (large, small), (large, wide), (wide, large)):
            lines += compared(task, tables[here], tables[there], (here, there))
    if options.write:
        PAGE.write_text("\n".join(["# Another batch size or width", "", ABOUT, "", *lines, ""]))


if __name__ == "__main__":
    main()
