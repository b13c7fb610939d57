"""The pruner."""

from __future__ import annotations

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial

from autowarmup.errors import InputError
from autowarmup.optuna.sampler import WarmupSampler


class WarmupPruner(BasePruner):
    """An Optuna pruner that prunes a trial where a :class:`WarmupSampler` wouldn't go on with it, or where its reports
    show an instability.

    Args:
        sampler: the sampler of the same study.
    """

    def __init__(self, sampler: WarmupSampler) -> None:
        if not isinstance(sampler, WarmupSampler):
            raise InputError(f"a WarmupPruner needs the study's WarmupSampler, got {type(sampler).__name__}")
        self._sampler = sampler

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial is to end now."""
        return self._sampler.is_pruned(study, trial)
