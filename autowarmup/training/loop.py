"""A training loop of the user's own as a task: any function that reports what it has and stops when told."""

from __future__ import annotations

import inspect
import logging
import math
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np

from autowarmup.adaptive.climb import ClimbSettings
from autowarmup.errors import InputError
from autowarmup.schedule.groups import Patterns
from autowarmup.schedule.schedule import Schedule
from autowarmup.seeds import derive_seed
from autowarmup.training.adapted_lr import AdaptedLR
from autowarmup.training.applied_lr import AppliedLR, RunSchedule
from autowarmup.training.base import OpenState
from autowarmup.training.channel import Channel, End
from autowarmup.training.distributed import Group
from autowarmup.training.identity import arrays_of, digest_of
from autowarmup.training.recipe import best_device
from autowarmup.training.rng import Stream
from autowarmup.training.trace import Evaluation, Trace, is_evaluated
from autowarmup.values import short

GRACE_S = 2.0
"""Seconds that a loop gets to end after an interrupt, before its thread is left behind."""

SAME_LOSS = 1e-3
"""Relative difference up to which two first losses count as those of one seed: devices may round differently."""


class TrialStopped(BaseException):
    """Raised by :meth:`LoopRun.report` in a loop that goes on although it was told to stop. Don't catch it."""


class LoopRun:
    """What a training function gets: the schedule to apply, a seed, and where to report.

    The loop must apply the schedule to each optimizer step, report each of them once, and take its initial weights and
    batches from the seed. What can be checked of that is checked, and an ``InputError`` says what is wrong.

    Attributes:
        schedule: the schedule of this trial; ``schedule.scheduler(optimizer)`` or ``schedule.lr_at(step)`` applies it.
            With several optimizers, make a scheduler for each: ``schedule.scheduler(optimizer, base_lr=...)`` with the
            highest learning rate of them all. Where the study has groups, some trials' schedules have them: make the
            optimizer with ``schedule.parameter_groups(model)``, and call ``schedule.freeze(model, step)`` before each
            step; both also do for schedules without groups. In a run whose warm-up adapts, the scheduler decides each
        step's learning rate while the run trains: it has to be stepped after each optimizer step, and ``lr_at`` raises.
        total_steps: the horizon, optimizer steps.
        seed: the seed for initial weights and batches: trials with the same seed must see the same ones.
    """

    def __init__(
        self, schedule: Schedule, seed: int, eval_every: int, channel: Channel, climb: ClimbSettings | None = None
    ) -> None:
        self._applied_lr = AppliedLR(schedule) if climb is None else AdaptedLR(schedule, climb)
        self.schedule: Schedule = RunSchedule.observed(self._applied_lr)
        self.total_steps, self.seed = schedule.horizon, seed
        self._eval_every, self._channel = eval_every, channel
        self._step = 0
        self._told = False

    @property
    def should_stop(self) -> bool:
        """Whether the loop is to end. :meth:`report` returns the same."""
        return self._channel.stopped or self._step >= self.total_steps

    @property
    def should_validate(self) -> bool:
        """Whether the step that is reported next is one where the study validates models: about 20 of a run, and the
        last one. The unfinished trials are compared at some of these. More validations do no harm."""
        return is_evaluated(self._step + 1, self._eval_every, self.total_steps)

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
            val_loss: the validation loss, on the steps that validate, see :attr:`should_validate`. The last step must,
                else trials are compared by their training loss.
            val_loss_ema: the same with averaged weights, if at hand; it ranks unfinished trials better.
            lr: the learning rate that the step applied; left out, the schedule's. 0 for a step that a loss scaler
                skipped.
            metrics: further validation metrics.

        Raises:
            InputError: the loss is not a number, or the schedule is not applied to each optimizer step.
        """
        if self._told:
            if val_loss is not None:
                self.report_validation(val_loss, val_loss_ema, **metrics)
            raise TrialStopped
        if metrics and val_loss is None:
            raise InputError(f"report({', '.join(metrics)}): metrics belong to a validation; report val_loss with them")
        norm = math.nan if grad_norm is None else _number("grad_norm", grad_norm)
        if grad_norm is not None and not math.isfinite(norm):
            norm = math.inf
        applied = self._applied_lr.of_step(self._step, None if lr is None else _number("lr", lr))
        row = np.array([[applied], [_number("loss", loss)], [norm]])
        self._channel.report(Trace(row[0], row[1], row[2], (), self._step))
        self._step += 1
        if val_loss is not None:
            self.report_validation(val_loss, val_loss_ema, **metrics)
        self._told = self.should_stop
        return self._told

    def report_validation(self, val_loss: float, val_loss_ema: float | None = None, **metrics: float) -> None:
        """Reports a validation that comes after :meth:`report`: of the step that was reported last, also after the
        loop's last step, whether or not that returned True.

        Args:
            val_loss: the validation loss.
            val_loss_ema: the same with averaged weights, if at hand.
            metrics: further validation metrics.

        Raises:
            InputError: one of them is not a number, or no step was reported yet.
        """
        if self._step == 0:
            raise InputError("report_validation() belongs to the step reported last: call report() before it")
        ema = math.nan if val_loss_ema is None else _number("val_loss_ema", val_loss_ema)
        values = {name: _number(name, value) for name, value in metrics.items()}
        self._channel.add(Evaluation(self._step, _number("val_loss", val_loss), ema, values))


class DescribedLoop:
    """A ``train_fn`` with its own description of what it trains.

    Args:
        train: takes a :class:`LoopRun`.
        description: plain values. A study of another description is another study. ``"train_fn"`` is the name.
    """

    def __init__(self, train: Callable[[LoopRun], Any], description: dict[str, Any]) -> None:
        self.train, self.description = train, description

    def __call__(self, run: LoopRun) -> None:
        self.train(run)


class LoopTask:
    """What is trained by a function of the user's own.

    The function runs in a thread (signal handlers can't be set there), which moves only while the engine pulls. A
    paused trial waits there with its model in memory; after a restart of the process its loop is run again up to where
    it was.

    Args:
        train_fn: takes a :class:`LoopRun`, trains, and calls ``report`` once after each optimizer step.
        current_peak: the learning rate in use today.
        beta2: the optimizer's second-moment decay, for the untuned rule.
        steps_per_epoch: optimizer steps of one pass over the data, >= 1, for durations in epochs.
        groups: the patterns of the parameter groups that schedules may have, by name.

    Raises:
        InputError: ``train_fn`` isn't a function of one argument, or ``steps_per_epoch`` is below 1.
    """

    trivial_loss: float | None = None
    uses_cuda = False

    def __init__(
        self,
        train_fn: Callable[[LoopRun], Any],
        *,
        current_peak: float,
        beta2: float = 0.999,
        steps_per_epoch: int | None = None,
        groups: Patterns | None = None,
    ) -> None:
        if not callable(train_fn):
            raise InputError(f"train_fn must be a function that takes a run, got {type(train_fn).__name__}")
        try:
            inspect.signature(train_fn).bind(None)
        except TypeError as error:
            raise InputError(f"train_fn must take one argument, the run: {error}") from error
        if steps_per_epoch is not None and (not isinstance(steps_per_epoch, int) or steps_per_epoch < 1):
            raise InputError(f"steps_per_epoch must be a whole number of at least 1, got {short(steps_per_epoch)}")
        self.train_fn, self.current_peak, self.beta2 = train_fn, current_peak, beta2
        self.steps_per_epoch, self.groups = steps_per_epoch, groups or {}
        self.group = Group()
        self._description = train_fn.description if isinstance(train_fn, DescribedLoop) else _described(train_fn)

    def check(self, schedule: Schedule, seed: int, climb: ClimbSettings | None = None) -> None:
        """Runs the loop's first two steps three times, twice under one seed and once under another.

        What the loop itself raises is left to the study, which shows it as a failed trial's.

        Raises:
            InputError: the first losses under one seed differ, or the schedule isn't applied.
        """
        first, again, other = (self._first_loss(schedule, chosen, climb) for chosen in (seed, seed, (seed + 1) % 2**32))
        if first is None or again is None:
            return
        if not _same_loss(first, again):
            raise InputError(
                f"train_fn begins with a loss of {first:.6g} and then, under the same seed and schedule, of "
                f"{again:.6g}: its initial weights and batches must follow from run.seed alone, else trials can't be "
                f"compared. Call torch.manual_seed(run.seed), and seed all generators of your own with it"
            )
        if first == other:
            logging.getLogger("autowarmup").warning(
                "train_fn begins with the same loss under two seeds: it seems to ignore run.seed. Fresh seeds then "
                "repeat the same run, and say nothing about how far the result can be trusted"
            )

    def describe(self) -> dict[str, Any]:
        """What is trained: the function's name, a digest of its code, and one of the tensors and arrays that it finds
        outside itself; or what a :class:`DescribedLoop` says. A study of another description is another study."""
        return self._description

    def join(self, group: Group) -> None:
        """Tells the task that this process is one of several that run the loop together."""
        self.group = group

    def trial(
        self,
        schedule: Schedule,
        seed: int,
        eval_every: int,
        state: IO[bytes] | None,
        climb: ClimbSettings | None = None,
    ) -> LoopTrial:
        """A trial at its start. With ``climb`` its warm-up adapts."""
        return LoopTrial(self, schedule, seed, eval_every, climb)

    def _first_loss(self, schedule: Schedule, seed: int, climb: ClimbSettings | None) -> float | None:
        """The loss of the first step; None where the loop raised."""
        trial = self.trial(schedule, seed, schedule.horizon, None, climb)
        try:
            return float(next(trial.run(1)).loss[0])
        except InputError:
            raise
        except Exception:  # noqa: BLE001 - the study's trials will show it
            return None
        finally:
            trial.close()


class LoopTrial:
    """One run of the user's loop."""

    def __init__(
        self, task: LoopTask, schedule: Schedule, seed: int, eval_every: int, climb: ClimbSettings | None = None
    ) -> None:
        self.step = 0
        self.schedule = schedule
        self._interrupted = False
        self._group = task.group
        self._random = Stream(derive_seed(seed, "training"), best_device())
        self._channel = Channel()
        self._ended = False
        run = LoopRun(schedule, seed, eval_every, self._channel, climb)
        self._thread = threading.Thread(target=_work, args=(task.train_fn, run, self._channel), daemon=True)

    def run(self, until: int) -> Iterator[Trace]:
        """Lets the loop go on to step ``until``, yielding each step; after the last one, to its end.

        Raises:
            InputError: the loop ended before the horizon without being told to, or called ``sys.exit``.
        """
        if not self._thread.is_alive() and not self._ended:
            self._thread.start()
        while self.step < until:
            item = self._pull()
            if isinstance(item, End):
                raise InputError(
                    f"train_fn ended after {self.step} steps without being told to; "
                    f"it must report every optimizer step up to run.total_steps"
                )
            self.step += 1
            yield self._group.first(item)
        if self.step == self.schedule.horizon and not self._ended:
            self._pull()

    def save(self, open_state: OpenState) -> bool:
        """A loop of the user's own can't be written to a file: it waits in memory."""
        return False

    def close(self) -> None:
        """Tells the loop to stop and waits until it has. Where a step was interrupted, at most two seconds: after that
        the loop's thread is left behind, and ends at its next report."""
        if not self._thread.is_alive():
            return
        if not self._ended:
            with self._random:
                self._ended = self._channel.stop(GRACE_S if self._interrupted else None)
        if self._ended:
            self._thread.join()
        else:
            logging.getLogger("autowarmup").warning("train_fn is busy: its thread is left behind until it reports")

    def _pull(self) -> Trace | End:
        """The next step, or the loop's end where it raised nothing."""
        try:
            with self._random:
                item = self._channel.pull()
        except BaseException:
            self._interrupted = True
            raise
        self._ended = isinstance(item, End)
        if isinstance(item, End) and item.error is not None:
            if isinstance(item.error, SystemExit):
                raise InputError(
                    f"train_fn called sys.exit({short(item.error.code)}) after {self.step} steps: it must return "
                    f"instead, or raise an exception that says what is wrong"
                ) from item.error
            raise item.error
        return item


def _work(train_fn: Callable[[LoopRun], Any], run: LoopRun, channel: Channel) -> None:
    """The loop's thread."""
    channel.wait()
    error: BaseException | None = None
    try:
        train_fn(run)
    except TrialStopped:
        pass
    except BaseException as raised:  # noqa: BLE001 - handed to the engine, which records it
        error = raised
    channel.end(error)


def _described(train_fn: Callable[[LoopRun], Any]) -> dict[str, Any]:
    return {
        "train_fn": getattr(train_fn, "__qualname__", type(train_fn).__name__),
        "code": digest_of(train_fn),
        "data": digest_of(*arrays_of(train_fn)),
    }


def _same_loss(first: float, second: float) -> bool:
    return not math.isfinite(first) or math.isclose(first, second, rel_tol=SAME_LOSS)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"report({name}={short(value)}): not a number") from error
