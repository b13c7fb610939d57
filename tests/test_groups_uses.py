"""Schedules with groups where they are used: exports, audits, pictures, MLflow and what a gain is made of."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autowarmup import RateAudit, Schedule, autotune
from autowarmup.audit import figure
from autowarmup.audit.recording import read
from autowarmup.cli.program import cli
from autowarmup.errors import InputError
from autowarmup.export.frameworks import FRAMEWORKS
from autowarmup.report import schedules as pictures
from autowarmup.report.uses import uses
from autowarmup.report.variations import varied
from autowarmup.schedule.shapes import WITHOUT_WARMUP
from autowarmup.study.exchanges import exchanged
from autowarmup.study.result import TuneResult
from autowarmup.study.store import StudyStore
from autowarmup.tracking.contents import schedule_params
from tests.tasks import digits, mlp
from tests.test_groups import grouped, optimizer_of, schedules


@given(schedules)
@settings(max_examples=40, deadline=None)
def test_the_code_for_pytorch_has_every_groups_learning_rate(schedule: Schedule) -> None:
    exported = schedule.export("pytorch")
    assert exported.exact
    made = [{"name": group.name, "params": [nn.Parameter(torch.zeros(1))]} for group in schedule.groups]
    names: dict[str, Any] = {
        "model": nn.Linear(1, 1),
        "optimizer": torch.optim.SGD(made, lr=schedule.peak),
    }
    exec(str(exported.code), names)  # noqa: S102 - our own code
    assert "autowarmup" not in str(exported.code)
    optimizer, scheduler = names["optimizer"], names["scheduler"]
    for step in range(schedule.horizon):
        applied = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert applied == pytest.approx(schedule.rates_at(step), rel=1e-9, abs=1e-15)
        if "freeze" in names:
            names["freeze"](step)
        frozen = {g["name"] for g in optimizer.param_groups if not g["params"][0].requires_grad}
        assert frozen == schedule.frozen_at(step)
        optimizer.step()
        scheduler.step()


def test_the_code_for_pytorch_finds_the_parameters_and_freezes_batch_normalisation() -> None:
    schedule, model = grouped(ratio=0.1, frozen_steps=3), mlp()
    names: dict[str, Any] = {"model": model}
    exec(str(schedule.export("pytorch").code), names)  # noqa: S102
    assert [(g["name"], len(g["params"])) for g in names["optimizer"].param_groups] == [("backbone", 4), ("head", 2)]
    x = torch.from_numpy(digits()[0][0][:32])
    model.train()
    for step in range(5):
        names["freeze"](step)
        before = model[1].running_mean.clone()
        model(x)
        assert torch.equal(model[1].running_mean, before) is (step < 3)


def test_frameworks_without_groups_refuse_and_the_others_are_shown() -> None:
    schedule = grouped(ratio=0.1)
    able = [name for name, framework in FRAMEWORKS.items() if framework.groups]
    assert able == ["pytorch", "transformers", "autowarmup"]
    for name in set(FRAMEWORKS) - set(able):
        with pytest.raises(InputError, match="can't apply a schedule with groups .* These can: pytorch, transformers"):
            schedule.export(name)
    with pytest.raises(InputError, match="no configuration has learning rates for each group"):
        schedule.export("transformers", "config")
    assert [use.name for use in uses(schedule)] == able
    names: dict[str, Any] = {"model": mlp(), "torch": torch}
    exec(str(schedule.export("autowarmup").code), names)  # noqa: S102
    assert names["schedule"] == schedule


def test_an_audit_compares_each_group(tmp_path: Path) -> None:
    schedule = grouped(ratio=0.1, frozen_steps=6)
    optimizer = optimizer_of(schedule, mlp())
    scheduler = schedule.scheduler(optimizer)
    with closing(RateAudit(optimizer, schedule, mode="record", record=tmp_path / "right.jsonl")) as audit:
        for step in range(40):
            if step == 9:
                added = [nn.Parameter(torch.zeros(1))]
                optimizer.add_param_group({"params": added, "name": "backbone", "lr": schedule.peak / 2})
            optimizer.step()
            scheduler.step()
        assert audit.finding is None
    parts = read(tmp_path / "right.jsonl")
    assert parts[-1].names == ["backbone", "head", "backbone #2"]
    lower, top = schedule.rates_at(20).values()
    assert parts[-1].planned(20) == pytest.approx([lower, top, lower / 2])
    lines = figure.draw(parts).axes[0].get_lines()
    assert [float(line.get_ydata()[20]) for line in lines[:2]] == pytest.approx([lower, lower])  # type: ignore[index]


def test_an_audit_finds_a_group_that_has_the_rate_of_another() -> None:
    schedule = grouped(ratio=0.1)
    optimizer = optimizer_of(schedule, mlp())
    audit = RateAudit(optimizer, schedule, mode="record")
    schedule.model_copy(update={"groups": ()}).scheduler(optimizer)
    optimizer.step()
    assert audit.finding is not None
    assert (audit.finding.group, audit.finding.cause) == ("backbone", "group-left-out")
    assert audit.finding.expected == pytest.approx(0.1 * schedule.lr_at(0))
    with pytest.raises(InputError, match="the schedule's groups are 'backbone', 'head'"):
        RateAudit(torch.optim.SGD(mlp().parameters(), lr=0.1), schedule)


def test_a_scheduler_that_is_stepped_twice_is_told_by_its_group() -> None:
    schedule = grouped(ratio=0.1, warmup_steps=8)
    optimizer = optimizer_of(schedule, mlp())
    scheduler = schedule.scheduler(optimizer)
    audit = RateAudit(optimizer, schedule, mode="record")
    for _ in range(5):
        optimizer.step()
        scheduler.step()
        scheduler.step()
    assert audit.finding is not None
    assert audit.finding.cause == "stepped-several-times"


def test_the_groups_are_a_part_of_the_gain() -> None:
    tuned, current = grouped(ratio=0.1), Schedule(peak=1e-3, horizon=40)
    parts = {part: (taken, schedule) for part, taken, schedule in exchanged(tuned, current)}
    taken, schedule = parts["groups"]
    assert taken == "one curve for all"
    assert schedule == tuned.model_copy(update={"groups": ()})
    assert parts["peak"][1].groups == tuned.groups
    assert "groups" not in [part for part, _, _ in exchanged(current, current.model_copy(update={"peak": 1.0}))]


@given(schedules, st.sampled_from(["none", "linear", "sqrt", "untuned-linear"]), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_what_is_exchanged_and_varied_is_always_a_schedule(tuned: Schedule, shape: str, steps: int) -> None:
    """Groups' own warm-ups change with the schedule's, and end where it has none."""
    ramp = shape in ("linear", "sqrt")
    current = Schedule(peak=0.2, horizon=40, shape=shape, warmup_steps=steps if ramp else 0, decay="wsd")
    made = [schedule for _, _, schedule in exchanged(tuned, current)]
    made += [tuned.rewarmed(**WITHOUT_WARMUP), varied(tuned, 0.3, 0), varied(tuned, 0.3, steps)]
    for schedule in made:
        assert Schedule.model_validate_json(schedule.model_dump_json()) == schedule
    assert all(group.warmup_steps is None for group in varied(tuned, 0.3, 0).groups)
    twice = varied(tuned, 0.3, 2 * tuned.warmup_steps)
    for group, before in zip(twice.groups, tuned.groups, strict=True):
        wanted = before.warmup_steps and min(2 * before.warmup_steps, 40 - before.frozen_steps)
        assert group.warmup_steps == wanted


def test_mlflow_gets_the_groups() -> None:
    params = schedule_params(grouped(ratio=0.1, frozen_steps=6))
    assert params["groups"] == "backbone x 0.1, frozen for 6 steps, head x 1"
    assert "groups" not in schedule_params(Schedule(peak=1.0, horizon=10))


def test_the_report_of_a_study_with_groups(tmp_path: Path) -> None:
    result = autotune(
        mlp, digits(), total_steps=40, groups={"backbone": ["0.*", "1.*"], "head": "4.*"}, current=grouped(ratio=0.1),
        space="transfer-learning", study=tmp_path / "study", mlflow=False, progress=False, confirm_seeds=1,
    )  # fmt: skip
    page = (tmp_path / "study" / "report.html").read_text()
    assert "backbone x 0.1" in page
    assert TuneResult.load(tmp_path / "study") == result
    with closing(StudyStore(tmp_path / "study")) as store:
        traces = {trial.spec.number: trial.trace for trial in store.trials()}
        stored = {trial.spec.number: trial.spec.schedule for trial in store.trials()}
    assert stored == {record.number: record.schedule for record in result.records}
    ways = {schedule.treatment.partition(" to")[0] for schedule in stored.values()}
    assert set(result.trials["groups"].str.partition(" to")[0]) == ways == {"one curve", "groups", "unfreezing"}
    printed = CliRunner().invoke(cli, ["schedule", str(tmp_path / "study"), "--curve", "--steps", "2"]).output
    assert printed.splitlines()[0] == ("step,backbone,head" if result.schedule.groups else "step,rate")
    lines = pictures.schedules(result, traces).axes[0].get_lines()
    legend = pictures.schedules(result, traces).legends[0].get_texts()
    assert "lower groups" in [text.get_text() for text in legend]
    assert sum(line.get_linestyle() == ":" for line in lines) >= 1
