"""The gradient's norm."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of the gradients of all parameters together, those that are sparse included, as of
    ``nn.Embedding(sparse=True)``; a scalar, 0 where there are none.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> (weight @ torch.tensor([3.0, 4.0])).backward()
        >>> gradient_norm([weight, torch.nn.Parameter(torch.zeros(1))])
        tensor(5.)
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return nn.utils.get_total_norm([one.coalesce().values() if one.is_sparse else one for one in gradients])
