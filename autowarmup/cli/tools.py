"""``doctor``: checks the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autowarmup.cli.common import FAILED, JSON, OK, plain

if TYPE_CHECKING:
    from autowarmup.cli.doctor import Finding


@click.command(short_help="Check this machine.")
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
        click.echo(json.dumps([plain(finding) for finding in findings], indent=1))
    return FAILED if any(finding.problem for finding in findings) else OK


def _finding_text(finding: Finding) -> str:
    mark = "problem" if finding.problem else "OK"
    return f"{mark:<8}{finding.name}: {finding.value}" + (f"\n        {finding.problem}" if finding.problem else "")
