"""A batch of the user's data: a tensor, a tuple, a mapping, or an object with a method ``to(device)``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from autowarmup.errors import InputError

Batch = Any
"""A tensor, a tuple ``(*inputs, target)`` or a mapping of tensors."""


def as_tensor(array: np.ndarray[Any, Any] | Tensor) -> Tensor:
    """A tensor of the array's memory where that is possible.

    Raises:
        InputError: the array holds no numbers, or the tensor has no values of its own: it is sparse, or on ``meta``.
    """
    if isinstance(array, Tensor):
        if array.layout is not torch.strided or array.is_meta:
            kind = "a meta tensor" if array.is_meta else f"a {str(array.layout).removeprefix('torch.')} tensor"
            raise InputError(f"{kind} can't be used as data: pass a dense one, on any device")
        return array
    try:
        return torch.as_tensor(array.copy() if any(stride < 0 for stride in array.strides) else array)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"an array of {array.dtype} can't be used as data: it must hold numbers or booleans ({error})"
        ) from error


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch with all its tensors on ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=device.type == "cuda")
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(to_device(part, device) for part in batch)
    if isinstance(batch, np.ndarray):
        return as_tensor(batch).to(device)
    return batch.to(device) if hasattr(batch, "to") else batch


class InputNames:
    """Which entries of a mapping a model's ``forward`` takes by name.

    The entry ``labels``, or else ``label``, is the target. It goes into the model too where ``forward`` takes it;
    ``label`` goes in as ``labels`` where ``forward`` takes that, as in Hugging Face's collators.

    Example:
        >>> names = InputNames.of(nn.Linear(2, 1))
        >>> names.chosen({"input": 1, "label": 2})
        {'input': 1}
    """

    def __init__(self, names: frozenset[str], takes_all: bool) -> None:
        self.names, self.takes_all = names, takes_all

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """From the signature of the model's ``forward``."""
        parameters = inspect.signature(model.forward).parameters.values()
        named = (p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        return cls(frozenset(named), any(p.kind is p.VAR_KEYWORD for p in parameters))

    def chosen(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The entries that go into the model.

        Raises:
            InputError: ``forward`` doesn't take one of them.
        """
        chosen = dict(batch)
        if "label" in chosen and "label" not in self.names and (self.names or not self.takes_all):
            label = chosen.pop("label")
            if "labels" in self.names:
                chosen.setdefault("labels", label)
        if "labels" not in self.names and not self.takes_all:
            chosen.pop("labels", None)
        unknown = sorted(set(chosen) - self.names)
        if unknown and not self.takes_all:
            raise InputError(
                f"a mapping's entries go into the model by name; its forward takes {', '.join(sorted(self.names))}, "
                f"and not {', '.join(unknown)}. Call the target 'labels', or make batches that are tuples "
                f"(*inputs, target)"
            )
        return chosen


def output_of(model: nn.Module, batch: Batch, names: InputNames) -> Any:
    """What the model makes of the batch's inputs; a mapping's entries go in by name."""
    if isinstance(batch, Mapping):
        return model(**names.chosen(batch))
    if isinstance(batch, tuple | list) and len(batch) > 1:
        return model(*batch[:-1])
    return model(batch[0] if isinstance(batch, tuple | list) else batch)


def target_of(batch: Batch) -> Any:
    """The last part of a tuple, a mapping's ``labels`` or ``label``; None where there is none."""
    if isinstance(batch, Mapping):
        return batch.get("labels", batch.get("label"))
    return batch[-1] if isinstance(batch, tuple | list) and len(batch) > 1 else None


def size_of(batch: Batch) -> int:
    """Examples in the batch: the length of the first tensor in it, 1 where there is none."""
    if isinstance(batch, Tensor | np.ndarray):
        return len(batch) if batch.ndim else 1
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
