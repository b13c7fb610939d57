"""Watches a training of the user's own while it runs."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autowarmup.errors import InputError
from autowarmup.guard.agreement import Agreement
from autowarmup.guard.events import Action, Event, Finding
from autowarmup.guard.judge import Judge
from autowarmup.guard.onlooker import NEW_DATA
from autowarmup.guard.plan import Plan
from autowarmup.guard.planned import planned
from autowarmup.guard.policy import LOWER, Policy
from autowarmup.guard.record import Record
from autowarmup.guard.snapshots import Snapshots
from autowarmup.guard.training import State, Stateful, Training, check_protectable
from autowarmup.instability.monitor import Detectors
from autowarmup.schedule.schedule import Schedule
from autowarmup.study.result import TuneResult
from autowarmup.values import nearest, short

LOG = logging.getLogger("autowarmup.guard")

Mode = Literal["observe", "protect"]

BLOCK = 16
"""Steps that are judged together where nothing has to be decided: the host waits for the device once for all."""
HEALTHY = 10
"""Steps without a finding before a snapshot is taken, and how much older than the damage the one is that is gone back
to."""

LOST_STATE = Finding(
    reason="optimizer-state-lost",
    message="the optimizer had a state at the last step and has none now: was it not loaded from the checkpoint?",
)


class Guard:
    """Applies a schedule to a training and judges each of its steps before the weights change.

    Call :meth:`step` after the backward pass (and after clipping) in place of a scheduler; make the optimizer's step
    only where it returns True. It sets the learning rates, so there is no scheduler beside it.

    With ``mode="observe"`` it never intervenes: the training is the same to the bit as with ``schedule.scheduler``, and
    the events say what would have been done. With ``mode="protect"`` it does it: see
    :class:`autowarmup.guard.policy.Policy`. The host then waits for the device at each step, since it has to know the
    loss before the update; otherwise once in 16 steps.

    Args:
        schedule: the schedule of the run, or a study's result: its schedule, and the loss that its runs had at each
            step. A run that leaves that loss is told.
        optimizer: that of the training, or several.
        mode: ``"observe"`` or ``"protect"``.
        model: the model; needed to protect, since snapshots have its weights and its buffers.
        averaged: averaged weights or anything else with a ``state_dict`` that goes back with the model.
        scaler: the gradient scaler of ``torch.amp``. :meth:`step` unscales the gradients itself where it is not given
            their norm. Call ``scaler.update()`` also after a step that wasn't made.
        loader: a data loader with a ``state_dict``. It is in the snapshots, so that :meth:`resume` knows the position
            in the data; going back within a run leaves it alone, and so goes past the batches that broke it.
        detectors: the thresholds.
        trivial_loss: the loss of the best predictor that ignores its input; None where it isn't known.
        max_interventions: how often it intervenes, 0 to 1000; the next time it stops the run.
        snapshot_every: steps between two snapshots, at least 1; left out, a fiftieth of the horizon, at least 10.
        keep: snapshots, 2 to 100. Each has the size of the model with its optimizer state.
        folder: where snapshots are kept; left out, in the host's memory.
        record: a file for every step and event, as JSON lines; ``autowarmup watch FILE`` shows it.
        on_event: called with each event; :class:`autowarmup.EventSender` sends them to a service.

    Attributes:
        events: all events so far.
        should_stop: whether the run has been stopped; :meth:`step` returns False from then on.

    Raises:
        InputError: a value that isn't allowed.

    Under ``torch.distributed`` make a guard in each process of the default group: they judge the mean of their losses
    and take the same actions. The first one records, and keeps the snapshots.

    Example:
        >>> import torch
        >>> from autowarmup import Guard, Schedule
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> schedule = Schedule(peak=0.1, horizon=10, warmup_steps=4, shape="linear")
        >>> guard = Guard(schedule, optimizer, mode="protect", model=model)
        >>> for step in range(3):
        ...     loss = model(torch.ones(1, 2)).square().sum() * (float("inf") if step == 1 else 1.0)
        ...     loss.backward()
        ...     if guard.step(loss):
        ...         optimizer.step()
        ...     optimizer.zero_grad()
        >>> [event.describe() for event in guard.events], round(guard.lr, 3)
        (['step 1: skip: the loss is inf'], 0.06)
    """

    def __init__(
        self,
        schedule: Schedule | TuneResult,
        optimizer: Optimizer | Sequence[Optimizer],
        mode: Mode = "observe",
        *,
        model: nn.Module | None = None,
        averaged: Stateful | None = None,
        scaler: torch.amp.GradScaler | None = None,
        loader: Stateful | None = None,
        detectors: Detectors | None = None,
        trivial_loss: float | None = None,
        max_interventions: int = 10,
        snapshot_every: int | None = None,
        keep: int = 5,
        folder: str | Path | None = None,
        record: str | Path | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        self._schedule, band = planned(schedule)
        _check(mode, optimizers, model, max_interventions, snapshot_every, keep)
        self._protects = mode == "protect"
        self._training = Training(optimizers, model, averaged, scaler, loader)
        self._plan = Plan(self._schedule)
        base_lr = self._training.base_lr
        self._schedulers = [self._plan.scheduler(one, base_lr=base_lr) for one in optimizers]
        self._agreement = Agreement()
        horizon = self._schedule.horizon
        self._judge = Judge(detectors or Detectors(), horizon, trivial_loss, band)
        self._policy = Policy(horizon, self._schedule.duration, max_interventions)
        place = None if folder is None else Path(folder)
        self._snapshots = Snapshots(keep, place, self._agreement, divided=self._training.is_divided)
        self._every = snapshot_every or max(10, horizon // 50)
        self._healthy = HEALTHY
        self._had_state = False
        self._waiting: list[tuple[int, float, Tensor]] = []
        self._on_event = on_event
        self._record = Record(Path(record)) if record is not None and self._agreement.first else None
        if self._record:
            self._record.begin(self._schedule, mode, band)
        self._step = 0
        self._begun = False
        self._ended = False
        self.events: list[Event] = []
        self.should_stop = False

    @property
    def lr(self) -> float:
        """The highest learning rate of the optimizers' parameter groups."""
        return self._training.lr

    @property
    def snapshots(self) -> list[int]:
        """The steps whose snapshots are kept, oldest first."""
        return self._snapshots.steps

    def step(self, loss: Tensor | float, grad_norm: Tensor | float | None = None) -> bool:
        """Judges the step that comes next, and sets its learning rates.

        Where it returns False the gradients are cleared.

        Args:
            loss: the training loss of the step; with accumulation the mean over its batches.
            grad_norm: the norm of the whole gradient before clipping, as ``clip_grad_norm_`` returns it; left out, the
                norm of the gradients as they are.

        Returns:
            Whether to make the optimizer's step.

        Raises:
            InputError: the loss or the norm isn't a single number; there are no gradients, and no norm is given; or
                ``folder`` has another run's snapshots.
        """
        if self._protects and not self._begun:
            self._snapshots.begin(self._step)
            self._begun = True
        if self.should_stop:
            self._training.clear()
            return False
        step, self._step = self._step, self._step + 1
        self._apply(step)
        numbers = self._training.numbers(loss, grad_norm)
        if not self._protects:
            self._waiting.append((step, self.lr, numbers))
            if len(self._waiting) >= (1 if numbers.device.type == "cpu" else BLOCK):
                self.flush()
            return True
        ((value, norm),) = self._agreement.means([numbers])
        action = self._judged(step, self.lr, value, norm)
        if action in ("skip", "rewind", "stop"):
            self._training.clear()
            return False
        return True

    def set_rates(self) -> None:
        """Sets the learning rates of the step that comes next, as :meth:`step` does: for where they are logged before
        it."""
        self._apply(self._step)

    def flush(self) -> None:
        """Judges the steps that wait to be judged. Call it at the end of a run that is observed on a GPU."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            means = self._agreement.means([numbers for _, _, numbers in waiting])
            for (step, lr, _), (value, norm) in zip(waiting, means, strict=True):
                self._judged(step, lr, value, norm)

    def close(self) -> None:
        """Judges what waits, and closes the record."""
        self.flush()
        if self._record:
            self._record.close()

    def state_dict(self) -> dict[str, Any]:
        """The state of the guard itself, which goes into the user's checkpoints beside model and optimizer: plain
        numbers and a tensor of bytes. Snapshots aren't in it."""
        self.flush()
        return {
            "step": self._step,
            "plan": self._plan.state_dict(),
            "position": self._plan.position(self._step),
            "policy": self._policy.state_dict(),
            "judge": torch.frombuffer(bytearray(self._judge.saved()), dtype=torch.uint8),
            "had_state": self._had_state,
            "should_stop": self.should_stop,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on in a saved state.

        Raises:
            InputError: it is not a guard's, or another version's.
        """
        if "judge" not in state_dict:
            raise InputError(f"this is not the state of a Guard: it has {sorted(state_dict)}")
        self._judge = self._judge.restored(bytes(state_dict["judge"].tolist()))
        self._plan.load_state_dict(state_dict["plan"])
        self._policy.load_state_dict(state_dict["policy"])
        self._step, self._had_state = state_dict["step"], state_dict["had_state"]
        self.should_stop = state_dict["should_stop"]
        self._healthy = 0
        self._apply(self._step)

    def resume(self) -> int:
        """Goes on from the newest intact snapshot in ``folder``: model, optimizers, averaged weights, scaler, position
        in the data, random states and the guard itself are as they were.

        Returns:
            The number of the step that comes next, counted from 0; 0 where there is no snapshot.

        Raises:
            InputError: the guard has no folder, or its snapshots are of another training.
        """
        state, self._begun = self._snapshots.newest_in_folder(), True
        if state is None:
            return 0
        self._training.go_on(state, state["randoms"][self._agreement.rank])
        self.load_state_dict(state["guard"])
        self._snapshots.add(self._step, self._judge.count, self._state())
        return self._step

    def _judged(self, step: int, lr: float, loss: float, norm: float) -> Action:
        """Judges a step, and does what follows."""
        norm = math.inf if math.isnan(norm) else norm
        if self._record:
            self._record.step(step, lr, loss, norm)
        if self._ended:
            return "ok"
        if finding := self._lost_state():
            return self._answered(step, finding)
        rescaled = self._training.rescales and math.isinf(norm) and math.isfinite(loss)
        if not rescaled and (finding := self._judge.look(loss, norm)):
            action = self._policy.for_batch(step, finding, self._can_rewind)
            if action == "ok":
                self._judge.forget_data()
                finding = finding.model_copy(update={"reason": "new-data", "message": NEW_DATA})
            self._act(step, action, finding)
            if action != "ok" and (self._protects or finding.reason == "non-finite"):
                return action
        else:
            self._policy.healthy()
        if finding := self._judge.add(0.0 if rescaled else lr, loss, norm):
            return self._answered(step, finding)
        self._healthy += 1
        if self._protects and not rescaled:
            self._snapshot_if_due(step + 1, loss)
        return "ok"

    def _answered(self, step: int, finding: Finding) -> Action:
        """What is done about the run, once it is done."""
        action = self._policy.for_run(step, finding, self._plan.warming_up(step), self._can_rewind)
        self._act(step, action, finding)
        return action

    @property
    def _can_rewind(self) -> bool:
        return bool(self.snapshots) or not self._protects

    def _lost_state(self) -> Finding | None:
        """Whether the optimizers had a state at the last step and have none now."""
        had, self._had_state = self._had_state, self._training.has_state
        return LOST_STATE if had and not self._had_state else None

    def _act(self, step: int, action: Action, finding: Finding) -> None:
        """Does what was decided, where it protects, and tells it: what is let pass only once."""
        self._healthy = 0
        if action == "ok" and self.events and self.events[-1].reason == finding.reason:
            return
        snapshot = None
        if self._protects:
            if action == "hold":
                self._plan.hold(self._policy.pause)
            elif action == "lower":
                self._plan.lower(LOWER)
            elif action == "rewind":
                snapshot = self._rewind(step, finding)
                action = "stop" if snapshot is None else action
            if action == "stop":
                self.should_stop = True
                snapshot = max(self.snapshots, default=None)
            self._apply(step)
        self._ended = action == "stop" or (action == "rewind" and finding.reason == "non-finite" and not self._protects)
        event = Event(
            step=step,
            began=max(0, step - finding.ago),
            action=action,
            applied=self._protects,
            reason=finding.reason,
            message=finding.message,
            evidence=finding.evidence,
            lr=self.lr,
            factor=self._plan.factor,
            snapshot=snapshot,
        )
        self.events.append(event)
        if self._agreement.first:
            LOG.warning("%s", event.describe())
        if self._record:
            self._record.event(event)
        if self._on_event:
            self._on_event(event)

    def _rewind(self, step: int, finding: Finding) -> int | None:
        """Goes back to the newest intact snapshot from before the damage; returns its step, None where there is none.
        A warm-up goes on from where it was then; the decay isn't gone back in, so that the run ends when it should. Of
        a lost optimizer state only that is put back: the weights are good."""
        margin = 0 if finding.reason == "optimizer-state-lost" else HEALTHY
        found = self._snapshots.newest_before(self._judge.count - finding.ago - margin)
        if found is None:
            return None
        snapshot, state = found
        guard = state["guard"]
        self._had_state = guard["had_state"]
        if finding.reason == "optimizer-state-lost":
            self._training.restore_optimizers(state)
            return snapshot
        self._training.go_back(state)
        self._judge = self._judge.restored(bytes(guard["judge"].tolist()))
        self._judge.bursting = finding.reason == "outlier"
        self._plan.return_to(guard["position"], step + 1)
        if self._policy.lowers(finding):
            self._plan.lower(LOWER)
        return snapshot

    def _snapshot_if_due(self, step: int, loss: float) -> None:
        """Takes a snapshot before a step, where the run has been healthy for a while. The update of the step that is
        being judged isn't in it."""
        due = not self.snapshots or step - self.snapshots[-1] >= self._every
        if due and self._judge.near_start(loss) and self._healthy >= HEALTHY and self._training.is_finite():
            self._snapshots.add(step, self._judge.count, self._state())

    def _state(self) -> State:
        """What a snapshot holds."""
        state = self._training.state()
        return state | {"guard": self.state_dict(), "randoms": self._agreement.all(state.pop("random"))}

    def _apply(self, step: int) -> None:
        """Sets the learning rates of a step."""
        for scheduler in self._schedulers:
            scheduler.apply(step)


def _check(mode: str, optimizers: list[Any], model: nn.Module | None, most: int, every: int | None, keep: int) -> None:
    if not optimizers or not all(isinstance(one, Optimizer) for one in optimizers):
        raise InputError(f"optimizer={short(optimizers)}: must be a torch.optim.Optimizer, or several")
    if mode not in get_args(Mode):
        raise InputError(f"mode={short(mode)}: must be 'observe' or 'protect'{nearest(str(mode), get_args(Mode))}")
    if mode == "protect":
        check_protectable(model)
    for name, value, low, high in (
        ("max_interventions", most, 0, 1000), ("snapshot_every", every, 1, 10**9), ("keep", keep, 2, 100),
    ):  # fmt: skip
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high):
            raise InputError(f"{name}={short(value)}: must be a whole number from {low:,} to {high:,}")
