"""What a search space says of parameter groups: a few numbers for all of them, however many there are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

from pydantic import field_validator

from autowarmup.schedule.groups import ParameterGroup, Patterns
from autowarmup.schedule.ranges import Fixed, Range
from autowarmup.values import Frozen

ONE_CURVE, RATIOS, UNFREEZING = "one curve", "ratios", "unfreezing"
"""How groups are treated: all alike; each with its own peak; and each frozen at first as well."""

MODES = "groups"
LAYER_DECAY, FROZEN, LONGER = "layer_decay", "frozen", "longer_warmup"
PARAMETERS = (MODES, LAYER_DECAY, FROZEN, LONGER)
"""What a space asks for, by name."""

FIXED_RATIO = 0.1
"""The lowest group's peak as a share of the highest, where ratios are fixed by custom."""

ULMFIT_DECAY = 1.0 / 2.6
"""Howard & Ruder 2018, Universal Language Model Fine-tuning for Text Classification, arXiv 1801.06146, section 3.2."""


class Suggests(Protocol):
    """What is needed of an Optuna trial."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_categorical(self, name: str, choices: list[str]) -> Any: ...


class GroupRanges(Frozen):
    """What may differ between parameter groups. One curve for all is always among what is proposed.

    Args:
        layer_decay: each group's peak as a share of that of the group above it, above 0 to 1.
        frozen: how much longer each group stays frozen than the one above it, as a share of the horizon, 0 to below 1;
            gradual unfreezing from the top down. At most 0.8 of the horizon for the lowest.
        longer_warmup: by how much each group's warm-up is longer than that of the group above it, in durations of the
            highest group's, 0 to 10.

    Example:
        >>> GroupRanges(layer_decay={"low": 0.1, "high": 1.0, "scale": "log"}).frozen.high
        0.0
    """

    layer_decay: Annotated[Range, Fixed] = Range(low=0.05, high=1.0, scale="log")
    frozen: Annotated[Range, Fixed] = Range(low=0.0, high=0.0)
    longer_warmup: Annotated[Range, Fixed] = Range(low=0.0, high=0.0)

    @field_validator("layer_decay")
    @classmethod
    def _share(cls, value: Range) -> Range:
        if not 0.0 < value.low <= value.high <= 1.0:
            raise ValueError("must be above 0 and at most 1")
        return value

    @field_validator("frozen")
    @classmethod
    def _part(cls, value: Range) -> Range:
        if not 0.0 <= value.low <= value.high < 1.0:
            raise ValueError("must be within 0 to below 1")
        return value

    @field_validator("longer_warmup")
    @classmethod
    def _multiple(cls, value: Range) -> Range:
        if not 0.0 <= value.low <= value.high <= 10.0:
            raise ValueError("must be within 0 to 10")
        return value

    @property
    def modes(self) -> list[str]:
        """How groups may be treated."""
        return [ONE_CURVE, RATIOS, *([UNFREEZING] if self.frozen.high else [])]

    def suggest(self, trial: Suggests, groups: Patterns, horizon: int, warmup: int) -> tuple[ParameterGroup, ...]:
        """Asks an Optuna trial for what the groups differ in; none where they are all alike.

        Args:
            trial: an Optuna trial, or anything that suggests like one.
            groups: the groups' patterns, by name.
            horizon: of the schedule.
            warmup: the duration of the schedule's warm-up where that can be chosen, or else 0.
        """
        mode = trial.suggest_categorical(MODES, self.modes)
        if mode == ONE_CURVE:
            return ()
        chosen = {LAYER_DECAY: drawn(trial, LAYER_DECAY, self.layer_decay)}
        chosen[FROZEN] = drawn(trial, FROZEN, self.frozen) if mode == UNFREEZING else 0.0
        chosen[LONGER] = drawn(trial, LONGER, self.longer_warmup) if warmup else 0.0
        return made(groups, horizon, warmup, chosen)

    def params_of(self, groups: Sequence[ParameterGroup], horizon: int, warmup: int) -> dict[str, Any] | None:
        """The parameters behind a schedule's groups; None where the space doesn't have them, up to a rounded step."""
        if not groups:
            return {MODES: ONE_CURVE}
        below = groups[-2]
        longer = (below.warmup_steps or warmup) / warmup - 1.0 if warmup else 0.0
        found = {LAYER_DECAY: below.ratio, FROZEN: below.frozen_steps / horizon, LONGER: longer}
        step = {LAYER_DECAY: 0.0, FROZEN: 0.5 / horizon, LONGER: 0.5 / max(1, warmup)}
        ranges = {LAYER_DECAY: self.layer_decay, FROZEN: self.frozen, LONGER: self.longer_warmup}
        mode = UNFREEZING if below.frozen_steps else RATIOS
        asked = [LAYER_DECAY, *([FROZEN] if mode == UNFREEZING else []), *([LONGER] if warmup else [])]
        for name in asked:
            bounds = ranges[name]
            if not bounds.low - step[name] <= found[name] <= bounds.high + step[name]:
                return None
            found[name] = min(max(found[name], bounds.low), bounds.high)
        patterns = {group.name: group.parameters for group in groups}
        if mode not in self.modes or not _alike(groups, made(patterns, horizon, warmup, found), warmup):
            return None
        return {MODES: mode} | {name: found[name] for name in asked if ranges[name].low < ranges[name].high}

    def starts(self, count: int) -> list[dict[str, float | str]]:
        """The parameters of what is tried first: a fixed ratio, and gradual unfreezing with the layer-wise decay of
        ULMFiT, as far as the space goes.

        Args:
            count: how many groups there are.
        """
        fixed = {MODES: RATIOS, LAYER_DECAY: FIXED_RATIO ** (1.0 / (count - 1)), LONGER: 0.0}
        gradual = {MODES: self.modes[-1], LAYER_DECAY: ULMFIT_DECAY, FROZEN: min(0.1, 0.5 / (count - 1)), LONGER: 0.0}
        return [fixed, gradual]


MOST_FROZEN = 0.8
"""The largest share of the horizon for which a group of a space is frozen."""


def made(groups: Patterns, horizon: int, warmup: int, chosen: Mapping[str, float]) -> tuple[ParameterGroup, ...]:
    """The groups that a space's parameters stand for.

    >>> groups = {"embedding": ["0.*"], "encoder": ["1.*"], "head": ["2.*"]}
    >>> found = made(groups, 100, 10, {"layer_decay": 0.1, "frozen": 0.05, "longer_warmup": 0.5})
    >>> [(group.ratio, group.frozen_steps, group.warmup_steps) for group in found]
    [(0.01, 10, 20), (0.1, 5, 15), (1.0, 0, None)]
    """
    found = []
    for distance, (name, patterns) in zip(range(len(groups) - 1, -1, -1), groups.items(), strict=True):
        frozen = min(round(distance * chosen[FROZEN] * horizon), int(MOST_FROZEN * horizon))
        longer = distance > 0 and chosen[LONGER] > 0.0
        steps = min(round(warmup * (1.0 + distance * chosen[LONGER])), horizon - frozen) if longer else None
        found.append(
            ParameterGroup(
                name=name,
                parameters=tuple(patterns),
                ratio=round(chosen[LAYER_DECAY] ** distance, 12),
                frozen_steps=frozen,
                warmup_steps=steps,
            )
        )
    return tuple(found)


def _alike(groups: Sequence[ParameterGroup], others: Sequence[ParameterGroup], warmup: int) -> bool:
    """Whether groups are the same, up to the step that rounding makes at each of them."""
    return all(
        one.shape is None
        and math.isclose(one.ratio, other.ratio, rel_tol=1e-6)
        and abs(one.frozen_steps - other.frozen_steps) <= len(groups)
        and abs((one.warmup_steps or warmup) - (other.warmup_steps or warmup)) <= len(groups)
        for one, other in zip(groups, others, strict=True)
    )


def drawn(trial: Suggests, name: str, bounds: Range) -> float:
    """A number of a range; it is asked for where there is a choice."""
    if bounds.low == bounds.high:
        return bounds.low
    return trial.suggest_float(name, bounds.low, bounds.high, log=bounds.scale == "log")
