"""What a configuration says of the warm-up, and how its values are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autowarmup.errors import InputError
from autowarmup.values import Frozen, short


class Trap(Frozen):
    """A way in which a configuration does something else than it seems to.

    Args:
        what: what it does.
        instead: what to write, or to do, instead.
    """

    what: str
    instead: str


class Run(Frozen):
    """What a configuration doesn't say of the run; None where it isn't known.

    Args:
        steps: optimizer steps of the whole run.
        examples: in the training data.
        processes: how many train together.
    """

    steps: int | None = None
    examples: int | None = None
    processes: int = 1


class Reading(Frozen):
    """The warm-up of a configuration, in optimizer steps.

    Args:
        framework: whose configuration it is.
        steps: optimizer steps below the peak; 0 for no warm-up, None where the file alone doesn't tell.
        first: the learning rate of the first step as a share of the peak; None where it isn't known.
        peak: the highest learning rate; None where the file doesn't have it.
        total: optimizer steps of the whole run; None where they aren't known.
        curve: the warm-up's shape.
        unknown: why ``steps`` is None.
        traps: that it falls into.
    """

    framework: str
    steps: int | None
    first: float | None = None
    peak: float | None = None
    total: int | None = None
    curve: str = "linear"
    unknown: str = ""
    traps: tuple[Trap, ...] = ()

    def describe(self) -> str:
        """One line for people.

        Example:
            >>> Reading(framework="Transformers", steps=100, first=0.0, peak=1e-3, total=1_000).describe()
            'Transformers: a linear warm-up over 100 of 1,000 optimizer steps (10%), from 0 to 0.001'
        """
        if self.steps is None:
            return f"{self.framework}: the file alone doesn't tell how long the warm-up is: {self.unknown}"
        if self.steps == 0:
            return f"{self.framework}: no warm-up: the first optimizer step has the whole learning rate"
        share = "" if self.total is None else f" of {self.total:,}"
        percent = "" if self.total is None else f" ({self.steps / self.total:.0%})"
        reached = ""
        if self.first is not None:
            scale, unit = (1.0, " x the peak") if self.peak is None else (self.peak, "")
            reached = f", from {self.first * scale:.3g} to {scale:.3g}{unit}"
        return f"{self.framework}: a {self.curve} warm-up over {self.steps:,}{share} optimizer steps{percent}{reached}"


class Fields:
    """The values of a mapping, checked as they are read.

    Args:
        values: as the file has them.
        within: the key that they stand under, with a dot.
    """

    def __init__(self, values: Mapping[str, Any], within: str = "") -> None:
        self._values, self._within = values, within

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def get(self, key: str) -> Any:
        """As the file has it; None where it hasn't."""
        return self._values.get(key)

    def number(self, key: str, default: float, least: float = 0.0) -> float:
        """A number, which may be written as text as in ``"1e-4"``.

        Raises:
            InputError: it is none, or below ``least``.
        """
        value = self._values.get(key)
        if value is None:
            return default
        try:
            number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
        except ValueError:
            number = None
        if number is None or not least <= number < float("inf"):
            raise InputError(f"{self._within}{key}: must be a number of at least {least:g}, got {short(value)}")
        return number

    def whole(self, key: str, default: int, least: int = 0) -> int:
        """A whole number.

        Raises:
            InputError: it is none, or below ``least``.
        """
        number = float(self.number(key, default, least))
        if not number.is_integer():
            raise InputError(f"{self._within}{key}: must be a whole number, got {short(self._values[key])}")
        return int(number)

    def text(self, key: str, default: str) -> str:
        """Text.

        Raises:
            InputError: it isn't text.
        """
        value = self._values.get(key, default)
        if value is None:
            return default
        if not isinstance(value, str):
            raise InputError(f"{self._within}{key}: must be text, got {short(value)}")
        return value

    def within(self, key: str) -> Fields:
        """The values under a key; none where it is left out.

        Raises:
            InputError: it is not a mapping.
        """
        value = self._values.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise InputError(f"{self._within}{key}: must be a mapping, got {short(value)}")
        return Fields(value or {}, f"{self._within}{key}.")


def given_steps(config: Fields, run: Run) -> int | None:
    """Optimizer steps of the run as Transformers and Axolotl are given them: ``max_steps``, where it is above 0."""
    limit = config.number("max_steps", -1.0, least=-1.0)
    return int(limit) if limit > 0 else run.steps
