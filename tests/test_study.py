"""A study: the same result whatever happens to its process, nothing lost, nothing run twice, never a hang."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from filelock import FileLock
from torch import nn

from autowarmup import Schedule, SearchSpace, TuneResult, autotune
from autowarmup.errors import StudyError, StudyLockedError, StudyMismatchError, TaskFailedError
from autowarmup.study.store import StudyStore
from autowarmup.training.task import ModelTask
from tests.tasks import digits, linear, settings, wide

ROOT = Path(__file__).parent.parent
SCRIPT = """
import sys
from autowarmup import autotune
from tests.tasks import {task}
autotune(**{task}(study=sys.argv[1]))
"""


def findings(folder: Path) -> dict[str, Any]:
    """All that a study found, to the bit, without times and places."""
    result = json.loads((folder / "result.json").read_text())
    del result["study"]
    for record in result["records"]:
        del record["seconds"]
    store = StudyStore(folder)
    result["traces"] = {trial.spec.number: trial.trace.to_bytes() for trial in store.trials()}
    result["segments"] = [(t.spec.number, segment.until) for t in store.trials() for segment in t.segments]
    store.close()
    return result


def start(folder: Path, task: str = "settings") -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT.format(task=task), str(folder)], cwd=ROOT)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the study finds undisturbed, in this process."""
    folder = tmp_path_factory.mktemp("reference")
    autotune(**settings(study=folder))
    return findings(folder)


def test_finds_a_schedule_and_accounts_for_every_step(tmp_path: Path) -> None:
    result = autotune(**settings(study=tmp_path))
    assert result.verdict.kind == "tuned"
    assert result.schedule is not None
    assert [record.number for record in result.records] == list(range(len(result.records)))
    roles = [record.role for record in result.records]
    assert roles[:2] == ["probe", "baseline"]
    assert roles.count("baseline") == 1
    assert roles.count("confirmation") == 2 * len(result.verdict.comparisons[0].final_losses) <= 8
    assert result.cost.steps == sum(len(result.trace(record.number)) for record in result.records)
    assert result.cost.steps <= result.budget == result.config.budget_with(slots=1)
    assert result.trials[result.trials.role == "baseline"].warmup_steps.tolist() == [0]
    assert "tuned" in result.summary()
    for name in ("result.json", "schedule.json", "report.html"):
        assert (tmp_path / name).stat().st_size > 0
    assert not list((tmp_path / "checkpoints").glob("*"))
    assert TuneResult.load(tmp_path) == result


def test_a_current_schedule_that_is_good_is_kept_for_little(tmp_path: Path) -> None:
    """It was found by another study: this one looks at it first, finds nothing better, and says so."""
    found = autotune(**settings(study=tmp_path / "first")).schedule
    assert found is not None
    result = autotune(**settings(study=tmp_path / "second", current=found))
    assert result.config.current_peak == found.peak
    assert result.records[1].schedule == found
    assert result.verdict.kind == "tie"
    assert result.schedule == found
    assert result.cost.runs < 4


def test_a_part_of_the_current_schedule_is_filled_in(tmp_path: Path) -> None:
    current = {"warmup_steps": "10%", "shape": "linear"}
    result = autotune(**settings(study=tmp_path, current=current, confirm_seeds=0, budget="3.5 runs"))
    assert result.config.current == Schedule(peak=1e-3, horizon=40, warmup_steps=4, shape="linear")
    assert result.records[1].schedule == result.config.current
    assert result.budget == result.config.budget == 140
    assert result.cost.steps <= 140
    assert not result.verdict.comparisons


def test_a_shorter_study_shortens_the_current_schedule(tmp_path: Path) -> None:
    current = Schedule(peak=1e-3, horizon=400, warmup_steps=40, shape="linear")
    options = {"total_steps": 400, "tune_steps": 40, "current": current, "confirm_seeds": 0, "budget": "3.5 runs"}
    result = autotune(**settings(study=tmp_path, **options))
    assert result.budget == 140
    assert result.records[1].schedule.horizon == 40
    assert result.records[1].schedule.warmup_steps == 4
    assert result.records[1].schedule.peak > current.peak


def test_unfinished_trials_go_on_and_are_never_restarted(tmp_path: Path) -> None:
    autotune(**settings(study=tmp_path))
    store = StudyStore(tmp_path)
    promoted = [trial for trial in store.trials() if trial.spec.role == "proposal" and len(trial.segments) == 3]
    store.close()
    assert promoted
    for trial in promoted:
        ends = [segment.trace.end for segment in trial.segments]
        assert [segment.trace.start for segment in trial.segments] == [0, *ends[:-1]]
        assert ends[-1] == trial.spec.schedule.horizon


def test_the_same_seed_gives_the_same_result_in_another_process(reference: dict[str, Any], tmp_path: Path) -> None:
    assert start(tmp_path).wait() == 0
    assert findings(tmp_path) == reference


@pytest.fixture
def same_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that count or interrupt pass for the one that they stand in for."""
    monkeypatch.setattr(ModelTask, "describe", lambda self: {"model": "stand-in"})


@pytest.mark.usefixtures("same_task")
def test_a_finished_study_is_not_run_again(reference: dict[str, Any], tmp_path: Path) -> None:
    autotune(**settings(study=tmp_path))

    def refuses() -> nn.Module:
        if calls["left"] == 0:
            raise AssertionError("a finished study trained again")
        calls["left"] -= 1
        return settings()["model_fn"]()  # type: ignore[no-any-return]

    calls = {"left": 3}  # the checks before the study build three models
    autotune(**settings(study=tmp_path, model_fn=refuses))
    assert findings(tmp_path)["verdict"] == reference["verdict"]


def reports(folder: Path) -> int:
    """How many segments the study has finished; 0 before it has begun."""
    try:
        with closing(sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT count(*) FROM segments").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def killed_again_and_again(
    folder: Path, kills: int, seed: int, reference: dict[str, Any], task: str = "settings"
) -> None:
    """SIGKILLs the study in its midst, ``kills`` times; checks each study that finishes.

    Each time it may finish up to six segments more, and then lives up to 50 ms on, so a kill hits the middle of a
    segment, of a checkpoint's writing or of a transaction.
    """
    moments = random.Random(seed)
    delivered = attempt = 0
    while delivered < kills:
        study = folder / f"study-{attempt}"
        wanted = reports(study) + moments.randint(1, 6)
        process = start(study, task)
        while process.poll() is None and reports(study) < wanted:
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.05))
        if process.poll() is None and not (study / "result.json").exists():
            process.send_signal(signal.SIGKILL)
            process.wait()
            delivered += 1
        else:
            assert process.wait() == 0
            assert findings(study) == reference
            attempt += 1
    assert start(study, task).wait() == 0
    assert findings(study) == reference


@pytest.mark.slow
def test_killed_while_several_segments_are_under_way_it_loses_none(tmp_path: Path) -> None:
    """Four trials at a time: one trains, the others have been started or have arrived."""
    autotune(**wide(study=tmp_path / "undisturbed"))
    killed_again_and_again(tmp_path, 3, 4, findings(tmp_path / "undisturbed"), "wide")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_twenty_times_it_ends_with_the_same_result(reference: dict[str, Any], tmp_path: Path) -> None:
    killed_again_and_again(tmp_path, 20, 2, reference)


@pytest.mark.usefixtures("same_task")
@pytest.mark.parametrize("moment", range(3, 60, 7))
def test_interrupted_it_says_so_and_goes_on(moment: int, reference: dict[str, Any], tmp_path: Path) -> None:
    """A Ctrl-C in the ``moment``-th pass through the model's validation."""
    passes = {"left": moment * 2}

    class Interrupting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            passes["left"] -= not self.training
            if passes["left"] == 0:
                raise KeyboardInterrupt
            return x

    with pytest.raises(KeyboardInterrupt):
        autotune(**settings(study=tmp_path, model_fn=lambda: settings()["model_fn"]().append(Interrupting())))
    store = StudyStore(tmp_path)
    assert store.meta("status") == "interrupted"
    store.close()
    autotune(**settings(study=tmp_path, model_fn=lambda: settings()["model_fn"]().append(nn.Identity())))
    assert findings(tmp_path)["verdict"] == reference["verdict"]


def test_one_writer(tmp_path: Path) -> None:
    with FileLock(tmp_path / "study.lock"), pytest.raises(StudyLockedError, match="another process is working on"):
        autotune(**settings(study=tmp_path))


def test_a_study_of_other_versions_is_refused(reference: dict[str, Any], tmp_path: Path) -> None:
    """Where the decisions are no longer those that were taken, reports must not be credited to other schedules."""
    autotune(**settings(study=tmp_path))
    with closing(sqlite3.connect(tmp_path / "study.db")) as db, db:
        db.execute("""UPDATE trials SET spec = json_set(spec, '$.schedule.peak', 123.0) WHERE number = 5""")
    with pytest.raises(StudyError, match="trial 5 .* other versions"):
        autotune(**settings(study=tmp_path))


class Diverging(nn.Module):
    """Any step makes its next loss NaN, whatever the rate."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)
        self.start = self.head.weight.detach().clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moved = (self.head.weight.detach() - self.start).abs().max() > 0
        return self.head(x) * (torch.nan if moved else 1.0)


def test_where_every_candidate_diverges_nothing_is_stable(tmp_path: Path) -> None:
    result = autotune(**settings(study=tmp_path, model_fn=Diverging))
    assert result.verdict.kind == "nothing stable"
    assert result.schedule is None
    assert not (tmp_path / "schedule.json").exists()
    assert {record.outcome for record in result.records} == {"unstable"}
    assert all(record.instability and record.instability.kind == "non-finite" for record in result.records)
    assert all(record.instability.detected == 1 for record in result.records if record.instability)
    assert "nothing stable" in result.summary()
    assert TuneResult.load(tmp_path) == result


def test_where_no_run_learns_anything_it_says_so(tmp_path: Path) -> None:
    """Labels that have nothing to do with the images."""
    data = tuple((x, np.random.default_rng(0).permutation(y)) for x, y in digits())
    told = autotune(**settings(data=data, study=tmp_path / "wrong")).verdict.message
    assert "No run learned much" in told
    assert "ignore the input have one of 2.30" in told
    assert "learned" not in autotune(**settings(study=tmp_path / "right")).verdict.message


def test_a_cliff_is_avoided_and_its_foot_recorded(tmp_path: Path) -> None:
    """Candidates above a rate become NaN; what is found lies below, and the unstable ones cost little."""

    def cliff(params: Any) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(params, lr=1e-3)

        def check(*_: object) -> None:
            if optimizer.param_groups[0]["lr"] > 0.02:
                optimizer.param_groups[0]["params"][0].data.fill_(torch.nan)

        optimizer.register_step_post_hook(check)
        return optimizer

    space = SearchSpace(peak={"low": 1e-3, "high": 1.0})
    result = autotune(**settings(study=tmp_path, model_fn=linear, optimizer=cliff, space=space))
    assert result.schedule is not None
    assert result.schedule.peak <= 0.021
    unstable = result.trials[result.trials.outcome == "unstable"]
    assert len(unstable) >= 1
    assert result.cost.unstable_share < 0.1
    assert (unstable.instability_lr > 0.02).all()
    assert (unstable.instability == "non-finite").all()


def test_the_optuna_study_has_instability_as_an_observation_and_a_constraint(tmp_path: Path) -> None:
    found = autotune(**settings(study=tmp_path, model_fn=Diverging)).optuna_study()
    trials = found.get_trials()
    assert len(trials) >= 2
    for trial in trials:
        assert trial.state == optuna.trial.TrialState.COMPLETE
        assert np.isfinite(trial.value)  # type: ignore[arg-type]
        assert trial.constraints["instability"] == trial.user_attrs["severity"] > 0
    assert "peak" in found.ask(trials[0].distributions).params


def test_the_optuna_study_has_the_final_losses_and_the_current_schedule(tmp_path: Path) -> None:
    result = autotune(**settings(study=tmp_path))
    trials = {trial.user_attrs["number"]: trial for trial in result.optuna_study().get_trials()}
    searched = result.trials[result.trials.role.isin(["proposal", "baseline"])]
    assert set(searched[searched.role == "proposal"].index) <= set(trials) <= set(searched.index)
    for number, row in searched.loc[[*trials]].iterrows():
        assert trials[number].params["peak"] == row.peak
        if row.outcome == "completed":
            assert trials[number].value == row.val_loss


class Failing(nn.Linear):
    """Fails at one of its training steps, counted over all trials; those before the study are not counted."""

    left: dict[str, int]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) == 50:
            self.left["batches"] -= 1
            if self.left["batches"] < 0 and not self.left["mended"]:
                raise RuntimeError("disk full")
        return super().forward(x)


def failing(batches: int) -> dict[str, Any]:
    """A task whose batches of 50 images, the last ones of each pass, work so many times."""
    images = settings()["data"]
    left = {"batches": batches, "mended": 0}

    def model() -> nn.Module:
        made = Failing(64, 10)
        made.left = left
        return made

    return {"model_fn": model, "data": ((images[0][0][:178], images[0][1][:178]), images[1]), "left": left}


def test_a_failing_task_stops_the_study_which_goes_on_when_it_is_mended(tmp_path: Path) -> None:
    """The failure is shown, no schedule is called unstable because of it, and nothing that was finished is lost."""
    task = failing(batches=30)
    left = task.pop("left")
    undisturbed = failing(batches=10**9)
    undisturbed.pop("left")
    with pytest.raises(TaskFailedError, match="(?s)failed, as 2 trials did.*disk full"):
        autotune(**settings(study=tmp_path / "study", **task))
    with closing(StudyStore(tmp_path / "study")) as store:
        assert (store.meta("status"), "disk full" in store.meta("failure")) == ("failed", True)
        finished = {(t.spec.number, s.until) for t in store.trials() for s in t.segments}
    left["mended"] = 1
    result = autotune(**settings(study=tmp_path / "study", **task))
    assert result.verdict.kind != "nothing stable"
    assert "disk full" in result.summary()  # of the trial that failed first, which the search went on without
    with closing(StudyStore(tmp_path / "study")) as store:
        assert finished <= {(t.spec.number, s.until) for t in store.trials() for s in t.segments}
        assert store.meta("failure") is None


def test_one_failing_trial_does_not_stop_the_others(tmp_path: Path) -> None:
    steps = {"left": 80}

    class FailingOnce(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            steps["left"] -= 1
            if steps["left"] == 0:
                raise RuntimeError("out of luck")
            return super().forward(x)

    result = autotune(**settings(study=tmp_path, model_fn=lambda: FailingOnce(64, 10)))
    failed = [record for record in result.records if record.outcome == "failed"]
    assert len(failed) == 1
    assert "out of luck" in (failed[0].error or "")
    assert result.verdict.kind in {"tuned", "tie", "leaning"}


def test_a_failed_study_may_go_on_with_other_code_and_a_sound_one_may_not(tmp_path: Path) -> None:
    def failing_loop(run: Any) -> None:
        raise RuntimeError("no luck")

    def mended_loop(run: Any) -> None:
        for step in range(run.total_steps):
            if run.report(1.0 / (step + 1 + run.schedule.lr_at(step)), val_loss=1.0 + run.seed % 3):
                break

    def edited_loop(run: Any) -> None:
        for step in range(run.total_steps):
            if run.report(2.0 / (step + 1 + run.schedule.lr_at(step)), val_loss=1.0 + run.seed % 3):
                break

    for loop in (failing_loop, mended_loop, edited_loop):
        loop.__qualname__ = loop.__name__ = "train"
    common: dict[str, Any] = {"total_steps": 20, "study": tmp_path, "mlflow": False}
    with pytest.raises(TaskFailedError, match="no luck"):
        autotune(train_fn=failing_loop, **common)
    autotune(train_fn=mended_loop, **common)
    with pytest.raises(StudyMismatchError, match="task.code: there"):
        autotune(train_fn=edited_loop, **common)


def test_a_study_of_another_format_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "study.db")) as db:
        for table in ("meta", "trials", "reports"):  # the first version's
            db.execute(f"CREATE TABLE {table} (number INTEGER)")
    for write in (False, True):
        with pytest.raises(StudyError, match="another version of autowarmup .format 0, this one reads 3"):
            StudyStore(tmp_path, write=write)


def test_a_validation_loss_of_averaged_weights_that_is_infinite_is_none(tmp_path: Path) -> None:
    def train(run: Any) -> None:
        for step in range(run.total_steps):
            loss = 1.0 / (step + 1) + abs(run.schedule.peak - 1e-3)
            if run.report(loss, val_loss=loss, val_loss_ema=math.inf, lr=run.schedule.lr_at(step)):
                break

    assert autotune(train_fn=train, total_steps=20, study=tmp_path, mlflow=False).schedule is not None


@pytest.mark.parametrize("preset", ["transformer-pretraining", "fine-tuning", "large-batch-cnn", "from-scratch-sgd"])
def test_every_preset_makes_a_study(preset: str, tmp_path: Path) -> None:
    def sgd(params: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=0.05, momentum=0.9)

    result = autotune(**settings(study=tmp_path, space=preset, optimizer=sgd, total_steps=50, confirm_seeds=2))
    assert result.schedule is not None


def test_a_horizon_in_epochs(tmp_path: Path) -> None:
    result = autotune(**settings(study=tmp_path, total_steps="2 epochs"))
    assert result.config.total_steps == 20


def test_other_data_of_the_same_shapes_is_another_study(tmp_path: Path) -> None:
    autotune(**settings(study=tmp_path))
    (x, y), (x_val, y_val) = settings()["data"]
    with pytest.raises(StudyMismatchError, match="task.data: there"):
        autotune(**settings(study=tmp_path, data=((x * 3, y), (x_val * 3, y_val))))


def test_optunas_log_level_is_left_alone(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    autotune(**settings(study=tmp_path, total_steps=10))
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


def test_memory_of_paused_trials_is_on_disk_only(tmp_path: Path) -> None:
    """The checkpoint folder is the only place where a paused model lives; it is empty at the end."""
    seen: list[int] = []

    def counted() -> nn.Module:
        seen.append(len(os.listdir(tmp_path / "checkpoints")) if (tmp_path / "checkpoints").exists() else 0)
        return linear()

    autotune(**settings(study=tmp_path, model_fn=counted))
    assert max(seen) >= 3
    assert os.listdir(tmp_path / "checkpoints") == []
