"""Watches the learning rate of every optimizer step in a training of the user's own."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch.distributed as dist
from torch.optim import Optimizer

from autowarmup.audit.backwards import Backwards
from autowarmup.audit.causes import Evidence, GroupPlan, Plan, likely_cause
from autowarmup.audit.finding import Finding
from autowarmup.audit.recording import Recorder, numbered
from autowarmup.errors import AppliedRateError, AppliedRateWarning, InputError
from autowarmup.schedule.groups import checked_name
from autowarmup.schedule.schedule import ContinuedSchedule, Schedule
from autowarmup.schedule.step_rates import on_each_step
from autowarmup.schedule.torch_scheduler import lr_ratios
from autowarmup.values import nearest, short

Mode = Literal["warn", "raise", "record"]

TOLERANCE = 1e-6
"""The largest difference from the schedule that counts as none, as a share of the peak."""


class RateAudit:
    """Compares the learning rate of every ``optimizer.step`` with the schedule. It changes nothing.

    At the first step that is off, it says which step, what was applied and what the schedule has, and the likely cause.
    The parameter group with the highest learning rate is to get the schedule's, the others keep their ratio to it.
    Where the schedule has groups, each parameter group is compared with the one of its name.

    Args:
        optimizer: of PyTorch, or a wrapper of one such as Accelerate's. Make the audit before the training starts.
        schedule: what the training is to apply.
        mode: ``"warn"`` warns once, ``"raise"`` raises before the step is made, ``"record"`` says nothing: look at
            ``finding``.
        record: a file for every step's learning rates, as JSON lines; read it with ``autowarmup audit FILE``. A run
            that goes on from a checkpoint adds to it.
        first_step: the number of the optimizer's next step, counted from 0. Left out, it is the number of steps in the
            optimizer's own state, where that has one (Adam's has; plain SGD's has not), also after its
            ``load_state_dict``; or else 0.
        base_lr: the learning rate that the schedule stands for, where another optimizer of the run has a higher one
            than this; left out, the highest of this optimizer.
        tolerance: the largest difference from the schedule that counts as none, as a share of the peak, at least 0.

    Attributes:
        finding: the first step that was off; None as long as all are right.
        step: the number of the next step, counted from 0.

    Raises:
        InputError: an optimizer of another kind, or a value that isn't allowed.
        AppliedRateError: from ``optimizer.step``, with ``mode="raise"``.

    Where several processes train together, the first one warns and records.

    Example:
        >>> import torch
        >>> from autowarmup import RateAudit, Schedule
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> schedule = Schedule(peak=0.1, horizon=10, warmup_steps=4, shape="linear")
        >>> audit = RateAudit(optimizer, schedule, mode="record")
        >>> optimizer.step()
        >>> audit.finding.cause, audit.finding.applied, round(audit.finding.expected, 4)
        ('not-applied', 0.1, 0.02)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule | ContinuedSchedule,
        *,
        mode: Mode = "warn",
        record: str | Path | None = None,
        first_step: int | None = None,
        base_lr: float | None = None,
        tolerance: float = TOLERANCE,
    ) -> None:
        if mode not in get_args(Mode):
            known = ", ".join(map(repr, get_args(Mode)))
            raise InputError(f"mode={short(mode)}: must be one of {known}{nearest(str(mode), get_args(Mode))}")
        if not isinstance(schedule, Schedule | ContinuedSchedule):
            raise InputError(f"schedule={short(schedule)}: must be a Schedule")
        if not 0.0 <= tolerance < 1.0:
            raise InputError(f"tolerance={short(tolerance)}: must be a share of the peak, from 0 to below 1")
        if first_step is not None:
            schedule.lr_at(first_step)
        self._optimizer = _torch_optimizer(optimizer)
        self._schedule, self._mode = schedule, mode
        rates = [float(group.get("initial_lr", group["lr"])) for group in self._optimizer.param_groups]
        self._ratios = lr_ratios(rates, base_lr)
        self._groups = tuple(group.name for group in schedule.groups)
        self._check_names()
        self._base_lr = max(rates) if base_lr is None else base_lr
        self._allowed = tolerance * schedule.peak
        self._path = None if record is None else Path(record)
        self._recorder: Recorder | None = None
        self.finding: Finding | None = None
        self._counts_itself = first_step is None
        self.step = first_step or 0
        self._backwards = Backwards(self._optimizer)
        self._restart(resumed=self.step > 0)
        if self._optimizer.state:
            self._loaded(self._optimizer)
        self._handles = [
            on_each_step(self._optimizer, self._observe),
            self._optimizer.register_load_state_dict_post_hook(self._loaded),
        ]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: the number of the next step and the groups' ratios."""
        return {"step": self.step, "ratios": list(self._ratios)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on at the saved step. Where the optimizer has its own count of steps, this isn't needed.

        Raises:
            InputError: the state is not an audit's.
        """
        if set(state_dict) != {"step", "ratios"}:
            raise InputError(f"this is not the state of a RateAudit, which has step and ratios: {short(state_dict)}")
        self.step, self._ratios = state_dict["step"], list(state_dict["ratios"])
        self._restart(resumed=True)

    def close(self) -> None:
        """Stops watching, and closes the recording."""
        for handle in self._handles:
            handle.remove()
        self._backwards.remove()
        if self._recorder:
            self._recorder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _restart(self, resumed: bool, uncounted: bool = False) -> None:
        """Forgets what was seen: the training begins, or goes on from a checkpoint."""
        self._begun, self._resumed, self._uncounted = self.step, resumed, uncounted
        self._before: list[float] = []
        self._first: list[float] = []
        self._backwards.restart()

    def _loaded(self, optimizer: Optimizer) -> None:
        """Called after a state was loaded into the optimizer: Accelerate loads an empty one at the start. A step that
        the audit has from elsewhere stays."""
        made = _steps_made(optimizer) if self._counts_itself else None
        self.step = self.step if made is None else made
        uncounted = self._counts_itself and made is None and self.step == 0
        self._restart(resumed=True, uncounted=uncounted and bool(optimizer.state))

    def _observe(self, rates: list[float]) -> None:
        """Called before each step of the optimizer."""
        if len(rates) > len(self._first):
            self._add_groups(rates)
        step, self.step = self.step, self.step + 1
        if self._recorder:
            self._recorder.step(step, rates)
        if self.finding is None:
            self._compare(step, rates)
            self._before = rates
            self._backwards.restart()

    def _compare(self, step: int, rates: list[float]) -> None:
        """In few operations: it is made at every step."""
        allowed = self._allowed
        wrong = [
            group
            for group, (rate, expected, ratio) in enumerate(zip(rates, self._planned(step), self._ratios, strict=True))
            if not abs(rate - expected * ratio) <= allowed * ratio  # a NaN is wrong, too
        ]
        if wrong:
            self._report(step, rates, wrong)

    def _planned(self, step: int) -> list[float]:
        """The schedule's learning rate for each parameter group at ratio 1."""
        if not self._groups:
            return [self._schedule.lr_at(step)] * len(self._ratios)
        of_name = self._schedule.rates_at(step)
        return [of_name[group["name"]] for group in self._optimizer.param_groups]

    def _plan_of(self, group: int) -> Plan:
        """What is audited against in a parameter group."""
        if not self._groups:
            return self._schedule
        return GroupPlan(self._schedule, self._optimizer.param_groups[group]["name"])

    def _check_names(self) -> None:
        """Parameter groups without the name of one of the schedule's are refused."""
        if self._groups:
            for group in self._optimizer.param_groups:
                checked_name(group, self._groups)

    def _report(self, step: int, rates: list[float], wrong: list[int]) -> None:
        group = max(wrong, key=self._ratios.__getitem__)
        ratio = self._ratios[group]
        cause, explanation = likely_cause(self._evidence(step, rates, group, wrong))
        name = self._names()[group]
        self.finding = Finding(
            step=step,
            group=name,
            expected=self._planned(step)[group] * ratio,
            applied=rates[group],
            cause=cause,
            explanation=explanation,
        )
        if self._recorder:
            self._recorder.found(self.finding)
        if self._mode == "raise":
            raise AppliedRateError(self.finding.describe())
        if self._mode == "warn" and _is_first_process():
            warnings.warn(self.finding.describe(), AppliedRateWarning, stacklevel=_depth_of_user())

    def _evidence(self, step: int, rates: list[float], group: int, wrong: list[int]) -> Evidence:
        callers = frozenset(_callers())
        ratio = self._ratios[group] or 1.0  # a group that started at 0 and is to stay there
        return Evidence(
            schedule=self._plan_of(group),
            step=step,
            begun=self._begun,
            resumed=self._resumed,
            uncounted=self._uncounted,
            applied=rates[group] / ratio,
            before=self._before[group] / ratio if group < len(self._before) else None,
            constant=rates[group] == self._first[group] and self._before[group : group + 1] in ([], [rates[group]]),
            base_lr=self._base_lr,
            lone=any(share and other not in wrong for other, share in enumerate(self._ratios)),
            passes=self._backwards.passes,
            cleared=self._backwards.cleared,
            scaled="torch.amp.grad_scaler" in callers,
            processes=dist.get_world_size() if _is_distributed() else 1,
            callers=frozenset(name.split(".")[0] for name in callers),
            allowed=self._allowed,
        )

    def _add_groups(self, rates: list[float]) -> None:
        """Parameter groups that are seen for the first time."""
        self._check_names()
        for group in self._optimizer.param_groups[len(self._ratios) :]:
            self._ratios.append(float(group.get("initial_lr", group["lr"])) / self._base_lr)
        self._first += rates[len(self._first) :]
        if self._path is not None and _is_first_process():
            self._recorder = self._recorder or Recorder(self._path)
            self._recorder.begin(self._schedule, self._ratios, self._names())

    def _names(self) -> list[str]:
        """One for each parameter group; the second of a name has a number."""
        names = [str(group.get("name", number)) for number, group in enumerate(self._optimizer.param_groups)]
        return [numbered(name, 1 + names[:place].count(name)) for place, name in enumerate(names)]


def _torch_optimizer(optimizer: Any) -> Optimizer:
    """The optimizer itself: what Accelerate, Lightning and DeepSpeed wrap it in has it as ``optimizer``."""
    inner = optimizer
    while isinstance(getattr(inner, "optimizer", None), Optimizer):
        inner = inner.optimizer
    if not isinstance(inner, Optimizer):
        kind = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
        raise InputError(
            f"optimizer={short(optimizer)} is a {kind}: RateAudit watches a torch.optim.Optimizer, or what wraps one "
            f"as its attribute `optimizer`"
        )
    return inner


def _steps_made(optimizer: Optimizer) -> int | None:
    """The optimizer steps that its state counts; None where it counts none."""
    counts = [int(state["step"]) for state in optimizer.state.values() if "step" in state]
    return max(counts, default=None)


def _callers() -> Iterator[str]:
    """The modules whose functions are being called now, the innermost first."""
    frame = sys._getframe()
    while frame:
        yield frame.f_globals.get("__name__", "")
        frame = frame.f_back  # type: ignore[assignment]


def _depth_of_user() -> int:
    """How far up the stack the first function is that is not ours or PyTorch's; the caller of this one is 1."""
    inside = ("autowarmup", "torch", "contextlib")
    here = 2  # the generators below
    return next((depth - here for depth, name in enumerate(_callers()) if name.split(".")[0] not in inside), 1)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _is_first_process() -> bool:
    return not _is_distributed() or dist.get_rank() == 0
