"""The user's data as batches, in the same order for every trial of a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from autowarmup.errors import AutowarmupError, InputError
from autowarmup.seeds import derive_seed
from autowarmup.training.batch import Batch, as_tensor, shapes, size_of
from autowarmup.training.identity import digest_of
from autowarmup.training.rng import borrowed, seed_everything

EXPECTED = (
    "data must be (train, validation), each a DataLoader, a Dataset, a tuple of tensors or NumPy arrays such as "
    "(X, y), or a callable that returns such a pair"
)

END: Any = object()
"""After the last batch."""


class Data:
    """Train and validation data, checked.

    Args:
        data: a pair of DataLoaders, Datasets, or tuples of tensors or NumPy arrays; or a callable returning a pair of
            iterables. The callable is called once; again for every pass where what it returned can only be
            iterated over once.
        batch_size: for Datasets, tensors and arrays; four times as many for validation, which needs no gradients.

    Raises:
        InputError: no validation data, empty or one-shot data, arrays of different lengths.
    """

    def __init__(self, data: Any, batch_size: int) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size} must be at least 1")
        self._make: Callable[[], tuple[Any, Any]] | None = data if callable(data) else None
        with borrowed():
            train, validation = _pair(_called(data) if callable(data) else data)
        self.train = _Source(train, "train", batch_size, self._again(0), shuffle=True)
        self.validation = _Source(validation, "validation", 4 * batch_size, self._again(1), shuffle=False)
        self._batch_size = batch_size

    def __reduce_ex__(self, protocol: Any) -> Any:
        """In another process a callable is called again; what it returned here isn't sent there."""
        if self._make is None:
            return super().__reduce_ex__(protocol)
        return Data, (self._make, self._batch_size)

    def _again(self, index: int) -> Callable[[], Any] | None:
        make = self._make
        return None if make is None else lambda: make()[index]


class _Source:
    """One of the two data sets, as passes over its batches."""

    def __init__(self, data: Any, name: str, batch_size: int, again: Callable[[], Any] | None, shuffle: bool) -> None:
        self.name = name
        self._again, self._batch_size, self._shuffle = again, batch_size, shuffle
        self._data = _dataset(data, name)
        self._one_shot = isinstance(self._data, Iterator)
        if self._one_shot and again is None:
            raise InputError(
                f"the {name} data is a {type(data).__name__}, which can only be iterated over once; every trial needs "
                f"it from the start: pass a callable that makes it anew"
            )
        if isinstance(self._data, Mapping | str) or not isinstance(self._data, Iterable | Dataset):
            raise InputError(f"the {name} data is a {type(data).__name__}; {EXPECTED}")
        if isinstance(self._data, IterableDataset):
            raise InputError(
                f"the {name} data is an IterableDataset: wrap it in a DataLoader, which makes batches of it"
            )
        if isinstance(self._data, Dataset) and not isinstance(self._data, Sized):
            raise InputError(f"the {name} data, a {type(data).__name__}, has no length: a Dataset needs __len__")
        if getattr(self._data, "persistent_workers", False):
            raise InputError(
                f"the {name} DataLoader has persistent_workers=True: its workers would carry their random state from "
                f"one trial to the next, and trials could not be compared; pass persistent_workers=False"
            )
        if self.batches == 0:
            raise InputError(f"the {name} data is empty: {type(data).__name__} of length 0")

    @property
    def batches(self) -> int | None:
        """Batches of one pass, None where that isn't known."""
        if self._one_shot:
            return None
        if _is_indexed(self._data):
            return -(-len(cast(Sized, self._data)) // self._batch_size)
        try:
            return len(cast(Sized, self._data))
        except TypeError:
            return None

    @property
    def gives_examples(self) -> bool:
        """Whether its items may be examples where batches are expected: a plain iterable can be of either."""
        return not isinstance(self._data, DataLoader | Dataset)

    def digest(self) -> str:
        """What tells the data from others: a digest of all of it where it is tensors or arrays, else of the first 8
        batches under a fixed seed. Of their shapes where these aren't the same twice under one seed."""
        if type(self._data) is TensorDataset:
            return digest_of(*self._data.tensors)
        batches = list(islice(self.passes(0), 8))
        if digest_of(batches[0]) != digest_of(next(self.passes(0))):
            return digest_of(*map(shapes, batches))
        return digest_of(*batches)

    def passes(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """Pass after pass, without end, from batch number ``start`` on.

        The global generators are seeded from ``seed`` and the number of the pass or batch before each use, so that
        shuffling and augmentation are the same for every trial of a seed, wherever it starts. The caller gives them
        their state back.
        """
        epoch = start // self.batches if self.batches and self._exact else 0
        index = epoch * self.batches if self.batches else 0
        while True:
            skip = max(0, start - index) if _is_indexed(self._data) else 0
            seed_everything(derive_seed(seed, "pass", epoch))
            batches = self.one_pass(derive_seed(seed, "order", epoch), skip)
            index += skip
            first = index
            while True:
                seed_everything(derive_seed(seed, "batch", index))
                batch = next(batches, END)
                if batch is END:
                    break
                if index >= start:
                    yield batch
                index += 1
            if index == first:
                raise InputError(f"the {self.name} data is empty: one pass over it gave no batch")
            epoch += 1

    @property
    def _exact(self) -> bool:
        """Whether ``batches`` is certain, so that whole passes can be skipped uncounted."""
        loader = isinstance(self._data, DataLoader) and not isinstance(self._data.dataset, IterableDataset)
        return loader or _is_indexed(self._data)

    def one_pass(self, order_seed: int = 0, skip: int = 0) -> Iterator[Batch]:
        """One pass over the batches. Indexed data skips ``skip`` batches at no cost; other data starts at the first.

        Raises:
            InputError: a batch is None or has no examples.
        """
        if _is_indexed(self._data):
            return self._checked(self._indexed(order_seed, skip), skip)
        if self._one_shot:
            assert self._again is not None
            return self._checked(iter(self._again()), 0)
        return self._checked(_restoring_generators(self._data, order_seed), 0)

    def _checked(self, batches: Iterator[Batch], start: int) -> Iterator[Batch]:
        for number, batch in enumerate(batches, start + 1):
            if batch is None:
                raise InputError(f"batch {number} of the {self.name} data is None: does its collate_fn return nothing?")
            if size_of(batch) == 0:
                raise InputError(f"batch {number} of the {self.name} data has no examples: {shapes(batch)}")
            yield batch

    def _indexed(self, order_seed: int, skip: int) -> Iterator[Batch]:
        dataset = cast(Any, self._data)
        size = len(dataset)
        order = np.random.default_rng(order_seed).permutation(size) if self._shuffle else np.arange(size)
        starts = range(skip * self._batch_size, size, self._batch_size)
        parts = (order[start : start + self._batch_size] for start in starts)
        if type(dataset) is TensorDataset:
            return (tuple(tensor[part] for tensor in dataset.tensors) for part in map(torch.from_numpy, parts))
        return iter(DataLoader(dataset, batch_sampler=(part.tolist() for part in parts)))


def _called(data: Callable[[], Any]) -> Any:
    try:
        return data()
    except AutowarmupError:
        raise
    except Exception as error:
        raise InputError(f"data() raised {type(error).__name__}: {error}") from error


def _pair(data: Any) -> tuple[Any, Any]:
    if not isinstance(data, tuple | list):
        raise InputError(f"{EXPECTED}; got {type(data).__name__}. Without validation data nothing can be compared")
    if len(data) != 2:
        raise InputError(f"{EXPECTED}; got {len(data)} parts")
    if all(isinstance(part, np.ndarray | torch.Tensor) for part in data):
        shapes = " and ".join(str(tuple(part.shape)) for part in data)
        raise InputError(f"no validation data: {EXPECTED}; got two arrays of shapes {shapes}")
    return data[0], data[1]


def _dataset(data: Any, name: str) -> Any:
    """Tensors and arrays as a TensorDataset, float64 (NumPy's default) as PyTorch's default type; everything else as it
    is."""
    if data is None:
        raise InputError(f"no {name} data: {EXPECTED}")
    if isinstance(data, np.ndarray | torch.Tensor):
        data = (data,)
    arrays = isinstance(data, tuple | list) and all(isinstance(part, np.ndarray | torch.Tensor) for part in data)
    if not arrays or not data:
        return data
    try:
        tensors = [as_tensor(part) for part in data]
    except InputError as error:
        raise InputError(f"the {name} data: {error}") from error
    if any(tensor.dim() == 0 for tensor in tensors):
        raise InputError(f"the {name} data has a single number in it: an array's first dimension must be the examples")
    lengths = [len(tensor) for tensor in tensors]
    if len(set(lengths)) > 1:
        raise InputError(f"the {name} data's arrays have different lengths: {', '.join(map(str, lengths))}")
    default = torch.get_default_dtype()
    return TensorDataset(*(tensor.to(default) if tensor.dtype == torch.float64 else tensor for tensor in tensors))


def _is_indexed(data: Any) -> bool:
    return isinstance(data, Dataset) and not isinstance(data, IterableDataset)


def _restoring_generators(loader: Any, seed: int) -> Iterator[Batch]:
    """A pass over a loader of the user's. Its own generators are seeded for the pass, and have their former state again
    whenever a batch is handed over."""
    samplers = [getattr(loader, name, None) for name in ("sampler", "batch_sampler")]
    owners = [loader, *samplers, getattr(samplers[1], "sampler", None)]
    generators = list({id(g): g for owner in owners if (g := getattr(owner, "generator", None))}.values())
    states = [torch.Generator(g.device).manual_seed(seed).get_state() for g in generators]
    batches: Iterator[Batch] | None = None
    while True:
        theirs = [generator.get_state() for generator in generators]
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        try:
            batches = iter(loader) if batches is None else batches  # its truth would be its length
            batch = next(batches, END)
            states = [generator.get_state() for generator in generators]
        finally:
            for generator, state in zip(generators, theirs, strict=True):
                generator.set_state(state)
        if batch is END:
            return
        yield batch
