"""Why a training applied another learning rate than its schedule's: the likely cause, from what is known at the first
step that is off."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

Cause = Literal[
    "step-not-known",
    "group-left-out",
    "other-peak",
    "not-restored",
    "starts-at-zero",
    "stepped-per-batch",
    "skipped-steps",
    "stepped-several-times",
    "stepped-early",
    "not-applied",
    "not-stepped",
    "restarted",
    "behind",
    "ahead",
    "unknown",
]

MOST = 64
"""The largest number of scheduler steps for one optimizer step, and of skipped steps, that is looked for."""


class Plan(Protocol):
    """What is audited against: it knows the learning rate of each step, and its peak."""

    @property
    def peak(self) -> float: ...

    def lr_at(self, step: int) -> float: ...


class Rates(Plan, Protocol):
    """A schedule with groups."""

    def rates_at(self, step: int) -> dict[str, float]: ...


@dataclass(frozen=True)
class GroupPlan:
    """What is audited against in one group of a schedule."""

    schedule: Rates
    name: str

    @property
    def peak(self) -> float:
        """The schedule's."""
        return self.schedule.peak

    def lr_at(self, step: int) -> float:
        """The group's learning rate."""
        return self.schedule.rates_at(step)[self.name]


@dataclass(frozen=True)
class Evidence:
    """What is known at the first step that is off, of one parameter group.

    Args:
        schedule: what the training is to apply.
        step: the number of the optimizer step, counted from 0.
        begun: the step at which the training began, or went on from a checkpoint.
        resumed: whether a checkpoint was loaded.
        uncounted: whether one was loaded, and nothing says how many steps were made before.
        applied: the group's learning rate at this step, over its ratio.
        before: the same at the step before; None at the first step that was seen.
        constant: whether the step before and the first one that was seen had this learning rate.
        base_lr: the optimizer's own learning rate, that of ratio 1.
        lone: whether other groups are right.
        passes: backward passes since the step before; 0 where it isn't known.
        cleared: those of them that began without gradients of an earlier pass.
        scaled: whether a loss scaler makes the step.
        processes: how many processes train together.
        callers: the packages that called ``optimizer.step``.
        allowed: the largest difference that counts as none.
    """

    schedule: Plan
    step: int
    begun: int
    resumed: bool
    uncounted: bool
    applied: float
    before: float | None
    constant: bool
    base_lr: float
    lone: bool
    passes: int
    cleared: int
    scaled: bool
    processes: int
    callers: frozenset[str]
    allowed: float

    @property
    def since(self) -> int:
        """Steps since the training began or went on."""
        return self.step - self.begun

    def is_rate_of(self, step: int) -> bool:
        """Whether the learning rate is the schedule's of another step, and not of this one as well."""
        return step >= 0 and abs(self.applied - self.schedule.lr_at(step)) <= self.allowed

    def best(self, counts: Iterable[int], position: Callable[[int], int]) -> int | None:
        """The count with whose step's learning rate this one agrees best; None where it agrees with none. Where the
        schedule is nearly flat it agrees with several."""
        agreeing = [count for count in counts if self.is_rate_of(position(count))]
        return min(agreeing, key=lambda count: abs(self.applied - self.schedule.lr_at(position(count))), default=None)


def likely_cause(evidence: Evidence) -> tuple[Cause, str]:
    """The first cause that explains what is known, with what to do about it."""
    for cause, explain in EXPLANATIONS.items():
        if words := explain(evidence):
            return cause, words
    return "unknown", "not known; something else than this schedule sets the learning rate"


def _step_not_known(e: Evidence) -> str | None:
    if not e.uncounted or e.since:
        return None
    return (
        f"the run goes on from a checkpoint, and this optimizer doesn't count its steps, so the audit began at step "
        f"{e.begun}. Load audit.state_dict() as well, or give RateAudit(first_step=...)"
    )


def _group_left_out(e: Evidence) -> str | None:
    if not e.lone:
        return None
    if e.constant:
        return (
            "the scheduler leaves this parameter group out: its learning rate never changed. Add every group to the "
            "optimizer before the scheduler is made"
        )
    return "this parameter group has a schedule of its own, or its ratio to the others was changed"


def _other_peak(e: Evidence) -> str | None:
    scale = e.base_lr / e.schedule.peak
    if abs(scale - 1.0) < 1e-9 or abs(e.applied - scale * e.schedule.lr_at(e.step)) > scale * e.allowed:
        return None
    return (
        f"the scheduler multiplies the optimizer's own learning rate, {e.base_lr:.4g}, and the schedule's peak is "
        f"{e.schedule.peak:.4g}. Make the optimizer with lr={e.schedule.peak:.6g}"
    )


def _not_restored(e: Evidence) -> str | None:
    if not (e.resumed and e.begun and e.since <= 1 and e.is_rate_of(e.since)):
        return None
    return (
        f"the run went on from a checkpoint at step {e.begun}, and its scheduler began again at step 0: its state was "
        f"not restored. Save scheduler.state_dict() in the checkpoint and load it"
    )


def _starts_at_zero(e: Evidence) -> str | None:
    if e.step or e.applied:
        return None
    return (
        "the scheduler starts at 0, as those of Transformers and DeepSpeed do, so that the first step changes nothing. "
        "Apply the schedule itself: schedule.scheduler(optimizer), or the code of schedule.export"
    )


def _stepped_per_batch(e: Evidence) -> str | None:
    accumulates = e.cleared == 1 or (e.cleared == 0 and not e.scaled)
    begun = e.best((0, e.begun), lambda begun: begun + (e.step - begun + 1) * e.passes - 1)
    if not (e.passes > 1 and accumulates and begun is not None):
        return None
    return (
        f"gradients are accumulated over {e.passes} batches, and the scheduler is stepped after each batch. Call "
        f"scheduler.step() only after optimizer.step()"
    )


def _skipped_steps(e: Evidence) -> str | None:
    skipped = e.best(range(1, MOST), lambda count: e.step + count)
    if not e.scaled or skipped is None:
        return None
    return (
        f"the loss scaler skipped {_times(skipped, 'step')} whose gradients were not finite, and the scheduler was "
        f"stepped after each all the same. Step it only where the optimizer was: where scaler.get_scale() is not lower "
        f"after scaler.update() than before"
    )


def _stepped_several_times(e: Evidence) -> str | None:
    known = [e.processes] if e.processes > 1 and e.is_rate_of(e.begun + e.processes * e.since) else range(2, MOST)
    count = e.best(known, lambda count: e.begun + count * e.since) if e.since else None
    if count is None:
        return None
    if count == e.processes and "accelerate" in e.callers:
        return (
            f"Accelerate steps a scheduler that it has prepared once for each of its {count} processes. Don't pass the "
            f"scheduler to prepare(), or make Accelerator(step_scheduler_with_optimizer=False)"
        )
    return (
        f"the scheduler is stepped {count} times for each optimizer step. Call scheduler.step() in one place, once "
        f"after optimizer.step()"
    )


def _not_applied(e: Evidence) -> str | None:
    if e.since or abs(e.applied - e.base_lr) > e.allowed:
        return None
    return (
        "the learning rate is the optimizer's own: no scheduler has set it. Make one before the first step: "
        "schedule.scheduler(optimizer)"
    )


def _stepped_early(e: Evidence) -> str | None:
    if e.since or not e.is_rate_of(e.step + 1):
        return None
    return "the scheduler was stepped before the first optimizer step. Call scheduler.step() after optimizer.step()"


def _not_stepped(e: Evidence) -> str | None:
    if e.applied != e.before:
        return None
    if not e.constant:
        return (
            f"the scheduler was not stepped after step {e.step - 1}. Call scheduler.step() after every optimizer.step()"
        )
    if "lightning" in e.callers or "pytorch_lightning" in e.callers:
        return (
            "Lightning steps a scheduler once an epoch unless it is told otherwise. Return "
            '{"scheduler": scheduler, "interval": "step"} from configure_optimizers'
        )
    return (
        "the learning rate has not changed since the first step: the scheduler is stepped once an epoch, or not at "
        "all. Call scheduler.step() after every optimizer.step()"
    )


def _restarted(e: Evidence) -> str | None:
    if not (e.since and (e.is_rate_of(0) or e.is_rate_of(1))):
        return None
    return (
        "the schedule began again at its first step, as where a scheduler is made anew for each epoch. Make one "
        "scheduler for the whole run"
    )


def _behind(e: Evidence) -> str | None:
    late = e.best(range(1, MOST), lambda count: e.step - count)
    if late is None:
        return None
    return (
        f"the scheduler is {_times(late, 'step')} behind the optimizer. Call scheduler.step() after every "
        f"optimizer.step()"
    )


def _ahead(e: Evidence) -> str | None:
    early = e.best(range(1, MOST), lambda count: e.step + count)
    if early is None:
        return None
    return (
        f"the scheduler is {_times(early, 'step')} ahead of the optimizer. Call scheduler.step() once after each "
        f"optimizer.step(), and only where that was made"
    )


EXPLANATIONS: dict[Cause, Callable[[Evidence], str | None]] = {
    "step-not-known": _step_not_known,
    "group-left-out": _group_left_out,
    "not-restored": _not_restored,
    "starts-at-zero": _starts_at_zero,
    "other-peak": _other_peak,
    "stepped-per-batch": _stepped_per_batch,
    "skipped-steps": _skipped_steps,
    "not-applied": _not_applied,
    "not-stepped": _not_stepped,
    "restarted": _restarted,
    "stepped-several-times": _stepped_several_times,
    "stepped-early": _stepped_early,
    "behind": _behind,
    "ahead": _ahead,
}
"""Each cause with what explains it, in the order in which they are tried. None: this isn't it."""


def _times(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
