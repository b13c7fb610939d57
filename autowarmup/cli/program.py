"""The command line. Its exit codes:

====  ===========================================================================================================
code  meaning
====  ===========================================================================================================
0     done; after ``tune`` and ``resume``: there is a schedule (the verdict is tuned, tie or leaning)
1     the study failed: the task's code raised, or the Ray cluster can't be used or was lost;
      after ``doctor``: something is wrong; after ``audit``: a step was off;
      after ``lint``: there is a trap; after ``watch``: the run is damaged
2     what was passed can't be used: a wrong option, a file or a study that is missing or of another configuration
3     nothing stable: no schedule got to the end of its run
4     MLflow couldn't be reached, or hasn't got everything
130   interrupted; ``autowarmup resume`` goes on
141   whoever read the output closed it, such as ``| head -1``
====  ===========================================================================================================

Results go to standard output, everything else to standard error. Errors are one block, ``autowarmup: error: ...``.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, NoReturn

import click

import autowarmup
from autowarmup.cli.audit import audit, lint
from autowarmup.cli.common import BAD_INPUT, CLOSED, FAILED, INTERRUPTED, NOT_DELIVERED, OK
from autowarmup.cli.schedule import schedule, spaces
from autowarmup.cli.serve import serve
from autowarmup.cli.show import report, show
from autowarmup.cli.tools import doctor
from autowarmup.cli.tracking import browse, optuna, sync
from autowarmup.cli.tune import resume, tune
from autowarmup.cli.watch import watch
from autowarmup.cli.work import work
from autowarmup.errors import AutowarmupError, InputError, StudyError, TrackingError
from autowarmup.shell import printable

EXIT_CODES = """\b
Exit codes:
  0    done; after tune and resume: there is a schedule (tuned, tie or leaning)
  1    the study failed: the task's code raised, or the Ray
       cluster was lost; after doctor: something is wrong;
       after audit: a step was off; after lint: a trap;
       after watch: the run is damaged
  2    what was passed can't be used
  3    nothing stable: no schedule got to the end of its run
  4    MLflow couldn't be reached, or hasn't got everything
  130  interrupted; `autowarmup resume` goes on
  141  whoever read the output closed it
"""


LONGEST_LINE = 500
"""Characters of an error's line: what was passed may be long."""

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Program(click.Group):
    """The group of all commands. A command returns its exit code; errors are told in one block."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Runs the command line and exits."""
        try:
            code = super().main(*args, **extra | {"prog_name": "autowarmup", "standalone_mode": False})
        except click.UsageError as error:
            hint = f"\nTry '{error.ctx.command_path} --help'." if error.ctx else ""
            code = _complain(error.format_message() + hint, BAD_INPUT)
        except click.ClickException as error:
            code = _complain(error.format_message(), error.exit_code)
        except AutowarmupError as error:
            code = _complain(str(error), _code_of(error))
        except OSError as error:
            name = "" if error.filename is None else f": {printable(str(error.filename), longest=200)}"
            code = _complain(f"{error.strerror or error}{name}", FAILED)
        except (click.Abort, KeyboardInterrupt):
            click.echo("autowarmup: interrupted", err=True)
            code = INTERRUPTED
        sys.exit(code or OK)

    def invoke(self, context: click.Context) -> Any:
        """Runs the command. Where the reader of the output is gone, nothing more is written, nor at the exit."""
        try:
            return super().invoke(context)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            return CLOSED


def _complain(message: str, code: int) -> int:
    lines = (printable(line, longest=LONGEST_LINE) for line in message.splitlines())
    click.echo("\n".join([f"autowarmup: error: {next(lines, '')}", *lines]), err=True)
    return code


def _code_of(error: AutowarmupError) -> int:
    if isinstance(error, TrackingError):
        return NOT_DELIVERED
    return BAD_INPUT if isinstance(error, InputError | StudyError) else FAILED


@click.group(cls=Program, context_settings=SETTINGS, epilog=EXIT_CODES, invoke_without_command=True)
@click.version_option(autowarmup.__version__, message="autowarmup %(version)s")
@click.pass_context
def cli(context: click.Context) -> int:
    """Finds the learning-rate warm-up for your model and data, and shows the evidence.

    \b
    autowarmup tune train.py:task --steps 1000
    autowarmup tune --help
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
    return BAD_INPUT  # of the group alone: a command's own code takes its place


for command in (
    tune, resume, show, browse, report, schedule, spaces, audit, lint, watch, sync, optuna, serve, work, doctor,
):  # fmt: skip
    cli.add_command(command)


def main() -> NoReturn:
    """The entry point. A terminal that lacks a character shows a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    cli.main()
