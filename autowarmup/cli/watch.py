"""``watch``: a run that can't be touched, judged from its log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from autowarmup.cli.common import FAILED, JSON, OK
from autowarmup.shell import printable

if TYPE_CHECKING:
    from autowarmup.guard.reading import Source
    from autowarmup.guard.watching import Watch

MLFLOW_RUN = "mlflow:"
POLL = 1.0
"""Seconds between two looks at a file; at an MLflow server ten times as many."""


@click.command(short_help="Judge a training run from its log.")
@click.argument("run", metavar="RUN")
@click.option("--follow", is_flag=True, help="Keep reading until the run is over, or until Ctrl-C.")
@click.option("--steps", type=click.IntRange(1), metavar="N", help="Optimizer steps of the whole run, if unknown.")
@click.option("--loss", metavar="NAME", help="What the training loss is called.  [default: one of the usual names]")
@click.option("--figure", type=click.Path(path_type=Path), metavar="FILE", help="Draw the run there.")
@click.option("--mlflow", metavar="URI", help="Tracking URI.  [default: MLFLOW_TRACKING_URI]")
@click.option("--mlflow-run", metavar="ID", help="Send metrics, events and figure to this MLflow run.")
@JSON
def watch(
    run: str,
    follow: bool,
    steps: int | None,
    loss: str | None,
    figure: Path | None,
    mlflow: str | None,
    mlflow_run: str | None,
    as_json: bool,
) -> int:
    """Read the log of a training run, finished or not, and say what is wrong with it, since which step, and what a
    guard would have done.

    RUN is the record of a Guard; or JSON lines with a step, a loss and, where there are any, a learning rate and a
    gradient norm; or trainer_state.json of Transformers, or its folder; or mlflow:RUN_ID.

    Exits with 1 where the run is damaged.

    \b
    Examples:
      autowarmup watch run.jsonl --follow --steps 10000
      autowarmup watch output/checkpoint-500 --figure run.png
      autowarmup watch mlflow:4f1c... --mlflow http://localhost:5000
    """
    from autowarmup.guard.watching import Watch

    if mlflow and not (mlflow_run or run.startswith(MLFLOW_RUN)):
        raise click.UsageError("--mlflow goes with mlflow:RUN_ID or with --mlflow-run")
    source = _source(run, loss, mlflow)
    entries = source.fresh()
    watched = Watch(steps or source.total)
    watched.take(entries)
    if follow:
        if watched.begin is None and not (steps or source.total):
            raise click.UsageError(f"--follow {printable(source.name)}: its length isn't known; pass --steps N")
        _follow(source, watched, quiet=as_json)
    elif not as_json:
        for event in watched.events:
            click.echo(printable(event.describe()))
    if figure:
        _drawn(watched, figure)
    if mlflow_run:
        from autowarmup.guard.mlflow_run import send

        with TemporaryDirectory() as folder:
            send(watched, _drawn(watched, Path(folder) / "run.png"), mlflow, mlflow_run)
    if as_json:
        click.echo(json.dumps({"run": source.name} | watched.plain(), indent=1))
    else:
        click.echo(printable(watched.describe()))
        click.echo(printable(f"verdict: {watched.verdict()}"))
    return FAILED if watched.damaged else OK


def _source(run: str, loss: str | None, mlflow: str | None) -> Source:
    if run.startswith(MLFLOW_RUN):
        from autowarmup.guard.mlflow_run import MlflowRun

        return MlflowRun(mlflow, run.removeprefix(MLFLOW_RUN), loss)
    from autowarmup.guard.reading import source_of

    return source_of(Path(run), loss)


def _follow(source: Source, watched: Watch, quiet: bool) -> None:
    """Tells of each event when it is found, until the run is over."""
    told: set[tuple[int, str, str]] = set()
    try:
        for _ in _looks(source, watched):
            for event in watched.events:
                key = event.began, event.reason, event.action
                if not quiet and key not in told:
                    click.echo(printable(event.describe()))
                told.add(key)
    except KeyboardInterrupt:
        click.echo(err=True)


def _looks(source: Source, watched: Watch) -> Iterator[None]:
    """One look at the run after the other."""
    while True:
        yield
        if watched.over or source.ended:
            return
        time.sleep(POLL if source.ended is None else 10 * POLL)
        watched.take(source.fresh())


def _drawn(watched: Watch, figure: Path) -> Path:
    from autowarmup.report.backend import import_matplotlib

    import_matplotlib()
    from autowarmup.guard.figure import draw

    try:
        draw(watched).savefig(figure, dpi=160)
    except ValueError as error:
        raise click.UsageError(f"--figure {figure}: {error}") from error
    return figure
