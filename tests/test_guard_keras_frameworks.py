"""A guard in Keras' ``model.fit``, by the real package, on the backend that ``KERAS_BACKEND`` names: torch if none."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autowarmup import Schedule
from autowarmup.errors import InputError
from autowarmup.integrations import guard_keras
from tests.export_runs import needs
from tests.tasks import digits

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = needs("keras")
pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks'

ROOT = Path(__file__).parent.parent
STEPS, BATCH = 60, 50
PLAN = Schedule(peak=0.01, horizon=STEPS, warmup_steps=8, shape="linear")
(X, Y), _ = digits()
X, Y = (np.concatenate([part] * 20)[: STEPS * BATCH] for part in (X, Y))


def made(**settings: Any) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(**{"optimizer": keras.optimizers.AdamW(1e-3), "loss": loss, "metrics": ["accuracy"]} | settings)
    return model


def fitted(callbacks: list[Any], model: Any = None, x: Any = X, **settings: Any) -> tuple[Any, Any]:
    model = model or made()
    usual = {"batch_size": BATCH, "shuffle": False, "verbose": 0, "epochs": 1}
    return model, model.fit(x, Y, callbacks=callbacks, **usual | settings)


class Applied(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
    """Applies the schedule, and nothing else; and notes what Keras tells of each batch."""

    def __init__(self, plan: Schedule | None) -> None:
        super().__init__()
        self.plan, self.rates, self.told = plan, [], []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.plan:
            self.model.optimizer.learning_rate = self.plan.lr_at(batch)
        self.rates.append(float(self.model.optimizer.learning_rate))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.told.append(dict(logs))


def test_a_healthy_run_is_the_same_to_the_bit_as_with_the_schedule_alone(tmp_path: Path) -> None:
    """So is what Keras tells of it: the guard looks at each batch's own loss, and others see the mean of the epoch."""
    alone, seen = Applied(PLAN), Applied(None)
    guarded = guard_keras(PLAN, "protect", record=tmp_path / "run.jsonl")
    first, history = fitted([alone])
    second, again = fitted([guarded, seen])
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        assert np.array_equal(one, other)
    assert seen.rates == alone.rates == pytest.approx(PLAN.curve(), rel=1e-6)
    assert seen.told == alone.told
    assert again.history.pop("learning_rate") == [pytest.approx(PLAN.lr_at(STEPS - 1), rel=1e-6)]
    assert again.history == history.history
    assert guarded.events == []
    steps = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()][1:]
    assert [step["step"] for step in steps] == list(range(STEPS))
    assert np.mean([step["loss"] for step in steps]) == pytest.approx(history.history["loss"][0], rel=1e-5)
    assert steps[0]["loss"] > 2.0
    assert steps[-1]["loss"] < 1.5


@pytest.mark.parametrize("mode", ["observe", "protect"])
def test_weights_that_are_not_finite_stop_the_run(mode: str) -> None:
    x = X.copy()
    x[40 * BATCH + 3] = np.nan
    guarded, seen = guard_keras(PLAN, mode), Applied(None)
    model, _ = fitted([guarded, seen], x=x)
    (event,) = guarded.events
    assert (event.step, event.action, event.applied) == (40, "stop", mode == "protect")
    assert event.message == "the loss is nan, and the weights aren't finite any more"
    assert len(seen.rates) == (41 if mode == "protect" else STEPS)
    assert model.stop_training == (mode == "protect")


def test_learning_rates_are_lowered_where_the_loss_has_jumped() -> None:
    class Spoil(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 12:
                self.model.set_weights([-4.0 * weight for weight in self.model.get_weights()])

    guarded, seen = guard_keras(PLAN, "protect"), Applied(None)
    fitted([guarded, seen, Spoil()])
    lowered = next(event for event in guarded.events if event.action == "lower")
    assert lowered.applied
    assert lowered.factor == 0.5
    assert 12 < lowered.began < lowered.step
    after = lowered.step + 1
    assert seen.rates[after] == pytest.approx(0.5 * PLAN.lr_at(after), rel=1e-5)
    assert seen.rates[: lowered.step] == pytest.approx(PLAN.curve()[: lowered.step], rel=1e-5)


def test_accumulated_batches_are_one_step() -> None:
    plan = PLAN.model_copy(update={"horizon": STEPS // 2})
    guarded, seen = guard_keras(plan), Applied(None)
    fitted([guarded, seen], made(optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)))
    assert seen.rates == pytest.approx([plan.lr_at(batch // 2) for batch in range(STEPS)], rel=1e-5)


def test_a_run_goes_on_at_the_optimizer_s_step() -> None:
    guarded, seen = guard_keras(PLAN, "protect"), Applied(None)
    model, _ = fitted([guarded, seen], x=X, steps_per_epoch=30)
    state = guarded.state_dict()
    again = guard_keras(PLAN, "protect")
    again.load_state_dict(state)
    fitted([again, seen], model, steps_per_epoch=30)
    assert seen.rates == pytest.approx(PLAN.curve(), rel=1e-5)
    assert again.state_dict()["judge"] != state["judge"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "protct"}, r"mode='protct': must be 'observe' or 'protect' \(did you mean 'protect'\?\)"),
        ({"max_interventions": -1}, "max_interventions=-1: must be a whole number from 0 to 1,000"),
        ({"schedule": 3}, "schedule=3: must be a Schedule"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        guard_keras(**{"schedule": PLAN} | wrong)


def test_models_whose_rate_can_t_be_set_are_refused() -> None:
    decay = keras.optimizers.schedules.CosineDecay(1e-3, 10)
    with pytest.raises(InputError, match="compiled with a learning-rate schedule of Keras'"):
        fitted([guard_keras(PLAN)], made(optimizer=keras.optimizers.SGD(decay)))
    if keras.backend.backend() != "torch":  # which refuses that itself
        with pytest.raises(InputError, match="steps_per_execution=4"):
            fitted([guard_keras(PLAN)], made(steps_per_execution=4))


def test_odd_batches_don_t_use_up_the_interventions() -> None:
    """They have reached the weights already, so nothing is done about them."""
    x = X.copy()
    for batch in range(30, 60, 3):
        x[batch * BATCH : (batch + 1) * BATCH] *= 20.0
    guarded, seen = guard_keras(PLAN, "protect", max_interventions=1), Applied(None)
    fitted([guarded, seen], x=x)
    assert len(seen.rates) == STEPS
    assert "skip" in [event.action for event in guarded.events]
    assert not any(event.applied for event in guarded.events if event.action == "skip")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_other_backends(backend: str) -> None:
    """These tests on another backend, in a process of its own."""
    if os.environ["KERAS_BACKEND"] != "torch" or importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} isn't installed, or this is it")
    environment = os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-p", "no:cacheprovider"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:]
