"""``show`` and ``report``: look at a study."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autowarmup.cli.common import JSON, STUDY, opened, plain, status
from autowarmup.errors import StudyError
from autowarmup.shell import command_line, printable
from autowarmup.study.found import found

if TYPE_CHECKING:
    from autowarmup.study.result import TrialRecord
    from autowarmup.study.store import StudyStore

WITHOUT_TERMINAL = 200
"""Columns of the table where it goes to a file or another program."""


@click.command()
@STUDY
@JSON
def show(study: Path, as_json: bool) -> None:
    """Show a study's trials and its verdict, also while it runs.

    \b
    Example:
      autowarmup show studies/mine
      autowarmup show studies/mine --json | jq .status
    """
    with opened(study) as store:
        text = json.dumps(_overview(store), indent=1) if as_json else printable(_overview_text(store))
    click.echo(text)


def _overview(store: StudyStore) -> dict[str, Any]:
    """All of it, for programs."""
    from autowarmup.study.result import TrialRecord

    trials = [plain(TrialRecord.of(trial)) | {"outcome": trial.outcome or "open"} for trial in store.trials()]
    result = found(store)
    return {
        "study": str(store.folder.absolute()),
        "status": status(store),
        "verdict": plain(result and result.verdict),
        "schedule": plain(result and result.schedule),
        "extrapolation": result and result.extrapolation,
        "total_steps": _setting(store, "total_steps"),
        "budget": _whole(store.meta("budget")),
        "spent": sum(trial["steps"] for trial in trials),
        "trials": trials,
    }


def _overview_text(store: StudyStore) -> str:
    """All of it, for people."""
    from autowarmup.study.result import TrialRecord

    folder, budget, now = store.folder.absolute(), _whole(store.meta("budget")), status(store)
    trials = store.trials()
    records = [TrialRecord.of(trial) for trial in trials]
    spent = sum(record.steps for record in records)
    rows = [_row(record, trial.outcome or "open") for record, trial in zip(records, trials, strict=True)]
    lines = [
        _table(rows, store.objective.name),
        f"{folder}: {now}, {spent:,}{'' if budget is None else f' of {budget:,}'} optimizer steps",
    ]
    if result := found(store):
        lines.append(f"verdict: {result.verdict.kind}. {result.verdict.message}")
        if result.schedule is not None:
            lines.append(f"schedule: {result.schedule.describe()}")
        if result.extrapolation is not None:
            lines.append(f"  {result.extrapolation}")
    elif now in ("interrupted", "killed", "failed"):
        lines.append(f"to go on: {command_line('resume', folder)}")
    return "\n".join(lines)


def _setting(store: StudyStore, name: str) -> int | None:
    """A number of the study's configuration."""
    config = store.meta("config")
    return _whole(config.get(name)) if isinstance(config, dict) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _table(rows: list[list[str]], judged_by: str) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("trial", "role", "outcome", "peak", "warm-up", "steps", judged_by):
        numbers = name in ("trial", "peak", "steps", judged_by)
        table.add_column(Text(name), justify="right" if numbers else "left", no_wrap=True)
    table.add_column("what happened")
    for row in rows:
        table.add_row(*map(Text, row))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WITHOUT_TERMINAL
    written = io.StringIO()
    Console(file=written, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


def _row(record: TrialRecord, outcome: str) -> list[str]:
    schedule = record.schedule
    return [
        str(record.number),
        record.role,
        outcome,
        f"{schedule.peak:.3g}",
        f"{schedule.shape.kind} {schedule.duration:,}" if schedule.duration else "none",
        f"{record.steps:,}",
        "" if record.value is None else f"{record.value:.4g}",
        printable(_what_happened(record), longest=200),
    ]


def _what_happened(record: TrialRecord) -> str:
    from autowarmup.study.standing import last_line

    if record.instability is not None:
        return f"{record.instability.kind} from step {record.instability.step:,} at rate {record.instability.lr:.3g}"
    if record.error is not None:
        return last_line(record.error)
    if record.events:
        return f"{len(record.events)} events that passed"
    return ""


@click.command()
@STUDY
def report(study: Path) -> None:
    """Write a finished study's HTML report again.

    \b
    Example:
      autowarmup report studies/mine
    """
    from autowarmup.report import write_report
    from autowarmup.study.result import TuneResult

    with opened(study) as store:
        if store.meta("verdict") is None:
            raise StudyError(
                f"the study in {study} has no verdict yet (it is {status(store)}): a report is written when it "
                f"finishes. `{command_line('show', study)}` shows its trials"
            )
        result = TuneResult.load(study)
        click.echo(write_report(result, {trial.spec.number: trial.trace for trial in store.trials()}, study))
