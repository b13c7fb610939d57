"""The code on docs/tensorflow.md runs as it is, at a small size, on the backend of Keras that there is."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import autowarmup
from autowarmup.cli.program import cli
from tests.export_runs import executed, needs

os.environ.setdefault("KERAS_BACKEND", "torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks'

PAGE = (Path(__file__).parent.parent / "docs" / "tensorflow.md").read_text(encoding="utf-8")
TUNE, EXPORT, LOOP = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(COMMAND,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Studies are small, in a folder of their own."""
    whole = autowarmup.autotune

    def small(**arguments: Any) -> Any:
        less = {"total_steps": 20, "budget": 200, "confirm_seeds": 1, "mlflow": False, "progress": False}
        return whole(**arguments | less)

    monkeypatch.setattr(autowarmup, "autotune", small)
    monkeypatch.chdir(tmp_path)


def test_the_model_is_tuned_and_the_schedule_goes_into_fit(capsys: pytest.CaptureFixture[str]) -> None:
    keras = needs("keras")
    names = executed(TUNE)
    assert "verdict: " in capsys.readouterr().out
    exec(EXPORT, names)  # noqa: S102 - code that is meant to be pasted
    code = capsys.readouterr().out
    shown = CliRunner().invoke(cli, shlex.split(COMMAND)[1:])
    assert shown.exit_code == 0
    assert "PlannedSchedule" in shown.output
    pasted = executed(code)
    model = names["make_model"]()
    model.compile(pasted["optimizer"], loss=model.loss)
    model.fit(names["images"], names["labels"], batch_size=512, epochs=2, verbose=0)
    made = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
    schedule = names["result"].schedule
    assert float(model.optimizer.learning_rate) == pytest.approx(schedule.lr_at(made), rel=1e-6)


def test_a_schedule_under_accumulation_is_asked_by_batches() -> None:
    """What the page warns of, and what it says to do."""
    keras = needs("keras")
    asked: list[int] = []

    class Asked(keras.optimizers.SGD):  # type: ignore[misc, name-defined]
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            asked.append(int(learning_rate))
            super().update_step(gradient, variable, learning_rate)

    class Number(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc, name-defined]
        def __init__(self, batches: int) -> None:
            self.batches = batches

        def __call__(self, step: Any) -> Any:
            return keras.ops.cast(step // self.batches, "float32")

    if keras.backend.backend() != "torch":
        pytest.skip("other backends compile the step")
    for batches, expected in ((1, [3, 7, 11]), (4, [0, 1, 2])):
        asked.clear()
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        model.compile(Asked(Number(batches), gradient_accumulation_steps=4), loss="mse")
        model.fit(np.zeros((12, 1)), np.zeros((12, 1)), batch_size=1, verbose=0)
        assert asked == expected


def test_the_loop_of_one_s_own() -> None:
    """The page's third script is TensorFlow's alone: ``KERAS_BACKEND=tensorflow``."""
    needs("tensorflow")
    if needs("keras").backend.backend() != "tensorflow":
        pytest.skip("Keras has another backend: KERAS_BACKEND=tensorflow")
    assert executed(LOOP)["result"].schedule is not None
