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


def trivial_loss(targets: Sequence[Tensor], loss: Loss | None = None) -> float | None:
    """The loss of the best prediction that ignores its input: the entropy of the mean distribution over the classes, in
    nats, for cross-entropy; the targets' variance for mean squared error.

    Args:
        targets: class indices, shape ``(batch, ...)``; probabilities of the classes, ``(batch, classes, ...)``; or
            values to regress on.
        loss: None where it is inferred from the targets' type.

    Returns:
        None where the loss is another, or weighted or smoothed, and where the result is 0, because then there is
        nothing to learn.

    >>> round(trivial_loss([torch.tensor([0, 0, 1, 1])]), 4)
    0.6931
    >>> round(trivial_loss([torch.tensor([[0.9, 0.1], [0.1, 0.9]])], nn.CrossEntropyLoss()), 4)
    0.6931
    """
    floating = targets[0].is_floating_point()
    if loss is None:
        return _variance(targets) if floating else _entropy(_class_counts(targets, ignore_index=-100))
    if _is_plain_mse(loss):
        return _variance(targets)
    if not _is_plain_cross_entropy(loss):
        return None
    if floating:
        return _entropy(_mean_probabilities(targets)) if targets[0].dim() > 1 else None
    return _entropy(_class_counts(targets, getattr(loss, "ignore_index", -100)))


def _is_plain_mse(loss: Loss) -> bool:
    return loss is nn.functional.mse_loss or (isinstance(loss, nn.MSELoss) and loss.reduction == "mean")


def _is_plain_cross_entropy(loss: Loss) -> bool:
    if isinstance(loss, nn.CrossEntropyLoss):
        return loss.reduction == "mean" and loss.weight is None and loss.label_smoothing == 0.0
    return loss is nn.functional.cross_entropy


def _variance(targets: Sequence[Tensor]) -> float | None:
    rows = torch.cat([part.flatten(1) if part.dim() > 1 else part[:, None] for part in targets]).float()
    return float(rows.var(dim=0, unbiased=False).mean()) or None


def _class_counts(targets: Sequence[Tensor], ignore_index: int) -> Tensor:
    labels = torch.cat([part.flatten() for part in targets]).long()
    return torch.bincount(labels[(labels != ignore_index) & (labels >= 0)]).double()


def _mean_probabilities(targets: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.movedim(1, -1).flatten(0, -2) for part in targets]).double().mean(dim=0)


def _entropy(weights: Tensor) -> float | None:
    share = weights[weights > 0] / weights.sum()
    return float(-(share * share.log()).sum()) or None
