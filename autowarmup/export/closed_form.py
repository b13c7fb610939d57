"""A schedule as a plain Python function: the source of what any framework can call."""

from __future__ import annotations

import math
from collections.abc import Callable
from string import Template
from typing import Any

import numpy as np

from autowarmup.export.base import Climb, Form, Group, Plan


def closed_form(plan: Plan) -> str:
    """The source of ``multiplier(step)``, with no more than the schedule needs.

    Example:
        >>> from autowarmup import Schedule
        >>> print(closed_form(Schedule(peak=0.1, horizon=100, warmup_steps=9, shape="linear", decay="linear")))
        def multiplier(step):
            \"""The learning rate of an optimizer step, counted from 0, as a share of the peak.\"""
            step = min(step, 100)
            if step < 9:
                return (step + 1) / 10
            return (100 - step) / 91
    """
    lines = [f"step = min(step, {plan.horizon})"]
    decay = _decay(plan)
    if plan.shape.kind in RULES:
        *helpers, factor = RULES[plan.shape.kind](plan.shape)
        lines += helpers
        lines.append(f"return {factor}" if decay == "1.0" else f"return {factor} * ({decay})")
    else:
        if plan.warmup_steps:
            lines += [f"if step < {plan.warmup_steps}:", f"    return {_climb(plan)}"]
        lines.append(f"return {decay}")
    doc = '"""The learning rate of an optimizer step, counted from 0, as a share of the peak."""'
    return "\n    ".join(["def multiplier(step):", doc, *lines])


def compiled(source: str) -> Callable[[int], float]:
    """``multiplier`` from its source."""
    names: dict[str, Any] = {"math": math}
    exec(source, names)  # noqa: S102 - our own arithmetic, as it is pasted
    multiplier: Callable[[int], float] = names["multiplier"]
    return multiplier


def written(template: str, config: str | None = None, single: bool = False) -> Callable[[Plan], Form]:
    """A framework's code for any schedule, from a template of it.

    Args:
        template: with ``$multiplier`` for the source of ``multiplier(step)``, ``$peak`` and ``$horizon``.
        config: a template of the configuration that goes with it.
        single: whether the framework rounds learning rates to single precision.
    """

    def form(plan: Plan) -> Form:
        source = closed_form(plan)
        multiplier, values = compiled(source), {"peak": number(plan.peak), "horizon": plan.horizon}
        code = Template(template).substitute(multiplier=source, **values)
        if "math." not in source:
            code = code.removeprefix("import math\n").lstrip("\n")
        return Form(
            share=(lambda step: float(np.float32(plan.peak * multiplier(step))) / plan.peak) if single else multiplier,
            code=f"# {plan.describe()}\n{code}",
            config=None if config is None else Template(config).substitute(values),
        )

    return form


def of_group(plan: Plan, group: Group, name: str) -> str:
    """The source of the multiplier of a group below the highest, called ``name``.

    Example:
        >>> from autowarmup import Schedule
        >>> groups = [{"name": "backbone", "ratio": 0.1, "frozen_steps": 20}, {"name": "head"}]
        >>> schedule = Schedule(peak=0.1, horizon=100, warmup_steps=9, shape="linear", decay="linear", groups=groups)
        >>> print(of_group(schedule, schedule.groups[0], "of_backbone"))
        def of_backbone(step):
            \"""Group 'backbone': backbone x 0.1, frozen for 20 steps.\"""
            step = min(step, 100)
            if step < 20:
                return 0.0
            decay = (100 - step) / 91 if step >= 9 else 1.0
            step -= 20
            if step < 9:
                return 0.1 * decay * ((step + 1) / 10)
            return 0.1 * decay
    """
    head = f'def {name}(step):\n    """Group {group.name!r}: {group.describe()}."""'
    ratio = repr(group.ratio)
    if group.is_plain:
        return f"{head}\n    return {ratio} * multiplier(step)"
    warmup, decay = group.warmup(plan), _decay(plan)
    lines = [f"step = min(step, {plan.horizon})"]
    lines += [f"if step < {group.frozen_steps}:", "    return 0.0"] if group.frozen_steps else []
    lines.append(
        f"decay = {decay} if step >= {plan.warmup_steps} else 1.0" if plan.warmup_steps else f"decay = {decay}"
    )
    lines += [f"step -= {group.frozen_steps}"] if group.frozen_steps else []
    if warmup.shape.kind in RULES:
        *helpers, factor = RULES[warmup.shape.kind](warmup.shape)
        lines += [*helpers, f"return {ratio} * decay * ({factor})"]
    else:
        if warmup.warmup_steps:
            lines += [f"if step < {warmup.warmup_steps}:", f"    return {ratio} * decay * ({_climb(warmup)})"]
        lines.append(f"return {ratio} * decay")
    return "\n    ".join([head, *lines])


def number(value: float) -> str:
    """As Python and YAML both read it: YAML takes ``1e-05`` for text, and ``1.0e-05`` for a number."""
    text = repr(float(value))
    return text if "." in text else text.replace("e", ".0e")


def _climb(plan: Climb) -> str:
    """The warm-up's share of the peak, with ``step`` below ``warmup_steps``."""
    steps, start = plan.warmup_steps, plan.start_factor
    if plan.shape.kind == "exponential":
        return f"{0.01 if start is None else start!r} ** (1 - step / {steps})"
    progress = f"(step + 1) / {steps + 1}" if start is None else f"step / {steps}"
    height = {
        "linear": progress,
        "polynomial": f"({progress}) ** {getattr(plan.shape, 'power', 1.0)!r}",
        "sqrt": f"math.sqrt({progress})",
        "cosine": f"math.sin(math.pi / 2 * {progress}) ** 2",
    }[plan.shape.kind]
    return _between(start or 0.0, height)


def _decay(plan: Plan) -> str:
    """The decay's share of the peak, with ``step`` from ``warmup_steps`` to the horizon."""
    horizon, warmup, final = plan.horizon, plan.warmup_steps, plan.final_factor
    steps = max(1, horizon - warmup)
    left = f"({horizon} - step) / {steps}"
    if plan.decay.kind == "inverse-sqrt":
        scale = plan.decay.timescale or plan.duration + 1
        root = f"math.sqrt({scale} / (step + {scale - warmup}))"
        return f"max({final!r}, {root})" if final else root
    if plan.decay.kind == "wsd":
        length = max(1.0, min(plan.decay.cooldown * horizon, horizon - warmup))
        return _between(final, f"min(1.0, ({horizon} - step) / {length!r})")
    return {
        "cosine": _between(final, f"math.sin(math.pi / 2 * {left}) ** 2"),
        "linear": _between(final, left),
        "exponential": f"{final!r} ** (1 - {left})",
        "constant": "1.0",
    }[plan.decay.kind]


def _between(low: float, height: str) -> str:
    return f"{low!r} + {1.0 - low!r} * {height}" if low else height


def _radam(shape: Any) -> list[str]:
    inf = 2.0 / (1.0 - shape.beta2) - 1.0
    first = 1
    while inf - 2.0 * first * shape.beta2**first / (1.0 - shape.beta2**first) <= 4.0:
        first += 1
    return [
        f"t = max(step + 1, {first})",
        f"power = {shape.beta2!r} ** t",
        f"rho = {inf!r} - 2 * t * power / (1 - power)",
        f"math.sqrt((rho - 4) * (rho - 2) / rho * {inf / ((inf - 4.0) * (inf - 2.0))!r})",
    ]


RULES: dict[str, Callable[[Any], list[str]]] = {
    "untuned-linear": lambda shape: [f"min(1.0, (step + 1) / {shape.tau})"],
    "untuned-exponential": lambda shape: [f"-math.expm1(-(step + 1) * {1.0 - shape.beta2!r})"],
    "radam": _radam,
    "gi-adam": lambda shape: [f"math.sqrt(1 - {shape.beta2!r} ** (step + 1))"],
}
"""The factor of each rule: statements, and the expression that uses them."""
