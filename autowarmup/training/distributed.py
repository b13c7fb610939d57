"""Several processes that train one model together: each takes its part of every batch (data parallelism, with PyTorch's
DistributedDataParallel).

The data, their order and the meaning of a step are those of one process, so the schedule that is found is for the whole
batch. What differs from one process: sums are rounded in another order, dropout draws differ, and batch normalisation
sees only a process's part of the batch.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from autowarmup.training.batch import Batch, part_of, size_of

T = TypeVar("T")

GET_ADDRESS = 0x8915
"""Linux's request ``SIOCGIFADDR``, netdevice(7): an interface's IPv4 address."""

FOREVER = timedelta(days=365)
"""Timeout of collective operations: the engine notices when a process hangs and ends all of them."""

Store = Any
"""PyTorch's key-value store, through which the processes of a group find each other."""


def opened_store(host: str, size: int) -> Store:
    """Opens the store in a group's first process, on a free port of ``host``."""
    return dist.TCPStore(host, 0, size, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]


def found_store(host: str, port: int, size: int) -> Store:
    """Connects another process to the first one's store."""
    return dist.TCPStore(host, port, size, is_master=False)  # type: ignore[attr-defined]


def use_interface(address: str) -> None:
    """Has Gloo use the network interface that has ``address``, unless ``GLOO_SOCKET_IFNAME`` names one. By default it
    uses the one that the host's name resolves to, which is the loopback on many Linux hosts."""
    if sys.platform != "linux":
        return
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking, GET_ADDRESS, struct.pack("256s", name.encode()))
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


class Group:
    """The processes that train a model together; one, unless they have joined.

    Args:
        rank: the number of this process, 0 to ``size - 1``.
        size: processes.

    Example:
        >>> alone = Group()
        >>> alone.share(torch.arange(3.0)), alone.mean(torch.tensor(2.0))
        ((tensor([0., 1., 2.]), 1.0), tensor(2.))
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def joined(cls, rank: int, size: int, store: Store) -> Group:
        """Makes PyTorch's default process group, for tensors on the CPU and on CUDA where there is any; returns when
        all processes are there."""
        cuda = torch.cuda.is_available() and dist.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=FOREVER)
        return cls(rank, size)

    def share(self, batch: Batch) -> tuple[Batch, float]:
        """This process's part of a batch, and the weight of its mean loss: the gradients' mean over the processes is
        then that of the mean loss over the whole batch. Where the batch has fewer examples than there are processes,
        some repeat one with weight 0.

        Raises:
            InputError: the batch can't be divided.
        """
        if self.size == 1:
            return batch, 1.0
        examples = size_of(batch)
        start, stop = (index * examples // self.size for index in (self.rank, self.rank + 1))
        part = slice(start, stop) if start < stop else slice(0, 1)
        return part_of(batch, part, examples), (stop - start) * self.size / examples

    def every_nth(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches that this process validates: every ``size``-th one, from its ``rank`` on."""
        return islice(iter(batches), self.rank, None, self.size)

    def wrapped(self, model: nn.Module, *, partly_used: bool) -> nn.Module:
        """The model, averaging gradients over the processes.

        Args:
            model: with the same weights in each of them.
            partly_used: whether some parameters that want gradients get none.
        """
        return model if self.size == 1 else DistributedDataParallel(model, find_unused_parameters=partly_used)

    def accumulating(self, model: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Postpones the averaging of gradients to the ``last`` of the batches that make a step."""
        return nullcontext() if last or self.size == 1 else model.no_sync()  # type: ignore[operator]

    def mean(self, tensor: Tensor) -> Tensor:
        """Averages over all processes, in place; the result is the same to the bit in each."""
        return self.total(tensor).div_(self.size)

    def total(self, tensor: Tensor) -> Tensor:
        """Sums over all processes, in place; the result is the same to the bit in each."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites the tensors with the first process's, in place."""
        for tensor in tensors if self.size > 1 else ():
            sent = tensor.contiguous()
            dist.broadcast(sent, 0)
            if sent is not tensor:
                tensor.copy_(sent)

    def first(self, value: T) -> T:
        """The first process's value; every process must call it."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, 0)
        return values[0]

    def all(self, value: T) -> list[T]:
        """Every process's value, in the order of their ranks; every process must call it."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values
