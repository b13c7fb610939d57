"""Exports by themselves: the closed form, the deviation, the errors. The frameworks' own code is run elsewhere."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autowarmup import Schedule
from autowarmup.errors import InputError
from autowarmup.export.closed_form import closed_form, compiled
from autowarmup.export.deviation import deviation
from autowarmup.export.frameworks import FRAMEWORKS
from autowarmup.schedule import Decay, Shape
from tests.export_runs import CODE, CONFIG
from tests.export_table import DECAYS, SHAPES, plan_of, table, written

ROOT = Path(__file__).parent.parent
LINEAR = Schedule(peak=1e-3, horizon=1000, warmup_steps=100, shape="linear")
SQRT = Schedule(peak=1e-3, horizon=1000, warmup_steps=100, shape="sqrt")


def kinds(union: Any) -> list[str]:
    return [member.model_fields["kind"].default for member in get_args(get_args(union)[0])]


@st.composite
def schedules(draw: Any) -> Schedule:
    horizon = draw(st.integers(1, 400))
    shape: dict[str, Any] = {"kind": draw(st.sampled_from(kinds(Shape)))}
    values: dict[str, Any] = {}
    if shape["kind"] in ("linear", "polynomial", "sqrt", "exponential", "cosine"):
        values["warmup_steps"] = draw(st.integers(1, horizon))
        values["start_factor"] = draw(st.none() | st.floats(0.0, 1.0))
    elif shape["kind"] != "none":
        shape["beta2"] = draw(st.floats(0.61, 0.9999))
    if shape["kind"] == "polynomial":
        shape["power"] = draw(st.floats(0.1, 10.0))
    decay: dict[str, Any] = {"kind": draw(st.sampled_from(kinds(Decay)))}
    if decay["kind"] == "inverse-sqrt":
        decay["timescale"] = draw(st.none() | st.integers(1, 1000))
    if decay["kind"] == "wsd":
        decay["cooldown"] = draw(st.floats(0.001, 1.0))
    values |= {"final_factor": draw(st.floats(0.0, 1.0)), "peak": draw(st.floats(1e-9, 1e3))}
    try:
        return Schedule(horizon=horizon, shape=shape, decay=decay, **values)
    except InputError:
        assume(False)
        raise


@settings(max_examples=400, deadline=None)
@given(schedules())
def test_the_closed_form_is_the_schedule(schedule: Schedule) -> None:
    multiplier = compiled(closed_form(schedule))
    for step in [*range(schedule.horizon + 1), schedule.horizon + 50]:
        assert math.isclose(multiplier(step) * schedule.peak, schedule.lr_at(step), rel_tol=1e-9, abs_tol=1e-300)


@settings(max_examples=100, deadline=None)
@given(schedules(), st.sampled_from(sorted(FRAMEWORKS)))
def test_code_is_exact_for_any_schedule(schedule: Schedule, framework: str) -> None:
    export = schedule.export(framework)
    assert export.exact
    assert export.code is not None
    compile(export.code, "pasted", "exec")


@settings(max_examples=200, deadline=None)
@given(schedules(), st.sampled_from(sorted(CONFIG)))
def test_a_configuration_is_near_or_refused(schedule: Schedule, framework: str) -> None:
    try:
        export = schedule.export(framework, "config")
    except InputError:
        return
    assert export.config
    assert export.max_deviation <= 0.05
    assert export.exact == (export.max_deviation <= 1e-6)
    assert export.exact or export.notes[0].startswith("It differs from the schedule by at most")


def test_every_framework_has_its_runs() -> None:
    assert set(CODE) == set(FRAMEWORKS) - {"autowarmup"}
    assert set(CONFIG) == {name for name, framework in FRAMEWORKS.items() if framework.own}


@pytest.mark.parametrize("framework", CODE)
def test_code_needs_no_autowarmup(framework: str) -> None:
    export = SQRT.export(framework)
    assert "autowarmup" not in f"{export.code}{export.config}"


def test_a_rule_is_multiplied_with_the_decay() -> None:
    schedule = Schedule(peak=1.0, horizon=100, shape={"kind": "untuned-linear", "beta2": 0.9}, decay="linear")
    assert closed_form(schedule).splitlines()[-1] == "    return min(1.0, (step + 1) / 20) * ((100 - step) / 100)"


@pytest.mark.parametrize(
    ("schedule", "framework", "kind", "deviates"),
    [
        (LINEAR, "keras", "config", 0.0),
        (LINEAR, "transformers", "config", 0.5 * math.pi / 2 / 900),  # the decay is a step ahead
        (LINEAR, "torchtitan", "config", 0.5 * math.pi / 2 / 900),  # and here up to a step behind
        (LINEAR, "deepspeed", "config", 1 / 101),  # the first learning rate twice, or 0
        (LINEAR, "optax", "code", 6e-8),
    ],
)
def test_deviations(schedule: Schedule, framework: str, kind: Any, deviates: float) -> None:
    export = schedule.export(framework, kind)
    assert export.max_deviation == pytest.approx(deviates, rel=0.5, abs=1e-7)


def test_long_schedules_are_compared_at_their_bends() -> None:
    """A share that is wrong at one step only, just before the peak, the cool-down or the end."""
    schedule = Schedule(peak=1.0, horizon=10**9, warmup_steps=123_457, shape="linear", decay="wsd")

    def wrong_at(wrong: int) -> Callable[[int], float]:
        return lambda step: 2.0 if step == wrong else schedule.lr_at(step)

    for step in (0, 123_456, 123_457, 800_000_001, 10**9 - 1):
        assert deviation(schedule, wrong_at(step))[1] == step


@pytest.mark.parametrize(
    ("schedule", "arguments", "message"),
    [
        (
            LINEAR,
            ("transfomers",),
            r"unknown framework 'transfomers' \(did you mean 'transformers'\?\); known: pytorch",
        ),
        (LINEAR, ("tensorflow",), r"did you mean 'keras'"),
        (LINEAR, (3,), r"unknown framework 3; known"),
        (LINEAR, ("keras", "conf"), r"kind='conf': must be 'code' or 'config' \(did you mean 'config'\?\)"),
        (LINEAR, ("keras", "code", True, -1.0), r"tolerance=-1.0: must be a share of the peak, from 0 to 1"),
        (LINEAR, ("keras", "code", True, math.nan), r"tolerance=nan: must be"),
        (LINEAR, ("lightning", "config"), r"Lightning has no schedules of its own: export its code. These have some"),
        (SQRT, ("keras", "config"), r"Keras / TensorFlow has no schedule of its own near this one \(peak 0.001, sqrt"),
        (SQRT, ("torchtune", "config"), r"the nearest is off by 0.2\d* of the peak at step \d+. Its code is exact"),
        (
            LINEAR,
            ("deepspeed", "config", True),
            r"differs from the schedule by 0.0099 of the peak at step 0; tolerance",
        ),
        (LINEAR, ("optax", "code", True, 1e-12), r"optax would apply a learning rate that differs"),
    ],
)
def test_errors(schedule: Schedule, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        schedule.export(*arguments)


def test_a_tolerance_may_allow_a_deviation() -> None:
    export = LINEAR.export("deepspeed", "config", exact=True, tolerance=0.01)
    assert not export.exact
    assert export.max_deviation <= 0.01


def test_no_framework_is_imported() -> None:
    program = (
        "import sys, autowarmup\n"
        "plan = autowarmup.Schedule(peak=1.0, horizon=10, warmup_steps=3, shape='linear')\n"
        f"for name in {list(FRAMEWORKS)}: plan.export(name)\n"
        f"for name in {list(CONFIG)}:\n"
        "    try: plan.export(name, 'config')\n"
        "    except autowarmup.AutowarmupError: pass\n"
        "heavy = 'torch transformers accelerate lightning deepspeed timm keras tensorflow jax optax torchtitan '\n"
        "print(sorted(set((heavy + 'megatron olmo_core axolotl torchtune').split()) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_table_in_the_documentation_is_that_of_today() -> None:
    assert written()[1] == table(), "python -m tests.export_table --write"


def test_the_table_has_every_shape_and_decay() -> None:
    shapes = {plan_of(shape, "cosine").shape.kind for shape in SHAPES}
    assert shapes == set(kinds(Shape))
    assert set(DECAYS) == set(kinds(Decay))
