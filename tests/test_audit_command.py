"""``autowarmup audit``: what it says of a recording, its picture, and what reaches MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from PIL import Image

from autowarmup import RateAudit, Schedule
from autowarmup.audit.recording import every_step, read, thinned
from autowarmup.cli.program import cli

PLAN = Schedule(peak=0.1, horizon=40, warmup_steps=8, shape="linear")
of_mlflow = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
"""What MLflow deprecates and leaves open is its own."""


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["audit", *map(str, args)])


def recorded(
    file: Path, steps: int = 30, twice_from: int | None = None, names: tuple[str, str] = ("body", "head")
) -> Path:
    """A training of two parameter groups; from a step on its scheduler is stepped twice."""
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [{"params": [weights[0]], "name": names[0], "lr": 0.01}, {"params": [weights[1]], "name": names[1]}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    scheduler = PLAN.scheduler(optimizer)
    with RateAudit(optimizer, PLAN, mode="record", record=file):
        for step in range(steps):
            optimizer.step()
            scheduler.step()
            if twice_from is not None and step >= twice_from:
                scheduler.step()
    return file


def test_a_right_training(tmp_path: Path) -> None:
    result = run(recorded(tmp_path / "rates.jsonl"))
    picture = tmp_path / "rates.png"
    assert result.exit_code == 0
    assert result.output == f"30 steps: the schedule was applied as planned\npicture: {picture}\n"
    with Image.open(picture) as image:
        assert image.size[0] > 1000


def test_a_wrong_training(tmp_path: Path) -> None:
    file, picture = recorded(tmp_path / "rates.jsonl", twice_from=4), tmp_path / "drawn.png"
    result = run(file, "--picture", picture, "--json")
    told = json.loads(result.output)
    assert result.exit_code == 1
    assert told["finding"]["step"] == 5
    assert told["finding"]["group"] == "head"
    assert told["finding"]["cause"] == "ahead"
    assert told["picture"] == str(picture)
    assert picture.exists()


@of_mlflow
def test_a_recording_goes_to_an_mlflow_run(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    existing = client.create_run(client.create_experiment("mine")).info.run_id
    result = run(recorded(tmp_path / "rates.jsonl", twice_from=4), "--run", existing, "--mlflow", uri)
    assert result.exit_code == 1
    logged = client.get_metric_history(existing, "lr_applied.body")
    planned = client.get_metric_history(existing, "lr_planned.head")
    assert [entry.step for entry in logged] == list(range(30))
    assert [entry.value for entry in planned] == pytest.approx(PLAN.curve().tolist()[:30])
    assert "optimizer step 5 was made" in client.get_run(existing).data.tags["autowarmup.audit"]

    result = run(tmp_path / "rates.jsonl", "--run", "0" * 32, "--mlflow", uri)
    assert result.exit_code == 4
    assert "can't be sent to the MLflow run" in result.output


@of_mlflow
def test_groups_may_have_any_names(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    existing = client.create_run(client.create_experiment("mine")).info.run_id
    file = recorded(tmp_path / "rates.jsonl", names=("encoder[0:6]@all", "encoder[0 6]@all"))
    assert run(file, "--run", existing, "--mlflow", uri).exit_code == 0
    logged = client.get_run(existing).data.metrics
    assert logged["lr_applied.encoder_0_6__all"] == pytest.approx(0.1 * PLAN.lr_at(29))
    assert logged["lr_applied.encoder_0 6__all"] == pytest.approx(PLAN.lr_at(29))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl"], "none.jsonl can't be read as a recording of RateAudit: No such file or directory"),
        (["here.txt"], "here.txt is not a recording of RateAudit: line 1 is '{\"loss\": 1}'"),
        (["rates.jsonl", "--picture", "rates.odd"], "--picture rates.odd: Format 'odd' is not supported"),
        (["rates.jsonl", "--mlflow", "http://here"], "--mlflow goes with --run"),
    ],
)
def test_what_can_t_be_read_or_drawn_is_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.txt").write_text('{"loss": 1}\n')
    recorded(Path("rates.jsonl"))
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_long_recording_is_thinned_but_not_around_the_finding(tmp_path: Path) -> None:
    steps = list(every_step(read(recorded(tmp_path / "rates.jsonl", twice_from=16))))
    assert [step for _, step, _ in thinned(steps, 3)] == [0, 14, 16, 17, 18, 29]
    assert len(thinned(steps, 100)) == 30
