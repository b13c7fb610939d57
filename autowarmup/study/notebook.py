"""What a notebook shows of a result: one piece of HTML, its pictures inside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from autowarmup.schedule.extrapolation import Extrapolation
from autowarmup.schedule.schedule import Schedule
from autowarmup.search.verdict import Verdict
from autowarmup.study.gain import Gain

PICTURES = {
    "stability_map": "Stability map",
    "duration": "Warm-up duration and final loss",
    "loss_curves": "Loss curves",
    "schedules": "Schedules tried",
}
"""The pictures of a study's folder, in order, and what they are called."""


def result_html(
    verdict: Verdict,
    schedule: Schedule | None,
    extrapolation: Extrapolation | None,
    gain: Gain | None,
    *,
    loss_name: str,
    judged_by: str,
    costs: Sequence[str],
    warnings: Sequence[str],
    study: Path,
) -> str:
    """A result as HTML that needs nothing else: no script, no style sheet, no network. It takes the notebook's own
    colours, light or dark.

    Args:
        verdict: what the study concludes.
        schedule: the schedule that it hands out.
        extrapolation: how that was extrapolated, where it was.
        gain: what the difference between tuned and current schedule is made of, where it is known.
        loss_name: what the final losses are, such as ``"validation loss"``.
        judged_by: the same with the direction of a metric.
        costs: lines about trials and cost.
        warnings: what makes the findings doubtful, one sentence each.
        study: the study's folder. Where its pictures are gone, the rest is shown without them.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("autowarmup", "study")
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    return environment.get_template("result.html.j2").render(
        verdict=verdict,
        schedule=schedule,
        extrapolation=extrapolation,
        gain=gain,
        searched=verdict.searched if verdict.kind == "tie" else None,
        loss_name=loss_name,
        judged_by=judged_by,
        costs=costs,
        warnings=warnings,
        pictures=[(title, _inline(path)) for title, path in _pictures(study)],
        report=study / "report.html" if (study / "report.html").is_file() else None,
    )


def _pictures(study: Path) -> list[tuple[str, Path]]:
    paths = [(title, study / "figures" / f"{name}.png") for name, title in PICTURES.items()]
    return [(title, path) for title, path in paths if path.is_file()]


def _inline(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
