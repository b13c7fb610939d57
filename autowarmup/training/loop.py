"""A training loop of the user's own as a task: any function that reports what it has and stops when told."""

from __future__ import annotations

import inspect
import math
import queue
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np

from autowarmup.errors import InputError
from autowarmup.schedule.schedule import Schedule
from autowarmup.seeds import derive_seed
from autowarmup.training.base import OpenState
from autowarmup.training.distributed import Group
from autowarmup.training.recipe import best_device
from autowarmup.training.rng import Stream
from autowarmup.training.trace import Evaluation, Trace


class TrialStopped(BaseException):
    """Raised by :meth:`LoopRun.report` in a loop that goes on although it was told to stop. Let it pass."""


class LoopRun:
    """What a training function gets: the schedule to apply, a seed, and where to report.

    Attributes:
        schedule: the schedule of this trial; ``schedule.scheduler(optimizer)`` or ``schedule.lr_at(step)`` applies it.
        total_steps: the horizon, optimizer steps.
        seed: the seed for initial weights and batches: trials with the same seed must see the same ones.
        should_stop: whether the loop is to end. :meth:`report` returns the same.
    """

    def __init__(self, schedule: Schedule, seed: int) -> None:
        self.schedule, self.seed = schedule, seed
        self.total_steps = schedule.horizon
        self.should_stop = False
        self._step = 0
        self._told = False
        self._reports: queue.SimpleQueue[Trace | BaseException | None] = queue.SimpleQueue()
        self._go = threading.Semaphore(0)

    def report(
        self,
        loss: float,
        *,
        grad_norm: float | None = None,
        val_loss: float | None = None,
        val_loss_ema: float | None = None,
        lr: float | None = None,
        **metrics: float,
    ) -> bool:
        """Reports one optimizer step: call it once after each. Returns whether to stop. Where several processes train
        together, each reports every step, and what the first one says counts.

        Args:
            loss: the step's training loss; any number, NaN and infinity included.
            grad_norm: the gradient's norm before clipping, if at hand.
            val_loss: the validation loss, on the steps that validate.
            val_loss_ema: the same with averaged weights, if at hand; it ranks unfinished trials better.
            lr: the rate the step applied; left out, the schedule's.
            metrics: further validation metrics.

        Raises:
            InputError: the loss is not a number.
        """
        if self.should_stop:
            if self._told:
                raise TrialStopped
            self._told = True
            return True
        if metrics and val_loss is None:
            raise InputError(f"report({', '.join(metrics)}): metrics belong to a validation; report val_loss with them")
        evaluations: tuple[Evaluation, ...] = ()
        if val_loss is not None:
            ema = math.nan if val_loss_ema is None else _number("val_loss_ema", val_loss_ema)
            values = {name: _number(name, value) for name, value in metrics.items()}
            evaluations = (Evaluation(self._step + 1, _number("val_loss", val_loss), ema, values),)
        norm = math.nan if grad_norm is None else _number("grad_norm", grad_norm)
        if grad_norm is not None and not math.isfinite(norm):
            norm = math.inf
        rate = self.schedule.lr_at(self._step) if lr is None else _number("lr", lr)
        if not 0.0 <= rate < math.inf:
            raise InputError(f"report(lr={lr!r}): a learning rate must be at least 0 and finite")
        row = np.array([[rate], [_number("loss", loss)], [norm]])
        self._reports.put(Trace(row[0], row[1], row[2], evaluations, self._step))
        self._step += 1
        self._go.acquire()
        self._told = self.should_stop
        return self.should_stop


class LoopTask:
    """What is trained by a function of the user's own.

    The function runs in a thread of its own (signal handlers can't be set there) that moves only while the engine
    pulls. A paused trial waits there with its model in memory; after a restart of the process its loop is run again up
    to where it was.

    Args:
        train_fn: takes a :class:`LoopRun`, trains, and calls ``report`` once after each optimizer step.
        current_peak: the learning rate in use today.
        beta2: the optimizer's, for the untuned rule.
    """

    trivial_loss: float | None = None
    steps_per_epoch: int | None = None
    uses_cuda = False

    def __init__(self, train_fn: Callable[[LoopRun], Any], *, current_peak: float, beta2: float = 0.999) -> None:
        if not callable(train_fn):
            raise InputError(f"train_fn must be a function that takes a run, got {type(train_fn).__name__}")
        try:
            inspect.signature(train_fn).bind(None)
        except TypeError as error:
            raise InputError(f"train_fn must take one argument, the run: {error}") from error
        self.train_fn, self.current_peak, self.beta2 = train_fn, current_peak, beta2
        self.group = Group()

    def describe(self) -> dict[str, Any]:
        """What is trained, in words; a study of another description is refused."""
        return {"train_fn": getattr(self.train_fn, "__qualname__", type(self.train_fn).__name__)}

    def join(self, group: Group) -> None:
        """This process is one of several that run the loop together."""
        self.group = group

    def trial(self, schedule: Schedule, seed: int, eval_every: int, state: IO[bytes] | None) -> LoopTrial:
        """A trial at its start."""
        return LoopTrial(self, schedule, seed)


class LoopTrial:
    """One run of the user's loop."""

    def __init__(self, task: LoopTask, schedule: Schedule, seed: int) -> None:
        self.step = 0
        self.schedule = schedule
        self._over = False
        self._group = task.group
        self._random = Stream(derive_seed(seed, "training"), best_device())
        self._run = LoopRun(schedule, seed)
        self._thread = threading.Thread(target=self._work, args=(task.train_fn,), daemon=True)

    def _work(self, train_fn: Callable[[LoopRun], Any]) -> None:
        self._run._go.acquire()
        try:
            train_fn(self._run)
            self._run._reports.put(None)
        except TrialStopped:
            self._run._reports.put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the engine, which records it
            self._run._reports.put(error)

    def run(self, until: int) -> Iterator[Trace]:
        """Lets the loop go on to step ``until``, yielding each step. It ends early only where the loop does.

        Raises:
            InputError: the loop ended before the horizon without being told to.
        """
        if not self._thread.is_alive():
            self._thread.start()
        while self.step < until:
            with self._random:
                self._run._go.release()
                item = self._run._reports.get()
            self._over = not isinstance(item, Trace)
            if isinstance(item, BaseException):
                raise item
            if item is None:
                raise InputError(
                    f"train_fn ended after {self.step} steps without being told to; "
                    f"it must report every optimizer step up to run.total_steps"
                )
            self.step += 1
            yield self._group.first(item)

    def save(self, open_state: OpenState) -> bool:
        """A loop of the user's own can't be written to a file: it waits in memory."""
        return False

    def close(self) -> None:
        """Tells the loop to stop and waits until it has."""
        self._run.should_stop = True
        if self._thread.is_alive() and not self._over:
            with self._random:
                self._run._go.release()
                while isinstance(self._run._reports.get(), Trace):
                    self._run._go.release()
        self._thread.join()


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"report({name}={value!r}): not a number") from error
