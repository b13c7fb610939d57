"""Studies through Keras' ``model.fit``, by the real package, on the backend that ``KERAS_BACKEND`` names: torch by
default."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autowarmup import Schedule, autotune
from autowarmup.errors import InputError
from autowarmup.integrations import from_keras
from autowarmup.training.loop import LoopTask
from autowarmup.training.trace import Trace
from tests.export_runs import needs
from tests.tasks import digits

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = needs("keras")
pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks'

ROOT = Path(__file__).parent.parent
PLAN = Schedule(peak=0.01, horizon=20, warmup_steps=5, shape="sqrt")
(X, Y), HELD_OUT = digits()
FIT = {"x": X, "y": Y, "batch_size": 50, "epochs": 2, "validation_data": HELD_OUT}


def made(optimizer: Any = None, **settings: Any) -> Any:
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    settings = {"loss": loss, "metrics": ["accuracy"]} | settings
    model.compile(optimizer or keras.optimizers.AdamW(1e-3), **settings)
    return model


def traced(train_fn: Any, seed: int = 0, plan: Schedule = PLAN) -> Trace:
    trial = LoopTask(train_fn, current_peak=0.1).trial(plan, seed, 5, None)
    try:
        return Trace.join(list(trial.run(plan.horizon)))
    finally:
        trial.close()


def test_a_study_finds_a_schedule(tmp_path: Path) -> None:
    arguments = from_keras(made, FIT) | {"total_steps": 40, "confirm_seeds": 2}
    result = autotune(**arguments, study=tmp_path / "study", mlflow=False, progress=False)
    assert result.verdict.kind == "tuned"
    assert result.schedule is not None
    assert result.schedule.peak > 1e-3
    assert result.config.current is not None
    assert (result.config.current.peak, result.config.current.decay.kind) == (0.001, "constant")


def test_each_step_has_the_schedule_s_rate_and_reports_its_own_loss() -> None:
    """The loss of a batch, where Keras' callbacks are told the mean of the epoch so far."""
    batch = len(X) // 4
    fit = FIT | {"batch_size": batch, "shuffle": False}
    rates: list[float] = []

    class Seen(keras.optimizers.SGD):  # type: ignore[misc, name-defined]
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            if variable is self._trainable_variables[0] and keras.backend.backend() == "torch":
                rates.append(float(learning_rate))
            super().update_step(gradient, variable, learning_rate)

    def still() -> Any:
        """Learns nothing, so that the batches' losses recur."""
        model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10, kernel_initializer="zeros")])
        model.compile(Seen(1e-3), loss=lambda truth, output: keras.ops.cast(truth, "float32") + 0.0 * output[:, 0])
        return model

    trace = traced(from_keras(still, fit)["train_fn"])
    means = [float(Y[start : start + batch].mean()) for start in range(0, 4 * batch, batch)]
    assert trace.loss == pytest.approx(means * 5, rel=1e-5)
    assert trace.lr == pytest.approx(PLAN.curve(), rel=1e-6)
    if rates:
        assert rates[1:] == pytest.approx(PLAN.curve(), rel=1e-6), "the first is of the look at the model"
    assert [evaluation.step for evaluation in trace.evaluations] == [5, 10, 15, 20]
    assert [one.val_loss for one in trace.evaluations] == pytest.approx([float(HELD_OUT[1].mean())] * 4, rel=1e-5)


def test_a_trial_follows_from_its_seed() -> None:
    train_fn = from_keras(made, FIT)["train_fn"]
    first, again, other = (traced(train_fn, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.loss, again.loss)
    assert first.loss[0] != other.loss[0]
    assert first.evaluations == again.evaluations
    evaluation = first.evaluations[-1]
    assert evaluation.val_loss != evaluation.val_loss_ema
    assert 0.0 < evaluation.metrics["accuracy"] <= 1.0
    assert "accuracy_ema" in evaluation.metrics


def test_validations_change_nothing() -> None:
    train_fn = from_keras(made, FIT)["train_fn"]
    often = traced(train_fn)
    trial = LoopTask(train_fn, current_peak=0.1).trial(PLAN, 0, 20, None)
    seldom = Trace.join(list(trial.run(20)))
    trial.close()
    assert seldom.loss == pytest.approx(often.loss, rel=1e-6)


def test_accumulation_counts_optimizer_steps() -> None:
    def accumulating() -> Any:
        rate = keras.optimizers.schedules.PolynomialDecay(1e-3, 100)
        return made(keras.optimizers.SGD(rate, gradient_accumulation_steps=4))

    arguments = from_keras(accumulating, FIT)
    batches = -(-len(X) // 50)
    assert (arguments["steps_per_epoch"], arguments["total_steps"]) == (batches // 4, 2 * batches // 4)
    assert arguments["current"]["decay"]["kind"] == "linear"
    trace = traced(arguments["train_fn"])
    assert len(trace) == 20
    assert trace.lr == pytest.approx(PLAN.curve(), rel=1e-6)


def test_the_current_schedule_is_that_of_the_optimizer() -> None:
    def scheduled() -> Any:
        rate = keras.optimizers.schedules.CosineDecay(
            1e-3 / 6, decay_steps=2 * -(-len(X) // 50) - 5, warmup_target=1e-3, warmup_steps=5
        )
        return made(keras.optimizers.Adam(rate, beta_2=0.95))

    arguments = from_keras(scheduled, FIT)
    current = Schedule(**arguments["current"], horizon=arguments["total_steps"])
    assert (current.peak, current.warmup_steps) == (pytest.approx(1e-3), 5)
    assert (current.shape.kind, current.decay.kind) == ("linear", "cosine")
    assert arguments["beta2"] == pytest.approx(0.95)
    assert traced(arguments["train_fn"]).lr == pytest.approx(PLAN.curve(), rel=1e-6)


def test_data_by_a_function_and_validation_split() -> None:
    def batches() -> dict[str, Any]:
        def rows() -> Any:
            while True:
                yield X[:50], Y[:50]

        return {"x": rows(), "steps_per_epoch": 6, "epochs": 2, "validation_data": HELD_OUT}

    arguments = from_keras(made, batches)
    assert arguments["total_steps"] == 12
    assert len(traced(arguments["train_fn"])) == 20
    split = {name: value for name, value in FIT.items() if name != "validation_data"} | {"validation_split": 0.25}
    rows = int(len(X) * 0.75)
    assert from_keras(made, split)["steps_per_epoch"] == -(-rows // 50)


def test_a_diverging_trial_is_reported() -> None:
    trace = traced(
        from_keras(lambda: made(keras.optimizers.SGD(0.1)), FIT)["train_fn"], plan=Schedule(peak=1e6, horizon=20)
    )
    assert not np.isfinite(trace.loss).all()


def test_another_training_is_another_study() -> None:
    usual = from_keras(made, FIT)["train_fn"].description
    assert usual == from_keras(made, FIT)["train_fn"].description
    assert usual != from_keras(made, FIT | {"batch_size": 25})["train_fn"].description
    assert usual != from_keras(made, FIT | {"y": Y[::-1].copy()})["train_fn"].description
    assert usual != from_keras(lambda: made(keras.optimizers.SGD(0.1)), FIT)["train_fn"].description


def trained_before() -> Any:
    model = made()
    model.fit(X[:50], Y[:50], verbose=0)
    return model


@pytest.mark.parametrize(
    ("make_model", "fit", "message"),
    [
        (made(), FIT, "make_model must be a function|make_model must take no arguments"),
        (lambda: 3, FIT, "make_model must return a keras.Model, got int"),
        (lambda: keras.Sequential([keras.layers.Dense(1)]), FIT, "not compiled: call model.compile"),
        (trained_before, FIT, "returned a model that was trained before"),
        (lambda: 1 / 0, FIT, "make_model raised ZeroDivisionError"),
        (made, 7, "fit_arguments must be a dict of the arguments of model.fit, got 7"),
        (made, {"y": Y}, "fit_arguments lacks x, the training data; it has: y"),
        (made, FIT | {"batchsize": 3}, r"'batchsize' is no argument of model.fit \(did you mean 'batch_size'\?\)"),
        (made, {"x": X, "y": Y}, "neither validation_data nor validation_split"),
        (made, FIT | {"x": iter([X])}, "x is a generator, which the first trial would use up"),
        (made, FIT | {"x": X[:, :3]}, "model.fit raised"),
        (made, FIT | {"validation_data": (X[:, :3], Y)}, "model.evaluate raised"),
    ],
)
def test_what_can_t_be_tuned(make_model: Any, fit: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_keras(make_model, fit)


def test_the_example_runs(tmp_path: Path) -> None:
    task = importlib.import_module("examples.keras_model").task()
    small = {"confirm_seeds": 2, "cohort": 2, "total_steps": 10, "budget": 130}
    result = autotune(**task | small, study=tmp_path / "study", mlflow=False, progress=False)
    assert result.verdict.comparisons


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_other_backends(backend: str) -> None:
    """These tests on another backend, in a process of its own."""
    if os.environ["KERAS_BACKEND"] != "torch" or importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} isn't installed, or this is it")
    chosen = "rate_and_reports or follows_from or change_nothing or accumulation or optimizer"
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", chosen, "-p", "no:cacheprovider"]
    environment = os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
