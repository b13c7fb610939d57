"""The HTML page: turns a result into words and tables, and fills the template with them."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from autowarmup.instability.instability import Instability
from autowarmup.report.pairs import searched_and_rivals, signed
from autowarmup.search.verdict import Interval
from autowarmup.study.result import TrialRecord, TuneResult

HEADLINES = {
    "tuned": "Tuned: use this schedule",
    "tie": "Tie: nothing beats the simple schedule",
    "leaning": "Leaning: the simple schedule is the best so far",
    "nothing stable": "Nothing stable: no schedule got to its end",
}


class Picture(NamedTuple):
    """A figure's place in the page: its heading, one sentence that helps to read it, and what it shows."""

    heading: str
    help: str
    alt: str


PICTURES = {
    "stability_map": Picture(
        "Stability map",
        "Discs ran to the end and carry their final loss; squares were stopped early, stable so far, and carry "
        "the loss at one common step, not to be compared with a final loss; crosses broke; the darker the "
        "ground, the likelier a schedule there breaks.",
        "Peak learning rate against warm-up duration: stable trials coloured by loss, unstable ones as crosses.",
    ),
    "duration": Picture(
        "Warm-up duration and final loss",
        "Compare schedules on the right, where each seed is paired with itself: an interval clear of 0 is more "
        "than noise; the spread on the left is mostly from seed to seed.",
        "Warm-up duration against final validation loss, and the paired differences with their intervals.",
    ),
    "loss_curves": Picture(
        "Loss curves",
        "A cross stands where instability began, which is before it shows; grey trials were stopped early in "
        "favour of better ones.",
        "Smoothed training loss by optimizer step for every trial of the search.",
    ),
    "schedules": Picture(
        "Schedules tried",
        "Each line ends where its trial ended; a cross stands at the step and rate where instability began.",
        "Learning rate by optimizer step for every schedule tried, coloured by outcome.",
    ),
}
"""In the page's order."""


def render(result: TuneResult, pictures: Mapping[str, bytes]) -> str:
    """The page as text.

    Args:
        result: what the study found.
        pictures: each figure of :data:`PICTURES` as a PNG.
    """
    environment = Environment(
        loader=PackageLoader("autowarmup", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"loss": _loss, "signed": signed, "lr": _rate, "duration": _duration}
    searched, _ = searched_and_rivals(result)
    template = environment.get_template("report.html.j2")
    return template.render(
        result=result,
        verdict=result.verdict,
        headline=HEADLINES[result.verdict.kind],
        findings=list(_findings(result)),
        code=_code(result),
        seeds=_seeds(result),
        searched=searched,
        pictures=[(name, text, _inline(pictures[name])) for name, text in PICTURES.items()],
        instabilities=_instabilities(result),
        failures=[record for record in result.records if record.outcome == "failed"],
        trials=sorted(result.records, key=_best_first),
        outcomes=_outcomes(result),
        cost=result.cost,
    )


def _findings(result: TuneResult) -> Iterator[str]:
    """The paired comparisons in words, one sentence each, but for those that the verdict's message tells."""
    searched, rivals = searched_and_rivals(result)
    for rival in rivals if searched else ():
        if rival.interval is None:
            yield f"Against {rival.name} there is no interval: not every run of the two got to its end."
        elif _size(rival.interval.mean) not in result.verdict.message:
            yield f"Against {rival.name}, the searched schedule ends {_compared(rival.interval)}"


def _compared(interval: Interval) -> str:
    sure = f"{interval.confidence:.0%} interval"
    if interval.low <= 0.0 <= interval.high:
        bounds = f"{sure} {signed(interval.low)} to {signed(interval.high)}"
        return f"at about the same validation loss: {signed(interval.mean)} ({bounds}), within the noise."
    near, far = sorted((abs(interval.low), abs(interval.high)))
    way = "lower" if interval.high < 0.0 else "higher"
    bounds = f"{sure} {_size(near)} to {_size(far)} {way}"
    return f"{_size(interval.mean)} {way} in validation loss ({bounds}), more than the noise."


def _size(difference: float) -> str:
    return signed(abs(difference)).removeprefix("+")


def _code(result: TuneResult) -> str | None:
    """The schedule as Python, to paste."""
    if result.schedule is None:
        return None
    return "\n".join(
        [
            "from autowarmup import Schedule",
            "",
            "schedule = Schedule.model_validate_json(",
            f"    {result.schedule.model_dump_json(exclude_none=True)!r}",
            ")",
            "scheduler = schedule.scheduler(optimizer)  # scheduler.step() after each optimizer.step()",
        ]
    )


def _seeds(result: TuneResult) -> list[str]:
    """Headings for the comparison's columns."""
    count = max((len(comparison.final_losses) for comparison in result.verdict.comparisons), default=0)
    seeds = dict.fromkeys(record.seed for record in result.records if record.role == "confirmation")
    if len(seeds) != count:
        return [f"run {index}" for index in range(1, count + 1)]
    return [f"seed {seed}" for seed in seeds]


def _instabilities(result: TuneResult) -> list[tuple[TrialRecord, Instability]]:
    """Every instability, those that ended a trial and those that passed, with its trial."""
    found = []
    for record in result.records:
        fatal = [record.instability] if record.instability else []
        found += [(record, instability) for instability in (*fatal, *record.events)]
    return found


def _best_first(record: TrialRecord) -> tuple[float, ...]:
    """Completed trials by final loss, then the others: pruned, unstable, failed, and the probes last."""
    if record.role == "probe":
        return (4, record.number)
    if record.outcome == "completed":
        return (0, math.inf if record.val_loss is None else record.val_loss, record.number)
    place = ("pruned", "unstable", "failed").index(record.outcome) + 1
    return (
        place,
        -record.steps,
        math.inf if record.val_loss_ema is None else record.val_loss_ema,
        record.number,
    )


def _outcomes(result: TuneResult) -> str:
    """How many trials ended how."""
    outcomes = [record.outcome for record in result.records]
    counts = {name: outcomes.count(name) for name in ("completed", "pruned", "unstable", "failed")}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _loss(value: float | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.4f}" if 0.001 <= abs(value) < 1e4 or value == 0.0 else f"{value:.3g}"


def _rate(value: float) -> str:
    return f"{value:.3g}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
