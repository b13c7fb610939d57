"""``serve``: the service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from autowarmup.cli.common import NO_MLFLOW, tracked
from autowarmup.errors import InputError

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False), default=Path("studies"))
@click.option("--host", metavar="ADDRESS", help="Where it listens.  [default: 127.0.0.1]")
@click.option("--port", type=int, metavar="N", help="[default: 8700]")
@click.option("--token-file", type=FILE, metavar="FILE", help="The clients' tokens, a line 'name token' each.")
@click.option(
    "--tasks",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Task files that it may train.",
)
@click.option("--task-engine", type=click.Choice(["local", "ray"]), help="Where these train.  [default: local]")
@click.option("--ray-address", metavar="HOST:PORT", help="That Ray cluster.")
@click.option("--mlflow", metavar="URI", help="Tracking URI.  [default: MLFLOW_TRACKING_URI, or one in each study]")
@NO_MLFLOW
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="A name that it is reached by.")
@click.option("--root-path", metavar="PATH", help="The path under which a proxy serves it.")
@click.option("--trusted-proxy", "trusted_proxies", multiple=True, metavar="ADDRESS", help="A proxy to believe.")
@click.option("--tls-cert", type=FILE, metavar="FILE", help="Certificate, for HTTPS.")
@click.option("--tls-key", type=FILE, metavar="FILE", help="Its key.")
@click.option("--max-studies", "most_studies", type=int, metavar="N", help="Studies that it holds.  [default: 1000]")
@click.option("--max-running", "most_running_tasks", type=int, metavar="N", help="Task files at once.  [default: 1]")
def serve(folder: Path, mlflow: str | None, no_mlflow: bool, **options: Any) -> None:
    """Run studies as a service, over HTTP.

    Workers on any machine ask for trials (`autowarmup work`, or plain HTTP), and everybody looks at the studies in a
    browser. DIR holds the studies; a service that is started again goes on with them.

    \b
    Example:
      autowarmup serve studies --token-file tokens.txt --host 0.0.0.0
    """
    from importlib.util import find_spec

    if missing := [name for name in ("fastapi", "uvicorn", "prometheus_client", "itsdangerous") if not find_spec(name)]:
        raise InputError(f"the service needs {', '.join(missing)}: pip install 'autowarmup[service]'")
    from autowarmup.service.server import serve as run
    from autowarmup.service.settings import ServiceSettings

    given = {name: value for name, value in options.items() if value not in (None, ())}
    run(ServiceSettings(folder=folder.absolute(), **given, **tracked(mlflow, no_mlflow)))
