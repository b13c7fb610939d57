"""The loss of a batch where none was given, and the loss of the trivial predictor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from autowarmup.errors import InputError

Loss = Callable[[Any, Any], Tensor]
"""``loss(output, target)``: one number."""


def own_loss(output: Any) -> Tensor | None:
    """The loss that a model returns by itself: a scalar, ``.loss`` or ``["loss"]``."""
    if isinstance(output, Tensor):
        return output if output.dim() == 0 else None
    return cast(Tensor | None, output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None))


def inferred_loss(output: Any, target: Any) -> Tensor:
    """Cross-entropy for integer targets, mean squared error for floating-point ones.

    Raises:
        InputError: the shapes don't match, or output or target are no tensors.
    """
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


def has_trivial_loss(loss: Loss | None) -> bool:
    """Whether :func:`trivial_loss` speaks of this loss: an inferred one, plain cross-entropy or mean squared error."""
    if isinstance(loss, nn.CrossEntropyLoss):
        return loss.reduction == "mean" and loss.weight is None and loss.label_smoothing == 0.0
    return loss is None or (isinstance(loss, nn.MSELoss) and loss.reduction == "mean")


def trivial_loss(targets: Sequence[Tensor], ignore_index: int = -100) -> float | None:
    """The loss of the best prediction that ignores its input: the labels' entropy, in nats, or the targets' variance.

    None where that is 0, because then nothing can be learnt.

    >>> round(trivial_loss([torch.tensor([0, 0, 1, 1])]), 4)
    0.6931
    """
    if targets[0].is_floating_point():
        rows = torch.cat([part.flatten(1) if part.dim() > 1 else part[:, None] for part in targets]).float()
        return float(rows.var(dim=0, unbiased=False).mean()) or None
    labels = torch.cat([part.flatten() for part in targets]).long()
    labels = labels[(labels != ignore_index) & (labels >= 0)]
    share = torch.bincount(labels).float() / max(1, len(labels))
    share = share[share > 0]
    return float(-(share * share.log()).sum()) or None
