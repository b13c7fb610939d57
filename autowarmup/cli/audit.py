"""``audit`` and ``lint``: whether a training applies its schedule, and what a configuration's warm-up really is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autowarmup.cli.common import FAILED, JSON, OK, plain
from autowarmup.shell import printable

if TYPE_CHECKING:
    from autowarmup.audit.recording import Part


@click.command(short_help="Compare a training's recorded rates with its schedule.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--picture", type=click.Path(path_type=Path), help="Where to draw it.  [default: FILE as .png]")
@click.option("--run", metavar="ID", help="Send the rates to this MLflow run, too.")
@click.option("--mlflow", metavar="URI", help="With --run: the tracking URI.  [default: MLFLOW_TRACKING_URI]")
@JSON
def audit(file: Path, picture: Path | None, run: str | None, mlflow: str | None, as_json: bool) -> int:
    """Read what RateAudit(optimizer, schedule, record=FILE) has recorded, also while the training runs: say whether the
    schedule was applied, and draw the planned learning rates and the applied ones.

    Exits with 1 where a step was off.

    \b
    Examples:
      autowarmup audit rates.jsonl
      autowarmup audit rates.jsonl --run 4f1c... --mlflow http://localhost:5000
    """
    from autowarmup.audit.recording import every_step, first_finding, read

    if mlflow and not run:
        raise click.UsageError("--mlflow goes with --run")
    parts = read(file)
    finding, steps = first_finding(parts), sum(1 for _ in every_step(parts))
    picture = picture or file.with_suffix(".png")
    _draw(parts, picture)
    if run:
        from autowarmup.audit.mlflow_run import send

        send(parts, mlflow, run)
    if as_json:
        found = {"steps": steps, "finding": plain(finding), "picture": str(picture.absolute())}
        click.echo(json.dumps(found, indent=1))
    else:
        words = finding.describe() if finding else "the schedule was applied as planned"
        click.echo(f"{steps:,} steps: {printable(words)}\npicture: {printable(str(picture.absolute()))}")
    return FAILED if finding else OK


def _draw(parts: list[Part], picture: Path) -> None:
    from autowarmup.report.backend import import_matplotlib

    import_matplotlib()
    from autowarmup.audit.figure import draw

    try:
        draw(parts).savefig(picture, dpi=160)
    except ValueError as error:
        raise click.UsageError(f"--picture {picture}: {error}") from error


@click.command(short_help="Say what a configuration's warm-up really is.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--framework", metavar="NAME", help="Whose configuration it is.  [default: its keys tell]")
@click.option("--steps", type=click.IntRange(1), metavar="N", help="Optimizer steps of the run, if the file has none.")
@click.option("--examples", type=click.IntRange(1), metavar="N", help="Examples in the training data.")
@click.option("--processes", type=click.IntRange(1), default=1, metavar="N", help="Processes that train together.")
@JSON
def lint(
    file: Path, framework: str | None, steps: int | None, examples: int | None, processes: int, as_json: bool
) -> int:
    """Read a configuration of Transformers' TrainingArguments, Accelerate, DeepSpeed, Axolotl or Lightning, and say
    what its warm-up will really be in optimizer steps, with each trap that it falls into.

    Exits with 1 where there is a trap.

    \b
    Examples:
      autowarmup lint training_arguments.yaml --examples 50000 --processes 8
      autowarmup lint ds_config.json
    """
    from autowarmup.lint.linting import lint as read
    from autowarmup.lint.reading import Run

    reading = read(file, Run(steps=steps, examples=examples, processes=processes), framework)
    if as_json:
        click.echo(json.dumps(plain(reading), indent=1))
    else:
        traps = [f"trap: {trap.what}\n      instead: {trap.instead}" for trap in reading.traps]
        click.echo(printable("\n".join([reading.describe(), *traps])))
    return FAILED if reading.traps else OK
