"""Schedules: the whole plan from optimizer step to learning rate, as pure arithmetic.

A schedule is a peak, a warm-up that climbs to it and a decay that leaves it, over a horizon::

    lr(t) = peak * warmup_factor(t) * decay_factor(t),    t = 0, 1, ..., horizon - 1

``warmup_steps`` is the number of steps *below* the peak: the peak is first applied at step ``warmup_steps``.
The decay starts there and reaches its final factor at step ``horizon``, one step after the run's last.
Everything here is a frozen value: it compares, hashes, pickles and goes through JSON. Nothing here imports
torch.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from numbers import Integral
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from autowarmup.errors import InputError
from autowarmup.schedule.applicable import Applicable
from autowarmup.schedule.by_group import ByGroup
from autowarmup.schedule.decays import ConstantDecay, CosineDecay, Decay, ExponentialDecay, WarmupStableDecay
from autowarmup.schedule.duration import Duration, duration_steps
from autowarmup.schedule.groups import ParameterGroup, check_groups
from autowarmup.schedule.rescaling import ScalingRule, scaling_rule
from autowarmup.schedule.shapes import (
    WITHOUT_WARMUP,
    Exponential,
    Linear,
    NoWarmup,
    Polynomial,
    Rule,
    Shape,
    UntunedLinear,
)
from autowarmup.values import Frozen, Number, Whole, short

if TYPE_CHECKING:
    from autowarmup.export.base import Export, Kind

FULL = 0.99
"""A rule's warm-up counts as over once it applies this share of the rate."""

Fraction = Annotated[Number, Field(ge=0.0, le=1.0)]


class Schedule(ByGroup, Frozen):
    """The whole plan step -> learning rate: warm-up, then decay, over a horizon.

    Args:
        peak: the highest learning rate, > 0.
        horizon: optimizer steps of the run, >= 1.
        warmup_steps: steps below the peak, from 0 to ``horizon``; the peak is first applied at this step.
            Left at 0 for ``shape="none"`` and for the rules, whose duration follows from ``beta2``. For a
            duration in epochs or percent see :func:`duration_steps`.
        shape: the warm-up's curve, by name (``"linear"``) or with its settings (``Polynomial(power=3)``).
        start_factor: the first step's rate as a fraction of the peak, 0 to 1. Left out, the curve starts one
            step in (an exponential one at 1%), so that the first step's rate is never 0. Rules have none.
        decay: the curve after the warm-up, by name or with its settings.
        final_factor: the fraction of the peak that the decay ends at, 0 to 1.
        groups: parameter groups with learning rates of their own, from the model's input to its output, as
            :class:`ParameterGroup` or dicts of its settings. The last one gets the schedule itself. Left out, one curve
            is for all.

    Raises:
        InputError: a value of the wrong type or out of its range, or settings that contradict one another.

    Example:
        >>> schedule = Schedule(peak=0.01, horizon=100, warmup_steps=4, shape="linear", decay="constant")
        >>> [round(schedule.lr_at(step), 4) for step in range(6)]
        [0.002, 0.004, 0.006, 0.008, 0.01, 0.01]
        >>> Schedule.model_validate_json(schedule.model_dump_json()) == schedule
        True
    """

    peak: Number = Field(gt=0.0)
    horizon: Whole = Field(ge=1)
    warmup_steps: Whole = Field(default=0, ge=0)
    shape: Shape = Field(default_factory=NoWarmup)
    start_factor: Fraction | None = None
    decay: Decay = Field(default_factory=CosineDecay)
    final_factor: Fraction = 0.0
    groups: tuple[ParameterGroup, ...] = Field(default=(), exclude_if=lambda groups: not groups)

    @field_validator("shape", "decay", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.shape, NoWarmup | Rule):
            if self.warmup_steps or self.start_factor is not None:
                instead = "; for a warm-up give a shape, such as 'linear'" if isinstance(self.shape, NoWarmup) else ""
                raise ValueError(
                    f"shape {self.shape.kind!r} takes no warmup_steps and no start_factor, "
                    f"got warmup_steps={self.warmup_steps}, start_factor={self.start_factor}{instead}"
                )
        elif self.warmup_steps == 0:
            raise ValueError(
                f"shape {self.shape.kind!r} needs warmup_steps >= 1, got 0; for no warm-up use shape 'none'"
            )
        if self.warmup_steps > self.horizon:
            raise ValueError(f"warmup_steps={self.warmup_steps} is longer than the horizon of {self.horizon} steps")
        if isinstance(self.shape, Exponential) and self.start_factor == 0.0:
            raise ValueError("an exponential warm-up can't start at 0: start_factor must be above 0")
        if isinstance(self.decay, ExponentialDecay) and self.final_factor == 0.0:
            raise ValueError("an exponential decay can't end at 0: final_factor must be above 0")
        if self.groups:
            check_groups(self.groups, self)
        return self

    @classmethod
    def untuned_linear(cls, peak: float, horizon: int, beta2: float = 0.999, **decay: Any) -> Self:
        """The untuned linear rule, clipped to half the horizon where it asks for more.

        With ``beta2 = 0.999`` the rule wants 2,000 steps, longer than many whole runs; half the horizon is
        the longest warm-up that still leaves the decay as long as itself. ``decay`` takes ``decay`` and
        ``final_factor``.

        >>> Schedule.untuned_linear(peak=0.1, horizon=10_000, beta2=0.98).duration
        99
        >>> Schedule.untuned_linear(peak=0.1, horizon=300, beta2=0.999).duration
        150
        """
        rule = UntunedLinear(beta2=beta2)
        if rule.tau <= horizon // 2:
            return cls(peak=peak, horizon=horizon, shape=rule, **decay)
        return cls(peak=peak, horizon=horizon, warmup_steps=max(1, horizon // 2), shape=Linear(), **decay)

    @property
    def duration(self) -> int:
        """Warm-up duration in steps: those below the peak; for a rule, those below what it multiplies (99% of
        it for the rules that only approach it), at most the horizon."""
        if not isinstance(self.shape, Rule):
            return self.warmup_steps
        return _rule_duration(self.shape, self.horizon)

    def lr_at(self, step: int) -> float:
        """The learning rate of optimizer step ``step``, counted from 0; of the last group where there are groups.
        Constant from the horizon on.

        Raises:
            InputError: ``step`` is not a whole number, or negative.
        """
        if not isinstance(step, Integral) or step < 0:
            raise InputError(f"step={short(step)}: must be a whole number, counted from 0")
        step = min(step, self.horizon)
        rate = self.peak * self.shape.share(step, self)
        return rate if step < self.warmup_steps else rate * self.decay.share(step, self)

    def export(self, framework: str, kind: Kind = "code", exact: bool = False, tolerance: float = 1e-6) -> Export:
        """This schedule written down for a framework, such as ``"transformers"`` or ``"keras"``.

        Args:
            framework: its name; a wrong one is answered with those that are known.
            kind: ``"code"`` is Python that applies any schedule and needs no autowarmup. ``"config"`` is a schedule of
                the framework's own with its settings, the nearest there is.
            exact: whether to refuse a deviation above ``tolerance``.
            tolerance: the largest deviation that is taken as exact, as a share of the peak, from 0 to 1.

        Raises:
            InputError: an unknown framework, one without schedules of its own near this one, or a deviation above
                ``tolerance`` where ``exact`` is asked for.

        Example:
            >>> schedule = Schedule(peak=3e-3, horizon=300, warmup_steps=60, shape="sqrt")
            >>> exported = schedule.export("lightning")
            >>> exported.exact, "def configure_optimizers(self):" in exported.code
            (True, True)
        """
        from autowarmup.export.exporting import export

        return export(self, framework, kind, exact, tolerance)

    def continued(self, at_step: int, horizon: int, rewarm: Duration | None = None) -> ContinuedSchedule:
        """This schedule for a run that goes on from a checkpoint with another horizon. Its steps are counted from the
        start of the run, so a scheduler's saved state fits.

        Without ``rewarm`` the learning rate goes on from where it is. In the warm-up, and as long as the decay doesn't
        depend on the horizon, this is the schedule with the new horizon; a decay that has begun goes on from its
        learning rate to the same end over the steps that are left. With ``rewarm`` it climbs back to the peak in a
        straight line and decays again (Ibrahim et al. 2024, arXiv 2403.08763; it disturbs what was learned at first,
        and lets a model learn new data where the old decay has ended).

        Args:
            at_step: the number of the first step after the checkpoint, counted from 0: that of the steps made.
            horizon: optimizer steps of the whole run, those made included; more than ``at_step``.
            rewarm: the new warm-up's duration, in steps or as a share of the steps that are left, such as ``"5%"``.

        Raises:
            InputError: a value out of its range, a learning rate of 0 at ``at_step`` without ``rewarm``, or a schedule
                with groups.

        Example:
            >>> schedule = Schedule(peak=1e-3, horizon=1_000, warmup_steps=100, shape="linear")
            >>> longer = schedule.continued(1_000, horizon=3_000, rewarm="5%")
            >>> [round(longer.lr_at(step), 6) for step in (500, 999, 1_000, 1_100, 3_000)]
            [0.000587, 0.0, 0.0, 0.001, 0.0]
        """
        if not isinstance(at_step, Integral) or not isinstance(horizon, Integral) or not 0 <= at_step < horizon:
            raise InputError(
                f"at_step={short(at_step)}, horizon={short(horizon)}: must be whole numbers, at_step at least 0, and "
                f"horizon, which counts the steps made as well, above it"
            )
        if self.groups:
            raise InputError("a schedule with groups can't be continued: make one for the whole run instead")
        start, left, end = self.lr_at(at_step), int(horizon - at_step), self.final_factor * self.peak
        if rewarm is not None:
            climb = duration_steps(rewarm, left)
            after = self._changed(
                horizon=left, shape="linear", warmup_steps=climb, start_factor=min(1.0, start / self.peak)
            )
            return ContinuedSchedule(before=self, at_step=at_step, after=after, origin=at_step)
        if at_step <= self.duration or self.lr_at(at_step) == self._changed(horizon=horizon).lr_at(at_step):
            return ContinuedSchedule(before=self, at_step=at_step, after=self._changed(horizon=horizon), origin=0)
        if start == 0.0:
            raise InputError(
                f"at step {at_step:,} the learning rate is 0, so that a run can't go on from it: give rewarm, such as "
                f"rewarm='5%'"
            )
        rest = WITHOUT_WARMUP | {"peak": start, "horizon": left, "final_factor": min(1.0, end / start)}
        if isinstance(self.decay, WarmupStableDecay):
            rest["decay"] = "linear"  # its cool-down has begun
        after = self._changed(**rest)
        return ContinuedSchedule(before=self, at_step=at_step, after=after, origin=at_step)

    def rescaled(
        self,
        batch: float = 1.0,
        width: float = 1.0,
        *,
        optimizer: str = "adamw",
        warmup: Literal["samples", "steps"] = "samples",
    ) -> Rescaled:
        """This schedule for another batch size or width, by published rules, over as many samples. Rules are
        extrapolations: the result names its rule, the source, and the conditions under which it holds.

        Args:
            batch: the new batch size as a multiple of the old one, above 0.
            width: the new width as a multiple of the old one, above 0.
            optimizer: ``"adam"``, ``"adamw"`` or ``"sgd"``.
            warmup: what of the warm-up stays: its number of samples or of steps. With samples, a rule's ``beta2``
                changes as Adam's has to.

        Raises:
            InputError: no rule holds, or a value out of its range.

        Example:
            >>> schedule = Schedule(peak=1e-3, horizon=10_000, warmup_steps=1_000, shape="linear")
            >>> larger = schedule.rescaled(batch=4.0)
            >>> larger.schedule.describe()
            'peak 0.002, linear warm-up over 250 steps (10%), cosine decay to 0 at step 2,500'
            >>> larger.rule.name, larger.rule.weight_decay, round(larger.rule.new_beta(0.95), 3)
            ('square-root scaling', 2.0, 0.8)
        """
        if warmup not in ("samples", "steps"):
            raise InputError(f"warmup={short(warmup)}: must be 'samples' or 'steps', what of the warm-up stays")
        rule = scaling_rule(batch, width, optimizer)
        changes: dict[str, Any] = {"peak": self.peak * rule.peak, "horizon": max(1, round(self.horizon * rule.steps))}
        if warmup == "samples" and isinstance(self.shape, Rule):
            changes["shape"] = self.shape.model_dump() | {"beta2": rule.new_beta(self.shape.beta2)}
        elif warmup == "samples" and self.warmup_steps:
            changes["warmup_steps"] = max(1, round(self.warmup_steps * rule.steps))
        changes["groups"] = [
            group.scaled(rule.steps if warmup == "samples" else 1.0, changes["horizon"]) for group in self.groups
        ]
        return Rescaled(schedule=self._changed(**changes), rule=rule)

    def _changed(self, **changes: Any) -> Schedule:
        """With other settings.

        Raises:
            InputError: they contradict one another.
        """
        return Schedule(**(self.model_dump() | changes))

    def rewarmed(self, **warmup: Any) -> Self:
        """With another warm-up: ``shape``, ``warmup_steps``, ``start_factor``. The durations that groups have of their
        own change in proportion."""
        steps = warmup.get("warmup_steps", self.warmup_steps)
        groups = [group.rewarmed(self.warmup_steps, steps, self.horizon) for group in self.groups]
        return self.model_copy(update=warmup | {"groups": tuple(groups)})

    def describe(self) -> str:
        """One line for people.

        >>> Schedule(peak=3e-3, horizon=300, warmup_steps=60, shape="linear").describe()
        'peak 0.003, linear warm-up over 60 steps (20%), cosine decay to 0 at step 300'
        """
        shape: str = self.shape.kind
        if isinstance(self.shape, Polynomial):
            shape += f" (power {self.shape.power:g})"
        warmup = "no warm-up"
        if self.duration:
            warmup = f"{shape} warm-up over {self.duration:,} steps ({self.duration / self.horizon:.0%})"
        if self.start_factor is not None:
            warmup += f" from {self.start_factor:g} x peak"
        decay = f"{self.decay.kind} decay to {self.lr_at(self.horizon):.3g} at step {self.horizon:,}"
        if isinstance(self.decay, ConstantDecay):
            decay = f"no decay, {self.horizon:,} steps"
        groups = "".join(f"; {group.describe()}" for group in self.groups[:-1])
        return f"peak {self.peak:.4g}, {warmup}, {decay}{groups}"


class ContinuedSchedule(Applicable, Frozen):
    """A schedule that another one follows from a checkpoint on; what :meth:`Schedule.continued` returns.
    Its scheduler gets the state that was saved, or is made with ``last_step=at_step - 1``.

    Args:
        before: the schedule up to the checkpoint.
        at_step: the first step after the checkpoint, counted from the start of the run.
        after: the schedule from that step on.
        origin: the step of the run at which the steps of ``after`` are counted as 0.
    """

    before: Schedule
    at_step: Whole = Field(ge=0)
    after: Schedule
    origin: Whole = Field(ge=0)

    @property
    def peak(self) -> float:
        """The highest learning rate before the checkpoint."""
        return self.before.peak

    @property
    def horizon(self) -> int:
        """Optimizer steps of the whole run."""
        return self.origin + self.after.horizon

    def lr_at(self, step: int) -> float:
        """The learning rate of optimizer step ``step``, counted from the start of the run. Constant past the horizon.

        Raises:
            InputError: ``step`` is not a whole number, or negative.
        """
        if not isinstance(step, Integral) or step < self.at_step:
            return self.before.lr_at(step)
        return self.after.lr_at(step - self.origin)

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """None: a schedule with groups isn't continued."""
        return ()

    def rates_at(self, step: int) -> dict[str, float]:
        """None, as it has no groups."""
        return {}

    def describe(self) -> str:
        """One line for people.

        >>> schedule = Schedule(peak=1e-3, horizon=1_000, warmup_steps=100, shape="linear")
        >>> schedule.continued(500, horizon=3_000).describe()
        'from step 500 on: peak 0.0005868, no warm-up, cosine decay to 0 at step 3,000'
        """
        after = self.after.describe()
        if self.origin:
            after = after.replace(f"at step {self.after.horizon:,}", f"at step {self.horizon:,}")
        return f"from step {self.at_step:,} on: {after}"


class Rescaled(Frozen):
    """A schedule for another batch size or width; what :meth:`Schedule.rescaled` returns.

    Args:
        schedule: the new schedule.
        rule: what was applied, and what else to change: Adam's betas (``rule.new_beta``), ``eps`` and weight decay.
    """

    schedule: Schedule
    rule: ScalingRule

    def describe(self) -> str:
        """For people: the schedule, the rule, its source, and when it holds."""
        return f"{self.schedule.describe()}\nby {self.rule.name} ({self.rule.source}), which holds {self.rule.holds}"


@lru_cache
def _rule_duration(rule: Rule, horizon: int) -> int:
    full = 1.0 if isinstance(rule, UntunedLinear) else FULL
    return bisect_left(range(horizon), full, key=rule.factor)
