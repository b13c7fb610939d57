"""A batch of the user's data, whatever it is made of: tensors, tuples, mappings, objects that know ``to(device)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autowarmup.errors import InputError

Batch = Any
"""A tensor, a tuple ``(*inputs, target)`` or a mapping of tensors."""


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch with all its tensors on ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=device.type == "cuda")
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(to_device(part, device) for part in batch)
    if isinstance(batch, np.ndarray):
        return torch.as_tensor(batch, device=device)
    return batch.to(device) if hasattr(batch, "to") else batch


def output_of(model: nn.Module, batch: Batch) -> Any:
    """What the model makes of the batch's inputs; a mapping's entries go in by name."""
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, tuple | list) and len(batch) > 1:
        return model(*batch[:-1])
    return model(batch[0] if isinstance(batch, tuple | list) else batch)


def target_of(batch: Batch) -> Any:
    """The last part of a tuple, a mapping's ``labels``; None where there is none."""
    if isinstance(batch, Mapping):
        return batch.get("labels")
    return batch[-1] if isinstance(batch, tuple | list) and len(batch) > 1 else None


def size_of(batch: Batch) -> int:
    """Examples in the batch: the length of the first tensor in it, 1 where there is none."""
    if isinstance(batch, Tensor | np.ndarray):
        return len(batch)
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return next((size_of(part) for part in parts), 1)


def part_of(batch: Batch, part: slice, examples: int) -> Batch:
    """Some of the ``examples`` of a batch; a tensor in it of another length goes along as a whole.

    Raises:
        InputError: it has something in it that can't be divided.
    """
    if isinstance(batch, Tensor | np.ndarray):
        return batch[part] if batch.ndim and len(batch) == examples else batch
    if isinstance(batch, Mapping):
        return {key: part_of(value, part, examples) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(part_of(value, part, examples) for value in batch)
    if batch is None or isinstance(batch, bool | int | float | str):
        return batch
    raise InputError(
        f"a batch with a {type(batch).__name__} in it can't be divided among the processes of a trial: tensors, "
        f"arrays, and tuples and mappings of them can"
    )


def shapes(batch: Batch) -> str:
    """A batch's shapes, for messages.

    >>> shapes((torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)))
    '(2, 3) float32, (2,) int64'
    """
    if isinstance(batch, Tensor):
        return f"{tuple(batch.shape)} {str(batch.dtype).removeprefix('torch.')}"
    if isinstance(batch, Mapping):
        return ", ".join(f"{key}: {shapes(value)}" for key, value in batch.items())
    if isinstance(batch, tuple | list):
        return ", ".join(shapes(part) for part in batch)
    return type(batch).__name__
