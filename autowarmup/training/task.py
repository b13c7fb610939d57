"""What is trained: a model on data, with a loss and an optimizer, all checked before the first trial."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from itertools import islice
from typing import IO, Any, cast

import torch
from torch import Tensor, nn

from autowarmup.errors import InputError
from autowarmup.schedule import Schedule
from autowarmup.training.batch import Batch, shapes, target_of, to_device
from autowarmup.training.distributed import Group
from autowarmup.training.losses import Loss, has_trivial_loss, own_loss, trivial_loss
from autowarmup.training.recipe import OptimizerFactory, Recipe
from autowarmup.training.rng import borrowed
from autowarmup.training.settings import TrainSettings
from autowarmup.training.trial import ModelTrial


class ModelTask:
    """What is trained: a model on data, with a loss and an optimizer. Checked on construction, in one step's work.

    Args:
        model_fn: builds a fresh model; called under a seed.
        data: see :class:`autowarmup.training.data.Data`.
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
        self.recipe = Recipe(model_fn, data, loss=loss, optimizer=optimizer, metrics=metrics, settings=settings)
        with borrowed(self.recipe.device):
            self._check()

    def _check(self) -> None:
        """Builds, runs, and takes one step: what can go wrong does so here."""
        model = self.recipe.build_model(0)
        optimizer = self.recipe.build_optimizer(model)
        self._check_fresh(model)
        batches = list(islice(self.recipe.data.train.passes(0), self.recipe.settings.accumulate))
        held_out = next(self.recipe.data.validation.one_pass(), None)
        if held_out is None:
            raise InputError("the validation data is empty: one pass over it gave no batch")
        loss, output = self._first_loss(model, batches[0], "training")
        loss.backward()  # type: ignore[no-untyped-call]
        reached = [parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad]
        if not any(reached):
            raise InputError("the loss does not depend on the model's parameters: no gradient reached any of them")
        self.recipe.partly_used = not all(reached)
        with torch.no_grad():
            self._first_loss(model.eval(), held_out, "validation")
        self._check_step(batches, held_out)
        self.current_peak = max(float(group["lr"]) for group in optimizer.param_groups)
        self.beta2 = float(cast(Any, optimizer.param_groups[0].get("betas") or (0.9, 0.999))[1])
        inferred = self.recipe.loss is not None or own_loss(output) is None
        self.trivial_loss = self._trivial_loss() if inferred and has_trivial_loss(self.recipe.loss) else None
        self._description = self._describe(model, optimizer, held_out)

    def _check_fresh(self, model: nn.Module) -> None:
        second = self.recipe.build_model(0)
        shared = {parameter.data_ptr() for parameter in model.parameters() if parameter.numel()}
        if any(parameter.data_ptr() in shared for parameter in second.parameters() if parameter.numel()):
            raise InputError("model_fn returned the same parameters twice: it must build a fresh model at every call")

    def _first_loss(self, model: nn.Module, batch: Batch, name: str) -> tuple[Tensor, Any]:
        batch = to_device(batch, self.recipe.device)
        try:
            loss, output = self.recipe.forward(model, batch)
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
        trial = ModelTrial(self.recipe, Schedule(peak=1e-6, horizon=1), seed=0, eval_every=1)
        try:
            trial.train(batches)
        except Exception as error:
            raise InputError(f"the first optimizer step can't be made: {error}") from error
        try:
            trial.evaluate(iter([held_out]))
        except Exception as error:
            raise InputError(f"the metrics {sorted(self.recipe.metrics)} can't be computed: {error}") from error

    def join(self, group: Group) -> None:
        """This process is one of several that train the model together.

        Raises:
            InputError: the batches can't be divided among them.
        """
        with borrowed(self.recipe.device):
            group.share(next(self.recipe.data.train.passes(0)))
        self.recipe.group = group

    def trial(self, schedule: Schedule, seed: int, eval_every: int, state: IO[bytes] | None) -> ModelTrial:
        """A trial at its start, or where ``state`` left it."""
        return ModelTrial(self.recipe, schedule, seed, eval_every, state)

    def describe(self) -> dict[str, Any]:
        """What is trained, in words and numbers; a study of another description is refused."""
        return self._description

    @property
    def uses_cuda(self) -> bool:
        """Whether a trial trains on a CUDA device."""
        return self.recipe.device.type == "cuda"

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps of one pass over the train data, None where that isn't known."""
        batches = self.recipe.data.train.batches
        return None if batches is None else max(1, batches // self.recipe.settings.accumulate)

    def _trivial_loss(self) -> float | None:
        """From up to 50 validation batches."""
        targets = [target_of(batch) for batch in islice(self.recipe.data.validation.one_pass(), 50)]
        if not all(isinstance(target, Tensor) for target in targets):
            return None
        return trivial_loss(targets, getattr(self.recipe.loss, "ignore_index", -100))

    def _describe(self, model: nn.Module, optimizer: torch.optim.Optimizer, held_out: Batch) -> dict[str, Any]:
        defaults = {key: value for key, value in optimizer.defaults.items() if isinstance(value, int | float | tuple)}
        return {
            "model": type(model).__name__,
            "parameters": [[name, list(parameter.shape)] for name, parameter in model.named_parameters()],
            "optimizer": type(optimizer).__name__,
            "optimizer_settings": {key: list(v) if isinstance(v, tuple) else v for key, v in defaults.items()},
            "groups": [[float(group["lr"]), len(group["params"])] for group in optimizer.param_groups],
            "loss": getattr(self.recipe.loss, "__name__", type(self.recipe.loss).__name__)
            if self.recipe.loss
            else "inferred",
            "metrics": sorted(self.recipe.metrics),
            "train_batches": self.recipe.data.train.batches,
            "validation_batches": self.recipe.data.validation.batches,
            "validation_data": _digest(held_out),
            "settings": self.recipe.settings.model_dump(mode="json", exclude={"device"}),
        }


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
