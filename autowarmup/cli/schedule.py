"""``schedule`` and ``spaces``: print a schedule, print a search space."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from autowarmup.cli.common import JSON, NOTHING_STABLE, OK, opened, status
from autowarmup.errors import InputError, StudyError
from autowarmup.export.base import Export
from autowarmup.export.exporting import export
from autowarmup.export.frameworks import FRAMEWORKS
from autowarmup.schedule.duration import duration_steps
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.space import DECAYS, RULES, SHAPES, SearchSpace, presets
from autowarmup.shell import printable
from autowarmup.study.found import Found, found
from autowarmup.values import explain

LONGEST = 10**9
"""Optimizer steps of the longest run that a schedule is made for by hand."""

BLOCK = 10_000
"""Lines of a curve that are printed at a time."""


@click.command(short_help="Print a schedule: in words, as a curve, as code.")
@click.argument("study", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--curve", is_flag=True, help="Print every step's rate as CSV.")
@click.option("--steps", type=click.IntRange(1), metavar="N", help="With --curve: only the first N steps.")
@click.option("--code", metavar="NAME", help=f"Print code to paste, for one of: {', '.join(FRAMEWORKS)}.")
@click.option(
    "--config",
    metavar="NAME",
    help="Print a framework's own configuration, the nearest to the schedule; of: "
    f"{', '.join(name for name, known in FRAMEWORKS.items() if known.own)}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the schedule as JSON.")
@click.option("--peak", type=float, metavar="RATE", help="Without DIR: the peak learning rate.")
@click.option(
    "--horizon", type=click.IntRange(1, LONGEST), metavar="N", help="Without DIR: optimizer steps of the run."
)
@click.option("--warmup", metavar="N|P%", help="Steps, or a share such as 10%.")
@click.option("--shape", type=click.Choice(SHAPES), help="Warm-up shape.  [default: linear]")
@click.option("--power", type=float, help="Power of a polynomial warm-up.  [default: 2]")
@click.option("--beta2", type=float, help="Adam's, for the shapes that need no duration.  [default: 0.999]")
@click.option("--start-factor", type=float, help="First rate as a fraction of the peak.")
@click.option("--decay", type=click.Choice(DECAYS), help="Decay shape.  [default: cosine]")
@click.option("--final-factor", type=float, help="Last rate as a fraction of the peak.  [default: 0]")
def schedule(
    study: Path | None, curve: bool, steps: int | None, code: str | None, config: str | None, as_json: bool,
    **options: Any,
) -> int:  # fmt: skip
    """Print the schedule that a study found, or one made by hand: in words, as a curve, as code for a framework.

    \b
    Examples:
      autowarmup schedule studies/mine --code transformers
      autowarmup schedule studies/mine --config deepspeed > scheduler.json
      autowarmup schedule studies/mine --curve > rates.csv
      autowarmup schedule --peak 3e-3 --horizon 1000 --warmup 10% --shape linear
    """
    settings = {name: value for name, value in options.items() if value is not None}
    if study and settings:
        raise click.UsageError(f"--{next(iter(settings)).replace('_', '-')} makes a schedule by hand: leave out DIR")
    if sum((curve, as_json, code is not None, config is not None)) > 1:
        raise click.UsageError("--curve, --code, --config and --json exclude each other")
    if steps and not curve:
        raise click.UsageError("--steps goes with --curve")
    if study is None:
        plan, note = _made_schedule(settings), None
    else:
        result = _result(study)
        if result.schedule is None:
            click.echo(f"autowarmup: the study in {study} found nothing stable: there is no schedule", err=True)
            return NOTHING_STABLE
        plan, note = result.schedule, result.extrapolation
    if curve:
        _print_curve(plan, steps or plan.horizon)
    elif code is not None:
        _print_code(export(plan, code), note)
    elif config is not None:
        _print_config(export(plan, config, "config"), note)
    elif as_json:
        click.echo(plan.model_dump_json(indent=1))
    else:
        click.echo(_as_text(plan, note))
    return OK


def _result(study: Path) -> Found:
    with opened(study) as store:
        result = found(store)
        if result is None:
            raise StudyError(f"the study in {study} has no verdict yet: it is {status(store)}")
    return result


def _made_schedule(settings: dict[str, Any]) -> Schedule:
    """A schedule from the command line's options."""
    for name in ("peak", "horizon"):
        if name not in settings:
            raise click.UsageError(f"give a study's DIR, or --peak and --horizon: --{name} is missing")
    kind = settings.pop("shape", "linear" if "warmup" in settings else "none")
    shape = {"kind": kind} | {name: settings.pop(name) for name in ("power", "beta2") if name in settings}
    if kind != "none" and kind not in RULES and "warmup" not in settings:
        raise click.UsageError(f"shape {kind!r} needs a duration: --warmup 100, or --warmup 10%")
    if "epoch" in str(settings.get("warmup")):
        raise click.UsageError("--warmup: a schedule made by hand has no epochs; give steps, or a share such as 10%")
    warmup = duration_steps(settings.pop("warmup", 0), settings["horizon"])
    try:
        return Schedule(shape=shape, warmup_steps=warmup, **settings)
    except ValidationError as error:
        raise InputError(explain(error, Schedule.model_fields)) from error


def _as_text(plan: Schedule, note: str | None, width: int = 72) -> str:
    """In words, and as a curve one line high. ``note`` says how it was extrapolated."""
    levels = " ▁▂▃▄▅▆▇█"
    points = [plan.lr_at(i * plan.horizon // width) / plan.peak for i in range(width)]
    curve = "".join(levels[round(share * (len(levels) - 1))] for share in points)
    return "\n".join([plan.describe(), *([printable(note)] if note else []), curve])


def _print_curve(plan: Schedule, steps: int) -> None:
    """CSV, line by line: a long run's is long. A schedule with groups has a column for each."""
    click.echo(",".join(["step", *(_quoted(group.name) for group in plan.groups)] if plan.groups else ["step", "rate"]))
    for first in range(0, min(steps, plan.horizon), BLOCK):
        block = range(first, min(steps, plan.horizon, first + BLOCK))
        rates = ((step, plan.rates_at(step).values() if plan.groups else [plan.lr_at(step)]) for step in block)
        click.echo("\n".join(",".join([str(step), *map(repr, row)]) for step, row in rates))


def _quoted(name: str) -> str:
    """As CSV has it."""
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\n') else name


def _print_code(exported: Export, note: str | None) -> None:
    """The code, to be piped into a file. A configuration that goes with it, and what to know, follow as comments.
    ``note`` says how the schedule was extrapolated."""
    if note:
        click.echo(f"# {printable(note)}")
    click.echo((exported.code or "").rstrip())
    if exported.config:
        click.echo("\n# The configuration that goes with it:")
        click.echo("\n".join(f"# {line}" for line in exported.config.splitlines()))
    if exported.notes:
        click.echo("\n".join(["", *(f"# {line}" for line in exported.notes)]))


def _print_config(exported: Export, note: str | None) -> None:
    """The configuration alone on standard output, since JSON has no comments; what to know on standard error."""
    click.echo((exported.config or "").rstrip())
    for line in (*exported.notes, *([printable(note)] if note else [])):
        click.echo(f"note: {line}", err=True)


@click.command(short_help="List the search spaces, or print one.")
@click.argument("name", required=False)
@JSON
def spaces(name: str | None, as_json: bool) -> None:
    """List the search spaces that come with autowarmup, or print one as YAML.

    \b
    Examples:
      autowarmup spaces
      autowarmup spaces large-batch-cnn > mine.yaml
    """
    if name is None:
        described = {preset: SearchSpace.load(preset).description for preset in presets()}
        width = max(map(len, described))
        text = "\n".join(f"{preset:<{width}}  {words}" for preset, words in described.items())
        click.echo(json.dumps(described, indent=1) if as_json else text)
        return
    space = SearchSpace.load(name)
    path = presets().get(name) or Path(name)
    click.echo(space.model_dump_json(indent=1) if as_json else path.read_text(encoding="utf-8").rstrip())
