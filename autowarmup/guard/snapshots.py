"""A ring of snapshots of a training, in memory or in a folder."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from autowarmup import checked_file

LOG = logging.getLogger("autowarmup.guard")

State = dict[str, Any]
Agreed = Callable[[Callable[[], State | None]], State | None]


@dataclass(frozen=True)
class Snapshot:
    """A training right before one of its steps.

    Args:
        step: the step of the run that comes next.
        count: how many steps were applied before.
        state: what is needed to go on; None where it is in a file, or another process has it.
    """

    step: int
    count: int
    state: State | None


class Snapshots:
    """The last snapshots, each about twice as old as the one after it, and the first one.

    Args:
        keep: how many, at least 2.
        folder: where they are; None: in memory. A file carries its checksum; one that is damaged isn't used.
        holds: whether this process has them; of several that train together the first one has.
    """

    def __init__(self, keep: int, folder: Path | None, holds: bool = True) -> None:
        self._keep, self._folder, self._holds = keep, folder, holds
        self._kept: list[Snapshot] = []

    @property
    def steps(self) -> list[int]:
        """The steps of the snapshots, oldest first."""
        return [snapshot.step for snapshot in self._kept]

    def add(self, step: int, count: int, state: State) -> None:
        """Takes a snapshot; the tensors are copied. One that can't be written is left out, with a warning in the log:
        a full disk doesn't end a training."""
        in_memory = self._holds and self._folder is None
        self._kept.append(Snapshot(step, count, copied(state) if in_memory else None))
        if self._holds and self._folder is not None:
            try:
                with checked_file.writing(path_of(self._folder, step)) as file:
                    torch.save(state | {"step": step, "count": count}, cast(IO[bytes], file))
            except OSError as error:
                LOG.warning("the snapshot of step %d can't be written: %s", step, error)
        if len(self._kept) > self._keep:
            self._drop(self._kept[self._superfluous(step)])

    def newest_before(self, count: int, agreed: Agreed) -> tuple[int, State] | None:
        """The newest intact snapshot with at most so many applied steps.

        Newer ones are dropped, since what is in them may be damaged.

        Args:
            count: applied steps.
            agreed: calls a function in the first process and returns what it returns in all.

        Returns:
            Its step and what is in it, safe to be changed; None where there is none.
        """
        while self._kept:
            snapshot = self._kept[-1]
            state = agreed(lambda: self._read(snapshot)) if snapshot.count <= count else None  # noqa: B023
            if state is not None:
                return snapshot.step, state
            self._drop(snapshot)
        return None

    def _read(self, snapshot: Snapshot) -> State | None:
        return copy.deepcopy(snapshot.state) if self._folder is None else read(path_of(self._folder, snapshot.step))

    def _drop(self, snapshot: Snapshot) -> None:
        """Drops one."""
        self._kept.remove(snapshot)
        if self._folder is not None and self._holds:
            path_of(self._folder, snapshot.step).unlink(missing_ok=True)

    def _superfluous(self, now: int) -> int:
        """The place of the snapshot whose neighbours are nearest to each other, for their age."""
        steps = self.steps
        return min(
            range(1, len(steps) - 1), key=lambda place: (steps[place + 1] - steps[place - 1]) / (now - steps[place] + 1)
        )


def newest(folder: Path) -> State | None:
    """The newest intact snapshot in a folder; None where there is none."""
    for path in sorted(folder.glob("snapshot-*.pt"), reverse=True):
        state = read(path)
        if state is not None:
            return state
        LOG.warning("%s is damaged and isn't used", path)
    return None


def read(path: Path) -> State | None:
    """A snapshot's file; None where it is missing or damaged."""
    with checked_file.reading(path) as file:
        if file is None:
            return None
        state: State = torch.load(file, map_location="cpu", weights_only=True)
        return state


def path_of(folder: Path, step: int) -> Path:
    """The file of the snapshot of a step."""
    return folder / f"snapshot-{step:09d}.pt"


def copied(value: Any) -> Any:
    """A copy on the host, with all tensors in it."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copied(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(one) for one in value)
    return copy.deepcopy(value)
