"""Exported schedules in the frameworks' own code: every step's learning rate is what the export says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autowarmup import Schedule
from autowarmup.errors import InputError
from autowarmup.export.deviation import EXACT
from tests.export_runs import CODE, CONFIG
from tests.export_table import DECAYS, SHAPES, plan_of

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks'

TRAINERS = ("transformers", "lightning", "accelerate", "deepspeed")
"""Where a whole trainer runs: with each shape and each decay, but not with each pair."""


def plans(framework: str, warmup: int, horizon: int) -> list[Schedule]:
    """Every shape with every decay, or each once."""
    found = []
    for row, shape in enumerate(SHAPES):
        for column, decay in enumerate(DECAYS):
            if framework not in TRAINERS or (row - column) % len(DECAYS) == 0:
                found.append(plan_of(shape, decay, warmup, horizon))
    return found


def share_off(applied: list[float], plan: Schedule) -> float:
    assert len(applied) == plan.horizon
    return float(np.max(np.abs(np.array(applied) - plan.curve()))) / plan.peak


@pytest.mark.parametrize("framework", CODE)
def test_pasted_code_applies_the_schedule_at_every_step(
    framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, plan in enumerate(plans(framework, warmup=7, horizon=24)):
        folder = tmp_path / str(number)
        folder.mkdir()
        export = plan.export(framework)
        assert export.exact
        assert share_off(CODE[framework](export, plan, folder), plan) <= EXACT, plan


@pytest.mark.parametrize("framework", CONFIG)
def test_configurations_deviate_as_much_as_they_say(
    framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = []
    for number, plan in enumerate(plans("every pair", warmup=30, horizon=120)):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            export = plan.export(framework, "config")
        except InputError:
            continue
        off = share_off(CONFIG[framework](export, plan, folder), plan)
        assert abs(off - export.max_deviation) <= EXACT, (plan, export.config)
        found.append(export.exact)
    assert found
