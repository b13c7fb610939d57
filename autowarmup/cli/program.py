"""The command line. Its exit codes:

====  ===========================================================================================================
code  meaning
====  ===========================================================================================================
0     done; after ``tune`` and ``resume``: there is a schedule (the verdict is tuned or tie)
1     the study failed: the task's code raised in every first trial, or the Ray cluster can't be used or was lost;
      after ``doctor``: something is wrong
2     what was passed can't be used: a wrong option, a file or a study that is missing or of another configuration
3     nothing stable: no schedule got to the end of its run
4     MLflow couldn't be reached, or hasn't got everything
130   interrupted; ``autowarmup resume`` goes on
====  ===========================================================================================================

Results go to standard output, everything else to standard error. Errors are one block, ``autowarmup: error: ...``.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

import click
from pydantic import ValidationError

import autowarmup
from autowarmup.errors import AutowarmupError, InputError, StudyError, TaskFailedError, TrackingError
from autowarmup.schedule.duration import duration_steps, parse_duration
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.space import DECAYS, RULES, SHAPES, SearchSpace, presets
from autowarmup.values import explain

if TYPE_CHECKING:
    from autowarmup.cli.command import Command
    from autowarmup.cli.doctor import Finding
    from autowarmup.search.config import TuneConfig
    from autowarmup.search.trials import SegmentResult, TrialSpec
    from autowarmup.study.delivery import Delivery
    from autowarmup.study.result import TuneResult
    from autowarmup.study.store import StudyStore
    from autowarmup.training.trace import Outcome, Trace

OK, FAILED, BAD_INPUT, NOTHING_STABLE, NOT_DELIVERED, INTERRUPTED = 0, 1, 2, 3, 4, 130

EXIT_CODES = """\b
Exit codes:
  0    done; after tune and resume: there is a schedule (tuned or tie)
  1    the study failed: the task's code raised in every first trial,
       or the Ray cluster was lost; after doctor: something is wrong
  2    what was passed can't be used
  3    nothing stable: no schedule got to the end of its run
  4    MLflow couldn't be reached, or hasn't got everything
  130  interrupted; `autowarmup resume` goes on
"""


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
        except (click.Abort, KeyboardInterrupt):
            click.echo("autowarmup: interrupted", err=True)
            code = INTERRUPTED
        sys.exit(code or OK)


def _complain(message: str, code: int) -> int:
    click.echo(f"autowarmup: error: {message}", err=True)
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


def main() -> NoReturn:
    """The entry point. A terminal that lacks a character shows a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    cli.main()


STUDY = click.argument("study", metavar="DIR", type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")


# --- tune, resume -----------------------------------------------------------------------------------------


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


@cli.command()
@click.argument("task", metavar="FILE.py:FUNCTION")
@click.option("--steps", "total_steps", callback=_steps, metavar="N", help="Length of the run: 1000, or '5 epochs'.")
@click.option("--tune-steps", callback=_steps, metavar="N", help="Tune shorter runs than that, and extrapolate.")
@click.option("--budget", type=int, metavar="N", help="Optimizer steps the study may spend.  [default: 12 runs]")
@click.option("--space", metavar="NAME|FILE", help="Search space: a preset (`autowarmup spaces`) or a YAML file.")
@click.option("--seed", type=int, metavar="N", help="The same seed gives the same result.  [default: 0]")
@click.option(
    "--study", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the study, new or to go on with."
)
@click.option("--mlflow", metavar="URI", help="Tracking URI.  [default: MLFLOW_TRACKING_URI, or a store in the study]")
@click.option("--no-mlflow", is_flag=True, help="Don't track.")
@click.option(
    "--lr", "current_peak", type=float, metavar="RATE", help="The rate used today.  [default: the optimizer's]"
)
@click.option("--confirm-seeds", type=int, metavar="N", help="Fresh seeds that confirm the winner.  [default: 3]")
@click.option("--cohort", type=int, metavar="N", help="Trials trained at the same time.  [default: 1]")
@click.option("--batch-size", type=int, metavar="N", help="For datasets and arrays; loaders have their own.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Number format of the training.")
@click.option("--device", help="cpu, cuda, cuda:1, mps.  [default: the best there is]")
@click.option("--engine", type=click.Choice(["local", "ray"]), help="Where trials run.  [default: local]")
@click.option("--address", metavar="auto|HOST:PORT|ray://...", help="Ray cluster.  [default: one on this machine]")
@click.option("--workers", type=int, metavar="N", help="On Ray: trials at a time.  [default: as many as fit]")
@click.option("--processes", type=int, metavar="N", help="On Ray: processes that train a trial together.  [default: 1]")
@click.option("--cpus", type=float, metavar="N", help="On Ray: CPU cores of each process.  [default: 1]")
@click.option("--gpus", type=float, metavar="N", help="On Ray: GPUs of each process, or a share of one.")
@JSON
def tune(
    task: str, study: Path | None, mlflow: str | None, no_mlflow: bool, engine: str | None, as_json: bool,
    **options: Any,
) -> int:  # fmt: skip
    """Search for the best warm-up of a model.

    FUNCTION, in FILE.py, returns a dict of what autotune() takes: at least model_fn and data, or train_fn. Options
    override its entries. Ctrl-C stops the study so that `autowarmup resume DIR` goes on with it; so does the same
    command again.

    \b
    Example:
      autowarmup tune train.py:task --steps 1000 --study studies/mine
    """
    from autowarmup.cli.command import Command

    if mlflow and no_mlflow:
        raise click.UsageError("--mlflow and --no-mlflow exclude each other")
    given = {name: value for name, value in options.items() if value is not None}
    cluster = {name: given.pop(name) for name in ("address", "workers", "processes", "cpus", "gpus") if name in given}
    if cluster and engine != "ray":
        raise click.UsageError(f"--{next(iter(cluster))} is about a Ray cluster: it needs --engine ray")
    given |= {"engine": cluster} if cluster else {"engine": engine} if engine else {}
    if str(given.get("space", "")).endswith((".yaml", ".yml")):
        given["space"] = str(Path(given["space"]).absolute())
    where: dict[str, Any] = {"study": study} if study else {}
    where |= {"mlflow": False} if no_mlflow else {"mlflow": mlflow} if mlflow else {}
    return _conduct(Command.of(task, given), where, as_json)


@cli.command()
@STUDY
@JSON
def resume(study: Path, as_json: bool) -> int:
    """Go on with a study that was interrupted or killed.

    Everything is as `autowarmup tune` was told; what has been trained is not trained again.

    \b
    Example:
      autowarmup resume studies/mine
    """
    from autowarmup.cli.command import Command

    study = study.absolute()
    with _opened(study) as store:
        mlflow = store.meta("mlflow")
    command = Command.load(study)
    if Path(command.folder).is_dir():
        os.chdir(command.folder)
    return _conduct(command, {"study": study, "mlflow": mlflow or False}, as_json)


def _conduct(command: Command, where: dict[str, Any], as_json: bool) -> int:
    """Runs the study and prints its result. Meanwhile, what the task prints goes to standard error."""
    from autowarmup.cli.command import users_traceback

    session = Session(command)
    try:
        with redirect_stdout(sys.stderr), session:
            result = autowarmup.autotune(**command.arguments() | where | {"progress": session})
    except KeyboardInterrupt:
        click.echo(session.how_to_go_on(), err=True)
        return INTERRUPTED
    except AutowarmupError:
        raise
    except Exception as error:
        shown = users_traceback(error, Path(command.file))
        if shown is None:
            raise
        raise TaskFailedError(f"the task's code raised before the first trial:\n{shown}") from error
    if session.delivery and not session.delivery.complete:
        click.echo(f"autowarmup: warning: {session.delivery.message}", err=True)
    click.echo(_result_json(result, session.delivery) if as_json else _result_text(result, session.delivery))
    return NOTHING_STABLE if result.schedule is None else OK


class Session:
    """A study as the command line runs it: shows its progress, keeps the command in its folder, and has Ctrl-C stop it
    at the next block of steps, where nothing is half done. A second Ctrl-C stops it at once."""

    def __init__(self, command: Command) -> None:
        from autowarmup.study.progress import progress_for

        self.folder: Path | None = None
        self.delivery: Delivery | None = None
        self._command, self._shown = command, progress_for()
        self._process = os.getpid()
        self._stopping = False

    def __enter__(self) -> Self:
        self._handler = signal.getsignal(signal.SIGINT)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._handler)

    def how_to_go_on(self) -> str:
        """For the person who interrupted it."""
        if self.folder is None:
            return "autowarmup: interrupted before the study began"
        return f"autowarmup: interrupted. To go on:\n  autowarmup resume {shlex.quote(str(self.folder))}"

    def started(self, config: TuneConfig, folder: Path) -> None:
        self.folder = folder
        self._command.save(folder)
        signal.signal(signal.SIGINT, self._interrupt)
        self._shown.started(config, folder)

    def observe(self, spec: TrialSpec, block: Trace) -> None:
        self._shown.observe(spec, block)
        self._stop_if_asked()

    def segment_ended(self, result: SegmentResult) -> None:
        """The terminal's Ctrl-C reaches the task's own processes too, whose end may look like a failed trial."""
        self._shown.segment_ended(result)
        if result.error is not None:
            self._stop_if_asked()

    def replayed(self, spec: TrialSpec, result: SegmentResult) -> None:
        self._shown.replayed(spec, result)

    def finished(self, number: int, outcome: Outcome) -> None:
        self._shown.finished(number, outcome)

    def doing(self, what: str) -> None:
        self._shown.doing(what)

    def delivered(self, delivery: Delivery) -> None:
        self.delivery = delivery

    def close(self) -> None:
        self._shown.close()

    def _interrupt(self, *_: object) -> None:
        if os.getpid() != self._process:  # a forked worker of the task's: it ends when its parent does
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._stopping = True
        os.write(2, b"\nautowarmup: stopping after this block of steps; Ctrl-C again stops at once\n")

    def _stop_if_asked(self) -> None:
        if self._stopping:
            raise KeyboardInterrupt


def _paths(result: TuneResult) -> dict[str, str]:
    """The files that a finished study has, by what they are."""
    folder = Path(result.study)
    names = {"report": "report.html", "result": "result.json", "schedule": "schedule.json"}
    return {"study": str(folder)} | {key: str(folder / name) for key, name in names.items() if (folder / name).exists()}


def _result_json(result: TuneResult, delivery: Delivery | None) -> str:
    verdict = result.verdict
    return json.dumps(
        {
            "verdict": verdict.kind,
            "message": verdict.message,
            "schedule": _plain(result.schedule),
            "comparisons": [_plain(comparison) for comparison in verdict.comparisons],
            "trials": Counter(record.outcome for record in result.records),
            "cost": _plain(result.cost),
            "paths": _paths(result),
            "mlflow": delivery and {"uri": delivery.uri, "complete": delivery.complete, "message": delivery.message},
        },
        indent=1,
    )


def _result_text(result: TuneResult, delivery: Delivery | None) -> str:
    study = shlex.quote(result.study)
    lines = [result.summary(), f"report: {_paths(result)['report']}"]
    if result.schedule is not None:
        lines.append(f"code: autowarmup schedule {study} --code pytorch")
    if delivery and delivery.uri.startswith("sqlite"):
        lines.append(f"MLflow: mlflow ui --backend-store-uri {shlex.quote(delivery.uri)}")
    elif delivery:
        lines.append(f"MLflow: {delivery.uri}")
    return "\n".join(lines)


def _plain(model: Any) -> Any:
    return None if model is None else model.model_dump(mode="json")


# --- show, report -----------------------------------------------------------------------------------------


@cli.command()
@STUDY
@JSON
def show(study: Path, as_json: bool) -> None:
    """Show a study's trials and its verdict, also while it runs.

    \b
    Example:
      autowarmup show studies/mine
      autowarmup show studies/mine --json | jq .status
    """
    with _opened(study) as store:
        overview = _overview(store)
    if as_json:
        click.echo(json.dumps(overview, indent=1))
    else:
        _print_overview(overview)


@contextmanager
def _opened(folder: Path) -> Iterator[StudyStore]:
    """The study's store, to read from."""
    from autowarmup.study.store import StudyStore

    with closing(StudyStore(folder)) as store:
        try:
            yield store
        except sqlite3.Error as error:
            raise StudyError(f"{store.path} can't be read as a study: {error}") from error


def _overview(store: StudyStore) -> dict[str, Any]:
    from autowarmup.study.result import TrialRecord

    trials = []
    for trial in store.trials():
        record = TrialRecord.of(trial)
        trials.append(_plain(record) | {"outcome": trial.outcome or "open"})
    config = store.meta("config") or {}
    return {
        "study": str(store.folder.absolute()),
        "status": _status(store),
        "verdict": store.meta("verdict"),
        "total_steps": config.get("total_steps"),
        "budget": config.get("budget"),
        "spent": sum(trial["steps"] for trial in trials),
        "trials": trials,
    }


def _status(store: StudyStore) -> str:
    """As its driver left it; "killed" where that died without a word."""
    status = store.meta("status") or "new"
    return "killed" if status == "running" and not _driven(store.folder) else str(status)


def _driven(folder: Path) -> bool:
    """Whether a process works on the study: it holds the lock."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / "study.lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that only others may write
        return True


def _print_overview(overview: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for name in ("trial", "role", "outcome", "peak", "warm-up", "steps", "loss"):
        table.add_column(name, justify="right" if name in ("trial", "peak", "steps", "loss") else "left", no_wrap=True)
    table.add_column("what happened")
    for trial in overview["trials"]:
        table.add_row(*_row(trial))
    console = Console(soft_wrap=False) if sys.stdout.isatty() else Console(width=200)
    console.print(table, highlight=False)
    budget = "" if overview["budget"] is None else f" of {overview['budget']:,}"
    click.echo(f"{overview['study']}: {overview['status']}, {overview['spent']:,}{budget} optimizer steps")
    if verdict := overview["verdict"]:
        click.echo(f"verdict: {verdict['kind']}. {verdict['message']}")
        if verdict["schedule"]:
            click.echo(f"schedule: {Schedule.model_validate(verdict['schedule']).describe()}")
    elif overview["status"] in ("interrupted", "killed"):
        click.echo(f"to go on: autowarmup resume {shlex.quote(overview['study'])}")


def _row(trial: dict[str, Any]) -> list[str]:
    schedule = Schedule.model_validate(trial["schedule"])
    happened = ""
    if found := trial["instability"]:
        happened = f"{found['kind']} from step {found['step']:,} at rate {found['lr']:.3g}"
    elif trial["error"]:
        happened = trial["error"].strip().splitlines()[-1]
    elif trial["events"]:
        happened = f"{len(trial['events'])} events that passed"
    return [
        str(trial["number"]),
        trial["role"],
        trial["outcome"],
        f"{schedule.peak:.3g}",
        f"{schedule.shape.kind} {schedule.duration:,}" if schedule.duration else "none",
        f"{trial['steps']:,}",
        "" if trial["val_loss"] is None else f"{trial['val_loss']:.4g}",
        happened,
    ]


@cli.command()
@STUDY
def report(study: Path) -> None:
    """Write a finished study's HTML report again.

    \b
    Example:
      autowarmup report studies/mine
    """
    from autowarmup.report import write_report
    from autowarmup.study.result import TuneResult

    with _opened(study) as store:
        if store.meta("verdict") is None:
            raise StudyError(
                f"the study in {study} has no verdict yet (it is {_status(store)}): a report is written when it "
                f"finishes. `autowarmup show {study}` shows its trials"
            )
        result = TuneResult.load(study)
        click.echo(write_report(result, {trial.spec.number: trial.trace for trial in store.trials()}, study))


# --- schedule, spaces -------------------------------------------------------------------------------------


@cli.command(short_help="Print a schedule: in words, as a curve, as code.")
@click.argument("study", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--curve", is_flag=True, help="Print every step's rate as CSV.")
@click.option("--steps", type=click.IntRange(1), metavar="N", help="With --curve: only the first N steps.")
@click.option("--code", type=click.Choice(["pytorch"]), help="Print code to paste.")
@click.option("--json", "as_json", is_flag=True, help="Print the schedule as JSON.")
@click.option("--peak", type=float, metavar="RATE", help="Without DIR: the peak learning rate.")
@click.option("--horizon", type=int, metavar="N", help="Without DIR: optimizer steps of the run.")
@click.option("--warmup", metavar="N|P%", help="Steps, or a share such as 10%.")
@click.option("--shape", type=click.Choice(SHAPES), help="Warm-up shape.  [default: linear]")
@click.option("--power", type=float, help="Power of a polynomial warm-up.  [default: 2]")
@click.option("--beta2", type=float, help="Adam's, for the shapes that need no duration.  [default: 0.999]")
@click.option("--start-factor", type=float, help="First rate as a fraction of the peak.")
@click.option("--decay", type=click.Choice(DECAYS), help="Decay shape.  [default: cosine]")
@click.option("--final-factor", type=float, help="Last rate as a fraction of the peak.  [default: 0]")
def schedule(
    study: Path | None, curve: bool, steps: int | None, code: str | None, as_json: bool, **plan: Any
) -> int:  # fmt: skip
    """Print the schedule that a study found, or one made by hand: in words, as a curve, as code.

    \b
    Examples:
      autowarmup schedule studies/mine --code pytorch
      autowarmup schedule studies/mine --curve > rates.csv
      autowarmup schedule --peak 3e-3 --horizon 1000 --warmup 10% --shape linear
    """
    settings = {name: value for name, value in plan.items() if value is not None}
    if study and settings:
        raise click.UsageError(f"--{next(iter(settings)).replace('_', '-')} makes a schedule by hand: leave out DIR")
    if sum(map(bool, (curve, code, as_json))) > 1:
        raise click.UsageError("--curve, --code and --json exclude each other")
    if steps and not curve:
        raise click.UsageError("--steps goes with --curve")
    found = _found_schedule(study) if study else _made_schedule(settings)
    if found is None:
        click.echo(f"autowarmup: the study in {study} found nothing stable: there is no schedule", err=True)
        return NOTHING_STABLE
    click.echo(
        _as_curve(found, steps)
        if curve
        else _as_code(found)
        if code
        else _as_json(found)
        if as_json
        else _as_text(found)
    )
    return OK


def _found_schedule(study: Path) -> Schedule | None:
    """A study's schedule; None where it found nothing stable."""
    with _opened(study) as store:
        verdict = store.meta("verdict")
        if verdict is None:
            raise StudyError(f"the study in {study} has no verdict yet: it is {_status(store)}")
    return None if verdict["schedule"] is None else Schedule.model_validate(verdict["schedule"])


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


def _as_text(found: Schedule, width: int = 72) -> str:
    """In words, and as a curve one line high."""
    levels = " ▁▂▃▄▅▆▇█"
    points = [found.lr_at(i * found.horizon // width) / found.peak for i in range(width)]
    return f"{found.describe()}\n{''.join(levels[round(share * (len(levels) - 1))] for share in points)}"


def _as_curve(found: Schedule, steps: int | None) -> str:
    count = min(steps or found.horizon, found.horizon)
    return "\n".join(["step,rate", *(f"{step},{found.lr_at(step)!r}" for step in range(count))])


def _as_json(found: Schedule) -> str:
    return found.model_dump_json(indent=1)


def _as_code(found: Schedule) -> str:
    """Python that makes the same schedule."""
    settings = found.model_dump(exclude_defaults=True)
    for name in ("shape", "decay"):
        kind = getattr(found, name).model_dump(exclude_defaults=True)
        settings |= {name: {"kind": getattr(found, name).kind} | kind if kind else getattr(found, name).kind}
    arguments = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return "\n".join(
        [
            "from autowarmup import Schedule",
            "",
            f"schedule = Schedule({arguments})",
            "scheduler = schedule.scheduler(optimizer)  # scheduler.step() after each optimizer.step()",
        ]
    )


@cli.command(short_help="List the search spaces, or print one.")
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


# --- sync, doctor -----------------------------------------------------------------------------------------


@cli.command()
@STUDY
@click.option("--mlflow", metavar="URI", help="Tracking URI.  [default: the one the study was tracked in]")
def sync(study: Path, mlflow: str | None) -> int:
    """Deliver to MLflow what it hasn't got of a study.

    \b
    Example:
      autowarmup sync studies/mine --mlflow http://localhost:5000
    """
    from autowarmup.tracking import sync as deliver

    delivery = deliver(study, mlflow)
    click.echo(delivery.message)
    return OK if delivery.complete else NOT_DELIVERED


@cli.command(short_help="Check this machine.")
@click.option("--study", type=click.Path(path_type=Path), default=Path("studies"), help="Where studies would go.")
@click.option("--mlflow", metavar="URI", help="Tracking URI to try.  [default: MLFLOW_TRACKING_URI]")
@JSON
def doctor(study: Path, mlflow: str | None, as_json: bool) -> int:
    """Check what is installed, where training would run, and whether studies can be written and tracked.

    Exits with 1 where something is wrong.

    \b
    Example:
      autowarmup doctor --mlflow http://localhost:5000
    """
    from autowarmup.cli.doctor import examine

    findings = []
    for finding in examine(study, mlflow):
        findings.append(finding)
        if not as_json:
            click.echo(_finding_text(finding))
    if as_json:
        click.echo(json.dumps([_plain(finding) for finding in findings], indent=1))
    return FAILED if any(finding.problem for finding in findings) else OK


def _finding_text(finding: Finding) -> str:
    mark = "problem" if finding.problem else "OK"
    return f"{mark:<8}{finding.name}: {finding.value}" + (f"\n        {finding.problem}" if finding.problem else "")
