"""What is trained: a model on data, with a loss and an optimizer, all checked before the first trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import IO, Any

import torch
from torch import Tensor, nn

from autowarmup.adaptive.climb import ClimbSettings
from autowarmup.errors import AutowarmupError, InputError
from autowarmup.schedule import Schedule
from autowarmup.schedule.groups import Patterns
from autowarmup.training.batch import Batch, shapes, target_of, to_device
from autowarmup.training.distributed import Group
from autowarmup.training.groups import Groups, description, name_groups
from autowarmup.training.identity import classes_of, digest_of, structure_of
from autowarmup.training.losses import Loss, own_loss, trivial_loss
from autowarmup.training.optimizers import OptimizerFactory, beta2_of, groups_of, highest_lr
from autowarmup.training.recipe import Recipe
from autowarmup.training.rng import borrowed
from autowarmup.training.settings import TrainSettings
from autowarmup.training.trial import ModelTrial

CHECKED_BATCHES = 50
"""Validation batches whose loss is computed in the check; their targets give the trivial loss."""

MAX_BATCHES, MAX_SECONDS = 100_000, 60.0
"""A pass over validation data of unknown length that takes longer counts as endless."""


class ModelTask:
    """What is trained: a model on data, with a loss and an optimizer.

    Checked on construction: an optimizer step is made, and up to 50 validation batches are evaluated. Validation data
    whose length isn't known is read to its end, which must come within 100,000 batches and a minute.

    Args:
        model_fn: builds a fresh model; called under a seed.
        data: see :class:`autowarmup.training.data.Data`.
        loss: ``loss(output, target)``; left out, cross-entropy for integer targets, mean squared error for
            floating-point ones, or the model's own where it returns a scalar, ``.loss`` or ``["loss"]``.
        optimizer: builds the optimizer from the parameters that are trained, or a list of optimizers. Where its
            argument is called ``model`` or ``named_parameters``, it gets these instead. Left out: AdamW with PyTorch's
            defaults. The parameter group with the highest learning rate of all gets the schedule's, the others keep
            their ratio to it.
        metrics: further validation metrics by name, ``metric(output, target)``, averaged over the examples.
        settings: batch size, accumulation, clipping, precision, device.
        groups: the parameter groups that may have learning rates of their own: patterns over parameter names by the
            group's name, from the input to the output; or ``"optimizer"`` for the optimizer's own named groups.

    Attributes:
        groups: the patterns of each group, by its name; empty where there are none.
        current_peak: the optimizers' highest learning rate.
        beta2: their second-moment decay, 0.999 where they have none.
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
        groups: Groups | None = None,
    ) -> None:
        self.groups: Patterns = {}
        self.recipe = Recipe(
            model_fn, data, loss=loss, optimizer=optimizer, metrics=metrics, settings=settings, groups=groups
        )
        with borrowed(self.recipe.device):
            self._check()

    def _check(self) -> None:
        """Builds everything, takes a step and validates, so that errors show before the first trial."""
        recipe = self.recipe
        model = recipe.build_model(0)
        optimizers = recipe.build_optimizers(model)
        if recipe.groups is not None:
            self.groups = name_groups(optimizers, model, recipe.groups)
        self._check_fresh(model)
        with _stage("the train data can't be read"):
            batches = list(islice(recipe.data.train.passes(0), min(2, recipe.settings.accumulate)))
        loss, output = self._loss_of(model, batches[0], "the first training batch", recipe.data.train.gives_examples)
        self._check_backward(model, loss)
        targets = self._check_validation(model.eval())
        self._check_step(batches, next(recipe.data.validation.one_pass()))
        self.current_peak, self.beta2 = highest_lr(optimizers), beta2_of(optimizers)
        own = recipe.loss is None and own_loss(output) is not None
        tensors = [target for target in targets if isinstance(target, Tensor)]
        known = not own and len(tensors) == len(targets)
        self.trivial_loss = trivial_loss(tensors, recipe.loss) if known else None
        with _stage("the data can't be read twice"):
            self._description = self._describe(model, optimizers)

    def _check_fresh(self, model: nn.Module) -> None:
        second = self.recipe.build_model(0)
        shared = {parameter.data_ptr() for parameter in model.parameters() if parameter.numel()}
        if any(parameter.data_ptr() in shared for parameter in second.parameters() if parameter.numel()):
            raise InputError("model_fn returned the same parameters twice: it must build a fresh model at every call")

    def _loss_of(self, model: nn.Module, batch: Batch, name: str, maybe_examples: bool = False) -> tuple[Tensor, Any]:
        hint = ". Iterables must give batches: wrap examples in a DataLoader" if maybe_examples else ""
        try:
            loss, output = self.recipe.forward(model, to_device(batch, self.recipe.device))
        except AutowarmupError as error:
            raise InputError(f"{error}{hint}") from error
        except Exception as error:
            raise InputError(f"{name} ({shapes(batch)}) can't be used: {error}{hint}") from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(f"the loss must be one number, got {got}")
        if not loss.is_floating_point() or loss.is_meta:
            kind = "on the meta device" if loss.is_meta else str(loss.dtype).removeprefix("torch.")
            raise InputError(f"the loss must be a real floating-point number, got one that is {kind}")
        if not torch.isfinite(loss).item():
            raise InputError(
                f"{name} has a loss of {loss.item()}, before any step: no learning rate can mend that. Are there NaN "
                f"or infinite values in it, or no targets?"
            )
        return loss, output

    def _check_backward(self, model: nn.Module, loss: Tensor) -> None:
        if not loss.requires_grad:
            raise InputError(
                "the loss has no gradient: it is computed from detached tensors (.detach(), .item(), .numpy(), "
                "torch.no_grad()), or does not depend on the model's parameters"
            )
        with _stage("the gradients of the first training batch can't be computed"):
            loss.backward()  # type: ignore[no-untyped-call]
        reached = [parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad]
        if not any(reached):
            raise InputError("the loss does not depend on the model's parameters: no gradient reached any of them")
        self.recipe.partly_used = not all(reached)

    def _check_validation(self, model: nn.Module) -> list[Any]:
        """The targets of the first validation batches, whose losses are computed; the pass must end."""
        data = self.recipe.data.validation
        targets = []
        started = time.monotonic()
        with _stage("the validation data can't be read"), torch.no_grad():
            for number, batch in enumerate(data.one_pass(), 1):
                if number <= CHECKED_BATCHES:
                    self._loss_of(model, batch, f"validation batch {number}", data.gives_examples)
                    targets.append(target_of(batch))
                elif data.batches is not None:
                    break
                if number == MAX_BATCHES or time.monotonic() - started > MAX_SECONDS:
                    raise InputError(
                        f"the validation data has no length, and one pass over it has not ended after {number:,} "
                        f"batches: it must end, because all of it is used at every validation. Cut it, for example "
                        f"with itertools.islice, or give it a __len__"
                    )
        if not targets:
            raise InputError("the validation data is empty: one pass over it gave no batch")
        return targets

    def _check_step(self, batches: list[Batch], held_out: Batch) -> None:
        with _stage("the first optimizer step can't be made"):
            trial = ModelTrial(self.recipe, Schedule(peak=1e-6, horizon=1), seed=0, eval_every=1)
            trial.train(batches)
        with _stage(f"the metrics {sorted(self.recipe.metrics)} can't be computed"):
            trial.evaluate(iter([held_out]))

    def join(self, group: Group) -> None:
        """Tells the task that this process is one of several that train the model together.

        Raises:
            InputError: the batches can't be divided among them.
        """
        with borrowed(self.recipe.device):
            group.share(next(self.recipe.data.train.passes(0)))
        self.recipe.group = group

    def trial(
        self,
        schedule: Schedule,
        seed: int,
        eval_every: int,
        state: IO[bytes] | None,
        climb: ClimbSettings | None = None,
    ) -> ModelTrial:
        """A trial at its start, or where ``state`` left it. With ``climb`` its warm-up adapts."""
        return ModelTrial(self.recipe, schedule, seed, eval_every, state, climb)

    def check(self, schedule: Schedule, seed: int, climb: ClimbSettings | None = None) -> None:
        """Nothing to do: all was checked on construction."""

    def describe(self) -> dict[str, Any]:
        """What is trained, as plain values: names, settings, and digests of code and data. A study of another
        description is another study."""
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

    def _describe(self, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
        recipe = self.recipe
        defaults = [
            {key: value for key, value in optimizer.defaults.items() if isinstance(value, int | float | tuple)}
            for optimizer in optimizers
        ]
        functions = (recipe.model_fn, recipe.loss, recipe.optimizer_fn, recipe.metrics)
        return {
            "model": type(model).__name__,
            "structure": structure_of(model),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "optimizer": " and ".join(type(optimizer).__name__ for optimizer in optimizers),
            "optimizer_settings": [
                {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
                for settings in defaults
            ],
            "groups": [[float(group["lr"]), len(group["params"])] for group in groups_of(optimizers)],
            **({"by_group": description(optimizers, model)} if self.groups else {}),
            "loss": getattr(recipe.loss, "__name__", type(recipe.loss).__name__) if recipe.loss else "inferred",
            "metrics": sorted(recipe.metrics),
            "code": digest_of(functions, classes_of(model)),
            "data": digest_of(recipe.data.train.digest(), recipe.data.validation.digest()),
            "train_batches": recipe.data.train.batches,
            "validation_batches": recipe.data.validation.batches,
            "settings": recipe.settings.model_dump(mode="json", exclude={"device"}),
        }


@contextmanager
def _stage(failure: str) -> Iterator[None]:
    """Whatever the user's code raises inside is an ``InputError`` that begins with ``failure``."""
    try:
        yield
    except AutowarmupError:
        raise
    except Exception as error:
        raise InputError(f"{failure}: {type(error).__name__}: {error}") from error
