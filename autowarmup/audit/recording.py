"""Recordings of audits: the learning rate of every step in a JSON lines file, written as the training goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autowarmup.audit.finding import Finding
from autowarmup.errors import InputError
from autowarmup.json_lines import JsonLines, parsed
from autowarmup.schedule.schedule import ContinuedSchedule, Schedule
from autowarmup.values import short

FORMAT = "autowarmup audit 1"

POINTS = 2000
"""Most steps that are drawn or sent: more than a picture has pixels across."""


NUMBER = " #"


def numbered(name: str, number: int) -> str:
    """The name of a parameter group, with a number where there are others of that name before it."""
    return name if number == 1 else f"{name}{NUMBER}{number}"


@dataclass
class Part:
    """What was recorded from the start of a training, or from a checkpoint on.

    Attributes:
        schedule: what was to be applied.
        ratios: each parameter group's share of the schedule's learning rate.
        names: the groups' names.
        steps: the numbers of the optimizer steps.
        rates: the learning rates of each step, one for each group.
        finding: the first step that was off; None where all are right.
    """

    schedule: Schedule | ContinuedSchedule
    ratios: list[float]
    names: list[str]
    steps: list[int] = field(default_factory=list)
    rates: list[list[float]] = field(default_factory=list)
    finding: Finding | None = None

    def planned(self, step: int) -> list[float]:
        """The schedule's learning rate for each group."""
        one, by_name = self.schedule.lr_at(step), self.schedule.rates_at(step)
        named = zip(self.names, self.ratios, strict=True)
        return [by_name.get(name.partition(NUMBER)[0], one) * ratio for name, ratio in named]


class Recorder(JsonLines):
    """Writes a recording; one that is there goes on, with a new part."""

    def begin(self, schedule: Schedule | ContinuedSchedule, ratios: Sequence[float], names: Sequence[str]) -> None:
        """A new part; also where a parameter group was added."""
        plan = schedule.model_dump(mode="json")
        self.write({"format": FORMAT, "schedule": plan, "ratios": list(ratios), "names": list(names)})

    def step(self, step: int, rates: list[float]) -> None:
        """One optimizer step. A learning rate that all groups have is written once."""
        text = repr(rates[:1] if rates.count(rates[0]) == len(rates) else rates)
        if "n" in text:  # nan and inf, for which Python's JSON has other names
            text = text.replace("nan", "NaN").replace("inf", "Infinity")
        self.add(f'{{"step": {step}, "lr": {text}}}')

    def found(self, finding: Finding) -> None:
        """The first step that is off."""
        self.write({"finding": finding.model_dump()})


def read(path: Path) -> list[Part]:
    """The parts of a recording, without those that have no step. Lines that were cut short are left out.

    Raises:
        InputError: the file can't be read, or is no recording.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it isn't text"
        raise InputError(f"{path} can't be read as a recording of RateAudit: {reason}") from error
    parts: list[Part] = []
    for number, line in enumerate(lines, start=1):
        try:
            if (found := parsed(line)) is not None:
                _take(found, parts)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(
                f"{path} is not a recording of RateAudit: line {number} is {short(line.strip())}; the first line of a "
                f'recording has "format": "{FORMAT}", and the others a step with its rates, or a finding'
            ) from error
    recorded = [part for part in parts if part.steps]
    if not recorded:
        raise InputError(f"{path} has no recorded step: is it a recording of RateAudit?")
    return recorded


def _take(line: dict[str, Any], parts: list[Part]) -> None:
    """Adds one line to the parts."""
    if "format" in line:
        if line["format"] != FORMAT:
            raise ValueError(f"format {line['format']!r}")
        kind = ContinuedSchedule if "at_step" in line["schedule"] else Schedule
        parts.append(Part(kind.model_validate(line["schedule"]), line["ratios"], line["names"]))
    elif "finding" in line:
        parts[-1].finding = Finding.model_validate(line["finding"])
    else:
        groups = len(parts[-1].ratios)
        rates = [float(rate) for rate in line["lr"]]
        rates *= groups if len(rates) == 1 else 1
        if len(rates) != groups:
            raise ValueError(f"{len(rates)} rates")
        parts[-1].steps.append(int(line["step"]))
        parts[-1].rates.append(rates)


Step = tuple[Part, int, list[float]]
"""A step that was recorded: its part, its number and its learning rates."""


def every_step(parts: Sequence[Part]) -> Iterator[Step]:
    """All steps in order, each as it was made last: what was trained before a crash and again after it counts once."""
    last = {step: (part, rates) for part in parts for step, rates in zip(part.steps, part.rates, strict=True)}
    for step in sorted(last):
        part, rates = last[step]
        yield part, step, rates


def thinned(steps: Sequence[Step], most: int = POINTS) -> list[Step]:
    """At most about so many steps, evenly spaced, with those around where a learning rate was off first."""
    if len(steps) <= most:
        return list(steps)
    kept = {place * (len(steps) - 1) // (most - 1) for place in range(most)}
    findings = {part.finding.step for part, _, _ in steps if part.finding}
    return [
        entry for place, entry in enumerate(steps) if place in kept or {entry[1] - 1, entry[1], entry[1] + 1} & findings
    ]


def first_finding(parts: Sequence[Part]) -> Finding | None:
    """The first step that was off in the whole recording."""
    return next((part.finding for part in parts if part.finding), None)
