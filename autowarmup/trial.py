"""A trial: one training run of one candidate, up to some step.

The engine pulls: :meth:`Trial.run` yields what it observes in blocks, so pausing, promoting and stopping are the
engine's decision and the loop reads from top to bottom.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from autowarmup.data import Batch, Data
from autowarmup.errors import InputError
from autowarmup.rng import Stream, borrowed, seed_everything
from autowarmup.schedule import Frozen, Schedule
from autowarmup.seeds import derive_seed
from autowarmup.trace import Checkpoint, Trace

BLOCK = 10
"""Steps between two fetches of losses and gradient norms from the device."""

Loss = Callable[[Any, Any], Tensor]
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
        if not callable(model_fn) or isinstance(model_fn, nn.Module):
            raise InputError(
                f"model_fn must be a function that builds a fresh model, got {type(model_fn).__name__}: "
                f"for a class or a call, pass lambda: YourModel(...)"
            )
        self.settings = settings or TrainSettings()
        self.device = _device(self.settings.device)
        self.model_fn = model_fn
        self.data = Data(data, self.settings.batch_size)
        self.loss = loss
        self.optimizer_fn: OptimizerFactory = optimizer or torch.optim.AdamW
        self.metrics = metrics or {}
        with borrowed(self.device):
            self._check()

    def _check(self) -> None:
        model = self.build_model(0)
        optimizer = self.build_optimizer(model)
        self._check_fresh(model)
        self.current_peak = max(float(group["lr"]) for group in optimizer.param_groups)
        self.beta2 = float(cast(Any, optimizer.param_groups[0].get("betas") or (0.9, 0.999))[1])
        self._description = self._describe(model, optimizer)
        batch = to_device(next(self.data.train.passes(0)), self.device)
        held_out = next(self.data.validation.one_pass(), None)
        if held_out is None:
            raise InputError("the validation data is empty: one pass over it gave no batch")
        loss = self._first_loss(model, batch, "training")
        loss.backward()  # type: ignore[no-untyped-call]
        if all(parameter.grad is None for parameter in model.parameters()):
            raise InputError("the loss does not depend on the model's parameters: no gradient reached any of them")
        with torch.no_grad():
            self._first_loss(model.eval(), to_device(held_out, self.device), "validation")
        self.trivial_loss = self._trivial_loss(model)

    def _check_fresh(self, model: nn.Module) -> None:
        second = self.build_model(0)
        shared = {parameter.data_ptr() for parameter in model.parameters() if parameter.numel()}
        if any(parameter.data_ptr() in shared for parameter in second.parameters() if parameter.numel()):
            raise InputError("model_fn returned the same parameters twice: it must build a fresh model at every call")

    def _first_loss(self, model: nn.Module, batch: Batch, name: str) -> Tensor:
        try:
            loss, _ = self.forward(model, batch)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"the first {name} batch ({shapes(batch)}) can't be used: {error}") from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(f"the loss must be one number, got {got}")
        if not torch.isfinite(loss).item():
            raise InputError(f"the first {name} loss is {loss.item()}, before any step: no learning rate can mend that")
        return loss

    def build_model(self, seed: int) -> nn.Module:
        """A model with the initial weights of ``seed``, on the device."""
        seed_everything(derive_seed(seed, "model"), self.device)
        model = self.model_fn()
        if not isinstance(model, nn.Module):
            raise InputError(f"model_fn must return a torch.nn.Module, got {type(model).__name__}")
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise InputError("the model has no parameters to train: none, or all with requires_grad=False")
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
        if isinstance(batch, dict):
            output = model(**batch)
            return self._loss(output, batch.get("labels")), output
        if isinstance(batch, Tensor):
            output = model(batch)
            return self._loss(output, None), output
        output = model(*batch[:-1]) if len(batch) > 1 else model(batch[0])
        return self._loss(output, batch[-1] if len(batch) > 1 else None), output

    def _loss(self, output: Any, target: Any) -> Tensor:
        if self.loss is not None:
            return self.loss(output, target)
        own = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
        if own is not None:
            return cast(Tensor, own)
        if isinstance(output, Tensor) and output.numel() == 1 and output.dim() == 0:
            return output
        return _inferred_loss(output, target)

    def _trivial_loss(self, model: nn.Module) -> float | None:
        """The loss of the best constant prediction, where the loss is a known one; from up to 50 batches."""
        known = self.loss is None or isinstance(self.loss, nn.CrossEntropyLoss | nn.MSELoss)
        targets = []
        for _, batch in zip(range(50), self.data.validation.one_pass(), strict=False):
            if not known or not isinstance(batch, tuple | list) or len(batch) < 2 or not isinstance(batch[-1], Tensor):
                return None
            targets.append(batch[-1])
        if targets[0].is_floating_point():
            target = torch.cat([part.flatten(1) if part.dim() > 1 else part[:, None] for part in targets]).float()
            return float(target.var(dim=0, unbiased=False).mean()) or None
        labels = torch.cat([part.flatten() for part in targets])
        share = torch.bincount(labels[labels >= 0]).float()
        share = share[share > 0] / share.sum()
        return float(-(share * share.log()).sum()) or None

    def _describe(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
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
            "settings": self.settings.model_dump(mode="json", exclude={"device"}),
        }

    def describe(self) -> dict[str, Any]:
        """What is trained, in words and numbers; a study of another description is refused."""
        return self._description

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps of one pass over the train data, None where that isn't known."""
        batches = self.data.train.batches
        return None if batches is None else max(1, batches // self.settings.accumulate)

    def trial(self, schedule: Schedule, seed: int, eval_every: int, checkpoint: Path | None) -> Trial:
        """A trial at its start, or where ``checkpoint`` left it."""
        return Trial(self, schedule, seed, eval_every, checkpoint)


class Trial:
    """Trains one candidate.

    Args:
        task: what is trained.
        schedule: the rates it applies.
        seed: fixes initial weights, batches and dropout: trials of one seed differ in their schedule alone.
        eval_every: optimizer steps between validations; the horizon's end validates too.
        checkpoint: a file that :meth:`pause` wrote, to go on from.
    """

    def __init__(
        self, task: ModelTask, schedule: Schedule, seed: int, eval_every: int, checkpoint: Path | None = None
    ) -> None:
        self.task, self.schedule, self.eval_every = task, schedule, eval_every
        self.step = 0
        self._seed = seed
        self._random = Stream(derive_seed(seed, "training"), task.device)
        with borrowed(task.device):
            self._model = task.build_model(seed)
            self._optimizer = task.build_optimizer(self._model)
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._ratios = [rate / max(rates) for rate in rates]
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._averaged = [t for t in (*self._model.parameters(), *self._model.buffers()) if t.is_floating_point()]
        self._ema = [tensor.detach().clone() for tensor in self._averaged]
        settings = task.settings
        self._scaler = torch.amp.GradScaler(task.device.type, enabled=settings.precision == "fp16")
        self._forward_model = cast(nn.Module, torch.compile(self._model)) if settings.compile else self._model
        if checkpoint is not None:
            self._load(checkpoint)
        self._batches = task.data.train.passes(derive_seed(seed, "data"), self.step * settings.accumulate)

    def run(self, until: int) -> Iterator[Trace]:
        """Trains to step ``until``, yielding what happened block by block. Outside, the global random state, the
        user's objects and the device's default settings are as they were."""
        while self.step < until:
            count = min(BLOCK, until - self.step, self.eval_every - self.step % self.eval_every)
            with borrowed():
                batches = [next(self._batches) for _ in range(count * self.task.settings.accumulate)]
            with self._random:
                block = self._train(batches)
                if self.step % self.eval_every == 0 or self.step == self.schedule.horizon:
                    block = Trace(block.rate, block.loss, block.grad_norm, (self._validate(),), block.start)
            yield block

    def _train(self, batches: list[Batch]) -> Trace:
        """One optimizer step for every ``accumulate`` batches, without waiting for the device before the end."""
        settings, device = self.task.settings, self.task.device
        rates: list[float] = []
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        start = self.step
        self._model.train()
        for first in range(0, len(batches), settings.accumulate):
            rates.append(self._apply_rate())
            total = torch.zeros((), device=device)
            for batch in batches[first : first + settings.accumulate]:
                with self._autocast():
                    loss, _ = self.task.forward(self._forward_model, to_device(batch, device))
                self._scaler.scale(loss / settings.accumulate).backward()  # type: ignore[no-untyped-call]
                total += loss.detach().reshape(()) / settings.accumulate
            losses.append(total)
            norms.append(self._update())
            self.step += 1
            self._average()
        return self._fetched(start, rates, losses, norms)

    def _apply_rate(self) -> float:
        rate = self.schedule.lr_at(self.step)
        for group, ratio in zip(self._optimizer.param_groups, self._ratios, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * ratio)
            else:
                group["lr"] = rate * ratio
        return rate

    def _update(self) -> Tensor:
        """The optimizer's step; returns the gradient's norm before clipping."""
        self._scaler.unscale_(self._optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.task.settings.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self.task.settings.clip_norm, norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def _average(self) -> None:
        """The weights' exponential moving average over about the last ninth of the run so far: decay
        ``(t+1)/(t+10)``, so that its memory grows with the run (after Kaddour 2022, arXiv 2209.14981, who averages the
        latest weights for the same purpose)."""
        with torch.no_grad():
            torch._foreach_lerp_(self._ema, self._averaged, 9.0 / (self.step + 10.0))

    def _fetched(self, start: int, rates: list[float], losses: list[Tensor], norms: list[Tensor]) -> Trace:
        loss, norm = torch.stack([torch.stack(losses).float(), torch.stack(norms).float()]).double().cpu().numpy()
        rate = np.array(rates)
        if self._scaler.is_enabled():  # the scaler skips a step whose gradients overflowed: its rate was 0
            rate, norm = np.where(np.isfinite(norm), rate, 0.0), np.where(np.isfinite(norm), norm, np.nan)
        else:
            norm = np.where(np.isnan(norm), np.inf, norm)
        return Trace(rate, loss, norm, (), start)

    def _validate(self) -> Checkpoint:
        raw = self._evaluate()
        with torch.no_grad():
            current = [tensor.clone() for tensor in self._averaged]
            torch._foreach_copy_(self._averaged, self._ema)
            averaged = self._evaluate()
            torch._foreach_copy_(self._averaged, current)
        names = [*self.task.metrics]
        metrics = {name: raw[name] for name in names} | {f"{name}_ema": averaged[name] for name in names}
        return Checkpoint(self.step, raw["loss"], averaged["loss"], metrics)

    def _evaluate(self) -> dict[str, float]:
        """Means over the validation examples. Uses no random numbers of the training's."""
        self._model.eval()
        sums: dict[str, Tensor] = {}
        examples = 0
        with borrowed(self.task.device), torch.no_grad():
            seed_everything(derive_seed(self._seed, "validation"), self.task.device)
            for batch in self.task.data.validation.one_pass():
                batch = to_device(batch, self.task.device)
                with self._autocast():
                    loss, output = self.task.forward(self._model, batch)
                    values = {"loss": loss} | {
                        name: torch.as_tensor(metric(output, _target(batch)), device=self.task.device)
                        for name, metric in self.task.metrics.items()
                    }
                size = _size(batch)
                examples += size
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value.detach().float().reshape(()) * size
        return {name: float(total) / examples for name, total in sums.items()}

    def _autocast(self) -> Any:
        precision = self.task.settings.precision
        if precision == "fp32":
            return nullcontext()
        return torch.autocast(self.task.device.type, torch.bfloat16 if precision == "bf16" else torch.float16)

    def pause(self, path: Path) -> None:
        """Writes all that is needed to go on, bit for bit, in one atomic step."""
        state = {
            "step": self.step,
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "ema": self._ema,
            "scaler": self._scaler.state_dict(),
            "random": self._random.state,
        }
        draft = path.with_suffix(".draft")
        with draft.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)

    def _load(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.step = state["step"]
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self._random.state = state["random"]
        with torch.no_grad():
            torch._foreach_copy_(self._ema, [tensor.to(self.task.device) for tensor in state["ema"]])

    def close(self) -> None:
        """Lets go of the model."""


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch with all its tensors on ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(to_device(part, device) for part in batch)
    return torch.as_tensor(batch, device=device) if isinstance(batch, np.ndarray) else batch


def shapes(batch: Batch) -> str:
    """A batch's shapes, for messages."""
    if isinstance(batch, Tensor):
        return f"{tuple(batch.shape)} {str(batch.dtype).removeprefix('torch.')}"
    if isinstance(batch, dict):
        return ", ".join(f"{key}: {shapes(value)}" for key, value in batch.items())
    if isinstance(batch, tuple | list):
        return ", ".join(shapes(part) for part in batch)
    return type(batch).__name__


def _device(name: str | None) -> torch.device:
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name!r} can't be used here: {str(error).splitlines()[0]}") from error
    return device


def _inferred_loss(output: Any, target: Any) -> Tensor:
    if not isinstance(output, Tensor) or not isinstance(target, Tensor):
        raise InputError(
            f"no loss can be inferred from an output of type {type(output).__name__} and a target of type "
            f"{type(target).__name__}: pass loss="
        )
    given = f"the model's output has shape {tuple(output.shape)}, the target {tuple(target.shape)}"
    if target.is_floating_point():
        if output.shape != target.shape:
            raise InputError(f"shapes don't match: {given}; for mean squared error they must be the same")
        return nn.functional.mse_loss(output, target)
    if output.dim() < 2 or output.shape[:1] + output.shape[2:] != target.shape:
        raise InputError(
            f"shapes don't match: {given}; for cross-entropy the output must be (batch, classes, ...) and the target "
            f"(batch, ...)"
        )
    return nn.functional.cross_entropy(output, target.long())


def _target(batch: Batch) -> Any:
    return batch.get("labels") if isinstance(batch, dict) else batch[-1]


def _size(batch: Batch) -> int:
    first = next(iter(batch.values())) if isinstance(batch, dict) else batch if isinstance(batch, Tensor) else batch[0]
    return len(first)
