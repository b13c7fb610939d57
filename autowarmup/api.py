"""The front door: wires a study together and conducts it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autowarmup.engines.settings import RaySettings
from autowarmup.errors import InputError
from autowarmup.instability.monitor import Detectors
from autowarmup.schedule.duration import Duration, duration_steps
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.config import TuneConfig
from autowarmup.values import checked

if TYPE_CHECKING:
    from torch import nn

    from autowarmup.engines.base import Engine
    from autowarmup.study.progress import Progress
    from autowarmup.study.result import TuneResult
    from autowarmup.training.base import Task
    from autowarmup.training.loop import LoopRun
    from autowarmup.training.losses import Loss
    from autowarmup.training.recipe import OptimizerFactory


def autotune(
    model_fn: Callable[[], nn.Module] | None = None,
    data: Any = None,
    *,
    total_steps: Duration,
    tune_steps: Duration | None = None,
    train_fn: Callable[[LoopRun], Any] | None = None,
    loss: Loss | None = None,
    optimizer: OptimizerFactory | None = None,
    metrics: dict[str, Loss] | None = None,
    batch_size: int = 32,
    accumulate: int = 1,
    clip_norm: float | None = None,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    device: str | None = None,
    compile: bool = False,
    space: SearchSpace | str | Path = "default",
    budget: int | None = None,
    seed: int = 0,
    current_peak: float | None = None,
    beta2: float | None = None,
    confirm_seeds: int = 3,
    cohort: int = 1,
    detectors: Detectors | None = None,
    study: str | Path | None = None,
    mlflow: str | Literal[False] | None = None,
    progress: bool | Progress | None = None,
    engine: Literal["local", "ray"] | RaySettings = "local",
) -> TuneResult:
    """Finds the learning-rate warm-up for a model and its data, with the evidence for it.

    Call it again with the same arguments to go on with a study that was interrupted.

    Args:
        model_fn: builds a fresh model.
        data: ``(train, validation)``, each a DataLoader, a Dataset, or a tuple of tensors or NumPy arrays; or a
            callable that returns such a pair.
        total_steps: the run that the schedule is for, in optimizer steps, or ``"5 epochs"``.
        tune_steps: a shorter horizon to tune at, where whole runs are too dear; the schedule is then extrapolated, and
            the result says with which uncertainty.
        train_fn: a training loop of your own, in place of ``model_fn`` and ``data``; see :class:`autowarmup.LoopRun`.
        loss: ``loss(output, target)``; inferred in the usual cases.
        optimizer: ``optimizer(params)`` builds it, with the learning rate you use today; AdamW if left out.
        metrics: further validation metrics, ``metric(output, target)``, by name.
        batch_size: for Datasets, tensors and arrays.
        accumulate: batches per optimizer step.
        clip_norm: largest gradient norm.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        device: left out, the best there is.
        compile: whether to run the model through ``torch.compile``.
        space: which schedules may be proposed: a preset's name, a YAML file or a :class:`autowarmup.SearchSpace`.
        budget: optimizer steps that the whole study may spend; left out, twelve whole runs with three
            ``confirm_seeds``, of which a study that settles sooner spends less.
        seed: fixes the study: the same seed gives the same result.
        current_peak: the learning rate you use today; left out, the optimizer's (1e-3 for a ``train_fn``).
        beta2: Adam's second-moment decay, for the untuned rule; left out, the optimizer's.
        confirm_seeds: fresh paired seeds on which the winner meets the baselines.
        cohort: trials that are trained at the same time; on one machine 1 is best.
        detectors: settings of the instability detectors.
        study: the study's folder; left out, one under ``studies/`` named after what is tuned.
        mlflow: a tracking URI; left out, ``MLFLOW_TRACKING_URI`` or a store in the study's folder; False for none.
        progress: left out or True, progress is shown on standard error: live on a terminal, elsewhere (a job's log, a
            notebook) as a line for each trial that ended. False for silence. Or an object that is told what happens,
            a :class:`autowarmup.study.progress.Progress`.
        engine: where trials run: ``"local"``, one after the other in this process; ``"ray"``, or a
            :class:`autowarmup.RaySettings`, many at a time on a Ray cluster. The result is the same, but for several
            ``processes`` a trial, which round sums in another order.

    Returns:
        The verdict (tuned, tie or nothing stable), the schedule, every trial and what it cost.

    Raises:
        InputError: something that was passed can't be used; before the first trial.
        StudyError: the study's folder can't be used.
        ClusterError: the Ray cluster can't be used, or was lost.
        TaskFailedError: the first trials all failed in the same way.

    Example:
        >>> import torch
        >>> from autowarmup import autotune
        >>> x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0)); y = x.sum(1, keepdim=True)
        >>> result = autotune(
        ...     lambda: torch.nn.Linear(4, 1), ((x[:192], y[:192]), (x[192:], y[192:])),
        ...     total_steps=20, study=tmp_path / "study", mlflow=False,
        ... )
        >>> result.verdict.kind, result.cost.runs <= 12
        ('tuned', True)
    """
    task = _task(
        model_fn, data, train_fn, loss, optimizer, metrics, current_peak=current_peak, beta2=beta2,
        batch_size=batch_size, accumulate=accumulate, clip_norm=clip_norm,
        precision=precision, device=device, compile=compile,
    )  # fmt: skip
    if "%" in str(total_steps):
        raise InputError(f"total_steps={total_steps!r}: a share of what? Give steps, or epochs such as '5 epochs'")
    wanted = duration_steps(total_steps, 0, task.steps_per_epoch)
    trained = wanted if tune_steps is None else duration_steps(tune_steps, wanted, task.steps_per_epoch)
    config = checked(
        TuneConfig,
        total_steps=wanted,
        tune_steps=None if tune_steps is None else trained,
        budget=TuneConfig.default_budget(trained, confirm_seeds) if budget is None else budget,
        space=space if isinstance(space, SearchSpace) else SearchSpace.load(space),
        seed=seed,
        current_peak=task.current_peak if current_peak is None else current_peak,
        beta2=task.beta2 if beta2 is None else beta2,
        confirm_seeds=confirm_seeds,
        cohort=cohort,
        steps_per_epoch=task.steps_per_epoch,
        trivial_loss=task.trivial_loss,
        detectors=detectors or Detectors(),
        task=task.describe(),
    )
    folder = Path(study) if study is not None else _default_folder(config)

    from autowarmup.report import write_report
    from autowarmup.study.display import progress_for
    from autowarmup.study.driver import conduct, opened_study
    from autowarmup.study.progress import warning_of_failure
    from autowarmup.tracking import mirrored

    uri = _tracking_uri(folder, mlflow)
    shown = progress_for(progress) if progress is None or isinstance(progress, bool) else progress
    with (
        closing(shown),
        closing(_engine(engine, task, folder / "checkpoints")) as trials,
        opened_study(folder, config, uri) as store,
        mirrored(store, uri, shown),
    ):
        result = conduct(store, config, trials, shown)
        shown.doing("writing the report")
        with warning_of_failure("the report", shown):
            write_report(result, {trial.spec.number: trial.trace for trial in store.trials()}, folder)
    return result


def _task(
    model_fn: Any, data: Any, train_fn: Any, loss: Any, optimizer: Any, metrics: Any,
    *, current_peak: float | None, beta2: float | None, **settings: Any,
) -> Task:  # fmt: skip
    if (model_fn is None) == (train_fn is None):
        raise InputError("pass either model_fn and data, or train_fn")
    if train_fn is not None:
        from autowarmup.training.loop import LoopTask

        defaults = {"batch_size": 32, "accumulate": 1, "precision": "fp32", "compile": False}
        given = {"data": data, "loss": loss, "optimizer": optimizer, "metrics": metrics} | settings
        odd = [name for name, value in given.items() if value != defaults.get(name)]
        if odd:
            raise InputError(f"{', '.join(odd)} can't be given with train_fn: train_fn does that itself")
        return LoopTask(train_fn, current_peak=current_peak or 1e-3, beta2=beta2 or 0.999)
    from autowarmup.training.recipe import TrainSettings
    from autowarmup.training.task import ModelTask

    training = checked(TrainSettings, **settings)
    return ModelTask(model_fn, data, loss=loss, optimizer=optimizer, metrics=metrics, settings=training)


def _engine(chosen: Literal["local", "ray"] | RaySettings, task: Task, folder: Path) -> Engine:
    if chosen == "local":
        from autowarmup.engines.local import LocalEngine

        return LocalEngine(task, folder)
    if chosen != "ray" and not isinstance(chosen, RaySettings):
        raise InputError(f'engine={chosen!r} is not one; allowed: "local", "ray" or a RaySettings')
    from autowarmup.engines.ray import RayEngine

    return RayEngine(task, folder, chosen if isinstance(chosen, RaySettings) else RaySettings())


def _default_folder(config: TuneConfig) -> Path:
    """The same for the same configuration, so that the same call goes on with the same study."""
    name = str(config.task.get("model") or config.task.get("train_fn") or "study").replace("<", "").replace(">", "")
    return Path("studies") / f"{name}-{hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:8]}"


def _tracking_uri(folder: Path, mlflow: str | Literal[False] | None) -> str | None:
    from autowarmup.tracking import tracking_uri

    return None if mlflow is False else tracking_uri(folder, mlflow)
