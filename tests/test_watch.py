"""``autowarmup watch``: runs judged from their logs."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from mlflow.entities import Metric
from PIL import Image

from autowarmup import Guard, Schedule
from autowarmup.cli.program import cli
from autowarmup.guard.reading import Lines
from autowarmup.guard.watching import Watch
from autowarmup.instability.history import Step

STEPS = 400
of_mlflow = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
"""What MLflow deprecates and leaves open is its own."""


def watch(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["watch", *map(str, args)])


def healthy(step: float, noise: random.Random) -> float:
    return 2.3 * math.exp(-step / 60) + 0.2 + noise.gauss(0, 0.03)


def losses(broken_from: int | None = None, to: float = 3.0, count: int = STEPS) -> list[float]:
    """A loss that falls, and from a step on lies somewhere else."""
    noise = random.Random(0)
    return [
        healthy(step, noise) if broken_from is None or step < broken_from else to + noise.gauss(0, 0.1)
        for step in range(count)
    ]


def written(
    file: Path, values: list[float], names: tuple[str, str, str] = ("step", "loss", "lr"), every: int = 1
) -> Path:
    step, loss, lr = names
    lines = [{step: number * every, loss: value, lr: 1e-3, "grad_norm": 1.0} for number, value in enumerate(values)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_healthy_run_has_nothing(tmp_path: Path) -> None:
    result = watch(written(tmp_path / "run.jsonl", losses()))
    assert result.exit_code == 0
    assert result.output == (
        "steps 0 to 399 of 400: loss 2.528 -> 0.1727, learning rate 0.001\nverdict: nothing found\n"
    )


@pytest.mark.parametrize(
    "names",
    [
        ("step", "loss", "lr"),
        ("global_step", "train_loss", "learning_rate"),
        ("iteration", "train/loss", "train/learning_rate"),
    ],
)
@pytest.mark.parametrize("every", [1, 10])
def test_damage_is_told_with_the_step_where_it_began(names: tuple[str, str, str], every: int, tmp_path: Path) -> None:
    """A log with every tenth step is judged as a run of a tenth of the steps."""
    result = watch(written(tmp_path / "run.jsonl", losses(broken_from=200), names, every), "--json")
    told = json.loads(result.output)
    assert result.exit_code == 1
    assert told["every"] == every
    assert told["total"] == 399 * every + 1
    assert told["verdict"].startswith(f"damaged since step {200 * every:,}: the loss jumped from")
    assert [event["action"] for event in told["events"]][-1] == "rewind"
    assert {event["began"] for event in told["events"]} == {200 * every}
    assert not any(event["applied"] for event in told["events"])
    assert told["events"][0]["lr"] == 1e-3


def test_a_nan_that_stays_is_told_once_and_one_that_goes_by_is_not_fatal(tmp_path: Path) -> None:
    result = watch(written(tmp_path / "run.jsonl", losses(broken_from=200, to=math.nan)))
    assert result.exit_code == 1
    first, second, *_, verdict = result.output.splitlines()
    assert first == "step 200: would skip: the loss is nan"
    assert second.startswith("step 208: would rewind: the loss is nan (since step 200)")
    assert len(result.output.splitlines()) == 4
    assert verdict == "verdict: damaged since step 200: the loss is nan"

    values = losses()
    values[250] = math.inf
    result = watch(written(tmp_path / "run.jsonl", values))
    assert result.exit_code == 0
    assert result.output.startswith("step 250: would skip: the loss is inf\n")
    assert result.output.endswith("verdict: 1 found, nothing fatal\n")

    values = losses()[:205] + [math.nan] * 3  # too short a row for the guard to go back, but nothing comes after it
    result = watch(written(tmp_path / "run.jsonl", values))
    assert result.exit_code == 1
    assert result.output.endswith("verdict: no loss is finite since step 205\n")


def test_few_losses_say_little(tmp_path: Path) -> None:
    result = watch(written(tmp_path / "run.jsonl", losses()[:12]))
    assert result.exit_code == 0
    assert result.output.endswith("verdict: nothing found; 12 losses are too few to tell much\n")


def test_a_run_that_went_back_counts_as_it_was_made_last(tmp_path: Path) -> None:
    """As after a crash: what was logged since the checkpoint stands there twice."""
    file = written(tmp_path / "run.jsonl", losses(broken_from=150)[:200])
    lines = file.read_text().splitlines(keepends=True)
    again = written(tmp_path / "again.jsonl", losses()).read_text().splitlines(keepends=True)
    file.write_text("".join(lines + again[100:]))
    told = json.loads(watch(file, "--json").output)
    assert (told["steps"], told["events"], told["fatal"]) == (400, [], False)


def test_a_trainer_s_state_is_read(tmp_path: Path) -> None:
    """Transformers hides a loss that is NaN from its log; the gradient's norm shows it."""
    output = tmp_path / "output"
    (output / "checkpoint-500").mkdir(parents=True)
    values = losses()[:200]
    log: list[dict[str, Any]] = [
        {"step": 10 * n + 10, "loss": loss, "learning_rate": 1e-3, "grad_norm": 1.0 if n < 100 else math.nan}
        for n, loss in enumerate(values)
    ]
    log.insert(50, {"step": 500, "eval_loss": 1.0, "epoch": 1.0})
    log.append({"step": 2000, "train_loss": 9.9, "train_runtime": 1.0})
    state = {"max_steps": 4000, "log_history": log}
    (output / "checkpoint-500" / "trainer_state.json").write_text(json.dumps(state))
    for path in (output, output / "checkpoint-500", output / "checkpoint-500" / "trainer_state.json"):
        told = json.loads(watch(path, "--json").output)
        assert (told["steps"], told["total"], told["every"], told["loss"]) == (200, 4000, 10, values[-1])
        assert told["fatal"]
        assert [event["message"] for event in told["events"]] == ["the gradient is not finite"]


def test_a_trainer_s_log_of_a_run_that_is_lost_has_losses_of_0(tmp_path: Path) -> None:
    """As Transformers 5 writes it where the loss is NaN from a step on; a single gradient may be a loss scaler's."""
    log = [{"step": n + 1, "loss": loss, "grad_norm": 1.0} for n, loss in enumerate(losses()[:40])]
    lost = [{"step": n, "loss": 0.0, "grad_norm": math.nan} for n in range(41, 61)]
    file = tmp_path / "trainer_state.json"
    file.write_text(json.dumps({"max_steps": 60, "log_history": log + lost}))
    result = watch(file)
    assert result.exit_code == 1
    assert result.output.endswith("verdict: no gradient is finite since step 41\n")
    file.write_text(json.dumps({"max_steps": 60, "log_history": [*log, lost[0] | {"loss": log[-1]["loss"]}]}))
    assert watch(file).exit_code == 0


def guarded(file: Path, mode: str, bad: Callable[[int], bool], steps: int = 60) -> Guard:
    """A small training under a guard, with batches that are NaN."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = Schedule(peak=0.05, horizon=60, warmup_steps=8, shape="linear")
    guard = Guard(plan, optimizer, mode=mode, model=model, record=file)  # type: ignore[arg-type]
    for step in range(steps):
        x = torch.randn(8, 4)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean() * (math.nan if bad(step) else 1.0)
        loss.backward()
        if guard.step(loss):
            optimizer.step()
        optimizer.zero_grad()
    guard.close()
    return guard


def test_a_guard_s_own_record_tells_the_guard_s_own_events(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    guarded(file, "protect", lambda step: step == 30)
    result = watch(file)
    assert result.exit_code == 0
    assert result.output.startswith("step 30: skip: the loss is nan\nsteps 0 to 59 of 60: ")
    assert result.output.endswith("verdict: its guard has intervened, in 1 steps, and it went on\n")

    file.unlink()
    guard = guarded(file, "observe", lambda step: step >= 30)
    result = watch(file, "--json")
    told = json.loads(result.output)
    assert result.exit_code == 1
    assert told["events"] == [event.model_dump(mode="json") for event in guard.events]


def test_without_learning_rates_none_is_told(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text("".join(f'{{"step": {n}, "loss": {loss}}}\n' for n, loss in enumerate(losses(200))))
    result = watch(file, "--json")
    assert result.exit_code == 1
    for event in json.loads(result.output)["events"]:
        assert "lr" not in event
        assert "learning rate where it began" not in event["evidence"]
    assert "learning rate" not in watch(file).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl"], "none.jsonl can't be read as a run: No such file or directory"),
        (["text.log"], "text.log can't be read as a run: line 1 is 'epoch 1'; it must be a JSON object such as"),
        (["other.jsonl"], "other.jsonl has no step with a loss"),
        (["run.jsonl", "--loss", "los"], "run.jsonl has no 'los' (did you mean 'loss'?) beside a step; it has: grad_"),
        (["run.jsonl", "--follow"], "--follow run.jsonl: its length isn't known; pass --steps N"),
        (["run.jsonl", "--mlflow", "http://here"], "--mlflow goes with mlflow:RUN_ID or with --mlflow-run"),
        (["."], ". is a folder, without a trainer_state.json of Transformers in it or its checkpoints"),
        (["rates.jsonl"], "rates.jsonl can't be read as a run: line 1 is"),
    ],
)
def test_what_can_t_be_read_is_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.log").write_text("epoch 1\n")
    Path("other.jsonl").write_text('{"epoch": 1, "accuracy": 0.5}\n')
    Path("rates.jsonl").write_text('{"format": "autowarmup audit 1", "schedule": {}}\n')
    written(Path("run.jsonl"), losses())
    result = watch(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_step_s_line_that_is_being_written_is_left_for_the_next_time(tmp_path: Path) -> None:
    file = written(tmp_path / "run.jsonl", losses())
    content = file.read_text()
    file.write_text(content[:-5])
    assert json.loads(watch(file, "--json").output)["steps"] == 399


def growing(file: Path, values: list[float], bunch: int = 50) -> Iterator[None]:
    lines = written(file, values).read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:bunch]))
    for start in range(bunch, len(lines), bunch):
        yield
        with file.open("a") as opened:
            opened.write("".join(lines[start : start + bunch]))


def followed(file: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "autowarmup", "watch", str(file), "--follow", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_run_is_followed_to_its_end(tmp_path: Path) -> None:
    """Each event is told when it is found, and the same as afterwards."""
    file = tmp_path / "run.jsonl"
    pieces = growing(file, losses(broken_from=200))
    next(pieces)
    with followed(file, "--steps", "400") as process:
        assert process.stdout is not None
        for _ in range(5):
            next(pieces)
        first = process.stdout.readline()
        assert process.poll() is None, "the run isn't over"
        for _ in pieces:
            time.sleep(0.02)
        output = process.stdout.read()
    assert process.returncode == 1
    assert first + output == watch(file, "--steps", "400").output


def test_ctrl_c_ends_it_with_the_verdict(tmp_path: Path) -> None:
    file = written(tmp_path / "run.jsonl", [*losses()[:200], math.nan])
    with followed(file, "--steps", "400") as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        output = process.stdout.read()
    assert process.returncode == 1
    assert output.endswith("verdict: no loss is finite since step 200\n")


def test_pieces_are_judged_as_the_whole() -> None:
    steps = [Step(number, 1e-3, loss, 1.0) for number, loss in enumerate(losses(broken_from=200))]
    whole, pieces = Watch(STEPS), Watch(STEPS)
    whole.take(steps)
    for start in range(0, STEPS, 7):
        pieces.take(steps[start : start + 7])
    assert pieces.events == whole.events
    assert pieces.over


# --- The figure, and MLflow ---------------------------------------------------------------------------------


def test_the_figure_has_loss_rate_events_and_what_the_study_expects(tmp_path: Path) -> None:
    from autowarmup.guard.figure import draw

    file, picture = tmp_path / "run.jsonl", tmp_path / "run.png"
    guarded(file, "observe", lambda step: step >= 30)
    begin, *others = file.read_text().splitlines()
    band = {"expected": [2.0 / (1 + step) for step in range(60)], "spread": [0.1] * 60}
    file.write_text("\n".join([json.dumps(json.loads(begin) | band), *others, ""]))
    assert watch(file, "--figure", picture).exit_code == 1
    with Image.open(picture) as image:
        assert image.size[0] > 1000

    watched = Watch(None)
    watched.take(Lines(file, None).fresh())
    figure = draw(watched)
    upper, lower = figure.axes
    assert upper.get_yscale() == "log"
    assert lower.get_ylabel() == "learning rate"
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["loss", "expected by the study", "would skip", "would rewind"]

    refused = watch(file, "--figure", tmp_path / "run.odd")
    assert refused.exit_code == 2
    assert "Format 'odd' is not supported" in refused.output


@of_mlflow
def test_a_record_goes_to_an_mlflow_run_and_is_read_from_there(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("mine", (tmp_path / "artifacts").as_uri())
    existing = client.create_run(experiment).info.run_id
    file = written(tmp_path / "run.jsonl", losses(broken_from=200))
    result = watch(file, "--mlflow-run", existing, "--mlflow", uri)
    assert result.exit_code == 1
    found = client.get_run(existing)
    logged = client.get_metric_history(existing, "guard_loss")
    assert [point.step for point in logged] == list(range(STEPS))
    assert [point.value for point in logged] == pytest.approx(losses(broken_from=200))
    assert found.data.tags["autowarmup.watch"].startswith("damaged since step 200")
    assert found.data.tags["autowarmup.event.0"].startswith("step 202: ok: the loss jumped from")
    assert [one.path for one in client.list_artifacts(existing, "autowarmup")] == ["autowarmup/run.png"]

    told = json.loads(watch(f"mlflow:{existing}", "--mlflow", uri, "--loss", "guard_loss", "--json").output)
    assert told["verdict"].startswith("damaged since step 200")

    for arguments in ([file, "--mlflow-run", "0" * 32], [f"mlflow:{'0' * 32}"]):
        result = watch(*arguments, "--mlflow", uri)
        assert result.exit_code == 4
        assert f"the MLflow run '{'0' * 32}' can't be" in result.output


@of_mlflow
def test_a_run_in_mlflow_is_followed_to_its_end(tmp_path: Path) -> None:
    """While it goes on, the last step is left for the next time: its learning rate may be on the way."""
    from autowarmup.guard.mlflow_run import MlflowRun

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("mine")).info.run_id
    client.log_param(run, "max_steps", 1_000)
    client.log_metric(run, "accuracy", 0.5, step=0)
    assert "has no step with a loss" in watch(f"mlflow:{run}", "--mlflow", uri).output

    def log(first: int, last: int) -> None:
        values = losses(broken_from=200)
        points = [Metric("train/loss", values[step], 0, step) for step in range(first, last)]
        points += [Metric("train/learning_rate", 1e-3, 0, step) for step in range(first, last - 1)]
        client.log_batch(run, metrics=points)

    log(0, 100)
    source = MlflowRun(uri, run, None)
    watched = Watch(source.total)
    watched.take(source.fresh())
    assert [step.number for step in watched.steps] == list(range(99))
    assert {step.lr for step in watched.steps} == {1e-3}
    log(100, 300)
    client.set_terminated(run)
    watched.take(source.fresh())
    assert source.ended
    assert [step.number for step in watched.steps] == list(range(300))
    assert watched.total == 1_000
    result = watch(f"mlflow:{run}", "--mlflow", uri, "--follow")
    assert result.output.startswith("step 200: would skip")
    assert ", learning rate 0.001\n" in result.output
    assert result.exit_code == int(watched.damaged)
