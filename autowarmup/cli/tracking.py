"""The commands about MLflow and Optuna: what MLflow lacks of a study is delivered, its page is shown, and a study is
written into an Optuna storage."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

import click

from autowarmup.cli.common import NOT_DELIVERED, OK, STUDY

MLFLOW = click.option("--mlflow", metavar="URI", help="Tracking URI.  [default: the one the study was tracked in]")


@click.command()
@STUDY
@MLFLOW
def sync(study: Path, mlflow: str | None) -> int:
    """Deliver to MLflow what it hasn't got of a study.

    A study keeps no password: where its tracking URI had one, give it again, here or in MLFLOW_TRACKING_URI.

    \b
    Example:
      autowarmup sync studies/mine --mlflow http://localhost:5000
    """
    from autowarmup.tracking import sync as deliver

    delivery = deliver(study, mlflow)
    click.echo(delivery.message)
    return OK if delivery.complete else NOT_DELIVERED


@click.command()
@STUDY
@MLFLOW
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="Local port.  [default: 5000, or a free one]")
@click.option("--no-open", is_flag=True, help="Print the address only, don't open a browser.")
def browse(study: Path, mlflow: str | None, port: int | None, no_open: bool) -> int:
    """Show a study's trials on MLflow's page: names, outcomes, losses, charts.

    Where the study is tracked by an MLflow server, that has the page. Else one is started on this machine, for this
    machine only, until Ctrl-C.

    \b
    Example:
      autowarmup browse studies/mine
    """
    from autowarmup.tracking import PageServer, page_address, stored_uri
    from autowarmup.tracking import sync as deliver

    uri = stored_uri(study, mlflow)
    click.echo("autowarmup: bringing MLflow up to date", err=True)
    delivery = deliver(study, uri)
    if address := page_address(delivery):
        _show(address, no_open)
        return OK
    click.echo("autowarmup: starting MLflow's page", err=True)
    with PageServer(study, uri, port) as server:
        try:
            _show(f"{server.address}/{delivery.page}", no_open)
            click.echo("autowarmup: Ctrl-C ends it", err=True)
            server.wait()
        except KeyboardInterrupt:
            click.echo(err=True)
    return OK


@click.command(short_help="Write a study into an Optuna storage.")
@STUDY
@click.option(
    "--storage", metavar="URL", required=True, help="Database: sqlite:///FILE, postgresql://... or mysql://..."
)
@click.option("--name", metavar="NAME", help="What it is called there.  [default: the study's own name]")
def optuna(study: Path, storage: str, name: str | None) -> int:
    """Write a study's trials into an Optuna storage, for optuna-dashboard and Optuna's own tools.

    A second time it adds the trials that have ended since.

    \b
    Example:
      autowarmup optuna studies/mine --storage sqlite:///optuna.db
      optuna-dashboard sqlite:///optuna.db
    """
    from autowarmup.study.optuna_storage import write_optuna

    written = write_optuna(study, storage, name)
    told = f"{written.name}: {written.added} trials added"
    told += f", {written.known} were there" if written.known else ""
    click.echo(told + (f", {written.open} haven't ended" if written.open else ""))
    return OK


def _show(address: str, no_open: bool) -> None:
    """Prints an address, and opens it in a browser where there is a display."""
    click.echo(address)
    sys.stdout.flush()
    display = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if display and not no_open:
        webbrowser.open(address)
