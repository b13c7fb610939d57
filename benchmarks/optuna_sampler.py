"""WarmupSampler with WarmupPruner against TPE with the median pruner, each in an Optuna study, on stored tables.

    python -m benchmarks.optuna_sampler                    # two tables, 8 searches each: a minute
    python -m benchmarks.optuna_sampler --tables mlp gru --searches 4

Every optimizer step counts, those that are repeated too. The sampler proposes schedules of a continuous space, which
become the nearest of the table's grid; TPE searches the grid itself. The prior is fitted without the table's task. The
sampler's study ends by itself; TPE's goes on to ten runs. The regret is by how much the best trial so far is worse than
the best schedule of the grid, in units of the seed noise.
"""

from __future__ import annotations

import argparse
import warnings
from contextlib import suppress

import numpy as np
import optuna

from autowarmup.optuna import WarmupPruner, WarmupSampler
from benchmarks.search.merit import Standard, budget, outcome
from benchmarks.search.objective import BudgetSpent, Objective, TableObjective
from benchmarks.search.ours import configured
from benchmarks.search.peers import optuna_tpe_median
from benchmarks.search.prior import prior_for
from benchmarks.search.slots import Slots
from benchmarks.search.tables import FOLDER, Table

TABLES = ("pre-norm-gpt", "residual-cnn")
RUNS = (1.5, 2.0, 3.0, 4.0, 5.0, 10.0)


def warmup_sampler(objective: Objective, seed: int) -> None:
    """A study with the sampler and its pruner, up to where the pairs on fresh seeds would start."""
    config = configured(objective, seed, confirm_seeds=4)
    fields = {name: getattr(config, name) for name in type(config).model_fields}
    sampler = WarmupSampler(**fields)
    sampler._prior = prior_for(objective.name)
    study = optuna.create_study(sampler=sampler, pruner=WarmupPruner(sampler))

    def trained(trial: optuna.Trial) -> float:
        run = sampler.run(trial)
        if run.role == "confirmation":
            raise BudgetSpent
        trace = objective.ramp(run.total_steps) if run.role == "probe" else None
        schedule = objective.snapped(run.schedule)
        objective.slots.now = objective.spent
        value = float("nan")
        for step in range(run.total_steps):
            if trace is None or run.role != "probe":
                trace = objective.train(schedule, step + 1, trial=trial.number)
            if step >= trace.end:
                raise optuna.TrialPruned
            marks = [e for e in trace.evaluations if e.step == step + 1]
            known = {"val_loss": marks[-1].val_loss, "val_loss_ema": marks[-1].val_loss_ema} if marks else {}
            value = known.get("val_loss", value)
            run.report(trace.loss[step], grad_norm=trace.grad_norm[step], **known)
            if trial.should_prune():
                if run.role == "probe":
                    objective.charge(step + 1)
                raise optuna.TrialPruned
        return value

    study.optimize(trained)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=TABLES, metavar="NAME")
    parser.add_argument("--searches", type=int, default=8)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    print("| table | method | runs spent | " + " | ".join(f"after {runs:g}" for runs in RUNS) + " |")
    print("| --- | --- | --: | " + " | ".join("--:" for _ in RUNS) + " |")
    for name in arguments.tables:
        judged = Standard(Table.load(FOLDER / f"{name}.npz"))
        table = judged.table
        for method in (warmup_sampler, optuna_tpe_median):
            outcomes = []
            for number in range(arguments.searches):
                seed = table.seeds[number % len(table.seeds)]
                objective = TableObjective(table, seed, round(budget(1) * table.horizon), Slots(1))
                with suppress(BudgetSpent):
                    method(objective, number)
                outcomes.append(outcome(judged, objective, seed))
            regrets = [np.median([one.regret_at_runs(runs) for one in outcomes]) for runs in RUNS]
            spent = np.median([one.spent for one in outcomes])
            told = " | ".join("-" if np.isinf(regret) else f"{regret:.1f}" for regret in regrets)
            print(f"| {name} | {method.__name__} | {spent:.1f} | {told} |", flush=True)


if __name__ == "__main__":
    main()
