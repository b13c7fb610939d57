"""The HTML page: turns a result into words and tables, and fills the template with them."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from autowarmup.instability.instability import Instability
from autowarmup.report.pairs import paired, signed
from autowarmup.report.trials import final_losses
from autowarmup.report.uses import uses
from autowarmup.search.verdict import Comparison
from autowarmup.study.forecast import searched
from autowarmup.study.result import TrialRecord, TuneResult
from autowarmup.training.objective import Objective

HEADLINES = {
    "tuned": "Tuned: use this schedule",
    "leaning": "Leaning: this schedule is expected to be better, which is not shown",
    "tie": "Tie: keep the current schedule",
    "nothing stable": "Nothing stable: no schedule got to the end of its run",
    "not compared": "One run: its learning rate was found while it trained, and nothing was compared",
}


class Picture(NamedTuple):
    """A figure's place in the page: its heading, one sentence that helps to read it, and what it shows."""

    heading: str
    help: str
    alt: str


PICTURES = {
    "stability_map": Picture(
        "Stability map",
        "The colour is the {final} that the search's model forecasts for a schedule with that peak and warm-up "
        "duration; it fades where no trial is near. Discs ran to the end and have the colour of their {final}; "
        "squares were stopped early and have that of their forecast; crosses became unstable. At the solid line half "
        "of the schedules are expected to become unstable, at the dashed ones 10% and 90%; the fewer the trials, the "
        "farther apart these are.",
        "Peak learning rate against warm-up duration: the forecast of the final loss as colours, the boundary of "
        "stability as lines, stable trials as discs and squares, unstable ones as crosses.",
    ),
    "duration": Picture(
        "Warm-up duration and {final}",
        "The line is the forecast at one peak, on the search's seed; circles are that seed's trials, each at its own "
        "peak; dots are fresh seeds, which differ among themselves. To compare schedules, look at the paired "
        "differences, where there are any: both schedules ran on each seed, and an interval that excludes 0 is more "
        "than noise.",
        "Warm-up duration against {final}: the forecast with its range, the trials, and the paired differences.",
    ),
    "loss_curves": Picture(
        "Loss curves",
        "A cross marks the step at which instability began, which is before the loss shows it. Grey trials were "
        "stopped early in favour of better ones.",
        "Smoothed training loss by optimizer step for every trial of the search.",
    ),
    "schedules": Picture(
        "Schedules tried",
        "Each line ends where its trial ended; a cross marks the step and the learning rate at which instability "
        "began.",
        "Learning rate by optimizer step for every schedule tried, coloured by outcome.",
    ),
}
"""In the page's order; ``{final}`` stands for what trials are judged by, such as "final loss"."""


def render(result: TuneResult, pictures: Mapping[str, bytes]) -> str:
    """The page as text.

    Args:
        result: what the study found.
        pictures: figures of :data:`PICTURES` as PNGs; those that are missing are left out.
    """
    environment = Environment(
        loader=PackageLoader("autowarmup", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"loss": _loss, "signed": signed, "lr": _rate, "duration": _duration}
    verdict, objective = result.verdict, result.config.objective
    template = environment.get_template("report.html.j2")
    return template.render(
        result=result,
        verdict=verdict,
        schedule=result.schedule,
        extrapolation=result.extrapolation,
        headline=HEADLINES[verdict.kind],
        study=Path(result.study).name,
        loss_name=result.loss_name,
        judged_by=result.judged_by,
        objective=objective,
        gain=result.gain,
        searched=verdict.searched if verdict.kind == "tie" else None,
        on_search_seed=_on_search_seed(result),
        uses=[] if result.schedule is None else uses(result.schedule),
        seeds=_seeds(result),
        pairs=_pairs(result),
        pictures=[
            (name, _named(picture, objective), _inline(pictures[name]))
            for name, picture in PICTURES.items()
            if name in pictures
        ],
        instabilities=_instabilities(result),
        failures=[record for record in result.records if record.outcome == "failed"],
        finals=final_losses(result),
        trials=sorted(result.records, key=lambda record: _best_first(record, objective)),
        outcomes=_outcomes(result),
        cost=result.cost,
    )


def _named(picture: Picture, objective: Objective) -> Picture:
    return Picture(*(text.format(final=f"final {objective.name}") for text in picture))


def _runs(result: TuneResult, candidate: int) -> dict[int, TrialRecord]:
    """A candidate's runs on the fresh seeds, by seed."""
    return {r.seed: r for r in result.records if r.role == "confirmation" and r.candidate == candidate}


def _seeds(result: TuneResult) -> list[int]:
    """The fresh seeds on which the schedules met."""
    pairs = paired(result)
    return list(_runs(result, pairs[0].candidate)) if pairs else []


def _pairs(result: TuneResult) -> list[tuple[Comparison, list[str]]]:
    """The schedules that met, each with how its run ended on each seed."""
    seeds = _seeds(result)
    rows = []
    for comparison in result.verdict.comparisons:
        runs = _runs(result, comparison.candidate)
        rows.append((comparison, [_ending(runs.get(seed)) for seed in seeds]))
    return rows


def _ending(record: TrialRecord | None) -> str:
    if record is None:
        return "not run"
    if record.outcome == "completed":
        return _loss(record.final_loss)
    return f"{'stopped' if record.outcome == 'pruned' else record.outcome} at step {record.steps:,}"


def _on_search_seed(result: TuneResult) -> tuple[float | None, float | None]:
    """The final losses of the best schedule that was found and of the current one on the search's seed."""
    known = {record.schedule: record.final_loss for record in searched(result)}
    found = result.verdict.searched
    return None if found is None else known.get(found), known.get(result.config.current_schedule)


def _instabilities(result: TuneResult) -> list[tuple[TrialRecord, Instability]]:
    """Every instability, those that ended a trial and those that passed, with its trial."""
    found = []
    for record in result.records:
        fatal = [record.instability] if record.instability else []
        passed = [event for event in record.events if event != record.instability]
        found += [(record, instability) for instability in (*fatal, *passed)]
    return found


def _best_first(record: TrialRecord, objective: Objective) -> tuple[float, ...]:
    """Completed trials, the best first, then the others: pruned, unstable, failed, and the probes last."""
    if record.role == "probe":
        return (4, record.number)
    if record.outcome == "completed":
        final = record.final_loss
        return (0, math.inf if final is None else objective.shown(final), record.number)
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
