"""The search in an Optuna study of the user's own."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from autowarmup import Schedule, SearchSpace
from autowarmup.errors import InputError
from autowarmup.optuna import TrialRun, WarmupPruner, WarmupSampler
from autowarmup.search.candidates import harsher
from autowarmup.training.objective import Objective

ROOT = Path(__file__).parent.parent
Objectives = Callable[[optuna.Trial], float]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    yield
    optuna.logging.set_verbosity(before)


def made(**changes: Any) -> WarmupSampler:
    return WarmupSampler(**{"total_steps": 40, "current_peak": 1e-3} | changes)


def created(sampler: WarmupSampler, storage: str | None = None, **settings: Any) -> optuna.Study:
    return optuna.create_study(
        sampler=sampler, pruner=WarmupPruner(sampler), storage=storage, study_name="s", load_if_exists=True, **settings
    )


def final_loss(run: TrialRun) -> float:
    """The best peak is 0.03, the best duration 6 steps."""
    schedule = run.schedule
    off = math.log10(schedule.peak / 0.03)
    return 0.5 + off**2 + 0.01 * (math.sqrt(schedule.duration) - 2.5) ** 2 + run.seed % 7 * 1e-4


def losses(run: TrialRun) -> Iterator[float]:
    """Falls from 3 to the final loss. Above a learning rate of 0.4 it isn't finite."""
    level, final = 3.0, final_loss(run)
    for step in range(run.total_steps):
        lr = run.schedule.lr_at(step)
        if run.role == "probe":
            level = level + (lr * 4 if lr > 0.1 else -min(0.2, lr * 10))
        else:
            level = math.nan if lr > 0.4 else final + (3.0 - final) * (1 - (step + 1) / run.total_steps) ** 2
        yield level


def trained(run: TrialRun, trial: optuna.Trial, at: Callable[[int], None] = lambda step: None) -> float:
    """An objective's loop."""
    value = math.nan
    for step, loss in enumerate(losses(run)):
        at(step)
        value = loss
        run.report(loss, val_loss=value if run.should_validate else None)
        if trial.should_prune():
            raise optuna.TrialPruned
    return value


def objective(sampler: WarmupSampler) -> Objectives:
    return lambda trial: trained(sampler.run(trial), trial)


def roles(study: optuna.Study) -> list[str]:
    return [trial.user_attrs["role"] for trial in study.trials]


def schedules(study: optuna.Study) -> list[Any]:
    """What was trained, without what failed."""
    return [
        (trial.user_attrs["schedule"], trial.user_attrs["seed"], trial.state)
        for trial in study.trials
        if trial.state != TrialState.FAIL
    ]


def test_it_finds_a_schedule_and_stops_by_itself() -> None:
    sampler = made()
    study = created(sampler)
    study.optimize(objective(sampler))
    assert sampler.conclusion is not None
    verdict = sampler.conclusion.verdict
    assert verdict.kind == "tuned"
    assert verdict.schedule is not None
    assert 0.01 < verdict.schedule.peak < 0.1
    assert roles(study)[:3] == ["probe", "proposal", "baseline"]
    assert "confirmation" in roles(study)
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in study.trials)
    proposal = next(trial for trial in study.trials if trial.user_attrs["role"] == "proposal")
    assert {"peak", "shape", "warmup_steps_sqrt"} <= {*proposal.params}
    assert proposal.params["peak"] == sampler.schedule_of(proposal).peak
    assert [*proposal.intermediate_values] == [*range(2, 41, 2)]
    assert sampler.conclusion_of(study) == sampler.conclusion


def test_by_ask_and_tell() -> None:
    sampler = made(confirm_seeds=1)
    study = created(sampler)
    while sampler.conclusion is None:
        trial = study.ask()
        try:
            study.tell(trial, trained(sampler.run(trial), trial))
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
    with pytest.raises(optuna.TrialPruned, match="the search is over"):
        sampler.run(study.ask())


def test_a_study_that_is_over_ends_at_once_when_it_is_optimized_again() -> None:
    sampler = made(confirm_seeds=0)
    study = created(sampler)
    study.optimize(objective(sampler))
    count = len(study.trials)
    again = made(confirm_seeds=0)
    study.sampler, study.pruner = again, WarmupPruner(again)
    study.optimize(objective(again))
    assert again.conclusion == sampler.conclusion
    assert [trial.state for trial in study.trials[count:]] == [TrialState.PRUNED]


def test_decisions_follow_from_the_trials_alone() -> None:
    """A new sampler for each trial finds what one sampler finds."""
    sampler = made(confirm_seeds=2)
    whole = created(sampler)
    whole.optimize(objective(sampler))
    parts = created(made())
    for _ in whole.trials:
        sampler = made(confirm_seeds=2)
        parts.sampler, parts.pruner = sampler, WarmupPruner(sampler)
        parts.optimize(objective(sampler), n_trials=1)
    assert schedules(parts) == schedules(whole)


KILLED = """
import os, signal, sys
import optuna
from tests.test_optuna import created, made, trained
optuna.logging.set_verbosity(optuna.logging.CRITICAL)
storage, steps = sys.argv[1], int(sys.argv[2])
sampler = made(confirm_seeds=2)
left = [steps]

def at(step):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)

created(sampler, storage).optimize(lambda trial: trained(sampler.run(trial), trial, at))
"""


def killed_after(steps: int, storage: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", KILLED, storage, str(steps)], env=environment)


def test_a_study_in_a_database_goes_on_after_its_process_was_killed(tmp_path: Path) -> None:
    """Nothing that was finished is lost or made twice."""
    sampler = made(confirm_seeds=2)
    whole = created(sampler)
    whole.optimize(objective(sampler))
    storage = f"sqlite:///{tmp_path}/optuna.db"
    process = killed_after(60, storage)
    assert process.wait(120) == -signal.SIGKILL
    sampler = made(confirm_seeds=2)
    resumed = created(sampler, storage)
    assert TrialState.RUNNING in [trial.state for trial in resumed.trials]
    resumed.optimize(objective(sampler))
    assert schedules(resumed) == schedules(whole)
    assert [trial.state for trial in resumed.trials].count(TrialState.FAIL) == 1
    assert sampler.conclusion is not None


@pytest.mark.slow
def test_processes_work_on_one_study_together(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/optuna.db"
    created(made(), storage)
    processes = [killed_after(10**9, storage) for _ in range(2)]
    assert [process.wait(240) for process in processes] == [0, 0]
    sampler = made(confirm_seeds=2)
    study = created(sampler, storage)
    conclusion = sampler.conclusion_of(study)
    assert conclusion is not None
    assert conclusion.verdict.kind == "tuned"
    assert {trial.user_attrs["worker"] for trial in study.trials if trial.user_attrs} != set()


def test_several_trials_at_once() -> None:
    """None of them repeats another one that runs. Where the running ones decide what comes next, a trial is pruned."""
    sampler = made(slots=3, confirm_seeds=2)
    study = created(sampler)
    running: list[tuple[optuna.Trial, TrialRun]] = []
    reasons: list[str] = []
    while sampler.conclusion is None:
        while len(running) < 3 and sampler.conclusion is None:
            trial = study.ask()
            try:
                running.append((trial, sampler.run(trial)))
            except optuna.TrialPruned as raised:
                study.tell(trial, state=TrialState.PRUNED)
                reasons.append(str(raised))
                break
        assert running
        assert len({(run.schedule, run.seed) for _, run in running}) == len(running)
        trial, run = running.pop(0)
        try:
            study.tell(trial, trained(run, trial))
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
    assert not running
    assert set(reasons) == {"there is nothing to train until one of the trials that run has ended"}
    assert sampler.conclusion.verdict.kind == "tuned"


def test_a_trial_whose_end_is_being_stored_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may ask in between, and all steps are reported by then."""
    sampler = made(slots=2)
    study = created(sampler)
    with pytest.raises(optuna.TrialPruned):
        trained(sampler.run(probe := study.ask()), probe)
    study.tell(probe, state=TrialState.PRUNED)
    trial = study.ask()
    value = trained(sampler.run(trial), trial)
    store, asked = study._storage.set_trial_state_values, []

    def stored(trial_id: int, *args: Any, **keywords: Any) -> bool:
        if not asked:
            asked.extend(study.ask() for _ in range(2))
            assert [sampler.run(other).role for other in asked] == ["baseline", "proposal"]
        return store(trial_id, *args, **keywords)

    monkeypatch.setattr(study._storage, "set_trial_state_values", stored)
    study.tell(trial, value)
    assert [trial.state for trial in study.trials[1:]] == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.RUNNING]


def test_threads() -> None:
    sampler = made(slots=2, confirm_seeds=1)
    study = created(sampler)
    study.optimize(objective(sampler), n_jobs=2)
    assert sampler.conclusion is not None
    assert sampler.conclusion.verdict.kind == "tuned"


def test_an_instability_is_a_constraint_and_nothing_harsher_follows() -> None:
    sampler = made(space=SearchSpace(peak={"low": 0.3, "high": 1.0}, shapes=["linear"]))  # type: ignore[arg-type]
    study = created(sampler)
    study.optimize(objective(sampler))
    unstable = [trial for trial in study.trials if trial.user_attrs.get("outcome") == "unstable"]
    assert unstable
    for trial in unstable:
        assert trial.state == TrialState.PRUNED
        assert trial.constraints["instability"] == trial.user_attrs["severity"] > 0
        assert trial.user_attrs["instability"]
        assert trial.user_attrs["steps"] < 40
        later = [t for t in study.trials[trial.number + 1 :] if t.user_attrs["role"] == "proposal"]
        assert not any(harsher(sampler.schedule_of(t), sampler.schedule_of(trial)) for t in later)
    stable = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert all(trial.constraints["instability"] == 0.0 for trial in stable)


def test_a_loss_that_is_not_finite_ends_the_trial() -> None:
    sampler = made()
    study = created(sampler)
    sampler.run(trial := study.ask())
    study.tell(trial, state=TrialState.PRUNED)
    trial = study.ask()
    run = sampler.run(trial)
    run.report(2.0)
    assert not trial.should_prune()
    assert run.report(math.nan)
    assert trial.should_prune()
    assert run.report(1.0), "what follows changes nothing"


def test_other_parameters_are_sampled_and_those_of_fresh_seeds_are_the_proposal_s() -> None:
    sampler = made(confirm_seeds=2)
    study = created(sampler)

    def with_dropout(trial: optuna.Trial) -> float:
        dropout = trial.suggest_float("dropout", 0.0, 0.5)
        return trained(sampler.run(trial), trial) + 0.01 * dropout

    study.optimize(with_dropout)
    fresh = [trial for trial in study.trials if trial.user_attrs["role"] == "confirmation"]
    proposed = {trial.params["dropout"] for trial in study.trials if trial.user_attrs["role"] == "proposal"}
    assert len(proposed) > 1
    assert {trial.params["dropout"] for trial in fresh} < proposed
    assert len({trial.params["dropout"] for trial in fresh}) == 1


def test_a_trial_of_the_user_s_own_is_evidence() -> None:
    sampler = made()
    study = created(sampler)
    study.enqueue_trial({"peak": 0.025, "warmup_steps_sqrt": 2.5})
    study.optimize(objective(sampler), n_trials=1)
    trial = study.trials[0]
    assert trial.user_attrs["role"] == "proposal"
    assert sampler.schedule_of(trial).peak == 0.025
    assert sampler.schedule_of(trial).warmup_steps == 6
    study.optimize(objective(sampler))
    assert roles(study)[1:3] == ["probe", "baseline"], "there is a proposal already"
    assert sampler.conclusion is not None


def test_optuna_s_samplers_and_pictures_take_the_study() -> None:
    sampler = made(confirm_seeds=1)
    study = created(sampler)
    study.optimize(objective(sampler))
    count = len(study.trials)
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=1, seed=0)

    def with_tpe(trial: optuna.Trial) -> float:
        return (math.log10(trial.suggest_float("peak", 1e-6, 1.0, log=True) / 0.03)) ** 2

    study.optimize(with_tpe, n_trials=3)
    assert len(study.trials) == count + 3
    import matplotlib.pyplot as plt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.visualization.matplotlib.plot_intermediate_values(study)
        optuna.visualization.matplotlib.plot_slice(study, params=["peak"])
    plt.close("all")


def test_a_metric_that_is_maximized() -> None:
    wanted = Objective(name="accuracy", direction="maximize")
    sampler = made(objective=wanted, confirm_seeds=1)
    study = created(sampler, direction="maximize")

    def with_accuracy(trial: optuna.Trial) -> float:
        run = sampler.run(trial)
        accuracy = 0.0
        for loss in losses(run):
            accuracy = 1.0 / (1.0 + loss)
            run.report(loss, **({"val_loss": loss, "accuracy": accuracy} if run.should_validate else {}))
            if trial.should_prune():
                raise optuna.TrialPruned
        return accuracy

    study.optimize(with_accuracy)
    assert sampler.conclusion is not None
    assert sampler.conclusion.verdict.kind == "tuned"
    assert 0.4 < study.best_value < 1.0
    assert "accuracy" in sampler.conclusion.verdict.message


def test_averaged_weights_rank_and_raw_ones_are_kept() -> None:
    sampler = made()
    study = created(sampler)
    sampler.run(trial := study.ask())
    study.tell(trial, state=TrialState.PRUNED)
    trial = study.ask()
    run = sampler.run(trial)
    for step in range(10):
        run.report(2.0 - 0.1 * step, val_loss=1.0, val_loss_ema=0.75)
    found = study.trials[1]
    assert set(found.intermediate_values.values()) == {0.75}
    assert set(found.user_attrs["raw"].values()) == {1.0}


def test_without_validations_the_training_loss_takes_their_place() -> None:
    sampler = made()
    study = created(sampler)
    sampler.run(trial := study.ask())
    study.tell(trial, state=TrialState.PRUNED)
    run = sampler.run(study.ask())
    for step in range(6):
        run.report(3.0 - 0.1 * step)
    assert study.trials[1].intermediate_values == pytest.approx({2: 2.95, 4: 2.75, 6: 2.55})


def test_a_run_that_fails_twice_stops_the_study(caplog: pytest.LogCaptureFixture) -> None:
    sampler = made()
    study = created(sampler)

    def broken(trial: optuna.Trial) -> float:
        sampler.run(trial)
        raise OSError("no data")

    study.optimize(broken, n_trials=10, catch=(OSError,))
    assert len(study.trials) == 2
    assert "trial 1 (probe) failed, as it did before: the study stops" in caplog.text


def test_bad_input() -> None:
    with pytest.raises(InputError, match="pass current_peak, .* or current, your schedule"):
        WarmupSampler(total_steps=40)
    with pytest.raises(InputError, match="slots=0: must be a whole number of trials, at least 1"):
        made(slots=0)
    with pytest.raises(InputError, match="total_steps"):
        made(total_steps=3)
    with pytest.raises(InputError, match="needs the study's WarmupSampler, got TPESampler"):
        WarmupPruner(optuna.samplers.TPESampler())  # type: ignore[arg-type]
    sampler = made()
    for directions in (["maximize"], ["minimize", "minimize"]):
        study = optuna.create_study(sampler=sampler, directions=directions)
        with pytest.raises(InputError, match=rf"direction is {', '.join(directions)}, .*direction='minimize'"):
            sampler.run(study.ask())
    study = created(sampler)
    run = sampler.run(study.ask())
    with pytest.raises(InputError, match=r"report\(loss='x'\): not a number"):
        run.report("x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="takes the optuna.Trial .* got FrozenTrial"):
        sampler.run(study.trials[0])  # type: ignore[arg-type]
    trial = optuna.trial.create_trial(value=1.0)
    with pytest.raises(InputError, match="has no schedule"):
        sampler.schedule_of(trial)


def test_an_objective_that_asks_for_no_run_ends_the_study() -> None:
    study = created(made())
    with pytest.raises(InputError, match=r"trial 0 ended without sampler.run\(trial\)"):
        study.optimize(lambda trial: 1.0, n_trials=50)
    assert len(study.trials) == 1


def test_more_reports_than_steps_are_refused() -> None:
    sampler = made()
    study = created(sampler)
    run = sampler.run(study.ask())
    for _ in range(run.total_steps):
        run.report(1.0)
    with pytest.raises(InputError, match="has 10 steps, and all of them were reported"):
        run.report(1.0)


def test_the_current_schedule_may_lie_outside_the_space() -> None:
    current = Schedule(peak=1e-3, horizon=40, warmup_steps=4, shape="cosine")
    sampler = WarmupSampler(total_steps=40, current=current, space=SearchSpace(shapes=["linear"]), confirm_seeds=1)
    study = created(sampler)
    study.optimize(objective(sampler))
    baseline: FrozenTrial = next(trial for trial in study.trials if trial.user_attrs["role"] == "baseline")
    assert baseline.params == {}
    assert sampler.schedule_of(baseline) == current
