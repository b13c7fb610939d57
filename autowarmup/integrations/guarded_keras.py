"""A guard for Keras' ``model.fit``, on any of its backends."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autowarmup.errors import InputError
from autowarmup.guard.events import Event, Finding
from autowarmup.guard.onlooker import Decision, Onlooker
from autowarmup.guard.plan import Plan
from autowarmup.guard.planned import planned
from autowarmup.guard.policy import LOWER
from autowarmup.guard.record import Record
from autowarmup.instability.monitor import Detectors
from autowarmup.integrations.keras_model import accumulation, as_float, inner_optimizer, sync
from autowarmup.schedule.schedule import Schedule
from autowarmup.study.result import TuneResult
from autowarmup.values import nearest, short

LOG = logging.getLogger("autowarmup.guard")

MODES = ("observe", "protect")


def guard_keras(
    schedule: Schedule | TuneResult,
    mode: str = "observe",
    *,
    detectors: Detectors | None = None,
    trivial_loss: float | None = None,
    max_interventions: int = 10,
    record: str | Path | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Any:
    """A callback that applies a schedule in ``model.fit`` and judges each optimizer step.

    Keras tells a callback of a batch when its update has been made, and not the gradient's norm. So a step can't be
    held back, and no weights are put back: with ``mode="protect"`` the warm-up waits, learning rates are lowered where
    the loss says that they were too high, and the run is stopped, as with ``model.stop_training``, where the weights
    aren't finite or the interventions are used up. Compile the model with a learning rate that is a number; the guard
    sets it before each batch. A model that was trained before goes on at the step that its optimizer has counted.

    Args:
        schedule: that of the run, without groups, or a study's result.
        mode: ``"observe"`` or ``"protect"``.
        detectors: the thresholds.
        trivial_loss: the loss of the best predictor that ignores its input; None where it isn't known.
        max_interventions: how often it intervenes, at least 0; the next time it stops the run.
        record: a file for every step and event, as JSON lines; ``autowarmup watch FILE`` shows it.
        on_event: called with each event.

    Returns:
        The callback, with the attributes ``events`` and ``should_stop``, and with ``state_dict()`` and
        ``load_state_dict()`` for what it has learnt about the run, as plain numbers and bytes.

    Raises:
        InputError: a value that isn't allowed. Later, from ``fit``: the model can't be guarded.

    Example::

        guarded = guard_keras(schedule, mode="protect", record="run.jsonl")
        model.fit(x, y, epochs=10, callbacks=[guarded])
    """
    keras = _keras()
    plan, onlooker = _made(schedule, mode, max_interventions, detectors, trivial_loss)

    class Guarded(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.events: list[Event] = []
            self.should_stop = False
            self._plan, self._onlooker = plan, onlooker
            self._losses: list[float] = []
            self._record: Record | None = None

        def on_train_begin(self, logs: Any = None) -> None:
            _check(self.model)
            self._accumulate = accumulation(self.model)
            self._step = _counted(self.model) // self._accumulate
            self._losses.clear()
            if record is not None:
                self._record = Record(Path(record))
                self._record.begin(self._plan.schedule, mode, planned(schedule)[1])

        def on_train_end(self, logs: Any = None) -> None:
            if self._record:
                self._record.close()

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            sync(self.model)
            self.model.optimizer.learning_rate = self._plan.lr_at(self._step)
            self._mean = _taken_apart(_tracker(self.model))

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            sync(self.model)
            self._losses.append(_put_together(_tracker(self.model), self._mean, logs))
            if len(self._losses) < self._accumulate:
                return
            loss, self._losses = sum(self._losses) / self._accumulate, []
            step, self._step = self._step, self._step + 1
            lr = self._plan.lr_at(step)
            if self._record:
                self._record.step(step, lr, loss, math.nan)
            if self.should_stop:
                return
            for decision in self._onlooker.see(step, lr, loss, warming_up=self._plan.warming_up(step)):
                self._act(step, self._told(decision))

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if logs is not None:
                logs["learning_rate"] = as_float(self.model.optimizer.learning_rate)

        def state_dict(self) -> dict[str, Any]:
            """What it has learnt about the run, and what it has done; the step is the optimizer's."""
            return {
                "plan": self._plan.state_dict(),
                "policy": self._onlooker.policy.state_dict(),
                "judge": self._onlooker.judge.saved(),
            }

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            """Goes on in a saved state.

            Raises:
                InputError: it is another version's, or damaged.
            """
            self._onlooker.judge = self._onlooker.judge.restored(state_dict["judge"])
            self._onlooker.policy.load_state_dict(state_dict["policy"])
            self._plan.load_state_dict(state_dict["plan"])

        def _told(self, decision: Decision) -> Decision:
            """A loss that isn't finite has reached the weights, unless a loss scaler kept it from them."""
            if decision.finding.reason == "non-finite" and not _is_finite(self.model):
                finding = Finding(reason="non-finite", fatal=True, message=f"{decision.finding.message}, {DAMAGED}")
                return Decision("stop", finding, of_batch=False)
            return decision

        def _act(self, step: int, decision: Decision) -> None:
            action, finding, _ = decision
            done = mode == "protect" and action in ("hold", "lower", "stop")
            if done and action == "hold":
                self._plan.hold(self._onlooker.policy.pause)
            elif done and action == "lower":
                self._plan.lower(LOWER)
            if action == "stop":  # no more is said of a run that is lost
                self.should_stop = True
                self.model.stop_training = self.model.stop_training or done
            event = Event(
                step=step,
                began=max(0, step - finding.ago),
                action=action,
                applied=done,
                reason=finding.reason,
                message=finding.message,
                evidence=finding.evidence,
                lr=self._plan.lr_at(step),
                factor=self._plan.factor,
            )
            self.events.append(event)
            LOG.warning("%s", event.describe())
            if self._record:
                self._record.event(event)
            if on_event:
                on_event(event)

    return Guarded()


DAMAGED = "and the weights aren't finite any more"


def _keras() -> Any:
    try:
        import keras
    except ImportError as error:
        raise InputError(f"keras can't be imported ({error}): pip install 'autowarmup[keras]'") from error
    return keras


def _made(
    schedule: Schedule | TuneResult,
    mode: str,
    most: int,
    detectors: Detectors | None,
    trivial_loss: float | None,
) -> tuple[Plan, Onlooker]:
    """The schedule as it is carried out, and who judges the run.

    Raises:
        InputError: a value that isn't allowed.
    """
    if mode not in MODES:
        raise InputError(f"mode={short(mode)}: must be 'observe' or 'protect'{nearest(str(mode), MODES)}")
    if isinstance(most, bool) or not isinstance(most, int) or not 0 <= most <= 1000:
        raise InputError(f"max_interventions={short(most)}: must be a whole number from 0 to 1,000")
    own, band = planned(schedule)
    if own.groups:
        raise InputError("the schedule has groups, and an optimizer of Keras has one learning rate: leave them out")
    onlooker = Onlooker(
        own.horizon, own.duration, most,
        can_rewind=False, detectors=detectors, trivial_loss=trivial_loss, band=band,
    )  # fmt: skip
    return Plan(own), onlooker


def _check(model: Any) -> None:
    """
    Raises:
        InputError: the model's learning rate can't be set for each batch.
    """
    import keras

    if getattr(model, "steps_per_execution", 1) != 1:
        raise InputError(
            f"the model is compiled with steps_per_execution={model.steps_per_execution}: its learning rate can only "
            f"be set once in so many batches. Leave it out"
        )
    if not isinstance(inner_optimizer(model.optimizer)._learning_rate, keras.Variable):
        raise InputError(
            "the model is compiled with a learning-rate schedule of Keras', and the guard applies one of its own: "
            "compile it with a number, such as keras.optimizers.AdamW(1e-3)"
        )


def _counted(model: Any) -> int:
    """The batches that the optimizer has counted."""
    return int(as_float(inner_optimizer(model.optimizer).iterations))


def _is_finite(model: Any) -> bool:
    from keras import ops

    return all(bool(as_float(ops.all(ops.isfinite(one.value)))) for one in model.trainable_variables)


def _tracker(model: Any) -> Any:
    """The metric that averages the loss over an epoch."""
    for metric in model.metrics:
        if metric.name == "loss" and hasattr(metric, "total") and hasattr(metric, "count"):
            return metric
    raise InputError("the model has no metric called 'loss' that is a keras.metrics.Mean: a train_step needs one")


def _taken_apart(tracker: Any) -> tuple[Any, Any]:
    """What has been averaged so far, which is set aside: the tracker then has the next batch alone."""
    from keras import ops

    mean = ops.copy(tracker.total.value), ops.copy(tracker.count.value)
    tracker.reset_state()
    return mean


def _put_together(tracker: Any, mean: tuple[Any, Any], logs: Any) -> float:
    """The loss of the last batch. The tracker, and what later callbacks are told, have the mean of the epoch again."""
    total, count = mean
    loss = as_float(tracker.result())
    tracker.total.assign(tracker.total.value + total)
    tracker.count.assign(tracker.count.value + count)
    if logs is not None and "loss" in logs:
        logs["loss"] = as_float(tracker.result())
    return loss
