"""Backward passes, counted at one parameter: they tell accumulated gradients from skipped steps."""

from __future__ import annotations

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle, unserializable_hook


class Backwards:
    """Counts the backward passes through the first parameter of an optimizer that is trained.

    Attributes:
        passes: since :meth:`restart`; 0 where that parameter has no part in the loss.
        cleared: those that found no gradient of an earlier pass.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.passes = self.cleared = 0
        self._handle: RemovableHandle | None = None
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        self._parameter: Parameter | None = next((one for one in parameters if one.requires_grad), None)
        if self._parameter is not None:
            self._handle = self._parameter.register_hook(self._passed)

    def restart(self) -> None:
        """Counts from 0 again."""
        self.passes = self.cleared = 0

    def remove(self) -> None:
        """Counts no more."""
        if self._handle is not None:
            self._handle.remove()

    # PyTorch leaves such a hook out, without a warning, where the model is sent to another process.
    @unserializable_hook  # type: ignore[untyped-decorator]
    def _passed(self, _: Tensor) -> None:
        """Called before the pass's gradient is added to the parameter's."""
        self.passes += 1
        self.cleared += self._parameter is not None and self._parameter.grad is None
