"""The benchmark's tasks: small models on real data that behave differently under a warm-up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autowarmup.schedule.schedule import Schedule
from autowarmup.training.settings import TrainSettings
from autowarmup.training.task import ModelTask
from benchmarks.search import image_tasks, number_tasks, text_tasks

PEAKS = 11
"""Peaks of a grid, a quarter of a decade apart: 2.5 decades."""
DURATIONS = (0.05, 0.15, 0.4)
"""Warm-up durations of a grid beside 0, as shares of the horizon."""
SHAPES = ("linear", "cosine", "sqrt", "exponential")
FEWER_SHAPES = ("linear", "sqrt")
"""Shapes of a smaller grid."""
DECAYS = ("cosine", "linear")


@dataclass(frozen=True)
class BenchmarkTask:
    """A task of the benchmark.

    Args:
        name: as in the tables.
        about: the model, the data and the optimizer in a few words.
        settings: what :class:`autowarmup.training.task.ModelTask` takes.
        lowest_peak: of the grid.
        horizon: optimizer steps of a run.
        batch_size: examples of a batch.
        shapes: of the warm-ups.
    """

    name: str
    about: str
    settings: Callable[[], dict[str, Any]]
    lowest_peak: float
    horizon: int = 200
    batch_size: int = 32
    shapes: tuple[str, ...] = SHAPES

    @property
    def peaks(self) -> tuple[float, ...]:
        return tuple(float(f"{self.lowest_peak * 10 ** (i / 4):.3g}") for i in range(PEAKS))

    def grid(self, horizon: int | None = None) -> list[Schedule]:
        """Every schedule of the grid: all peaks, durations, shapes and decays."""
        horizon = horizon or self.horizon
        plans: list[dict[str, Any]] = [{}]
        plans += [
            {"warmup_steps": round(share * horizon), "shape": shape} for share in DURATIONS for shape in self.shapes
        ]
        return [
            Schedule(peak=peak, horizon=horizon, decay=decay, **plan)
            for peak in self.peaks
            for decay in DECAYS
            for plan in plans
        ]

    def task(self) -> ModelTask:
        """The task, its data loaded."""
        return ModelTask(**self.settings(), settings=TrainSettings(batch_size=self.batch_size, device="cpu"))


TASKS = {
    task.name: task
    for task in (
        BenchmarkTask(
            "post-norm-gpt",
            "GPT of 8 post-norm layers, text, AdamW",
            lambda: text_tasks.gpt(8, 32, post_norm=True),
            lowest_peak=10**-3.5,
            batch_size=4,
            horizon=160,
        ),
        BenchmarkTask(
            "pre-norm-gpt",
            "GPT of 3 pre-norm layers, text, AdamW",
            lambda: text_tasks.gpt(3, 32, post_norm=False),
            lowest_peak=1e-3,
            batch_size=8,
            horizon=160,
        ),
        BenchmarkTask(
            "fine-tuning",
            "pre-trained GPT, from prose to code, AdamW",
            text_tasks.fine_tuning,
            lowest_peak=3e-4 * 10**-0.5,
            batch_size=8,
            horizon=160,
        ),
        BenchmarkTask(
            "residual-cnn",
            "residual CNN without normalisation, images, SGD with momentum",
            image_tasks.residual_cnn,
            lowest_peak=1e-2,
        ),
        BenchmarkTask("mlp", "multilayer perceptron, images, AdamW", image_tasks.mlp, lowest_peak=1e-3),
        BenchmarkTask(
            "autoencoder",
            "deep autoencoder, images, Adam",
            image_tasks.autoencoder,
            lowest_peak=10**-3.5,
            horizon=400,
        ),
        BenchmarkTask(
            "tabular",
            "multilayer perceptron, tabular data, SGD with momentum",
            number_tasks.tabular,
            lowest_peak=1e-2,
        ),
        BenchmarkTask("rows", "transformer, images, AdamW", image_tasks.rows, lowest_peak=3e-3 * 10**-0.5, horizon=160),
        BenchmarkTask(
            "gru",
            "gated recurrent units, text, Adam",
            text_tasks.gru,
            lowest_peak=2e-3,
            batch_size=4,
            horizon=150,
            shapes=FEWER_SHAPES,
        ),
        BenchmarkTask(
            "lstm",
            "long short-term memory, images, SGD with momentum",
            image_tasks.lstm,
            lowest_peak=3e-2,
            horizon=300,
            shapes=FEWER_SHAPES,
        ),
        BenchmarkTask(
            "muon-gpt",
            "GPT of 2 pre-norm layers, text, Muon and AdamW",
            text_tasks.muon_gpt,
            lowest_peak=5e-3,
            batch_size=4,
            horizon=120,
            shapes=FEWER_SHAPES,
        ),
        BenchmarkTask(
            "post-norm-rows",
            "transformer of 5 post-norm layers, images, Adam",
            image_tasks.post_norm_rows,
            lowest_peak=10**-3.5,
            batch_size=8,
            horizon=180,
            shapes=FEWER_SHAPES,
        ),
        BenchmarkTask(
            "sgd-rows",
            "transformer, images, SGD with momentum",
            image_tasks.sgd_rows,
            lowest_peak=3e-3,
            batch_size=16,
            horizon=250,
            shapes=FEWER_SHAPES,
        ),
        BenchmarkTask(
            "group-norm-cnn",
            "CNN with group normalisation, images, AdamW",
            image_tasks.group_norm_cnn,
            lowest_peak=1e-3,
            horizon=120,
        ),
        BenchmarkTask(
            "batch-norm-cnn",
            "CNN with batch normalisation, images, SGD with momentum",
            image_tasks.batch_norm_cnn,
            lowest_peak=1e-2,
            horizon=100,
        ),
        BenchmarkTask(
            "deep-mlp", "plain deep perceptron, images, SGD", image_tasks.deep_mlp, lowest_peak=3e-2, horizon=400
        ),
        BenchmarkTask(
            "residual-mlp",
            "deep residual perceptron, images, Lion",
            image_tasks.residual_mlp,
            lowest_peak=1e-4,
            horizon=160,
        ),
        BenchmarkTask(
            "denoising",
            "denoising autoencoder, images, Adam with beta2 = 0.9",
            image_tasks.denoising,
            lowest_peak=1e-3,
            horizon=320,
        ),
        BenchmarkTask(
            "transfer",
            "pre-trained perceptron, from five digits to the others, SGD with momentum",
            image_tasks.transfer,
            lowest_peak=3e-3,
            horizon=100,
        ),
        BenchmarkTask(
            "wine", "small perceptron, tabular data, AdamW", number_tasks.wine, lowest_peak=3e-3, horizon=100
        ),
        BenchmarkTask(
            "diabetes", "small perceptron, regression, AdamW", number_tasks.diabetes, lowest_peak=3e-4, horizon=150
        ),
        BenchmarkTask(
            "friedman",
            "multilayer perceptron, regression, Adam with beta2 = 0.95",
            number_tasks.friedman,
            lowest_peak=1e-3,
            horizon=1000,
            shapes=FEWER_SHAPES,
        ),
        BenchmarkTask(
            "n-gram",
            "feed-forward language model, text, AdamW",
            text_tasks.n_gram,
            lowest_peak=3e-4,
            horizon=2000,
            shapes=FEWER_SHAPES,
        ),
        BenchmarkTask(
            "softmax-regression",
            "softmax regression, text, SGD with momentum",
            text_tasks.softmax_regression,
            lowest_peak=0.1,
            batch_size=64,
            horizon=100,
        ),
    )
}
