"""General tuners, each as its own documentation recommends, over the same space and with every step counted.

All of them search the grid: the peak and the duration as numbers of their places (so the peak is on a log scale), shape
and decay as categories. The fidelity is the checkpoint, 1 to 20. They see the raw validation loss; ranking unfinished
trials by anything else is not their idea. A trial goes on where it stopped, so a promotion costs the new steps only.

What a method returns is the trial with the best final loss. A trial whose loss stops being finite ends there, at the
price of the steps it made, though neither Ray nor Syne Tune would stop it by themselves.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
import random as python_random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.search.objective import Objective, Plan

Method = Callable[[Objective, int], None]

PROPOSALS = 400
"""Trials that a method may start; more than any budget here allows."""


def validation(objective: Objective, plan: Plan, evaluation: int) -> float:
    """Trains on to an evaluation (counted from 1); its raw validation loss, NaN where the training broke."""
    until = min(evaluation * objective.eval_every, objective.horizon)
    trace = objective.train(objective.schedule(plan), until)
    if trace.end < until or not trace.evaluations or not math.isfinite(trace.loss[-1]):
        return math.nan
    loss = trace.evaluations[-1].val_loss
    return loss if math.isfinite(loss) else math.nan


def last_evaluation(objective: Objective) -> int:
    """The number of evaluations of a run: 20."""
    return math.ceil(objective.horizon / objective.eval_every)


def random(objective: Objective, seed: int) -> None:
    """Random search: whole runs of schedules drawn evenly."""
    rng = np.random.default_rng(seed)
    for _ in range(PROPOSALS):
        plan = (
            int(rng.integers(len(objective.peaks))),
            int(rng.integers(len(objective.durations))),
            str(rng.choice(objective.shapes)),
            str(rng.choice(objective.decays)),
        )
        validation(objective, plan, last_evaluation(objective))


# --- Optuna -----------------------------------------------------------------------------------------------


def optuna_tpe_hyperband(objective: Objective, seed: int) -> None:
    """TPE with Hyperband, the pair that Optuna's user guide names as the best for TPE."""
    import optuna

    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=last_evaluation(objective), reduction_factor=3)
    _optuna(objective, seed, optuna.samplers.TPESampler(seed=seed), pruner)


def optuna_tpe_median(objective: Objective, seed: int) -> None:
    """TPE with the median pruner, Optuna's default pruner."""
    import optuna

    _optuna(objective, seed, optuna.samplers.TPESampler(seed=seed), optuna.pruners.MedianPruner())


def optuna_gp(objective: Objective, seed: int) -> None:
    """Bayesian optimisation by Gaussian process. No pruner: the sampler takes no notice of pruned trials."""
    import optuna

    _optuna(objective, seed, optuna.samplers.GPSampler(seed=seed), optuna.pruners.NopPruner())


def _optuna(objective: Objective, seed: int, sampler: Any, pruner: Any) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Hyperband picks a trial's bracket by a hash of the study's name and the trial's number.
    study = optuna.create_study(sampler=sampler, pruner=pruner, study_name=f"seed {seed}")
    last = last_evaluation(objective)
    pruning = not isinstance(pruner, optuna.pruners.NopPruner)

    def run(trial: Any) -> float:
        plan = (
            trial.suggest_int("peak", 0, len(objective.peaks) - 1),
            trial.suggest_int("duration", 0, len(objective.durations) - 1),
            trial.suggest_categorical("shape", objective.shapes),
            trial.suggest_categorical("decay", objective.decays),
        )
        if not pruning:
            # Optuna counts NaN as a failure, from which no sampler learns. The GP takes no notice of pruned trials
            # either, but it clips infinities to the worst finite value.
            loss = validation(objective, plan, last)
            return math.inf if math.isnan(loss) else loss
        for checkpoint in range(1, last + 1):
            loss = validation(objective, plan, checkpoint)
            if math.isnan(loss):
                # As a failure TPE would not learn from it; as a pruned trial it counts among the bad ones.
                raise optuna.TrialPruned
            trial.report(loss, checkpoint)
            if checkpoint < last and trial.should_prune():
                raise optuna.TrialPruned
        return loss

    study.optimize(run, n_trials=PROPOSALS)


# --- Ray Tune and Syne Tune -------------------------------------------------------------------------------


def control(
    objective: Objective,
    start: Callable[[int], Plan],
    tell: Callable[[int, int, float], bool],
    fail: Callable[[int, int, float], None],
) -> None:
    """Plays a tuner's controller, one trial at a time.

    What counts here is steps. More trials at once would be faster by the clock, but each would start and be judged
    knowing less: with four, ASHA had no finished trial before two whole runs, and hardly ever did better.

    Args:
        objective: is trained.
        start: the plan for a trial of that number.
        tell: takes a trial's number, a checkpoint and the loss there; whether the trial goes on.
        fail: the same for a trial whose training broke, with the worst loss that any trial has shown so far (losses of
            untrained models included): neither Ray nor Syne Tune documents what to report, NaN confuses both, and a
            trial that isn't reported at all teaches their searchers nothing.
    """
    worst = -math.inf
    for number in range(PROPOSALS):
        plan = start(number)
        for checkpoint in range(1, last_evaluation(objective) + 1):
            loss = validation(objective, plan, checkpoint)
            if math.isnan(loss):
                first = float(objective.train(objective.schedule(plan), 1).loss[0])
                fail(number, checkpoint, max(worst, first) if math.isfinite(first) else worst)
                break
            worst = max(worst, loss)
            if not tell(number, checkpoint, loss):
                break


def ray_asha_optuna(objective: Objective, seed: int) -> None:
    """Ray Tune's ASHA with OptunaSearch, both with the defaults of their classes."""
    _ray(objective, seed, grace_period=1, reduction_factor=4)


def ray_asha_optuna_grace(objective: Objective, seed: int) -> None:
    """The same with the settings of the example in Ray's documentation: no stop within 10% of a run, a third goes on.

    The defaults are ahead where the first 5% of a run tell schedules apart, these where they don't.
    """
    _ray(objective, seed, grace_period=math.ceil(last_evaluation(objective) / 10), reduction_factor=3)


def _ray(objective: Objective, seed: int, grace_period: int, reduction_factor: int) -> None:
    """Calls scheduler and searcher as Tune's controller does, without a cluster."""
    import optuna
    from optuna.distributions import CategoricalDistribution, IntDistribution
    from ray.tune.schedulers import AsyncHyperBandScheduler
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    scheduler = AsyncHyperBandScheduler(
        metric="loss",
        mode="min",
        max_t=last_evaluation(objective),
        grace_period=grace_period,
        reduction_factor=reduction_factor,
    )
    space = {
        "peak": IntDistribution(0, len(objective.peaks) - 1),
        "duration": IntDistribution(0, len(objective.durations) - 1),
        "shape": CategoricalDistribution(objective.shapes),
        "decay": CategoricalDistribution(objective.decays),
    }
    searcher = OptunaSearch(space, metric="loss", mode="min", seed=seed)
    trials: dict[int, Any] = {}
    controller: Any = None

    def start(number: int) -> Plan:
        config = searcher.suggest(str(number))
        trials[number] = SimpleNamespace(trial_id=str(number), config=config)
        scheduler.on_trial_add(controller, trials[number])
        return config["peak"], config["duration"], config["shape"], config["decay"]

    def tell(number: int, checkpoint: int, loss: float) -> bool:
        result = {"loss": loss, "training_iteration": checkpoint}
        if scheduler.on_trial_result(controller, trials[number], result) == AsyncHyperBandScheduler.CONTINUE:
            searcher.on_trial_result(str(number), result)
            return True
        complete(number, result)
        return False

    def fail(number: int, checkpoint: int, loss: float) -> None:
        complete(number, {"loss": loss, "training_iteration": checkpoint})

    def complete(number: int, result: dict[str, Any]) -> None:
        scheduler.on_trial_complete(controller, trials[number], result)
        searcher.on_trial_complete(str(number), result)

    control(objective, start, tell, fail)


def syne_tune_asha_cqr(objective: Objective, seed: int) -> None:
    """Syne Tune's ASHA with conformal quantile regression.

    It is what Syne Tune's README tunes with first (CQR), in its multi-fidelity form, which its authors report to be
    ahead of BOHB, MOBSTER and Hyper-Tune (Salinas et al. 2023, arXiv 2305.03623); the release has neither MOBSTER nor
    Hyper-Tune nor DyHPO any more. The model is fitted anew at every fourth trial (``update_frequency``, which is there
    "to save scheduling time"): a fit takes a second.
    """
    from syne_tune.optimizer.schedulers.asha import AsynchronousSuccessiveHalving
    from syne_tune.optimizer.schedulers.searchers.last_value_multi_fidelity_searcher import (
        LastValueMultiFidelitySearcher,
    )

    def make(space: dict[str, Any], max_t: int, seed: int) -> Any:
        searcher = LastValueMultiFidelitySearcher(
            space, random_seed=seed, searcher="cqr", update_frequency=4, searcher_kwargs={}
        )
        return AsynchronousSuccessiveHalving(
            space, metric="loss", searcher=searcher, time_attr="checkpoint", max_t=max_t, random_seed=seed
        )

    _syne_tune(objective, seed, make)


def syne_tune_bohb(objective: Objective, seed: int) -> None:
    """Syne Tune's BOHB: ASHA with kernel density estimators."""
    from syne_tune.optimizer.baselines import BOHB

    def make(space: dict[str, Any], max_t: int, seed: int) -> Any:
        return BOHB(space, metric="loss", time_attr="checkpoint", max_t=max_t, random_seed=seed)

    _syne_tune(objective, seed, make)


def _syne_tune(objective: Objective, seed: int, make: Callable[[dict[str, Any], int, int], Any]) -> None:
    from datetime import datetime

    from syne_tune.backend.trial_status import Trial
    from syne_tune.config_space import choice, randint
    from syne_tune.optimizer.scheduler import SchedulerDecision

    logging.getLogger().setLevel(logging.CRITICAL)  # it logs to the root logger
    space = {
        "peak": randint(0, len(objective.peaks) - 1),
        "duration": randint(0, len(objective.durations) - 1),
        "shape": choice(list(objective.shapes)),
        "decay": choice(list(objective.decays)),
    }
    scheduler = make(space, last_evaluation(objective), seed)
    trials: dict[int, Any] = {}

    def start(number: int) -> Plan:
        config = scheduler.suggest().config
        trials[number] = Trial(trial_id=number, config=config, creation_time=datetime(2000, 1, 1))
        scheduler.on_trial_add(trials[number])
        return int(config["peak"]), int(config["duration"]), config["shape"], config["decay"]

    def tell(number: int, checkpoint: int, loss: float) -> bool:
        result = {"loss": loss, "checkpoint": checkpoint}
        if scheduler.on_trial_result(trials[number], result) == SchedulerDecision.CONTINUE:
            return True
        scheduler.on_trial_remove(trials[number])
        return False

    def fail(number: int, checkpoint: int, loss: float) -> None:
        scheduler.on_trial_complete(trials[number], {"loss": loss, "checkpoint": checkpoint})

    control(objective, start, tell, fail)


# --- NePS -------------------------------------------------------------------------------------------------


def neps_priorband(objective: Objective, seed: int) -> None:
    """NePS' PriorBand by ask and tell. Its prior is what people copy: today's rate and a linear warm-up over 10% with
    cosine decay. It draws from the global random generators."""
    import neps

    lengths = [abs(math.log(peak / objective.current_peak)) for peak in objective.peaks]
    duration = [abs(steps - 0.1 * objective.horizon) for steps in objective.durations]

    class Space(neps.PipelineSpace):
        peak = neps.Integer(0, len(objective.peaks) - 1, prior=int(np.argmin(lengths)), prior_confidence="medium")
        duration_number = neps.Integer(
            0, len(objective.durations) - 1, prior=int(np.argmin(duration)), prior_confidence="medium"
        )
        shape = neps.Categorical(objective.shapes, prior=objective.shapes.index("linear"), prior_confidence="medium")
        decay = neps.Categorical(objective.decays, prior=objective.decays.index("cosine"), prior_confidence="medium")
        checkpoint = neps.IntegerFidelity(1, last_evaluation(objective))

    tuner = neps.AskAndTell(neps.algorithms.priorband(Space()))
    for _ in range(PROPOSALS):
        trial = tuner.ask()
        config = trial.config
        plan = config["peak"], config["duration_number"], config["shape"], config["decay"]
        loss = validation(objective, plan, config["checkpoint"])
        # NePS' runtime reports an evaluation that raised as an exception, which counts as an infinite loss.
        tuner.tell(trial, FloatingPointError("the loss is not finite") if math.isnan(loss) else loss)


def _seeded(method: Method) -> Method:
    """The method with the global random generators seeded, which some libraries draw from, and given back after."""

    @wraps(method)
    def run(objective: Objective, seed: int) -> None:
        with _global_random(seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            method(objective, seed)

    return run


@contextmanager
def _global_random(seed: int) -> Iterator[None]:
    import torch

    python, numpy = python_random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        python_random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            python_random.setstate(python)
            np.random.set_state(numpy)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


PEERS: dict[str, Method] = {
    method.__name__: _seeded(method)
    for method in (
        random,
        optuna_tpe_hyperband,
        optuna_tpe_median,
        optuna_gp,
        ray_asha_optuna,
        ray_asha_optuna_grace,
        syne_tune_asha_cqr,
        syne_tune_bohb,
        neps_priorband,
    )
}
SLOW = ("syne_tune_asha_cqr",)
"""Methods that take many seconds a search."""

ABOUT: dict[str, str] = {
    "random": "random search, whole runs",
    "optuna_tpe_hyperband": f"Optuna {_version('optuna')}: TPE, Hyperband pruner",
    "optuna_tpe_median": f"Optuna {_version('optuna')}: TPE, median pruner",
    "optuna_gp": f"Optuna {_version('optuna')}: Gaussian process, whole runs",
    "ray_asha_optuna": f"Ray Tune {_version('ray')}: ASHA with OptunaSearch, defaults",
    "ray_asha_optuna_grace": f"Ray Tune {_version('ray')}: ASHA with OptunaSearch, its documentation's example",
    "syne_tune_asha_cqr": f"Syne Tune {_version('syne-tune')}: ASHA, conformal quantile regression",
    "syne_tune_bohb": f"Syne Tune {_version('syne-tune')}: BOHB on ASHA",
    "neps_priorband": f"NePS {_version('neural-pipeline-search')}: PriorBand, prior: today's rate, 10% linear, cosine",
}
