"""The slope of the loss along an optimizer's last update, on the batch that comes after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


class UpdateSlope:
    """Measures, at each step of an optimizer, the product of the gradient with the update before it.

    It changes nothing, and needs a copy of the weights. The gradient is that which the optimizer is about to use: after
    clipping, and of all batches that were accumulated. Where several processes train together, the slope is the mean
    over them, or with weights that are divided among them (``fully_shard``) the sum of the parts: all get the same.

    Args:
        optimizer: of PyTorch.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._before: list[Tensor] | None = None
        self._slope: Tensor | None = None
        self._start()

    def take(self) -> float | None:
        """The slope at the last step; None where there was no step since the last call, or none before it."""
        slope, self._slope = self._slope, None
        return None if slope is None else float(slope)

    def _start(self) -> None:
        self._handle = self._optimizer.register_step_pre_hook(self._on_step)

    def stop(self) -> None:
        """Measures no longer, and frees the copy."""
        self._handle.remove()
        self._before = self._slope = None

    def state(self) -> list[Tensor] | None:
        """The weights before the last update; None where there was none."""
        return self._before

    def load(self, before: Sequence[Tensor] | None) -> None:
        """Goes on at a saved state, also after a stop."""
        self.stop()
        self._start()
        if before is not None:
            self._before = [
                old.to(weight.device, copy=True) for old, weight in zip(before, self._weights(), strict=True)
            ]

    def _on_step(self, _: Optimizer, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Measures right before the update: where the step has a closure, after that has computed the gradient."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._measure()
            return None
        return (args[0], self._measuring(closure)), {name: value for name, value in kwargs.items() if name != "closure"}

    def _measuring(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def measured() -> Any:
            loss = closure()
            self._measure()
            return loss

        return measured

    @torch.no_grad()
    def _measure(self) -> None:
        weights = self._weights()
        if self._before is not None:
            total = torch.zeros((), device=weights[0].device)
            for weight, before in zip(weights, self._before, strict=True):
                if weight.grad is not None:
                    product = (_local(weight.grad) * (_local(weight) - _local(before))).sum(dtype=torch.float32)
                    total.add_(product.to(total.device), alpha=_parts(weight))
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(total)
                total /= dist.get_world_size()
            self._slope = total
        self._before = [weight.clone() for weight in weights]

    def _weights(self) -> list[Tensor]:
        return [weight for group in self._optimizer.param_groups for weight in group["params"]]


def _local(tensor: Tensor) -> Tensor:
    """This process's part of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _parts(weight: Tensor) -> int:
    """Into how many parts it is divided among processes."""
    if not isinstance(weight, DTensor):
        return 1
    shards = zip(weight.device_mesh.shape, weight.placements, strict=True)
    return math.prod(size for size, placement in shards if placement.is_shard())
