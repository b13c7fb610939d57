"""What MLflow is told of a study and of its trials: parameters, tags and descriptions."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from autowarmup.schedule import Schedule
from autowarmup.search.verdict import Verdict
from autowarmup.study.store import StoredTrial
from autowarmup.training.objective import Objective

STUDY, TRIAL, DELIVERED = "autowarmup.study", "autowarmup.trial", "autowarmup.delivered"
"""Tags by which a run is found, and how far it is: the ``until`` of the last segment that was sent."""
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
NOTE_LENGTH = 5_000
MAP, PICTURE = "figures/stability_map.png", "stability_map.png"
"""The stability map: where it is in a study's folder, and the artifact that descriptions show, which is smaller."""


class Findings(NamedTuple):
    """What a study found.

    Args:
        verdict: its verdict.
        schedule: the schedule to use, None where nothing was stable.
        extrapolation: how that was extrapolated to a longer run, in words; None where it was not.
        objective: what its trials were judged by.
    """

    verdict: Verdict
    schedule: Schedule | None
    extrapolation: str | None
    objective: Objective


def key(name: str) -> str:
    """A name with the characters that MLflow allows.

    >>> key("top@5")
    'top_5'
    """
    return re.sub(r"[^\w. -]", "_", name, flags=re.ASCII)[:250]


# --- Parameters -------------------------------------------------------------------------------------------


def trial_params(trial: StoredTrial) -> dict[str, Any]:
    """A trial's parameters: its number, why it ran, and its schedule, which is known at its end where its warm-up
    adapts. The last two are for MLflow's charts, which have no logarithmic axis."""
    spec, schedule = trial.spec, trial.spec.schedule
    known = {"trial": spec.number, "role": spec.role, "candidate": spec.candidate, "seed": spec.seed}
    if spec.climb is not None and trial.outcome is None:
        return known
    return {
        **known,
        **schedule_params(schedule),
        "warmup_share": round(schedule.duration / schedule.horizon, 4),
        "log10_peak": round(math.log10(schedule.peak), 3),
    }


def schedule_params(schedule: Schedule) -> dict[str, Any]:
    """A schedule's parameters under the names it gives them, those of its shape and decay in the same line.

    >>> schedule_params(Schedule(peak=0.1, horizon=10, warmup_steps=2, shape="polynomial", decay="wsd"))
    {'peak': '0.1', 'horizon': 10, 'warmup_steps': 2, 'shape': 'polynomial', 'power': 2.0, 'decay': 'wsd', \
'cooldown': 0.2, 'final_factor': 0.0}
    """
    params = {
        "peak": f"{schedule.peak:.6g}",
        "horizon": schedule.horizon,
        "warmup_steps": schedule.duration,
        "shape": schedule.shape.kind,
        **schedule.shape.model_dump(exclude={"kind"}),
        "start_factor": schedule.start_factor,
        "decay": schedule.decay.kind,
        **schedule.decay.model_dump(exclude={"kind"}),
        "final_factor": schedule.final_factor,
        "groups": ", ".join(group.describe() for group in schedule.groups) or None,
    }
    return {name: value for name, value in params.items() if value is not None}


def study_params(config: Mapping[str, Any]) -> dict[str, Any]:
    """A study's configuration; of its parts (search space, detectors, task) each as ``part.setting``.

    >>> study_params({"total_steps": 40, "tune_steps": None, "task": {"model": "Linear"}})
    {'total_steps': 40, 'task.model': 'Linear'}
    """
    params: dict[str, Any] = {}
    for name, value in config.items():
        parts = value if isinstance(value, dict) else None
        params |= {name: value} if parts is None else {f"{name}.{part}": parts[part] for part in parts}
    return {key(name): value for name, value in params.items() if value not in (None, "")}


# --- Tags -------------------------------------------------------------------------------------------------


def trial_tags(trial: StoredTrial) -> dict[str, str]:
    """What a trial came to, and its description."""
    tags: dict[str, str] = {"role": trial.spec.role}
    notes = [trial.spec.schedule.describe()]
    if trial.segments:
        tags[DELIVERED] = str(trial.segments[-1].until)
    if trial.outcome:
        tags["outcome"] = trial.outcome
    if spikes := sum(event.kind == "spike" for event in trial.events):
        tags["spikes"] = str(spikes)
    if trial.instability:
        tags["instability"] = trial.instability.kind
        notes.append(f"**{trial.instability.kind}**: {trial.instability.message[:NOTE_LENGTH]}")
    if trial.error:
        notes.append(f"```\n{trial.error[-NOTE_LENGTH:]}\n```")
    return tags | {NOTE: "\n\n".join(notes)}


def study_tags(folder: str, outcomes: Iterable[str | None]) -> dict[str, str]:
    """A study's place and how its trials ended.

    >>> study_tags("/studies/gpt", ["completed", "completed", None])
    {'role': 'study', 'folder': '/studies/gpt', 'trials': '2 completed, 1 open'}
    """
    counts = Counter(outcome or "open" for outcome in outcomes)
    return {
        "role": "study",
        "folder": folder,
        "trials": ", ".join(f"{count} {outcome}" for outcome, count in counts.items()),
    }


def verdict_tags(findings: Findings) -> dict[str, str]:
    """What a study concluded, and the schedule to use as ``best.*``."""
    tags: dict[str, str] = {"verdict": findings.verdict.kind}
    if findings.schedule:
        tags["schedule"] = findings.schedule.describe()
        tags |= {f"best.{name}": str(value) for name, value in schedule_params(findings.schedule).items()}
    return tags


# --- Descriptions -----------------------------------------------------------------------------------------


def study_note(findings: Findings, page: str, picture: str | None) -> str:
    """A study's description: the verdict, the schedule, what was compared, links, and the stability map.

    Args:
        findings: what the study found.
        page: the view of its trials, as a part of an address.
        picture: the id of the run whose artifacts have the map, None for none.
    """
    parts = [
        f"**{findings.verdict.kind}**: {findings.verdict.message}",
        findings.schedule.describe() if findings.schedule else "",
        findings.extrapolation or "",
        _searched(findings.verdict),
        _comparisons(findings.verdict, findings.objective),
        _links(page),
        _image(picture),
    ]
    return "\n\n".join(filter(None, parts))[:NOTE_LENGTH]


def experiment_note(studies: Iterable[tuple[str, str, Mapping[str, str]]], picture: str | None) -> str:
    """The experiment's description: a line a study, and the last one's stability map.

    Args:
        studies: each study's name, the view of its trials, and its tags.
        picture: the id of the run whose map is shown, None for none.
    """
    lines = [_study_line(name, page, tags) for name, page, tags in studies]
    return "\n\n".join(filter(None, (*lines, _image(picture))))[:NOTE_LENGTH]


def _study_line(name: str, page: str, tags: Mapping[str, str]) -> str:
    verdict = f"**{tags['verdict']}**" if "verdict" in tags else tags.get("trials", "")
    schedule = f", {tags['schedule']}" if "schedule" in tags else ""
    return f"{name}: {verdict}{schedule}. {_links(page)}"


def _searched(verdict: Verdict) -> str:
    """On a tie, the best schedule that was found."""
    if verdict.kind != "tie" or verdict.searched is None:
        return ""
    return f"Best schedule that was found: {verdict.searched.describe()}"


def _comparisons(verdict: Verdict, objective: Objective) -> str:
    if not verdict.comparisons:
        return ""
    judged = "loss" if objective.is_loss else objective
    rows = [f"| schedule | final {judged}, by seed | tuned minus this |", "| --- | --- | --- |"]
    for comparison in verdict.comparisons:
        losses = ", ".join(comparison.ends)
        interval = comparison.interval
        difference = f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]" if interval else ""
        rows.append(f"| {comparison.name} | {losses} | {difference} |")
    return "\n".join(rows)


def _links(page: str) -> str:
    return f"[Table of trials]({page}&compareRunsMode=TABLE), [charts]({page}&compareRunsMode=CHART)"


def _image(run: str | None) -> str:
    return "" if run is None else f"![Stability map](get-artifact?path={PICTURE}&run_uuid={run})"
