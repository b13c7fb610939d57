"""Several processes that train one model together come to the same judgement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class Agreement:
    """The processes of ``torch.distributed``'s default group; one where it isn't initialized."""

    @property
    def first(self) -> bool:
        """Whether this is the process that records and keeps the snapshots."""
        return not _together() or dist.get_rank() == 0

    def means(self, numbers: Sequence[Tensor]) -> list[list[float]]:
        """Means over the processes, on the host: of each tensor, all of one shape.

        With one process this is the only time that the host waits for the device."""
        stacked = torch.stack([one.detach().float() for one in numbers])
        if _together():
            dist.all_reduce(stacked)
            stacked /= dist.get_world_size()
        return stacked.double().tolist()

    @property
    def part(self) -> str:
        """The name of what this process has of what is divided among all of them."""
        return f"{self.rank + 1}-of-{dist.get_world_size()}" if _together() else "1-of-1"

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, in all of them."""
        made: list[Any] = [make() if self.first else None]
        if _together():
            dist.broadcast_object_list(made)
        return made[0]  # type: ignore[no-any-return]

    def from_each(self, make: Callable[[], T | None]) -> T | None:
        """What this process makes, if none of them makes None; None otherwise."""
        made = make()
        return made if all(self.all(made is not None)) else None

    def all(self, own: T) -> list[T]:
        """What each process has, by its rank."""
        if not _together():
            return [own]
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, own)
        return gathered

    @property
    def rank(self) -> int:
        """The number of this process."""
        return dist.get_rank() if _together() else 0


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
