"""Search spaces: presets, what YAML is refused and in which words, and the way through Optuna and back."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from autowarmup.errors import InputError, SpaceError
from autowarmup.schedule.decays import WarmupStableDecay
from autowarmup.schedule.ranges import DurationRange, PeakRange, Range
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.shapes import Polynomial, UntunedLinear
from autowarmup.schedule.space import SearchSpace, presets
from autowarmup.study.result import TuneResult
from autowarmup.values import explain

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")

PEAK = PeakRange(low=1e-4, high=1e-1)
PRESETS = [
    "default",
    "fine-tuning",
    "from-scratch-sgd",
    "large-batch-cnn",
    "transfer-learning",
    "transformer-pretraining",
]
EVERYTHING = SearchSpace.parse(
    """
    shapes: [none, linear, polynomial, sqrt, exponential, cosine,
             untuned-linear, untuned-exponential, radam, gi-adam]
    decay: [cosine, linear, exponential, inverse-sqrt, constant, wsd]
    warmup: {low: 0, high: 50%}
    power: {low: 0.25, high: 4, scale: log}
    start_factor: {low: 0.001, high: 0.5, scale: log}
    final_factor: {low: 0.01, high: 0.2}
    """
)


def new_study(seed: int = 0) -> optuna.Study:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


# --- Presets ---------------------------------------------------------------------------------------------


def test_the_presets() -> None:
    assert list(presets()) == PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_loads_and_explains_every_setting(name: str) -> None:
    space = SearchSpace.load(name)
    assert space == SearchSpace.load(presets()[name])
    assert space.description.endswith(".")
    text = presets()[name].read_text(encoding="utf-8")
    assert text.startswith("# ")
    for key in ("shapes", "warmup", "decay"):
        assert re.search(rf"(?m)^#.+\n{key}:", text), f"{name}: {key} has no comment"
    assert re.search(r"(?m)^(# )?peak", text), f"{name}: nothing is said about the peak"
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("horizon", [10, 50, 300, 100_000])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_proposes_valid_schedules(name: str, horizon: int) -> None:
    space, study = SearchSpace.load(name), new_study()
    peak = space.peak or PEAK
    schedules = [space.suggest(study.ask(), peak, horizon) for _ in range(200)]
    assert {schedule.shape.kind for schedule in schedules} - {"none"} == set(space.shapes)
    assert {schedule.decay.kind for schedule in schedules} == set(space.decay)
    low, high = space.warmup.steps(horizon, None)
    for schedule in schedules:
        assert low <= schedule.duration <= high
        assert peak.low <= schedule.peak <= peak.high
        assert 0.0 < schedule.lr_at(0) <= schedule.peak


# --- Files -----------------------------------------------------------------------------------------------


def test_a_file_of_one_s_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text("shapes: sqrt\nwarmup: 2 epochs\npeak: 1e-3\n")
    space = SearchSpace.load(file)
    assert space == SearchSpace.load(str(file))
    assert space.shapes == ("sqrt",)
    assert space.warmup == DurationRange(low="2 epochs", high="2 epochs")
    assert space.peak == PeakRange(low=1e-3, high=1e-3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "defalt",
            r"no search space 'defalt' \(did you mean 'default'\?\); allowed: a preset \(default, .*\.yaml",
        ),
        ("x" * 5000, r"no search space 'xxx.{0,80}\.\.\.; allowed: "),
        ("missing.yaml", r"can't read the search space 'missing\.yaml': No such file or directory"),
        ("\0.yaml", r"can't read the search space '\\x00\.yaml': embedded null byte"),
    ],
)
def test_a_name_that_is_no_search_space(name: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SearchSpace.load(name)


def test_a_folder_is_no_search_space(tmp_path: Path) -> None:
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    with pytest.raises(SpaceError, match=r"can't read the search space .*folder\.yaml': Is a directory"):
        SearchSpace.load(folder)


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    file.write_text("shapes: [linear]\n" + "#" * 10**6)
    with pytest.raises(SpaceError, match=r"large\.yaml is larger than 64 KiB: not a search space"):
        SearchSpace.load(file)


def test_the_message_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("shape: linear")
    with pytest.raises(SpaceError, match=r"mine\.yaml: unknown key 'shape' \(did you mean 'shapes'\?\)"):
        SearchSpace.load(file)


# --- What YAML is refused, and in which words --------------------------------------------------------------

HOSTILE = {
    "aliases": ("a: &a [x]\nb: [*a, *a]", r"line 2: aliases \(\*name\) are not allowed"),
    "python tag": (
        "shapes: !!python/object/apply:os.system [ls]",
        r"line 1: tags are not allowed, got '.*os.system'",
    ),
    "own tag": ("shapes: !foo bar", "tags are not allowed, got '!foo'"),
    "plain tag": ("peak: !!timestamp abc", "tags are not allowed, got '.*timestamp'"),
    "deep lists": ("shapes: " + "[" * 3000, "nested too deeply"),
    "deep mappings": ("a: " + "{a: " * 3000, "nested too deeply"),
    "large": ("#" * 10**6, "larger than 64 KiB"),
    "binary": (bytes(range(256)), "not readable YAML: unacceptable character"),
    "NUL": ("shapes: \0", "not readable YAML: unacceptable character"),
    "UTF-16": (b"\xff\xfe\x00", "not readable YAML"),
    "unclosed": ("shapes: [linear", r"line 1: expected ',' or '\]'"),
    "tab": ("shapes:\n\t- linear", "line 2: found character"),
    "two documents": ("---\na: 1\n---\nb: 2", "line 3: but found another document"),
    "repeated key": ("shapes: [linear]\nshapes: [cosine]", "the key 'shapes' stands twice"),
    "repeated nested key": ("\nwarmup: {low: 1, low: 2}", "line 2: the key 'low' stands twice"),
    "list as key": ("? [a]\n: b", "line 1: found unhashable key"),
    "huge integer": ("peak: " + "9" * 60_000, "a number of 60000 digits; allowed: up to 20"),
    "huge hexadecimal": ("peak: 0x" + "f" * 60_000, "a number of 60002 digits; allowed: up to 20"),
    "impossible date": ("description: 2020-99-99", "month must be in 1..12"),
    "empty": ("", r"must be a mapping such as 'shapes: \[linear\]', got nothing"),
    "list": ("- linear", r"must be a mapping such as 'shapes: \[linear\]', got \['linear'\]"),
    "scalar": ("linear", r"must be a mapping such as 'shapes: \[linear\]', got 'linear'"),
}


@pytest.mark.parametrize(("text", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_yaml_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SearchSpace.parse(text)


NUMBER = "must be a finite number, or a range such as {low: 0.1, high: 0.5}"
DURATION = "is not a number of steps such as 500, a share of the horizon such as '10%', or '2 epochs'"
SHAPES = (
    "'none', 'linear', 'polynomial', 'sqrt', 'exponential', 'cosine', 'untuned-linear', "
    "'untuned-exponential', 'radam' or 'gi-adam'"
)
KEYS = "description, shapes, warmup, peak, power, start_factor, decay, final_factor, groups"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shape: [linear]", f"unknown key 'shape' (did you mean 'shapes'?); known: {KEYS}"),
        ("zzz: 1", f"unknown key 'zzz'; known: {KEYS}"),
        ("1: 2", "1: keys must be text, got 1"),
        (
            "warmup: {low: 0, high: 1, hgih: 10%}",
            "unknown key 'warmup.hgih' (did you mean 'high'?); known: low, high",
        ),
        (
            "peak: {low: 0.1, high: 1, scal: log}",
            "unknown key 'peak.scal' (did you mean 'scale'?); known: low, high, scale",
        ),
        (
            "power: {low: 1, high: 2, sclae: log}",
            "unknown key 'power.sclae' (did you mean 'scale'?); known: low, high, scale",
        ),
        ("warmup: {low: 3}", "warmup.high: is missing, got {'low': 3}"),
        ("shapes: [linear, cosin]", f"shapes[1]: must be {SHAPES} (did you mean 'cosine'?), got 'cosin'"),
        ("shapes: 5", "shapes: must be a list, got 5"),
        ("shapes: []", "shapes: must hold one choice at least, got []"),
        ("shapes: [sqrt, sqrt]", "shapes: a choice stands twice, got ['sqrt', 'sqrt']"),
        (
            "decay: zzz",
            "decay[0]: must be 'cosine', 'linear', 'exponential', 'inverse-sqrt', 'constant' or 'wsd', got 'zzz'",
        ),
        ("description: [a]", "description: must be text, got ['a']"),
        ("warmup: {low: 10 parsecs, high: 20%}", f"warmup.low: duration '10 parsecs' {DURATION}"),
        ("warmup: 10 parsecs", f"warmup: duration '10 parsecs' {DURATION}"),
        ("warmup: {low: -5, high: 10}", f"warmup.low: duration -5 {DURATION}"),
        ("warmup: {low: true, high: 10}", f"warmup.low: duration True {DURATION}"),
        ("warmup: {low: , high: 10}", f"warmup.low: duration None {DURATION}"),
        ("warmup: {low: 0, high: .nan}", f"warmup.high: duration nan {DURATION}"),
        ("warmup: {low: 0, high: .inf}", f"warmup.high: duration inf {DURATION}"),
        ("warmup:", f"warmup: duration None {DURATION}"),
        (
            "warmup: {low: 0, high: 110%}",
            "warmup.high: duration '110%' is longer than the horizon: a share is from 0% to 100%",
        ),
        (
            "warmup: {low: 0, high: 0.3}",
            "warmup.high: duration 0.3: steps are whole numbers; for a share of the horizon write '10%'",
        ),
        (
            "warmup: {low: 20%, high: 10%}",
            "warmup: reversed bounds: low is above high, got {'low': '20%', 'high': '10%'}",
        ),
        (
            "peak: {low: 0.1, high: 0.01}",
            "peak: reversed bounds: low is above high, got {'low': 0.1, 'high': 0.01}",
        ),
        ("peak: {low: 0, high: 1}", "peak.low: must be greater than 0, got 0"),
        (
            "peak: -1",
            "peak.low: must be greater than 0, got -1; peak.high: must be greater than 0, got -1",
        ),
        ("peak: {low: 1e-3, high: .inf}", "peak.high: must be a finite number, got inf"),
        ("peak: 1e999", f"peak: {NUMBER}, got inf"),
        ("peak: {low: 1, high: 2, scale: linear}", "peak.scale: must be 'log', got 'linear'"),
        ("final_factor: .nan", f"final_factor: {NUMBER}, got nan"),
        ("final_factor: abc", f"final_factor: {NUMBER}, got 'abc'"),
        ("final_factor: true", f"final_factor: {NUMBER}, got True"),
        ("final_factor: [1, 2]", f"final_factor: {NUMBER}, got [1, 2]"),
        ("final_factor: 2", "final_factor: must be within 0 to 1, got 2"),
        ("start_factor: {low: 0, high: 2}", "start_factor: must be within 0 to 1, got {'low': 0, 'high': 2}"),
        ("start_factor: {low: a, high: 1}", "start_factor.low: must be a number, got 'a'"),
        ("start_factor: {low: 0, high: true}", "start_factor.high: must be a number, got True"),
        ("power: 11", "power: must be above 0 and at most 10, got 11"),
        (
            "power: {low: 0, high: 2, scale: log}",
            "power: a log scale needs bounds above 0, got {'low': 0, 'high': 2, 'scale': 'log'}",
        ),
        ("power: {low: 1, high: 2, scale: cubic}", "power.scale: must be 'linear' or 'log', got 'cubic'"),
        ("decay: exponential", "final_factor: an exponential decay can't end at 0; allowed: above 0, to 1"),
        (
            "shapes: exponential\nstart_factor: 0",
            "start_factor: an exponential warm-up can't start at 0; allowed: above 0, to 1",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=f"^search space: {re.escape(message)}$"):
        SearchSpace.parse(text)


def test_every_problem_is_named_up_to_five() -> None:
    with pytest.raises(SpaceError, match="shapes: must be a list, got 5; power: must be above 0"):
        SearchSpace.parse("shapes: 5\npower: 11")
    with pytest.raises(
        SpaceError, match=r"unknown key 'k0'.*unknown key 'k4'.*known: [a-z_, ]*; and 95 more problems$"
    ):
        SearchSpace.parse("\n".join(f"k{number}: 1" for number in range(100)))


def test_long_values_are_cut() -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.parse(f"shapes: {'x' * 50_000}\n{'k' * 100}: 1")
    assert len(str(caught.value)) < 1000


def complaint(text: str | bytes) -> str:
    """What is wrong with a search space, in words; nothing where it is one."""
    try:
        SearchSpace.parse(text)
    except SpaceError as error:
        return str(error)
    return ""


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_text_is_a_search_space_or_a_space_error(text: str | bytes) -> None:
    assert complaint(text) == "" or complaint(text).startswith("search space")


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("10%")
keys = st.sampled_from([*SearchSpace.model_fields, "low", "high", "scale"]) | st.text(max_size=5)
trees = st.recursive(
    plain, lambda children: st.lists(children, max_size=3) | st.dictionaries(keys, children, max_size=3)
)


@given(st.dictionaries(keys, trees, max_size=4))
def test_any_mapping_is_a_search_space_or_a_space_error(data: dict[str, Any]) -> None:
    words = complaint(yaml.safe_dump(data))
    assert "function-" not in words
    assert "Input should" not in words


def test_other_models_are_explained_with_their_own_keys() -> None:
    with pytest.raises(ValidationError) as caught:
        TuneResult.model_validate({"verdict": {"knid": "tie"}, "records": [{"sede": 1}]})
    text = explain(caught.value, TuneResult.model_fields)
    assert "unknown key 'verdict.knid' (did you mean 'kind'?); known: kind, candidate, schedule" in text


# --- What is read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.e-3", "1.0e-3", ".1e-2", "+1e-3", "0.001"])
def test_numbers_as_people_write_them(number: str) -> None:
    assert SearchSpace.parse(f"peak: {number}").peak == PeakRange(low=1e-3, high=1e-3)


def test_single_values_are_fixed() -> None:
    space = SearchSpace.parse("{shapes: polynomial, power: 2, warmup: 10%, start_factor: 0.1, decay: linear}")
    assert space == SearchSpace(
        shapes=["polynomial"],
        power=Range(low=2, high=2),
        warmup=DurationRange(low="10%", high="10%"),
        start_factor={"low": 0.1, "high": 0.1},
        decay=("linear",),
    )
    trial = new_study().ask()
    schedule = space.suggest(trial, PeakRange(low=0.1, high=0.1), horizon=100)
    assert trial.params == {"peak": 0.1}
    assert schedule == Schedule(
        peak=0.1, horizon=100, warmup_steps=10, shape=Polynomial(power=2), start_factor=0.1, decay="linear"
    )


def test_a_space_round_trips_through_json() -> None:
    assert SearchSpace.model_validate_json(EVERYTHING.model_dump_json()) == EVERYTHING


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ("10%", 5, "reversed bounds: low='10%' is 10 steps, high=5 is 5"),
        (0, 100, "high=100 is 100 steps, the horizon is only 100"),
        (0, "100%", "high='100%' is 100 steps, the horizon is only 100"),
        (0, "2 epochs", "in epochs: steps_per_epoch is needed"),
    ],
)
def test_durations_that_do_not_fit_the_horizon(low: Any, high: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DurationRange(low=low, high=high).steps(100, None)


# --- To Optuna and back ------------------------------------------------------------------------------------


def test_parameters_are_conditional() -> None:
    study = new_study()
    for _ in range(300):
        trial = study.ask()
        schedule = EVERYTHING.suggest(trial, PEAK, horizon=1000, beta2=0.98)
        names = {"peak", "shape", "decay"}
        if trial.params["decay"] != "constant":
            names.add("final_factor")
        if trial.params["shape"] in {"linear", "polynomial", "sqrt", "exponential", "cosine"}:
            names.add("warmup_steps_sqrt")
            if schedule.duration:
                names |= {"start_factor"} | ({"power"} if trial.params["shape"] == "polynomial" else set())
        assert set(trial.params) == names
        assert getattr(schedule.shape, "beta2", 0.98) == 0.98


@pytest.mark.parametrize("name", ["everything", *PRESETS])
def test_params_of_is_the_way_back(name: str) -> None:
    space = EVERYTHING if name == "everything" else SearchSpace.load(name)
    peak, study = space.peak or PEAK, new_study(seed=1)
    for _ in range(100):
        trial = study.ask()
        schedule = space.suggest(trial, peak, horizon=300)
        params = space.params_of(schedule)
        assert params is not None
        if schedule.duration:
            assert params == pytest.approx(trial.params | {"warmup_steps_sqrt": schedule.duration**0.5}) or (
                schedule.shape.kind in {"untuned-linear", "untuned-exponential", "radam", "gi-adam"}
                and params == trial.params
            )
        study.enqueue_trial(params)
        again = study.ask()
        assert space.suggest(again, peak, horizon=300) == schedule
        assert again.params == params


@pytest.mark.parametrize("name", PRESETS)
def test_the_baselines_as_parameters(name: str) -> None:
    space, study = SearchSpace.load(name), new_study()
    settings: dict[str, Any] = {"peak": 5e-4, "horizon": 1000, "decay": space.decay[0], "final_factor": 0.0}
    for baseline in (Schedule(**settings), Schedule.untuned_linear(beta2=0.98, **settings)):
        params = space.params_of(baseline)
        if params is None:
            assert baseline.duration not in range(*space.warmup.steps(1000, None))
            continue
        study.enqueue_trial(params)
        trial = study.ask()
        schedule = space.suggest(trial, PEAK, 1000)
        assert trial.params == params  # nothing is left to chance
        assert schedule.duration == baseline.duration
        assert schedule.lr_at(500) == pytest.approx(baseline.lr_at(500), rel=0.2)


@pytest.mark.parametrize(
    "settings",
    [
        {"shape": UntunedLinear(beta2=0.999), "horizon": 300},  # asks for more than 30%
        {"shape": "radam"},
        {"shape": "polynomial", "warmup_steps": 50},
        {"shape": "linear", "warmup_steps": 301},
        {"shape": "linear", "warmup_steps": 50, "decay": "linear"},
        {"shape": "linear", "warmup_steps": 50, "final_factor": 0.1},
        {"shape": "linear", "warmup_steps": 50, "start_factor": 0.5},
    ],
)
def test_what_a_space_never_proposes_has_no_parameters(settings: dict[str, Any]) -> None:
    schedule = Schedule(**{"peak": 0.1, "horizon": 1000, **settings})
    assert SearchSpace.load("default").params_of(schedule) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"shape": Polynomial(power=5.0)},
        {"shape": "linear", "start_factor": 0.9},
        {"shape": "linear", "decay": WarmupStableDecay(cooldown=0.5)},
        {"shape": "linear", "final_factor": 0.5},
    ],
)
def test_what_is_out_of_bounds_has_no_parameters(settings: dict[str, Any]) -> None:
    schedule = Schedule(**{"peak": 0.1, "horizon": 1000, "warmup_steps": 50, "final_factor": 0.1, **settings})
    assert EVERYTHING.params_of(schedule) is None


def test_no_warmup_has_no_parameters_where_only_rules_are_searched() -> None:
    assert SearchSpace(shapes=["radam"]).params_of(Schedule(peak=0.1, horizon=100)) is None
    assert SearchSpace(warmup="10%").params_of(Schedule(peak=0.1, horizon=100)) is None


def test_a_start_that_was_left_out_is_the_nearest_one() -> None:
    schedule = Schedule(peak=0.1, horizon=1000, warmup_steps=9, shape="linear", final_factor=0.1)
    assert EVERYTHING.params_of(schedule) == {
        "peak": 0.1,
        "shape": "linear",
        "decay": "cosine",
        "final_factor": 0.1,
        "warmup_steps_sqrt": 3.0,
        "start_factor": pytest.approx(0.1),
    }


def test_durations_in_epochs_need_the_steps_per_epoch() -> None:
    space = SearchSpace(warmup={"low": "0 epochs", "high": "2 epochs"})
    schedule = Schedule(peak=0.1, horizon=100, warmup_steps=16, shape="linear")
    assert space.params_of(schedule, steps_per_epoch=10) == {"peak": 0.1, "warmup_steps_sqrt": 4.0}
    with pytest.raises(InputError, match="steps_per_epoch is needed"):
        space.params_of(schedule)
    trial = new_study().ask()
    assert space.suggest(trial, PEAK, horizon=100, steps_per_epoch=10).duration <= 20


# --- Wrong types and extremes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peak": 1e308}, r"peak: must be within 1e-12 to 1e\+06"),
        ({"peak": {"low": 1e-13, "high": 1.0}}, r"peak: must be within 1e-12 to 1e\+06"),
        ({"peak": 10**400}, "peak.low: must be a finite number, got 1000"),
        ({"peak": True}, "must be a finite number, or a range"),
        ({"power": float("inf")}, "must be a finite number, or a range"),
        ({"warmup": True}, "duration True is not a number of steps"),
        ({"warmup": 10**5000}, "duration <int> is not a number of steps"),
        ({"warmup": None}, "duration None is not a number of steps"),
        ({"shapes": [10**5000]}, "must be 'none', 'linear'"),
        ({"shapes": ["linear"] * 10**6}, "shapes: has 1,000,000 choices; allowed: up to 100"),
        ({"description": 3}, "description: must be text, got 3"),
    ],
)
def test_a_space_made_in_python_is_refused_as_one_from_a_file_is(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SearchSpace(**settings)


def test_numpy_s_numbers_are_numbers() -> None:
    assert SearchSpace(peak=np.float32(0.5), power=np.int64(2)) == SearchSpace(peak=0.5, power=2)
    assert Schedule(peak=np.float64(0.5), horizon=np.int64(7)).horizon == 7


@pytest.mark.parametrize("name", [None, 3, b"default", ["default"], ("default",)])
def test_what_is_not_even_a_name(name: Any) -> None:
    with pytest.raises(SpaceError, match="a search space is a preset's name or the path of a .yaml file, got"):
        SearchSpace.load(name)


def test_a_pipe_or_a_device_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    for name in ("pipe.yaml", "device.yaml"):
        with pytest.raises(SpaceError, match=f"can't read the search space '.*{name}': not a regular file"):
            SearchSpace.load(tmp_path / name)


def test_a_rule_that_is_not_defined_for_the_optimizer_is_refused() -> None:
    space = SearchSpace(shapes=["linear", "radam"])
    space.check_fit(100, None, beta2=0.9)
    with pytest.raises(SpaceError, match="'radam' can't be used with this optimizer: .*needs beta2 > 0.6, got 0.5"):
        space.check_fit(100, None, beta2=0.5)


@pytest.mark.parametrize("step", [float("nan"), 1.5, None, "1", -1, 10**400 * -1])
def test_a_step_is_a_whole_number(step: Any) -> None:
    with pytest.raises(InputError, match="must be a whole number, counted from 0"):
        Schedule(peak=0.1, horizon=10).lr_at(step)
