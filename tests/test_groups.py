"""Schedules with groups: the rates of each, their scheduler, freezing, and training with them."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autowarmup import LoopRun, Schedule, autotune
from autowarmup.errors import InputError
from autowarmup.schedule.extrapolation import extrapolated, shortened
from autowarmup.schedule.groups import ParameterGroup, assigned
from autowarmup.training.recipe import Recipe
from autowarmup.training.task import ModelTask
from autowarmup.training.trial import ModelTrial
from tests.tasks import digits, mlp

PATTERNS = {"backbone": ["0.*", "1.*"], "head": ["4.*"]}


def grouped(horizon: int = 40, **backbone: Any) -> Schedule:
    groups = [
        {"name": "backbone", "parameters": PATTERNS["backbone"], **backbone},
        {"name": "head", "parameters": "4.*"},
    ]
    return Schedule(peak=1e-2, horizon=horizon, warmup_steps=4, shape="linear", groups=groups)


def optimizer_of(schedule: Schedule, model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(schedule.parameter_groups(model), lr=schedule.peak, weight_decay=0.1)


settings_of_a_group = st.fixed_dictionaries(
    {"ratio": st.floats(1e-3, 1.0), "frozen_steps": st.integers(0, 20)},
    optional={
        "warmup_steps": st.integers(1, 20),
        "shape": st.sampled_from(["linear", "sqrt", "cosine", "exponential"]),
    },
)
schedules = st.builds(
    lambda lower, decay, shape: Schedule(
        peak=0.1, horizon=40, warmup_steps=5, shape=shape, decay=decay,
        groups=[{"name": str(i), **group} for i, group in enumerate(lower)] + [{"name": "top"}],
    ),
    st.lists(settings_of_a_group, min_size=1, max_size=3),
    st.sampled_from(["cosine", "linear", "constant", "wsd", "inverse-sqrt"]),
    st.sampled_from(["linear", "sqrt", "cosine"]),
)  # fmt: skip


@given(schedules)
def test_a_group_is_frozen_then_warms_up_and_then_has_its_ratio_of_the_schedule(schedule: Schedule) -> None:
    for step in range(schedule.horizon + 3):
        rates = schedule.rates_at(step)
        assert list(rates) == [group.name for group in schedule.groups]
        assert rates["top"] == schedule.lr_at(step)
        for group in schedule.groups:
            rate, whole = rates[group.name], group.ratio * schedule.lr_at(step)
            warm = group.frozen_steps + (group.warmup_steps or schedule.warmup_steps)
            if step < group.frozen_steps:
                assert rate == 0.0
            elif step >= max(warm, schedule.warmup_steps):
                assert rate == pytest.approx(whole, rel=1e-12)
            else:
                assert 0.0 < rate <= group.ratio * schedule.peak
            if group.is_plain:
                assert rate == whole
    curves = schedule.curves()
    assert all(curves[name][7] == rate for name, rate in schedule.rates_at(7).items())


@given(schedules)
def test_it_goes_through_json_unchanged_and_a_plain_one_says_nothing_of_groups(schedule: Schedule) -> None:
    assert Schedule.model_validate_json(schedule.model_dump_json()) == schedule
    assert Schedule(**schedule.model_dump(mode="json")) == schedule
    plain = schedule.model_copy(update={"groups": ()})
    assert "groups" not in plain.model_dump_json()
    assert plain.rates_at(3) == {} == plain.curves()


@given(schedules, st.data())
@settings(max_examples=30, deadline=None)
def test_the_scheduler_applies_each_groups_rate_at_every_step_also_to_groups_that_are_added_later(
    schedule: Schedule, data: st.DataObject
) -> None:
    """Each parameter group has a ratio of its own to the optimizer's highest learning rate, which it keeps."""
    names = [group.name for group in schedule.groups]
    shares = st.floats(0.1, 1.0)
    first = [("top", 1.0), *data.draw(st.lists(st.tuples(st.sampled_from(names), shares), max_size=3))]
    later = data.draw(st.lists(st.tuples(st.integers(0, 39), st.sampled_from(names), shares), max_size=3))
    made = [{"params": [nn.Parameter(torch.zeros(1))], "name": name, "lr": 0.5 * share} for name, share in first]
    optimizer = torch.optim.SGD(made)
    scheduler = schedule.scheduler(optimizer)
    expected, seen = list(first), []
    optimizer.register_step_pre_hook(lambda *_: seen.append([group["lr"] for group in optimizer.param_groups]))
    for step in range(schedule.horizon):
        for at, name, share in later:
            if at == step:
                weight = nn.Parameter(torch.zeros(1))
                optimizer.add_param_group({"params": [weight], "name": name, "lr": 0.5 * share})
                expected.append((name, share))
        optimizer.step()
        scheduler.step()
        rates = schedule.rates_at(step)
        assert seen[-1] == pytest.approx([rates[name] * share for name, share in expected], rel=1e-12)


def test_the_scheduler_resumes_and_refuses_groups_that_it_does_not_know() -> None:
    schedule = grouped(ratio=0.1, frozen_steps=10)
    optimizer = optimizer_of(schedule, mlp())
    scheduler = schedule.scheduler(optimizer)
    for _ in range(15):
        optimizer.step()
        scheduler.step()
    other = optimizer_of(schedule, mlp())
    resumed = schedule.scheduler(other)
    resumed.load_state_dict(scheduler.state_dict())
    assert [group["lr"] for group in other.param_groups] == list(schedule.rates_at(15).values())

    with pytest.raises(InputError, match="has no name; the schedule's groups are 'backbone', 'head'"):
        schedule.scheduler(torch.optim.SGD(mlp().parameters(), lr=0.1))
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "name": "haed", "lr": 1e-3})
    with pytest.raises(InputError, match=r"is named 'haed' \(did you mean 'head'\?\)"):
        optimizer.step()
    optimizer = optimizer_of(schedule, mlp())
    scheduler = schedule.scheduler(optimizer)
    optimizer.step()
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "name": "head", "lr": 1.0})
    with pytest.raises(InputError, match="added with a learning rate of 1, above the highest"):
        scheduler.step()


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([{"name": "a"}], "must be two or more with names of their own"),
        ([{"name": "a"}, {"name": "a"}], "must be two or more with names of their own"),
        ([{"name": "a", "ratio": 0.0}, {"name": "b"}], "groups\\[0\\].ratio: must be greater than 0"),
        ([{"name": "a", "ratio": 1.5}, {"name": "b"}], "groups\\[0\\].ratio: must be less than or equal to 1"),
        ([{"name": "a"}, {"name": "b", "ratio": 0.5}], "group 'b' is the last one, the model's top"),
        ([{"name": "a", "frozen_steps": 41}, {"name": "b"}], "for longer than the horizon of 40 steps"),
        ([{"name": "a", "shape": "radam", "warmup_steps": 3}, {"name": "b"}], "takes no warmup_steps"),
        ([{"name": "a", "frozen": 3}, {"name": "b"}], "unknown key 'groups\\[0\\].frozen' \\(did you mean"),
    ],
)
def test_groups_that_contradict_the_schedule_are_refused(groups: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Schedule(peak=0.1, horizon=40, warmup_steps=5, shape="linear", groups=groups)


def test_a_shape_needs_a_duration_where_the_schedule_has_none() -> None:
    with pytest.raises(InputError, match="group 'a': shape 'linear' needs warmup_steps >= 1"):
        Schedule(peak=0.1, horizon=40, groups=[{"name": "a", "shape": "linear"}, {"name": "b"}])
    made = Schedule(peak=0.1, horizon=40, groups=[{"name": "a", "shape": "linear", "warmup_steps": 3}, {"name": "b"}])
    assert made.rates_at(0) == pytest.approx({"a": 0.025, "b": 0.1})


def test_lengths_scale_with_the_horizon() -> None:
    schedule = grouped(ratio=0.5, frozen_steps=8, warmup_steps=6)
    longer = extrapolated(schedule, 400).schedule
    assert (longer.groups[0].frozen_steps, longer.groups[0].warmup_steps) == (80, 60)
    assert shortened(longer, 40).groups == schedule.groups
    assert schedule.rescaled(batch=2.0).schedule.groups[0].frozen_steps == 4
    with pytest.raises(InputError, match="a schedule with groups can't be continued"):
        schedule.continued(20, 80)
    assert schedule.describe().endswith("at step 40; backbone x 0.5, frozen for 8 steps, warm-up over 6 steps")


@given(schedules, st.integers(11, 39), st.integers(41, 5000))
@settings(max_examples=50, deadline=None)
def test_scaled_schedules_are_schedules(schedule: Schedule, fewer: int, more: int) -> None:
    made = [shortened(schedule, fewer), extrapolated(schedule, more).schedule]
    made += [
        schedule.rescaled(batch=batch, warmup=kept).schedule for batch in (0.3, 3.7) for kept in ("samples", "steps")
    ]
    for scaled in made:
        assert Schedule.model_validate_json(scaled.model_dump_json()) == scaled


NAMES = ["encoder.0.weight", "encoder.0.bias", "norm.weight", "classifier.weight"]


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"a": ["encoder.*", "nrom.*"], "b": ["*"]}, r"pattern 'nrom.*' of group 'a' matches no parameter"),
        ({"a": ["encoder.*", "norm.*"], "b": ["classifier.*", "*.bias"]}, "'encoder.0.bias' is in 'a' and 'b'"),
        ({"a": ["encoder.*"], "b": ["classifier.*"]}, "norm.weight is in no group: add a pattern"),
        ({"a": ["frozen.*"], "b": ["*"]}, "group 'a' has no parameter that is trained"),
    ],
)
def test_patterns_match_each_parameter_exactly_once(groups: dict[str, list[str]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        assigned(groups, NAMES, ["frozen.weight"])


def frozen_state(model: nn.Module) -> list[Any]:
    return [model[1].training, model[1].running_mean.clone(), *(p.requires_grad for p in model.parameters())]


def test_freezing_keeps_weights_statistics_and_the_optimizers_state_and_thaws_at_its_step() -> None:
    schedule, model = grouped(frozen_steps=3), mlp()
    optimizer = optimizer_of(schedule, model)
    scheduler = schedule.scheduler(optimizer)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (x, y), _ = digits()
    for step in range(5):
        model.train()
        schedule.freeze(model, step)
        frozen = step < 3
        assert [p.requires_grad for p in model.parameters()] == [not frozen] * 4 + [True] * 2
        assert model[1].training is not frozen
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.from_numpy(x[:64])), torch.from_numpy(y[:64])).backward()
        optimizer.step()
        scheduler.step()
        same = [name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])]
        unchanged = [name for name in before if not name.startswith("4.")]
        assert (set(same) == set(unchanged)) is frozen
        assert len(optimizer.state) == (2 if frozen else 6)


def test_freezing_leaves_alone_what_the_user_froze_and_layers_without_weights_follow_those_around_them() -> None:
    model = nn.Sequential(
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)),
        nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)),
    )
    model[0][0].bias.requires_grad_(False)
    schedule = Schedule(
        peak=0.1, horizon=10,
        groups=[{"name": "a", "parameters": "0.*", "frozen_steps": 5}, {"name": "b", "parameters": "1.*"}],
    )  # fmt: skip
    optimizer = torch.optim.SGD(schedule.parameter_groups(model), lr=0.1)
    for step, kwargs in itertools.product((0, 5, 0, 7), ({}, {"optimizer": optimizer})):
        model.train()
        schedule.freeze(model, step, **kwargs)
        assert model[0][0].weight.requires_grad is (step >= 5)
        assert not model[0][0].bias.requires_grad
        assert model[1][1].training
    assert model[0][1].training
    unnamed = schedule.model_copy(
        update={"groups": (ParameterGroup(name="a", frozen_steps=5), ParameterGroup(name="b"))}
    )
    with pytest.raises(InputError, match="group 'a' has no patterns"):
        unnamed.freeze(model, 0)


def decayed(model: nn.Module) -> torch.optim.Optimizer:
    """Two parameter groups that mix layers: weights, and biases with a smaller learning rate and no weight decay."""
    named = list(model.named_parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for name, p in named if name.endswith("weight")], "weight_decay": 0.2},
            {"params": [p for name, p in named if name.endswith("bias")], "weight_decay": 0.0, "lr": 2.5e-4},
        ],
        lr=1e-3,
    )


def recipe(optimizer: Any = decayed, groups: Any = PATTERNS) -> Recipe:
    return Recipe(mlp, digits(), optimizer=optimizer, groups=groups)


def test_the_optimizers_groups_are_split_and_keep_their_settings_and_ratios() -> None:
    model = mlp()
    (optimizer,) = recipe(lambda model: decayed(model)).build_optimizers(model)
    found = [(g["name"], len(g["params"]), g["weight_decay"], g["lr"]) for g in optimizer.param_groups]
    assert found == [
        ("backbone", 2, 0.2, 1e-3), ("head", 1, 0.2, 1e-3), ("backbone", 2, 0.0, 2.5e-4), ("head", 1, 0.0, 2.5e-4)
    ]  # fmt: skip
    trial = ModelTrial(recipe(lambda model: decayed(model)), grouped(ratio=0.1), seed=0, eval_every=40)
    list(trial.run(7))
    rates = grouped(ratio=0.1).rates_at(6)
    applied = [float(group["lr"]) for group in trial._groups]
    expected = [rates["backbone"], rates["head"], 0.25 * rates["backbone"], 0.25 * rates["head"]]
    assert applied == pytest.approx(expected, rel=1e-12)


def named(model: nn.Module) -> torch.optim.Optimizer:
    lower = [*model[0].parameters(), *model[1].parameters()]
    return torch.optim.SGD(
        [{"params": lower, "name": "lower"}, {"params": model[4].parameters(), "name": "upper"}], lr=0.1
    )


def test_the_optimizers_own_names_and_several_optimizers() -> None:
    task = ModelTask(mlp, digits(), optimizer=lambda model: named(model), groups="optimizer")
    assert task.groups == {"lower": (), "upper": ()}
    assert task.describe()["by_group"] == {"lower": "0.weight, 0.bias, 1.weight, 1.bias", "upper": "4.weight, 4.bias"}
    with pytest.raises(InputError, match="parameter group 0 of the optimizer has no name"):
        ModelTask(mlp, digits(), groups="optimizer")

    def two(model: nn.Module) -> list[torch.optim.Optimizer]:
        weights = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() <= 1]
        return [torch.optim.SGD(weights, lr=0.02), torch.optim.AdamW(others, lr=3e-4)]

    trial = ModelTrial(recipe(two), grouped(frozen_steps=5, ratio=0.5), seed=0, eval_every=40)
    list(trial.run(9))
    rates = grouped(frozen_steps=5, ratio=0.5).rates_at(8)
    assert [(g["name"], float(g["lr"])) for g in trial._groups] == [
        ("backbone", rates["backbone"]), ("head", rates["head"]),
        ("backbone", pytest.approx(0.015 * rates["backbone"])), ("head", pytest.approx(0.015 * rates["head"])),
    ]  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("pause", [3, 12, 20])
def test_a_trial_with_frozen_groups_resumes_to_the_bit(pause: int, precision: Any) -> None:
    schedule = grouped(frozen_steps=12, ratio=0.3, warmup_steps=6)

    def trial(state: Any = None) -> ModelTrial:
        from autowarmup.training.settings import TrainSettings

        made = Recipe(mlp, digits(), optimizer=decayed, groups=PATTERNS, settings=TrainSettings(precision=precision))
        return ModelTrial(made, schedule, seed=1, eval_every=10, state=state)

    whole = trial()
    losses = np.concatenate([block.loss for block in whole.run(40)])
    first = trial()
    head = [block.loss for block in first.run(pause)]
    file = io.BytesIO()
    file.close = lambda: None  # type: ignore[method-assign]
    first.save(lambda: file)  # type: ignore[arg-type, return-value]
    file.seek(0)
    second = trial(file)
    again = np.concatenate([*head, *(block.loss for block in second.run(40))])
    assert (again == losses).all()
    for one, other in zip(whole._model.state_dict().values(), second._model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_frozen_part_of_a_trial_stays_as_it_was_initialised() -> None:
    trial = ModelTrial(recipe(), grouped(frozen_steps=20), seed=0, eval_every=10)
    before = {name: tensor.clone() for name, tensor in trial._model.state_dict().items()}
    list(trial.run(20))
    after = trial._model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"4.weight", "4.bias"}
    list(trial.run(25))
    assert not torch.equal(before["1.running_mean"], trial._model.state_dict()["1.running_mean"])


def test_a_study_whose_current_schedule_has_groups(tmp_path: Any) -> None:
    current = {
        "warmup_steps": "10%",
        "shape": "linear",
        "groups": [{"name": "backbone", "ratio": 0.3}, {"name": "head"}],
    }
    result = autotune(
        mlp, digits(), total_steps=40, groups={"backbone": ["0.*", "1.*"], "head": "4.*"}, current=current,
        study=tmp_path / "study", mlflow=False, progress=False, confirm_seeds=1,
    )  # fmt: skip
    used = result.config.current_schedule
    assert used.groups[0] == ParameterGroup(name="backbone", parameters=("0.*", "1.*"), ratio=0.3)
    baseline = next(record for record in result.records if record.role == "baseline")
    assert baseline.schedule == used
    assert type(result).load(tmp_path / "study") == result


def loop(run: LoopRun) -> None:
    torch.manual_seed(run.seed)
    model, ((x, y), (x_val, y_val)) = mlp(), digits()
    x, y, x_val, y_val = map(torch.from_numpy, (x, y, x_val, y_val))
    optimizer = torch.optim.AdamW(run.schedule.parameter_groups(model), lr=1e-2)
    scheduler = run.schedule.scheduler(optimizer)
    for step in range(run.total_steps):
        model.train()
        run.schedule.freeze(model, step)
        picked = torch.randint(0, 600, (64,))
        loss = nn.functional.cross_entropy(model(x[picked]), y[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        validated = {}
        if (step + 1) % 10 == 0:
            with torch.no_grad():
                validated = {"val_loss": nn.functional.cross_entropy(model.eval()(x_val), y_val).item()}
        if run.report(loss.item(), **validated):
            return


def test_a_loop_of_the_users_own_applies_groups(tmp_path: Any) -> None:
    result = autotune(
        train_fn=loop, total_steps=40, groups=PATTERNS, current=grouped(ratio=0.2, frozen_steps=8),
        study=tmp_path / "study", mlflow=False, progress=False, confirm_seeds=1,
    )  # fmt: skip
    assert result.config.current_schedule == grouped(ratio=0.2, frozen_steps=8)


def test_a_loop_that_applies_one_rate_to_all_groups_is_refused(tmp_path: Any) -> None:
    def alike(run: LoopRun) -> None:
        torch.manual_seed(run.seed)
        for step in range(run.total_steps):
            if run.report(run.schedule.lr_at(step) + torch.rand(()).item(), val_loss=1.0):
                return

    with pytest.raises(InputError, match="uses one learning rate for all parameters, and the schedule has groups"):
        autotune(train_fn=alike, total_steps=40, groups=PATTERNS, current=grouped(), study=tmp_path / "a", mlflow=False)

    def other(run: LoopRun) -> None:
        torch.manual_seed(run.seed)
        model = mlp()
        optimizer = torch.optim.SGD(run.schedule.parameter_groups(model), lr=1e-2)
        run.schedule.scheduler(optimizer)
        for _ in range(run.total_steps):
            optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"]
            optimizer.step()
            if run.report(torch.rand(()).item(), val_loss=1.0):
                return

    with pytest.raises(InputError, match="in group 'backbone', the schedule's is"):
        autotune(
            train_fn=other, total_steps=40, groups=PATTERNS, current=grouped(ratio=0.1), study=tmp_path / "b",
            mlflow=False,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"groups": {"all": "*"}}, "groups: must be two groups at least"),
        ({"groups": ["0.*", "4.*"]}, "groups: must be patterns of parameter names by the group's name"),
        ({"groups": {"a": "0.*", "b": 4}}, "group 'b' must have a pattern such as"),
        ({"groups": {"a": "0.*", "b": "4.*"}}, "groups: 1.weight, 1.bias are in no group"),
        ({"current": grouped()}, "the current schedule has the groups backbone, head, and the study's groups are none"),
        ({"current": grouped(), "groups": {"a": ["0.*", "1.*"], "head": "4.*"}}, "they must be the same"),
    ],
)
def test_groups_that_do_not_fit_are_refused_at_the_start(arguments: dict[str, Any], words: str, tmp_path: Any) -> None:
    with pytest.raises(InputError, match=words):
        autotune(mlp, digits(), total_steps=40, study=tmp_path / "study", mlflow=False, **arguments)
    assert not (tmp_path / "study").exists()
