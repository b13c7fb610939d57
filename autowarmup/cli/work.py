"""``work``: a worker of a service's study."""

from __future__ import annotations

import signal
import sys
import tempfile
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any

import click

from autowarmup.cli.common import FAILED, INTERRUPTED, OK
from autowarmup.errors import InputError
from autowarmup.search.trials import SegmentResult
from autowarmup.shell import printable
from autowarmup.study.progress import Silent
from autowarmup.training.trace import Outcome

FILE = click.Path(path_type=Path, dir_okay=False)


class Told(Silent):
    """A line for each part of a trial that was trained, and for each end of one."""

    def segment_ended(self, result: SegmentResult) -> None:
        trace = result.trace
        _say(f"trial {result.number}: trained steps {trace.start:,} to {trace.end:,}")

    def finished(self, number: int, outcome: Outcome) -> None:
        _say(f"trial {number}: {outcome}")


@click.command()
@click.argument("task", metavar="FILE.py:FUNCTION")
@click.option("--url", required=True, metavar="URL", help="The service's address.")
@click.option("--study", required=True, metavar="NAME", help="The study's name there.")
@click.option("--token-file", type=FILE, metavar="FILE", help="Holds the token, or 'name token'.")
@click.option("--client-id", metavar="NAME", help="The worker's name.  [default: from its machine and process]")
@click.option("--ca", type=FILE, metavar="FILE", help="Certificates to trust, as PEM.")
@click.option("--batch-size", type=int, metavar="N", help="As the study was begun with.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="As the study was begun with.")
@click.option("--device", help="cpu, cuda, cuda:1, mps.  [default: the best there is]")
def work(
    task: str, url: str, study: str, token_file: Path | None, client_id: str | None, ca: Path | None, **options: Any
) -> int:
    """Train trials of a study on a service.

    FUNCTION, in FILE.py, is the one that the study was begun with. Start as many workers as there are machines or GPUs.
    A worker that is stopped gives its trial back; the trial of one that is lost goes to another one after a while. It
    ends when the study does.

    \b
    Example:
      autowarmup work train.py:task --url https://tuner.example:8700 --study mine --token-file token
    """
    try:
        with redirect_stdout(sys.stderr):
            return _work(task, url, study, token_file, client_id, ca, options)
    except KeyboardInterrupt:
        _say("interrupted: its trial goes to another worker")
        return INTERRUPTED


def _work(
    target: str,
    url: str,
    study: str,
    token_file: Path | None,
    client_id: str | None,
    ca: Path | None,
    options: dict[str, Any],
) -> int:
    from autowarmup.api import task_of
    from autowarmup.cli.command import Command
    from autowarmup.service.client import ServiceClient, token_from
    from autowarmup.service.names import is_name
    from autowarmup.service.worker import Worker, check_task, config_of, default_name

    name = client_id or default_name()
    if not is_name(name):
        raise InputError(f"--client-id {name!r}: letters, digits, dashes and underscores are allowed, at most 63")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        closing(ServiceClient(url, token_from(token_file) if token_file else None, ca=ca)) as client,
        tempfile.TemporaryDirectory(prefix="autowarmup-") as folder,
    ):
        config = config_of(client, study)
        given = {name: value for name, value in options.items() if value is not None}
        task = task_of(**Command.of(target, given | {"total_steps": config.total_steps}).arguments())
        check_task(config, task, study)
        _say(f"worker {name} of study {study} on {client.url}")
        with closing(Worker(client, study, config, task, name, Path(folder), Told())) as worker:
            state = worker.work()
        _say(f"study {study} is {state}")
    return FAILED if state == "failed" else OK


def _say(text: str) -> None:
    click.echo(f"autowarmup: {printable(text, longest=400)}", err=True)
