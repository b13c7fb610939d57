"""The training that a guard watches: model, optimizers and what goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from autowarmup.errors import InputError
from autowarmup.training import rng
from autowarmup.training.gradients import gradient_norm
from autowarmup.training.optimizers import groups_of, highest_lr, parameters_of

State = dict[str, Any]


class Stateful(Protocol):
    """What can be saved and restored."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


@dataclass(frozen=True)
class Training:
    """A training: what is watched, saved and restored.

    Args:
        optimizers: at least one.
        model: the model; None where nothing is to be saved.
        averaged, scaler, loader: see :class:`autowarmup.guard.guard.Guard`.
    """

    optimizers: Sequence[Optimizer]
    model: nn.Module | None
    averaged: Stateful | None
    scaler: torch.amp.GradScaler | None
    loader: Stateful | None

    @property
    def lr(self) -> float:
        """The highest learning rate of the optimizers' parameter groups."""
        return highest_lr(self.optimizers)

    @property
    def base_lr(self) -> float:
        """The highest learning rate that the groups came with, before any scheduler."""
        return max(float(group.get("initial_lr", group["lr"])) for group in groups_of(self.optimizers))

    @property
    def device(self) -> torch.device:
        """That of the parameters."""
        return self.parameters()[0].device

    @property
    def rescales(self) -> bool:
        """Whether a gradient scaler looks for its scale, so that it skips steps now and then."""
        return self.scaler is not None and self.scaler.is_enabled()

    @property
    def has_state(self) -> bool:
        """Whether an optimizer has a state."""
        return any(optimizer.state for optimizer in self.optimizers)

    @property
    def is_divided(self) -> bool:
        """Whether processes have a part of the parameters each, as with ``fully_shard``."""
        return any(isinstance(one, DTensor) for one in self.parameters())

    @property
    def _kinds(self) -> list[str]:
        """The optimizers' classes."""
        return [type(one).__name__ for one in self.optimizers]

    def parameters(self) -> list[nn.Parameter]:
        """Those of the optimizers."""
        return parameters_of(self.optimizers)

    def numbers(self, loss: Tensor | float, grad_norm: Tensor | float | None) -> Tensor:
        """Loss and gradient norm, shape ``(2,)``, on the device. Without a norm it is that of the gradients as they
        are, unscaled.

        Raises:
            InputError: either isn't a single number, or no parameter has a gradient from which to compute the norm.
        """
        parameters = self.parameters()
        if grad_norm is None:
            if all(one.grad is None for one in parameters):
                raise InputError(
                    "no parameter of the optimizer has a gradient: a step is judged after loss.backward() and before "
                    "the gradients are cleared"
                )
            if self.scaler is not None:
                for optimizer in self.optimizers:
                    self.scaler.unscale_(optimizer)
            grad_norm = gradient_norm(parameters)
        if isinstance(grad_norm, DTensor):
            grad_norm = grad_norm.full_tensor()
        device = parameters[0].device
        return torch.stack([_scalar("loss", loss, device), _scalar("grad_norm", grad_norm, device)])

    def clear(self) -> None:
        """Clears the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def is_finite(self) -> bool:
        """Whether all weights are finite."""
        norms = torch._foreach_norm([one.detach() for one in self.parameters() if one.numel()], float("inf"))
        return bool(torch.isfinite(torch.stack([norm.float() for norm in norms])).all())

    def state(self) -> State:
        """All that is needed to go on; the tensors are the training's own."""
        assert self.model is not None
        others = {"averaged": self.averaged, "scaler": self.scaler, "loader": self.loader}
        return {
            "model": self.model.state_dict(),
            "buffers": dict(self.model.named_buffers()),  # those that a state dict leaves out
            "optimizers": [one.state_dict() for one in self.optimizers],
            "kinds": self._kinds,
            "random": rng.portable(rng.capture(self.device)),
        } | {name: one.state_dict() for name, one in others.items() if one is not None}

    @torch.no_grad()
    def go_back(self, state: State) -> None:
        """Puts back model, optimizers, averaged weights and scaler. Position in the data and random states stay."""
        assert self.model is not None
        self.model.load_state_dict(state["model"])
        for name, buffer in self.model.named_buffers():
            buffer.copy_(state["buffers"][name])
        self.restore_optimizers(state)
        for name, one in (("averaged", self.averaged), ("scaler", self.scaler)):
            if one is not None:
                one.load_state_dict(state[name])

    def restore_optimizers(self, state: State) -> None:
        """Puts back the optimizers' state alone."""
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def go_on(self, state: State, random: State) -> None:
        """Puts back everything.

        Raises:
            InputError: the state is another training's.
        """
        if state["kinds"] != self._kinds:
            raise InputError(
                f"the snapshot is of a training with {', '.join(state['kinds'])}, and this one has "
                f"{', '.join(self._kinds)}"
            )
        try:
            self.go_back(state)
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(f"the snapshot is of another model or of other parameter groups: {error}") from error
        if self.loader is not None:
            self.loader.load_state_dict(state["loader"])
        rng.restore(rng.usable(random), self.device)


def _scalar(name: str, given: Tensor | float, device: torch.device) -> Tensor:
    number = torch.as_tensor(given, device=device)
    if number.numel() != 1:
        raise InputError(
            f"{name} must be a single number, as of a loss that is averaged over its batch; got a tensor of shape "
            f"{tuple(number.shape)}"
        )
    return number.detach().float().reshape(())


def check_protectable(model: nn.Module | None) -> None:
    """Checks that the weights of a model can be kept and put back.

    Raises:
        InputError: there is no model, or it is divided in a way that doesn't allow it.
    """
    if model is None:
        raise InputError("model=None: mode='protect' needs the model, whose weights it goes back to")
    if any(isinstance(one, FullyShardedDataParallel) for one in model.modules()):
        raise InputError(
            "model is divided by FullyShardedDataParallel, whose weights can't be put back: divide it by fully_shard, "
            "or use mode='observe'"
        )
