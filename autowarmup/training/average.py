"""A moving average of a model's weights. In the middle of a run its validation loss predicts the final loss better than
that of the weights themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class AveragedWeights:
    """An exponential moving average of a model's weights over about the last ninth of the run so far.

    The decay of step ``t`` is ``(t+1)/(t+10)``, so the memory grows with the run and means the same at every horizon
    (after Kaddour 2022, arXiv 2209.14981, who averages the latest weights for the same purpose). Kept in single
    precision or better. Running statistics of batch normalisation are averaged like weights; other buffers are not.

    Args:
        model: whose weights they are.
        parameters: those of its parameters that are averaged; left out, all of them.
    """

    def __init__(self, model: nn.Module, parameters: Iterable[nn.Parameter] | None = None) -> None:
        averaged = [*(model.parameters() if parameters is None else parameters)]
        self._live = [_real(tensor) for tensor in (*(one.detach() for one in averaged), *_statistics(model))]
        self._parameters = len(averaged)
        self.weights = [_wide(tensor).clone() for tensor in self._live]
        self._all_wide = all(
            tensor.dtype == weight.dtype for tensor, weight in zip(self._live, self.weights, strict=True)
        )

    @property
    def statistics(self) -> list[Tensor]:
        """The averages of batch normalisation's running statistics."""
        return self.weights[self._parameters :]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after ``step`` steps, counted from 1."""
        current = self._live if self._all_wide else [_wide(tensor) for tensor in self._live]
        torch._foreach_lerp_(self.weights, current, 9.0 / (step + 10.0))

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within the context the model has the averaged weights, afterwards its own again."""
        with torch.no_grad():
            own = [tensor.clone() for tensor in self._live]
            self._copy(self.weights)
        try:
            yield
        finally:
            with torch.no_grad():
                self._copy(own)

    def load(self, weights: list[Tensor]) -> None:
        """Goes on from a saved average."""
        for average, saved in zip(self.weights, weights, strict=True):
            average.copy_(saved)

    def _copy(self, weights: list[Tensor]) -> None:
        for tensor, weight in zip(self._live, weights, strict=True):
            tensor.copy_(weight)


def _statistics(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if isinstance(module, _NormBase) and module.running_mean is not None and module.running_var is not None:
            yield from (module.running_mean, module.running_var)


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
