"""``watch``: a run that can't be touched, judged from its log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from autowarmup.cli.common import FAILED, JSON, OK
from autowarmup.shell import printable

if TYPE_CHECKING:
    from autowarmup.guard.events import Event
    from autowarmup.guard.reading import Source
    from autowarmup.guard.watching import Watch

MLFLOW_RUN = "mlflow:"
FILE = click.Path(path_type=Path, dir_okay=False)
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
@click.option("--service", metavar="URL", help="Send events to this service, with --study and --run-name.")
@click.option("--study", metavar="NAME", help="The study there.")
@click.option("--run-name", metavar="NAME", help="What the run is called there.")
@click.option("--token-file", type=FILE, metavar="FILE", help="Holds the service's token, or 'name token'.")
@click.option("--ca", type=FILE, metavar="FILE", help="Certificates to trust, as PEM.")
@JSON
def watch(
    run: str,
    follow: bool,
    steps: int | None,
    loss: str | None,
    figure: Path | None,
    mlflow: str | None,
    mlflow_run: str | None,
    service: str | None,
    study: str | None,
    run_name: str | None,
    token_file: Path | None,
    ca: Path | None,
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
      autowarmup watch run.jsonl --service http://tuner:8700 --study mine --run-name night
    """
    from autowarmup.guard.watching import Watch

    if mlflow and not (mlflow_run or run.startswith(MLFLOW_RUN)):
        raise click.UsageError("--mlflow goes with mlflow:RUN_ID or with --mlflow-run")
    if any((service, study, run_name, token_file, ca)) and not all((service, study, run_name)):
        raise click.UsageError("--service goes with --study and --run-name; --token-file and --ca go with --service")
    source = _source(run, loss, mlflow)
    entries = source.fresh()
    watched = Watch(steps or source.total)
    watched.take(entries)
    if follow and watched.begin is None and not (steps or source.total):
        raise click.UsageError(f"--follow {printable(source.name)}: its length isn't known; pass --steps N")
    with ExitStack() as stack:
        telling: list[Tell] = [] if as_json else [_say]
        if service and study and run_name:
            telling.append(_sending(stack, service, study, run_name, token_file, ca))
        if follow:
            _follow(source, watched, telling)
        else:
            for tell in telling:
                tell(watched.events)
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


Tell = Callable[[list["Event"]], None]


def _say(events: list[Event]) -> None:
    for event in events:
        click.echo(printable(event.describe()))


def _sending(
    stack: ExitStack, service: str, study: str, run_name: str, token_file: Path | None, ca: Path | None
) -> Tell:
    """What sends events to a service, which is told that there is the run."""
    from autowarmup.service.client import ServiceClient, token_from

    client = stack.enter_context(ServiceClient(service, token_from(token_file) if token_file else None, ca=ca))
    client.add_events(study, run_name, [])
    return lambda events: client.add_events(study, run_name, events) if events else None


def _follow(source: Source, watched: Watch, telling: list[Tell]) -> None:
    """Tells of each event when it is found, until the run is over."""
    told: set[tuple[int, str, str]] = set()
    try:
        for _ in _looks(source, watched):
            new = []
            for event in watched.events:
                key = event.began, event.reason, event.action
                if key not in told:
                    new.append(event)
                told.add(key)
            for tell in telling:
                tell(new)
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
