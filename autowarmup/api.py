"""The front door: wires a study together and conducts it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autowarmup.arguments import Arguments, current_schedule, loaded_space, patterns_of
from autowarmup.engines.settings import RaySettings
from autowarmup.errors import InputError
from autowarmup.instability.monitor import Detectors
from autowarmup.schedule.duration import Duration, budget_steps, duration_steps
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.config import TuneConfig
from autowarmup.search.one_run import climb_of
from autowarmup.training.objective import Objective
from autowarmup.training.settings import TrainSettings
from autowarmup.values import nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from autowarmup.engines.base import Engine
    from autowarmup.study.progress import Progress
    from autowarmup.study.result import TuneResult
    from autowarmup.study.store import StudyStore
    from autowarmup.training.base import Task
    from autowarmup.training.loop import LoopRun
    from autowarmup.training.losses import Loss
    from autowarmup.training.optimizers import OptimizerFactory

DEFAULTS = TrainSettings()


def autotune(
    model_fn: Callable[[], nn.Module] | None = None,
    data: Any = None,
    *,
    total_steps: Duration,
    mode: Literal["study", "one-run"] = "study",
    tune_steps: Duration | None = None,
    train_fn: Callable[[LoopRun], Any] | None = None,
    loss: Loss | None = None,
    optimizer: OptimizerFactory | None = None,
    metrics: dict[str, Loss] | None = None,
    batch_size: int = DEFAULTS.batch_size,
    accumulate: int = DEFAULTS.accumulate,
    clip_norm: float | None = DEFAULTS.clip_norm,
    precision: Literal["fp32", "bf16", "fp16"] = DEFAULTS.precision,
    device: str | torch.device | None = DEFAULTS.device,
    compile: bool = DEFAULTS.compile,
    space: SearchSpace | dict[str, Any] | str | Path = "default",
    budget: int | str | None = None,
    seed: int = 0,
    current: Schedule | dict[str, Any] | None = None,
    groups: Mapping[str, str | Sequence[str]] | Literal["optimizer"] | None = None,
    current_peak: float | None = None,
    beta2: float | None = None,
    steps_per_epoch: int | None = None,
    confirm_seeds: int = 4,
    margin: float = 0.005,
    cohort: int | None = None,
    trivial_loss: float | None = None,
    objective: str = "loss",
    direction: Literal["minimize", "maximize"] | None = None,
    detectors: Detectors | None = None,
    study: str | Path | None = None,
    mlflow: str | Literal[False] | None = None,
    progress: bool | Progress | None = None,
    engine: Literal["local", "ray"] | RaySettings = "local",
    service: str | None = None,
    service_token: str | None = None,
) -> TuneResult:
    """Finds the learning-rate warm-up for a model and its data, with the evidence for it.

    Call it again with the same arguments to go on with a study that was interrupted.

    Args:
        model_fn: builds a fresh model.
        data: ``(train, validation)``, each a DataLoader, a Dataset, or a tuple of tensors or NumPy arrays; or a
            callable that returns such a pair.
        total_steps: the run that the schedule is for: 10 to 10**9 optimizer steps, or ``"5 epochs"``.
        mode: ``"study"``; or ``"one-run"``, where more than one run is too dear: a single run, whose warm-up adapts
            while it trains. Nothing is compared then. The trained model is kept, as ``trained.pt`` in the study's
            folder. Where the run becomes unstable it begins again with a lower cap, if the budget, which is two runs,
            has room for it.
        tune_steps: a shorter horizon to tune at, where whole runs are too dear, also as a share such as ``"25%"``; the
            schedule is then extrapolated, and the result says with which uncertainty.
        train_fn: a training loop of your own, in place of ``model_fn`` and ``data``; see :class:`autowarmup.LoopRun`.
        loss: ``loss(output, target)``; inferred in the usual cases.
        optimizer: ``optimizer(params)`` builds it, with the learning rate you use today; AdamW if left out. Or
            ``optimizer(model)`` or ``optimizer(named_parameters)``, by the name of its argument; may return a list.
        metrics: further validation metrics, ``metric(output, target)``, by name.
        batch_size: for Datasets, tensors and arrays.
        accumulate: batches per optimizer step, 1 to 10,000.
        clip_norm: largest gradient norm, > 0.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        device: ``"cpu"``, ``"cuda:1"`` or a ``torch.device``; left out, the best there is.
        compile: whether to run the model through ``torch.compile``.
        space: which schedules may be proposed: a preset's name, a YAML file, a :class:`autowarmup.SearchSpace` or a
            dict of its settings.
        budget: what the whole study may spend: optimizer steps, at most 10**15, or ``"6 runs"``. Left out, it follows
            from how many trials can run at once, and is about ten runs where that is one; most studies spend far less.
        seed: 0 to 2**32 - 1; fixes the study: the same seed gives the same result.
        current: the schedule you train with today, over ``total_steps``; what is found must beat it. Or a dict of its
            settings, such as ``{"shape": "linear", "warmup_steps": "10%"}``; the rest is filled in. Left out, today's
            learning rate without a warm-up, with the decay that the space has first.
        groups: parameter groups that may have learning rates of their own: patterns over parameter names by the group's
            name, from the model's input to its output, such as ``{"backbone": "encoder.*", "head": "classifier.*"}``.
            Each parameter must be in one. Or ``"optimizer"``: the named groups of the optimizer. It goes with
            ``space="transfer-learning"``, or with a ``current`` that has groups.
        current_peak: the learning rate you use today, 1e-12 to 1e6; left out, that of ``current``, or the optimizer's
            (1e-3 for a ``train_fn``).
        beta2: Adam's second-moment decay, for the untuned rule, 0 to below 1; left out, the optimizer's.
        steps_per_epoch: optimizer steps of one pass over the data, 1 to 10**9, for durations in epochs; left out, what
            ``data`` says. A ``train_fn`` needs it for them.
        confirm_seeds: fresh seeds on which the best schedule meets the current one, at most; 0 to 100. They are taken
            one after the other until they decide. With 0 there is an answer without them, and it says so.
        margin: the smallest difference that matters to you, as a share of the loss, 0 to below 1.
        cohort: how many trials are chosen together, 1 to 1,000; the result is then the same on every engine. Left out,
            as many trials run as the engine has room for, and one is chosen whenever there is room.
        trivial_loss: the training loss of the best predictor that ignores its input, such as the entropy of the labels;
            the detectors of collapse know it then. Left out, what ``data`` says where the loss is cross-entropy or the
            mean squared error; else collapses are told by other signs.
        objective: what schedules are judged by: ``"loss"``, the validation loss, or the name of a validation metric,
            one of ``metrics`` or of those that a ``train_fn`` reports with every ``val_loss``.
        direction: whether the objective is better low, ``"minimize"``, or high, ``"maximize"``; a metric needs it.
        detectors: settings of the instability detectors.
        study: the study's folder, new, empty or with the study in it; left out, one under ``studies/`` named
            after what is tuned.
        mlflow: a tracking URI; left out, ``MLFLOW_TRACKING_URI`` or a store in the study's folder; False for none.
        progress: left out or True, progress is shown on standard error: live on a terminal, elsewhere (a job's log, a
            notebook) as a line for each trial that ended. False for silence. Or an object that is told what happens,
            a :class:`autowarmup.study.progress.Progress`.
        engine: where trials run: ``"local"``, one after the other in this process; ``"ray"``, or a
            :class:`autowarmup.RaySettings`, many at a time on a Ray cluster. With a ``cohort`` the result is the same,
            but for several ``processes`` a trial, which round sums in another order.
        service: the address of a service that conducts the study, such as ``"https://tuner.example:8700"``; see
            ``autowarmup serve``. This process trains trials as one of its workers, and others may join it. The folder
            gets a copy of what was found. MLflow is the service's matter then.
        service_token: the token that the service knows this client by.

    Returns:
        The verdict (tuned, leaning, tie, nothing stable or not compared), the schedule, every trial and what it cost.

    Raises:
        InputError: something that was passed can't be used; nothing has been made then.
        StudyError: the study's folder can't be used, or holds other things.
        ClusterError: the Ray cluster can't be used, or was lost.
        RemoteServiceError: the service can't be reached, or refuses.
        TaskFailedError: the code of the task raised, in a way that no schedule explains. Nothing finished is lost:
                when the cause is mended, the same call goes on.

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
    given = Arguments(
        total_steps=total_steps, mode=mode, tune_steps=tune_steps, batch_size=batch_size, accumulate=accumulate,
        clip_norm=clip_norm, precision=precision, device=device, compile=compile, space=loaded_space(space),
        budget=budget, seed=seed, current=current, groups=groups, current_peak=current_peak, beta2=beta2,
        steps_per_epoch=steps_per_epoch, confirm_seeds=confirm_seeds, margin=margin, cohort=cohort,
        trivial_loss=trivial_loss, objective=objective, direction=direction, detectors=detectors, study=study,
        mlflow=mlflow, progress=progress, engine=engine, service=service, service_token=service_token,
    )  # fmt: skip
    task = _task(given, model_fn, data, train_fn, loss, optimizer, metrics)
    config = _config(given, task)
    folder = given.study or _default_folder(config)
    if given.engine == "local" and not (folder / "study.db").exists():
        task.check(config.current_schedule, given.seed, climb_of(config) if config.mode == "one-run" else None)

    from autowarmup.study.display import progress_for

    shown = progress_for(progress) if progress is None or isinstance(progress, bool) else progress
    with closing(shown):
        if given.service is not None:
            return _conducted_by_service(given, task, config, folder, shown)
        return _conducted_here(given, task, config, folder, shown)


def _conducted_here(given: Arguments, task: Task, config: TuneConfig, folder: Path, shown: Progress) -> TuneResult:
    from autowarmup.study.driver import conduct, opened_study
    from autowarmup.tracking import mirrored, remembered_uri, tracking_uri

    uri = None if given.mlflow is False else tracking_uri(folder, given.mlflow)
    with (
        closing(_engine(given.engine, task, config, folder / "checkpoints")) as trials,
        opened_study(folder, config, remembered_uri(folder, uri)) as store,
        mirrored(store, uri, shown),
    ):
        result = conduct(store, config, trials, shown)
        _report(result, store, shown)
    return result


def _conducted_by_service(
    given: Arguments, task: Task, config: TuneConfig, folder: Path, shown: Progress
) -> TuneResult:
    from autowarmup.service.client import ServiceClient
    from autowarmup.service.tuning import conduct_by
    from autowarmup.study.driver import opened_study

    assert given.service is not None
    with (
        ServiceClient(given.service, given.service_token) as client,
        opened_study(folder, config, None, service=client.url) as store,
    ):
        result = conduct_by(client, store, config, task, shown)
        _report(result, store, shown)
    return result


def _report(result: TuneResult, store: StudyStore, shown: Progress) -> None:
    from autowarmup.report import write_report
    from autowarmup.study.progress import warning_of_failure

    shown.doing("writing the report")
    with warning_of_failure("the report", shown):
        write_report(result, {trial.spec.number: trial.trace for trial in store.trials()}, store.folder)


def task_of(
    model_fn: Callable[[], nn.Module] | None = None,
    data: Any = None,
    *,
    train_fn: Callable[[LoopRun], Any] | None = None,
    loss: Loss | None = None,
    optimizer: OptimizerFactory | None = None,
    metrics: dict[str, Loss] | None = None,
    **settings: Any,
) -> Task:
    """What :func:`autotune` trains when it is called with the same arguments.

    Raises:
        InputError: something that was passed can't be used.
    """
    own = {"space": loaded_space(settings.get("space", "default")), "study": None}
    return _task(Arguments(**settings | own), model_fn, data, train_fn, loss, optimizer, metrics)


def _task(given: Arguments, model_fn: Any, data: Any, train_fn: Any, loss: Any, optimizer: Any, metrics: Any) -> Task:
    if (model_fn is None) == (train_fn is None):
        raise InputError("pass either model_fn and data, or train_fn")
    if train_fn is not None:
        from autowarmup.training.loop import LoopTask

        functions = {"data": data, "loss": loss, "optimizer": optimizer, "metrics": metrics}
        odd = [name for name, value in functions.items() if value is not None]
        odd += [name for name, value in given.training if value != getattr(DEFAULTS, name)]
        if odd:
            raise InputError(f"{', '.join(odd)} can't be given with train_fn: train_fn does that itself")
        return LoopTask(
            train_fn,
            current_peak=1e-3 if (peak := _given_peak(given)) is None else peak,
            beta2=0.999 if given.beta2 is None else given.beta2,
            steps_per_epoch=given.steps_per_epoch,
            groups=patterns_of(given),
        )
    from autowarmup.training.task import ModelTask

    known = ["loss", *(metrics if isinstance(metrics, dict) else {})]
    if given.objective not in known:
        raise InputError(
            f"objective={given.objective!r}: no such validation metric{nearest(given.objective, known)}; pass it in "
            f"metrics, or choose one of: {', '.join(map(str, known))}"
        )
    task = ModelTask(
        model_fn, data, loss=loss, optimizer=optimizer, metrics=metrics, settings=given.training, groups=given.groups
    )
    if given.steps_per_epoch is not None and task.steps_per_epoch not in (None, given.steps_per_epoch):
        raise InputError(
            f"steps_per_epoch={given.steps_per_epoch}: the data makes {task.steps_per_epoch}; leave it out"
        )
    return task


def _objective(given: Arguments) -> Objective:
    if given.direction is None and given.objective != "loss":
        raise InputError(
            f"direction is missing: say 'maximize' if {given.objective} is better high, 'minimize' if it is better low"
        )
    return Objective(name=given.objective, direction=given.direction or "minimize")


def _config(given: Arguments, task: Task) -> TuneConfig:
    """The study's configuration: what was given, and for the rest what the task says."""
    epoch = task.steps_per_epoch or given.steps_per_epoch
    total = duration_steps(given.total_steps, 0, epoch)
    tuned = None if given.tune_steps is None else duration_steps(given.tune_steps, total, epoch)
    peak = task.current_peak if (known := _given_peak(given)) is None else known
    return TuneConfig(
        mode=given.mode,
        total_steps=total,
        tune_steps=tuned,
        budget=None if given.budget is None else budget_steps(given.budget, tuned or total),
        space=given.space,
        seed=given.seed,
        current=current_schedule(given.current, total, peak, given.space, epoch, task.groups),
        groups=task.groups,
        current_peak=peak,
        beta2=task.beta2 if given.beta2 is None else given.beta2,
        confirm_seeds=given.confirm_seeds,
        margin=given.margin,
        cohort=given.cohort,
        steps_per_epoch=epoch,
        trivial_loss=task.trivial_loss if given.trivial_loss is None else given.trivial_loss,
        objective=_objective(given),
        detectors=given.detectors or Detectors(),
        task=task.describe(),
    )


def _given_peak(given: Arguments) -> float | None:
    """Today's learning rate, where that was said."""
    current = given.current
    if given.current_peak is not None or current is None:
        return given.current_peak
    return current.peak if isinstance(current, Schedule) else current.get("peak")


def _engine(chosen: Literal["local", "ray"] | RaySettings, task: Task, config: TuneConfig, folder: Path) -> Engine:
    from autowarmup.engines.base import MonitorSettings

    monitoring = MonitorSettings.of(config)
    if chosen == "local":
        from autowarmup.engines.local import LocalEngine

        return LocalEngine(task, folder, monitoring)
    from autowarmup.engines.ray import RayEngine

    return RayEngine(task, folder, monitoring, RaySettings() if chosen == "ray" else chosen)


def _default_folder(config: TuneConfig) -> Path:
    """The same for the same configuration, so that the same call goes on with the same study. Letters, digits, dots,
    dashes and underscores of the name are kept."""
    name = str(config.task.get("model") or config.task.get("train_fn") or "")
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name.replace("<", "").replace(">", "")).strip(".-")[:60] or "study"
    return Path("studies") / f"{safe}-{hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:8]}"
