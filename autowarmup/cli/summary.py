"""What ``tune`` and ``resume`` print of a finished study."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autowarmup.cli.common import plain
from autowarmup.shell import command_line
from autowarmup.study.weights import TRAINED
from autowarmup.tracking import page_address

if TYPE_CHECKING:
    from autowarmup.study.delivery import Delivery
    from autowarmup.study.result import TuneResult


def _paths(result: TuneResult) -> dict[str, str]:
    """The files that a finished study has, by what they are."""
    folder = Path(result.study)
    names = {"report": "report.html", "result": "result.json", "schedule": "schedule.json", "trained": TRAINED}
    return {"study": str(folder)} | {key: str(folder / name) for key, name in names.items() if (folder / name).exists()}


def result_json(result: TuneResult, delivery: Delivery | None) -> str:
    """All of it as one JSON object."""
    verdict = result.verdict
    return json.dumps(
        {
            "verdict": verdict.kind,
            "message": verdict.message,
            "schedule": plain(result.schedule),
            "searched": plain(verdict.searched),
            "comparisons": [plain(comparison) for comparison in verdict.comparisons],
            "gain": plain(result.gain),
            "trials": Counter(record.outcome for record in result.records),
            "cost": plain(result.cost),
            "paths": _paths(result),
            "mlflow": delivery and _delivered(delivery),
        },
        indent=1,
    )


def _delivered(delivery: Delivery) -> dict[str, Any]:
    told = {"uri": delivery.uri, "complete": delivery.complete, "message": delivery.message}
    return told | {"page": page_address(delivery)}


def next_steps(result: TuneResult, delivery: Delivery | None) -> str:
    """Where everything is, and the commands that show it: a line each, each command ready to be pasted."""
    paths, study = _paths(result), Path(result.study)
    lines = [f"report: {paths['report']}"] if "report" in paths else []
    if result.schedule is not None:
        lines.append(f"code: {command_line('schedule', study, '--code', 'pytorch')}")
    if delivery:
        lines.append(f"MLflow: {page_address(delivery) or command_line('browse', study)}")
    return "\n".join([*lines, f"all trials: {command_line('show', study)}"])
