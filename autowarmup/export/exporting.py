"""``export``: a schedule written down for a framework, and how far that is from the schedule."""

from __future__ import annotations

from typing import get_args

from autowarmup.errors import InputError
from autowarmup.export.base import Export, Form, Framework, Kind, Plan
from autowarmup.export.deviation import EXACT, deviation
from autowarmup.export.frameworks import FRAMEWORKS, named
from autowarmup.values import nearest, short

NEAR = 0.05
"""A framework's own schedule that is farther off than this share of the peak is another schedule."""


def export(plan: Plan, name: str, kind: Kind = "code", exact: bool = False, tolerance: float = EXACT) -> Export:
    """The schedule written down for a framework.

    Args:
        plan: the schedule.
        name: the framework, such as ``"transformers"``.
        kind: ``"code"`` is Python that applies any schedule. ``"config"`` is a schedule of the framework's own with its
            settings: the nearest there is.
        exact: whether to refuse a deviation above ``tolerance``.
        tolerance: the largest deviation that is taken as exact, as a share of the peak, from 0 to 1.

    Raises:
        InputError: an unknown framework; one that can't apply the schedule's groups; one that has no schedules of its
            own, or none within 5% of the peak; or a deviation above ``tolerance`` where ``exact`` is asked for.

    Example:
        >>> from autowarmup import Schedule
        >>> schedule = Schedule(peak=1e-3, horizon=1000, warmup_steps=100, shape="linear")
        >>> export(schedule, "transformers").exact
        True
        >>> own = export(schedule, "transformers", "config")
        >>> own.exact, round(own.max_deviation, 4)
        (False, 0.001)
    """
    chosen = named(name)
    if kind not in get_args(Kind):
        raise InputError(f"kind={short(kind)}: must be 'code' or 'config'{nearest(str(kind), get_args(Kind))}")
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0.0 <= tolerance <= 1.0:
        raise InputError(f"tolerance={short(tolerance)}: must be a share of the peak, from 0 to 1")
    _check_groups(plan, chosen, kind)
    form, (largest, step) = _written(plan, chosen) if kind == "code" else _nearest(plan, chosen)
    notes = list(chosen.notes if kind == "code" else chosen.own_notes)
    if largest > EXACT:
        notes.insert(0, f"It differs from the schedule by at most {largest:.2g} of the peak, at step {step:,}.")
    if exact and largest > tolerance:
        raise InputError(
            f"{chosen.title} would apply a learning rate that differs from the schedule by {largest:.2g} of the peak "
            f"at step {step:,}; tolerance={tolerance!r} is allowed"
            + (f". Its code is exact: export({name!r}), or --code {name}" if kind == "config" else "")
        )
    return Export(
        framework=name,
        code=form.code,
        config=form.config,
        exact=largest <= EXACT,
        max_deviation=largest,
        notes=tuple(notes),
    )


def _written(plan: Plan, chosen: Framework) -> tuple[Form, tuple[float, int]]:
    form = chosen.groups(plan) if plan.groups and chosen.groups else chosen.code(plan)
    return form, deviation(plan, form.share, form.by_group)


def _check_groups(plan: Plan, chosen: Framework, kind: Kind) -> None:
    """A schedule with groups is never written down without them."""
    if not plan.groups:
        return
    have = ", ".join(name for name, other in FRAMEWORKS.items() if other.groups)
    if kind == "config":
        raise InputError(
            f"no configuration has learning rates for each group of a schedule ({plan.describe()}): export its code, "
            f"for one of: {have}"
        )
    if chosen.groups is None:
        raise InputError(
            f"{chosen.title} can't apply a schedule with groups ({plan.describe()}): it has one learning rate for all "
            f"parameters, or its export has. These can: {have}"
        )


def _nearest(plan: Plan, chosen: Framework) -> tuple[Form, tuple[float, int]]:
    """The nearest of the framework's own schedules."""
    if chosen.own is None:
        have = ", ".join(name for name, other in FRAMEWORKS.items() if other.own)
        raise InputError(f"{chosen.title} has no schedules of its own: export its code. These have some: {have}")
    forms = [(deviation(plan, form.share), form) for form in chosen.own(plan)]
    found, form = min(forms, key=lambda item: item[0], default=((1.0, 0), None))
    if form is None or found[0] > NEAR:
        away = "" if form is None else f"; the nearest is off by {found[0]:.2g} of the peak at step {found[1]:,}"
        raise InputError(
            f"{chosen.title} has no schedule of its own near this one ({plan.describe()}){away}. "
            f"Its code is exact: export({chosen.name!r}), or --code {chosen.name}"
        )
    return form, found
