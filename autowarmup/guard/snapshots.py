"""A ring of snapshots of a training, in memory or in a folder."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from autowarmup import checked_file
from autowarmup.errors import InputError
from autowarmup.guard.agreement import Agreement
from autowarmup.values import short

LOG = logging.getLogger("autowarmup.guard")

State = dict[str, Any]


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

    Of several processes that train together the first one has them, for all. Where the model is divided among them,
    each has those of its own part, and one is used if all parts are intact.

    Args:
        keep: how many, at least 2.
        folder: where they are, parts in folders of their own; None: in memory. A file carries its checksum; one that is
            damaged isn't used.
        agreement: of the processes.
        divided: whether the model is divided among them.
    """

    def __init__(self, keep: int, folder: Path | None, agreement: Agreement, divided: bool = False) -> None:
        self._keep, self._root, self._agreement = keep, folder, agreement
        self._folder = folder / agreement.part if folder is not None and divided else folder
        self._holds = divided or agreement.first
        self._agreed = agreement.from_each if divided else agreement.from_first
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

    def newest_before(self, count: int) -> tuple[int, State] | None:
        """The newest intact snapshot with at most so many applied steps.

        Newer ones are dropped, since what is in them may be damaged.

        Args:
            count: applied steps.

        Returns:
            Its step and what is in it, safe to be changed; None where there is none.
        """
        while self._kept:
            snapshot = self._kept[-1]
            state = self._agreed(lambda: self._read(snapshot)) if snapshot.count <= count else None  # noqa: B023
            if state is not None:
                return snapshot.step, state
            self._drop(snapshot)
        return None

    def begin(self, step: int) -> None:
        """Begins at a step without going on from the folder. Snapshots of later steps would be taken for this run's, so
        those that were left behind, as where a checkpoint of the training's own was gone back to, are deleted.

        Raises:
            InputError: a run begins at its first step, and the folder has those of another one.
        """
        folder = self._folder
        if folder is None:
            return
        later = [there for there in self._agreement.from_first(lambda: steps_in(folder)) if there > step]
        if later and step == 0:
            raise InputError(
                f"folder={short(str(self._root))} has snapshots of a run, up to step {later[0]}: go on with it by "
                f"resume(), or begin in another folder"
            )
        for there in later if self._holds else ():
            path_of(folder, there).unlink(missing_ok=True)

    def newest_in_folder(self) -> State | None:
        """The newest intact snapshot of an earlier run; None where there is none.

        Raises:
            InputError: there is no folder, or the model was divided among another number of processes.
        """
        folder = self._folder
        if folder is None or self._root is None:
            raise InputError("folder=None: only a guard with a folder can resume; its snapshots were in memory")
        steps = self._agreement.from_first(lambda: steps_in(folder))
        if not steps and any(self._root.rglob("snapshot-*.pt")):
            raise InputError(
                f"folder={short(str(self._root))}: its snapshots are of a model that was divided among another number "
                f"of processes; resume with as many"
            )
        for step in steps:
            state = self._agreed(lambda: read(path_of(folder, step)))  # noqa: B023
            if state is not None:
                return state
            LOG.warning("the snapshot of step %d in %s is damaged and isn't used", step, folder)
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


def steps_in(folder: Path) -> list[int]:
    """The steps of the snapshots in a folder, newest first."""
    return sorted((int(path.stem.removeprefix("snapshot-")) for path in folder.glob("snapshot-*.pt")), reverse=True)


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
