"""A view of one study's trials on MLflow's page: which columns, sorted how, and which charts.

MLflow's page keeps such views as tags of the experiment: JSON with the view's name, and its state as compressed JSON.
The state's keys are those of the page's own code in MLflow 3.17. What a page doesn't know it leaves out, so with
another version a view shows less, or the page's own default.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from autowarmup.tracking.contents import STUDY

PREFIX, PACKED = "mlflow.sharedViewState.", "deflate;"
WRITER = "autowarmup"
"""In a view as this package writes it. The page leaves it out when a person saves a view of the same name."""

Range = tuple[float, float]

WIDTHS = {
    "attributes.`Run Name`": 330,
    "runDateAndNestInfo": 130,
    "tags.`outcome`": 100,
    "tags.`role`": 105,
    "params.`shape`": 115,
    "params.`warmup_steps`": 120,
    "params.`warmup_share`": 120,
    "params.`peak`": 105,
}
"""The table's columns, from the left, and their widths in pixels."""


def view_tag(study: str) -> str:
    """The experiment's tag that holds the view of a study."""
    return f"{PREFIX}{study}"


def view_page(experiment: str, study: str) -> str:
    """Where the page shows the view, as a part of an address.

    >>> view_page("1", "3f0c")
    '#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=3f0c'
    """
    return f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={study}"


def view_state(study: str, ranking: str, ascending: bool, rates: Range | None, losses: Range | None) -> dict[str, Any]:
    """The view of a study's trials, best first.

    Args:
        study: its id.
        ranking: the metric that ranks its trials.
        ascending: whether lower values of it are better.
        rates, losses: what the charts of learning rates and training losses show; None for everything.
    """
    loss = f"metrics.`{ranking}`"
    widths = WIDTHS | {loss: 130, "duration": 90}
    return {
        "searchFilter": f"tags.`{STUDY}` = '{study}'",
        "orderByKey": loss,
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [column for column in widths if column.startswith(("tags.", "params.", "metrics."))],
        "columnOrder": list(widths),
        "columnWidths": widths,
        "runsHiddenMode": "SHOW_ALL",
        "groupBy": None,
        "hideEmptyCharts": True,
        "compareRunCharts": _charts(ranking, rates, losses),
        "compareRunSections": [
            _section("trials", "Trials"),
            _section("others", "Model metrics", display=False),
            _section("system", "System metrics", display=False, deleted=True),
        ],
        "isAccordionReordered": True,
    }


def pack(name: str, state: dict[str, Any], created: int, updated: int) -> str:
    """The view as the experiment's tag holds it.

    Args:
        name: what the page calls it.
        state: see :func:`view_state`.
        created, updated: milliseconds since the epoch.
    """
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    envelope = {"name": name, "createdAt": created, "updatedAt": updated, "state": PACKED + packed}
    return json.dumps(envelope | {"writer": WRITER})


def unpack(tag: str) -> tuple[str, dict[str, Any]] | None:
    """The name and the state of a view that :func:`pack` made; None for one that a person saved in its place.

    >>> unpack(pack("gpt", {"orderByAsc": True}, 1, 2))
    ('gpt', {'orderByAsc': True})
    >>> unpack('{"name": "mine", "createdAt": 1, "updatedAt": 2, "state": "{}"}') is None
    True
    """
    view = json.loads(tag)
    if view.get("writer") != WRITER:
        return None
    return view["name"], json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix(PACKED))))


def _charts(ranking: str, rates: Range | None, losses: Range | None) -> list[dict[str, Any]]:
    peak, warmup, final = _axis("log10_peak", "PARAM"), _axis("warmup_share", "PARAM"), _axis(ranking, "METRIC")
    return [
        _line("loss", losses, points=False),
        _line("val_loss", losses, points=True),
        _line("learning_rate", rates, points=False),
        _card("final-peak", "SCATTER", xaxis=peak, yaxis=final),
        _card("final-warmup", "SCATTER", xaxis=warmup, yaxis=final),
        _card(
            "final-both",
            "PARALLEL",
            selectedParams=["log10_peak", "warmup_share", "shape"],
            selectedMetrics=[ranking],
            showAllRuns=False,
        ),
    ]


def _line(metric: str, shown: Range | None, *, points: bool) -> dict[str, Any]:
    return _card(
        metric,
        "LINE",
        metricKey=metric,
        selectedMetricKeys=[metric],
        displayPoints=points,
        range=dict(zip(("yMin", "yMax"), shown, strict=True)) if shown else {},
        xAxisKey="step",
        xAxisScaleType="linear",
        selectedXAxisMetricKey="",
        yAxisKey="metric",
        yAxisExpressions=[],
        scaleType="linear",
        lineSmoothness=0,
        ignoreOutliers=False,
        useGlobalXaxisKey=True,
        useGlobalLineSmoothing=True,
    )


def _card(uuid: str, kind: str, **settings: Any) -> dict[str, Any]:
    common = {"uuid": uuid, "type": kind, "runsCountToCompare": 100, "metricSectionId": "trials"}
    return common | {"deleted": False, "isGenerated": False} | settings


def _axis(name: str, kind: str) -> dict[str, str]:
    return {"key": name, "type": kind}


def _section(uuid: str, name: str, *, display: bool = True, deleted: bool = False) -> dict[str, Any]:
    shown = {"uuid": uuid, "name": name, "display": display, "deleted": deleted}
    return shown | {"isReordered": True, "isGenerated": False}
