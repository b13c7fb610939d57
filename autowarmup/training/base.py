"""The interface of tasks and of their trials, as engines and ``autotune`` use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import IO, TYPE_CHECKING, Any, Protocol

from autowarmup.adaptive.climb import ClimbSettings
from autowarmup.schedule import Schedule
from autowarmup.schedule.groups import Patterns
from autowarmup.training.trace import Trace

if TYPE_CHECKING:
    from autowarmup.training.distributed import Group


class Writable(Protocol):
    """A file to write bytes to."""

    def write(self, data: Any, /) -> Any: ...


OpenState = Callable[[], AbstractContextManager[Writable]]
"""Opens the place where a trial's state is to be written."""


class RunningTrial(Protocol):
    """A trial under way, at optimizer step ``step``."""

    step: int

    def run(self, until: int) -> Iterator[Trace]:
        """Trains up to step ``until`` and yields what it recorded, block by block."""

    def save(self, open_state: OpenState) -> bool:
        """Writes all that is needed to go on. Returns False, and opens nothing, where the trial can only wait in
        memory."""

    def close(self) -> None:
        """Frees what the trial holds."""


class Task(Protocol):
    """What is trained: a model on data, or a training loop of the user's own.

    Attributes:
        current_peak: the learning rate in use today.
        beta2: the optimizer's second-moment decay.
        trivial_loss: the loss of the best prediction that ignores its input; None where it is not known.
        groups: the patterns of the parameter groups that schedules may have, by name; empty where there are none.
        uses_cuda: whether a trial trains on a CUDA device.
    """

    current_peak: float
    beta2: float
    trivial_loss: float | None
    groups: Patterns

    @property
    def uses_cuda(self) -> bool: ...

    @property
    def steps_per_epoch(self) -> int | None: ...

    def describe(self) -> dict[str, Any]:
        """What is trained, as plain values; a study of another description is another study."""

    def check(self, schedule: Schedule, seed: int, climb: ClimbSettings | None = None) -> None:
        """Checks what only a run's first steps show; may make a few.

        Raises:
            InputError: the task can't be tuned.
        """

    def join(self, group: Group) -> None:
        """Tells the task that this process is one of several that train each trial together."""

    def trial(
        self,
        schedule: Schedule,
        seed: int,
        eval_every: int,
        state: IO[bytes] | None,
        climb: ClimbSettings | None = None,
    ) -> RunningTrial:
        """A trial at its start, or where ``state`` left it. With ``climb`` its warm-up adapts, and the schedule says
        how long it is."""
