"""What is trained: a model on data, with a loss and an optimizer, all checked before the first trial."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from itertools import islice
from typing import IO, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from autowarmup.batch import Batch, output_of, shapes, target_of, to_device
from autowarmup.data import Data
from autowarmup.distributed import Group
from autowarmup.errors import InputError
from autowarmup.losses import Loss, has_trivial_loss, inferred_loss, own_loss, trivial_loss
from autowarmup.rng import borrowed, seed_everything
from autowarmup.schedule import Frozen, Schedule
from autowarmup.seeds import derive_seed
from autowarmup.trial import Trial

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class TrainSettings(Frozen):
    """How to train, apart from the schedule.

    Args:
        batch_size: for Datasets, tensors and arrays; loaders have their own.
        accumulate: batches whose gradients make one optimizer step. Steps always mean optimizer steps.
        clip_norm: largest gradient norm; larger gradients are scaled down to it.
        precision: ``"fp32"``, ``"bf16"`` (autocast) or ``"fp16"`` (autocast with a gradient scaler).
        device: ``"cuda"``, ``"cuda:1"``, ``"mps"``, ``"cpu"``; left out, the best there is.
        compile: whether to run the model through ``torch.compile``.
    """

    batch_size: int = Field(default=32, ge=1)
    accumulate: int = Field(default=1, ge=1)
    clip_norm: float | None = Field(default=None, gt=0.0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: str | None = None
    compile: bool = False


class ModelTask:
    """What is trained: a model on data, with a loss and an optimizer. Checked on construction, in one step's work.

    Args:
        model_fn: builds a fresh model; called under a seed.
        data: see :class:`autowarmup.data.Data`.
        loss: ``loss(output, target)``; left out, cross-entropy for integer targets, mean squared error for
            floating-point ones, or the model's own where it returns a scalar, ``.loss`` or ``["loss"]``.
        optimizer: builds the optimizer from parameters (or calls it with parameter groups of its own making);
            AdamW with PyTorch's defaults where left out.
        metrics: further validation metrics by name, ``metric(output, target)``, averaged over the examples.
        settings: batch size, accumulation, clipping, precision, device.

    Attributes:
        current_peak: the optimizer's highest learning rate.
        beta2: its second-moment decay, 0.999 where it has none.
        trivial_loss: the loss of the trivial predictor, where it is known.
        partly_used: whether some of the model's parameters take no part in the loss.
        group: the processes that train it together.

    Raises:
        InputError: any of these can't be used; the message says which, and what is allowed.
    """

    def __init__(
        self,
        model_fn: Callable[[], nn.Module],
        data: Any,
        *,
        loss: Loss | None = None,
        optimizer: OptimizerFactory | None = None,
        metrics: dict[str, Loss] | None = None,
        settings: TrainSettings | None = None,
    ) -> None:
        _check_functions(model_fn, loss, optimizer, metrics)
        self.settings = settings or TrainSettings()
        self.device = best_device() if self.settings.device is None else _named_device(self.settings.device)
        self.model_fn = model_fn
        self.data = Data(data, self.settings.batch_size)
        self.loss = loss
        self.optimizer_fn: OptimizerFactory = optimizer or torch.optim.AdamW
        self.metrics = metrics or {}
        self.group = Group()
        with borrowed(self.device):
            self._check()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In another process: on the device that is the best there, where none was named."""
        self.__dict__ |= state
        if self.settings.device is None:
            self.device = best_device()

    def _check(self) -> None:
        """Builds, runs, and takes one step: what can go wrong does so here."""
        model = self.build_model(0)
        optimizer = self.build_optimizer(model)
        self._check_fresh(model)
        batches = list(islice(self.data.train.passes(0), self.settings.accumulate))
        held_out = next(self.data.validation.one_pass(), None)
        if held_out is None:
            raise InputError("the validation data is empty: one pass over it gave no batch")
        loss, output = self._first_loss(model, batches[0], "training")
        loss.backward()  # type: ignore[no-untyped-call]
        reached = [parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad]
        if not any(reached):
            raise InputError("the loss does not depend on the model's parameters: no gradient reached any of them")
        self.partly_used = not all(reached)
        with torch.no_grad():
            self._first_loss(model.eval(), held_out, "validation")
        self._check_step(batches, held_out)
        self.current_peak = max(float(group["lr"]) for group in optimizer.param_groups)
        self.beta2 = float(cast(Any, optimizer.param_groups[0].get("betas") or (0.9, 0.999))[1])
        inferred = self.loss is not None or own_loss(output) is None
        self.trivial_loss = self._trivial_loss() if inferred and has_trivial_loss(self.loss) else None
        self._description = self._describe(model, optimizer, held_out)

    def _check_fresh(self, model: nn.Module) -> None:
        second = self.build_model(0)
        shared = {parameter.data_ptr() for parameter in model.parameters() if parameter.numel()}
        if any(parameter.data_ptr() in shared for parameter in second.parameters() if parameter.numel()):
            raise InputError("model_fn returned the same parameters twice: it must build a fresh model at every call")

    def _first_loss(self, model: nn.Module, batch: Batch, name: str) -> tuple[Tensor, Any]:
        batch = to_device(batch, self.device)
        try:
            loss, output = self.forward(model, batch)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"the first {name} batch ({shapes(batch)}) can't be used: {error}") from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(f"the loss must be one number, got {got}")
        if not torch.isfinite(loss).item():
            raise InputError(f"the first {name} loss is {loss.item()}, before any step: no learning rate can mend that")
        return loss, output

    def _check_step(self, batches: list[Batch], held_out: Batch) -> None:
        trial = Trial(self, Schedule(peak=1e-6, horizon=1), seed=0, eval_every=1)
        try:
            trial.train(batches)
        except Exception as error:
            raise InputError(f"the first optimizer step can't be made: {error}") from error
        try:
            trial.evaluate(iter([held_out]))
        except Exception as error:
            raise InputError(f"the metrics {sorted(self.metrics)} can't be computed: {error}") from error

    def build_model(self, seed: int) -> nn.Module:
        """A model with the initial weights of ``seed``, on the device."""
        seed_everything(derive_seed(seed, "model"), self.device)
        model = self.model_fn()
        if not isinstance(model, nn.Module):
            raise InputError(f"model_fn must return a torch.nn.Module, got {type(model).__name__}")
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise InputError("the model has no parameters to train: none, or all with requires_grad=False")
        if any(is_lazy(parameter) for parameter in model.parameters()):
            raise InputError(
                "the model's lazy modules have no shapes yet: model_fn must run a batch through them first"
            )
        return model.to(self.device)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = self.optimizer_fn([p for p in model.parameters() if p.requires_grad])
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InputError(f"optimizer must return a torch.optim.Optimizer, got {type(optimizer).__name__}")
        rates = [group.get("lr") for group in optimizer.param_groups]
        if not max(0.0 if rate is None else float(rate) for rate in rates) > 0.0 or None in rates:
            raise InputError(f"{type(optimizer).__name__} has no learning rate above 0: its groups have {rates}")
        return optimizer

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        """The loss of a batch, and the model's output."""
        output = output_of(model, batch)
        if self.loss is not None:
            return self.loss(output, target_of(batch)), output
        own = own_loss(output)
        return (inferred_loss(output, target_of(batch)) if own is None else own), output

    def join(self, group: Group) -> None:
        """This process is one of several that train the model together.

        Raises:
            InputError: the batches can't be divided among them.
        """
        with borrowed(self.device):
            group.share(next(self.data.train.passes(0)))
        self.group = group

    def trial(self, schedule: Schedule, seed: int, eval_every: int, state: IO[bytes] | None) -> Trial:
        """A trial at its start, or where ``state`` left it."""
        return Trial(self, schedule, seed, eval_every, state)

    def describe(self) -> dict[str, Any]:
        """What is trained, in words and numbers; a study of another description is refused."""
        return self._description

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps of one pass over the train data, None where that isn't known."""
        batches = self.data.train.batches
        return None if batches is None else max(1, batches // self.settings.accumulate)

    def _trivial_loss(self) -> float | None:
        """From up to 50 validation batches."""
        targets = [target_of(batch) for batch in islice(self.data.validation.one_pass(), 50)]
        if not all(isinstance(target, Tensor) for target in targets):
            return None
        return trivial_loss(targets, getattr(self.loss, "ignore_index", -100))

    def _describe(self, model: nn.Module, optimizer: torch.optim.Optimizer, held_out: Batch) -> dict[str, Any]:
        defaults = {key: value for key, value in optimizer.defaults.items() if isinstance(value, int | float | tuple)}
        return {
            "model": type(model).__name__,
            "parameters": [[name, list(parameter.shape)] for name, parameter in model.named_parameters()],
            "optimizer": type(optimizer).__name__,
            "optimizer_settings": {key: list(v) if isinstance(v, tuple) else v for key, v in defaults.items()},
            "groups": [[float(group["lr"]), len(group["params"])] for group in optimizer.param_groups],
            "loss": getattr(self.loss, "__name__", type(self.loss).__name__) if self.loss else "inferred",
            "metrics": sorted(self.metrics),
            "train_batches": self.data.train.batches,
            "validation_batches": self.data.validation.batches,
            "validation_data": _digest(held_out),
            "settings": self.settings.model_dump(mode="json", exclude={"device"}),
        }


def best_device() -> torch.device:
    """CUDA or MPS where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _named_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name!r} can't be used here: {str(error).splitlines()[0]}") from error
    return device


def _check_functions(model_fn: Any, loss: Any, optimizer: Any, metrics: Any) -> None:
    if not callable(model_fn) or isinstance(model_fn, nn.Module):
        raise InputError(
            f"model_fn must be a function that builds a fresh model, got {type(model_fn).__name__}: "
            f"for a class or a call, pass lambda: YourModel(...)"
        )
    if loss is not None and not callable(loss):
        raise InputError(f"loss must be a function loss(output, target), got {loss!r}")
    if optimizer is not None and (not callable(optimizer) or isinstance(optimizer, torch.optim.Optimizer)):
        raise InputError(
            f"optimizer must be a function that takes parameters, such as "
            f"lambda params: torch.optim.AdamW(params, lr=3e-4), got {type(optimizer).__name__}"
        )
    if metrics is not None and not (isinstance(metrics, dict) and all(callable(metric) for metric in metrics.values())):
        raise InputError(f"metrics must be functions metric(output, target) by name, got {metrics!r}")
    for name in metrics or {}:
        if name == "loss" or name.endswith("_ema"):
            raise InputError(f"a metric can't be called {name!r}: that name is taken")


def _digest(batch: Batch) -> str:
    """A few digits that tell a batch from others of its shapes."""
    digest = hashlib.sha256()
    for tensor in _tensors(batch):
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _tensors(batch: Batch) -> Iterable[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, dict | tuple | list):
        for part in batch.values() if isinstance(batch, dict) else batch:
            yield from _tensors(part)
