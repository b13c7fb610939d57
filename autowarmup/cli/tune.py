"""``tune`` and ``resume``: run a study."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from pydantic import ValidationError

import autowarmup
from autowarmup.cli.common import INTERRUPTED, JSON, NO_MLFLOW, NOTHING_STABLE, OK, STUDY, opened, tracked
from autowarmup.cli.session import Session
from autowarmup.cli.summary import next_steps, result_json
from autowarmup.errors import AutowarmupError, InputError, TaskFailedError
from autowarmup.schedule.duration import budget_steps, parse_duration
from autowarmup.schedule.schedule import Schedule
from autowarmup.shell import printable
from autowarmup.values import explain

if TYPE_CHECKING:
    from autowarmup.cli.command import Command
    from autowarmup.study.result import TuneResult


def _steps(context: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
    """A number of optimizer steps, or epochs as they are written."""
    if value is None:
        return None
    try:
        amount, unit = parse_duration(value)
    except InputError:
        unit = "%"
    if unit == "%":
        raise click.BadParameter(
            f"{value!r} is not a number of optimizer steps such as 1000, or of epochs such as '5 epochs'"
        )
    return int(amount) if unit == "step" else value


def _spend(context: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
    """A number of optimizer steps, or of runs as they are written."""
    if value is None:
        return None
    budget = int(value) if value.isdecimal() else value
    try:
        budget_steps(budget, horizon=1)
    except InputError as error:
        raise click.BadParameter(str(error)) from error
    return budget


def _current(file: Path | None, warmup: str | None, shape: str | None) -> dict[str, Any] | None:
    """Today's schedule, or the part of it that was given, as ``autotune`` takes it; None where nothing was.

    Raises:
        InputError: the file can't be read as a schedule.
    """
    if file is not None and (warmup or shape):
        raise click.UsageError("--current has the whole schedule: leave out --current-warmup and --current-shape")
    if file is not None:
        try:
            schedule = Schedule.model_validate_json(file.read_bytes())
        except OSError as error:
            raise InputError(f"--current: {file} can't be read: {error.strerror}") from error
        except ValidationError as error:
            raise InputError(f"--current: {file} is not a schedule: {explain(error, Schedule.model_fields)}") from error
        return schedule.model_dump(mode="json")
    if shape is not None and warmup is None:
        raise click.UsageError("--current-shape is the curve of a warm-up: it needs --current-warmup")
    return None if warmup is None else {"warmup_steps": warmup, "shape": shape or "linear"}


@click.command()
@click.argument("task", metavar="FILE.py:FUNCTION")
@click.option("--steps", "total_steps", callback=_steps, metavar="N", help="Length of the run: 1000, or '5 epochs'.")
@click.option("--one-run", is_flag=True, help="A single run, whose warm-up adapts while it trains. Compares nothing.")
@click.option("--tune-steps", callback=_steps, metavar="N", help="Tune shorter runs than that, and extrapolate.")
@click.option("--budget", callback=_spend, metavar="N", help="What the study may spend: optimizer steps, or '6 runs'.")
@click.option("--space", metavar="NAME|FILE", help="Search space: a preset (`autowarmup spaces`) or a YAML file.")
@click.option("--seed", type=int, metavar="N", help="The same seed gives the same result.  [default: 0]")
@click.option(
    "--study", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the study, new or to go on with."
)
@click.option("--mlflow", metavar="URI", help="Tracking URI.  [default: MLFLOW_TRACKING_URI, or a store in the study]")
@NO_MLFLOW
@click.option(
    "--lr",
    "--current-peak",
    "current_peak",
    type=float,
    metavar="RATE",
    help="The rate used today.  [default: the optimizer's]",
)
@click.option(
    "--current",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The schedule used today, as JSON.  [default: no warm-up]",
)
@click.option("--current-warmup", metavar="N", help="Or its warm-up: 500, '10%' or '2 epochs'.")
@click.option("--current-shape", metavar="NAME", help="The curve of that warm-up.  [default: linear]")
@click.option(
    "--confirm-seeds", type=int, metavar="N", help="Fresh seeds that confirm the winner, at most.  [default: 4]"
)
@click.option("--margin", type=float, metavar="SHARE", help="Smallest difference that matters.  [default: 0.005]")
@click.option(
    "--cohort", type=int, metavar="N", help="Trials chosen together.  [default: as many as there is room for]"
)
@click.option(
    "--trivial-loss", type=float, metavar="LOSS", help="Loss of ignoring the input.  [default: from the data]"
)
@click.option("--objective", metavar="METRIC", help="Validation metric that schedules are judged by.  [default: loss]")
@click.option(
    "--direction", type=click.Choice(["minimize", "maximize"]), help="Which objective is better: low or high."
)
@click.option("--batch-size", type=int, metavar="N", help="For datasets and arrays; loaders have their own.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Number format of the training.")
@click.option("--device", help="cpu, cuda, cuda:1, mps.  [default: the best there is]")
@click.option("--engine", type=click.Choice(["local", "ray"]), help="Where trials run.  [default: local]")
@click.option("--address", metavar="auto|HOST:PORT|ray://...", help="Ray cluster.  [default: one on this machine]")
@click.option("--workers", type=int, metavar="N", help="On Ray: trials at a time.  [default: as many as fit]")
@click.option("--processes", type=int, metavar="N", help="On Ray: processes that train a trial together.  [default: 1]")
@click.option("--cpus", type=float, metavar="N", help="On Ray: CPU cores of each process.  [default: 1]")
@click.option("--gpus", type=float, metavar="N", help="On Ray: GPUs of each process, or a share of one.")
@click.option("--service", metavar="URL", help="A service that conducts the study; this process is a worker.")
@click.option("--token-file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Its token.")
@JSON
def tune(
    task: str, study: Path | None, mlflow: str | None, no_mlflow: bool, engine: str | None, as_json: bool,
    current: Path | None, current_warmup: str | None, current_shape: str | None, token_file: Path | None,
    one_run: bool, **options: Any,
) -> int:  # fmt: skip
    """Search for the best warm-up of a model.

    FUNCTION, in FILE.py, returns a dict of what autotune() takes: at least model_fn and data, or train_fn. Options
    override its entries. Ctrl-C stops the study so that `autowarmup resume DIR` goes on with it; so does the same
    command again.

    \b
    Example:
      autowarmup tune train.py:task --steps 1000 --study studies/mine
    """
    from autowarmup.cli.command import TOKEN_FILE, Command

    given = {name: value for name, value in options.items() if value is not None}
    cluster = {name: given.pop(name) for name in ("address", "workers", "processes", "cpus", "gpus") if name in given}
    if cluster and engine != "ray":
        raise click.UsageError(f"--{next(iter(cluster))} is about a Ray cluster: it needs --engine ray")
    if one_run:
        given["mode"] = "one-run"
    if engine:
        given["engine"] = cluster or engine
    if token_file is not None:
        given[TOKEN_FILE] = str(token_file.absolute())
    if str(given.get("space", "")).endswith((".yaml", ".yml")):
        given["space"] = str(Path(given["space"]).absolute())
    if (today := _current(current, current_warmup, current_shape)) is not None:
        given["current"] = today
    where: dict[str, Any] = {"study": study} if study else {}
    where |= tracked(mlflow, no_mlflow)
    return _conduct(Command.of(task, given), where, as_json)


@click.command()
@STUDY
@click.option("--mlflow", metavar="URI", help="Tracking URI.  [default: the one the study was tracked in]")
@NO_MLFLOW
@JSON
def resume(study: Path, mlflow: str | None, no_mlflow: bool, as_json: bool) -> int:
    """Go on with a study that was interrupted or killed.

    It runs the Python file that command.json in DIR names, with the options of the `autowarmup tune` that started the
    study: resume only studies that you trust. What has been trained is not trained again. A study keeps no password:
    where its tracking URI had one, give it again, here or in MLFLOW_TRACKING_URI.

    \b
    Example:
      autowarmup resume studies/mine
    """
    from autowarmup.cli.command import Command
    from autowarmup.tracking import recalled_uri, tracking_uri

    study = study.absolute()
    with opened(study) as store:
        known = recalled_uri(study, store.meta("mlflow")) or False
    where = {"study": study, "mlflow": known} | tracked(mlflow and tracking_uri(study, mlflow), no_mlflow)
    command = Command.load(study)
    if Path(command.folder).is_dir():
        os.chdir(command.folder)
    return _conduct(command, where, as_json)


def _conduct(command: Command, where: dict[str, Any], as_json: bool) -> int:
    """Runs the study and prints its result: the verdict as soon as it is known, then where everything is. What the
    task prints goes to standard error."""
    from autowarmup.cli.command import users_traceback

    output = sys.stdout

    def print_verdict(result: TuneResult) -> None:
        with suppress(OSError):  # closed, or on a full disk: what follows is still written, and tells of it
            if not as_json:
                click.echo(_wrapped(printable(result.summary()), output), file=output)

    session = Session(command, print_verdict)
    try:
        with redirect_stdout(sys.stderr), session:
            autowarmup.autotune(**command.arguments() | where | {"progress": session})
    except KeyboardInterrupt:
        click.echo(session.how_to_go_on(), err=True)
        return INTERRUPTED
    except Exception as error:
        raised = error.__cause__ if isinstance(error, InputError) else error
        shown = None
        if isinstance(raised, Exception) and not isinstance(raised, AutowarmupError):
            shown = users_traceback(raised, Path(command.file))
        if shown is None or shown in str(error):
            raise
        raise TaskFailedError(f"the task's code raised before the first trial:\n{shown}") from error
    finally:
        if as_json and session.result is not None:
            click.echo(result_json(session.result, session.delivery))
    assert session.result is not None
    if not as_json:
        click.echo(printable(next_steps(session.result, session.delivery)))
    return NOTHING_STABLE if session.result.schedule is None else OK


def _wrapped(text: str, output: TextIO) -> str:
    """Lines that are too long for the terminal go on in the next one, between words."""
    if not output.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(
            line, columns, subsequent_indent=" " * 4, break_long_words=False, break_on_hyphens=False
        )
        for line in text.splitlines()
    )  # fmt: skip
