"""The learning rates that an optimizer's steps apply, as the optimizer itself has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle


def on_each_step(optimizer: Optimizer, observe: Callable[[list[float]], None]) -> RemovableHandle:
    """Has ``observe`` called right before each step of an optimizer with its parameter groups' learning rates.

    Args:
        optimizer: of PyTorch. What it raises in ``observe`` ends the step before it is made.
        observe: takes one learning rate for each parameter group, in their order.

    Returns:
        The handle that removes it.
    """

    def hook(stepping: Optimizer, *_: Any) -> None:
        observe([float(group["lr"]) for group in stepping.param_groups])

    return optimizer.register_step_pre_hook(hook)
