"""autowarmup's search for your own Optuna study: a sampler and a pruner for ``optuna.create_study``.

The objective is yours. It asks the sampler for a run, which has the schedule and the seed, and reports every optimizer
step to it::

    sampler = WarmupSampler(total_steps=300, current_peak=1e-3)
    study = optuna.create_study(sampler=sampler, pruner=WarmupPruner(sampler))

    def objective(trial):
        run = sampler.run(trial)
        torch.manual_seed(run.seed)
        ...
        for step in range(run.total_steps):
            loss = ...                                   # one optimizer step at run.schedule.lr_at(step)
            val_loss = validate() if run.should_validate else None
            run.report(loss, val_loss=val_loss)
            if trial.should_prune():
                raise optuna.TrialPruned
        return val_loss

    study.optimize(objective)                            # stops by itself
    print(sampler.conclusion.verdict.message)

What the search knows is in the study's trials: parameters, intermediate values, states, and the attributes that
:meth:`WarmupSampler.run` sets. So a study in a database goes on after its process was killed, several processes can
work on it, and Optuna's visualisations and other samplers find what they expect.
"""

from autowarmup.optuna.pruner import WarmupPruner
from autowarmup.optuna.run import TrialRun
from autowarmup.optuna.sampler import WarmupSampler

__all__ = ["TrialRun", "WarmupPruner", "WarmupSampler"]
