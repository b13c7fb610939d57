"""The table of docs/exports.md: what each framework's own schedules can express.

python -m tests.export_table --write
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from autowarmup import Schedule
from autowarmup.errors import InputError
from autowarmup.export.frameworks import FRAMEWORKS

PAGE = Path(__file__).parent.parent / "docs" / "exports.md"
MARK = "<!-- table -->"
WARMUP, HORIZON = 50, 500

SHAPES: dict[str, dict[str, Any]] = {
    "none": {"shape": "none"},
    "linear": {"shape": "linear"},
    "linear from 0": {"shape": "linear", "start_factor": 0.0, "final_factor": 0.0},
    "linear from 0.1": {"shape": "linear", "start_factor": 0.1},
    "polynomial": {"shape": "polynomial"},
    "quadratic from 0": {"shape": "polynomial", "start_factor": 0.0, "final_factor": 0.0},
    "sqrt": {"shape": "sqrt"},
    "exponential": {"shape": "exponential"},
    "cosine": {"shape": "cosine"},
    "cosine from 0.1": {"shape": "cosine", "start_factor": 0.1},
    "untuned-linear": {"shape": {"kind": "untuned-linear", "beta2": 0.9}},
    "untuned-exponential": {"shape": {"kind": "untuned-exponential", "beta2": 0.9}},
    "radam": {"shape": {"kind": "radam", "beta2": 0.95}},
    "gi-adam": {"shape": {"kind": "gi-adam", "beta2": 0.95}},
}
"""Rows: the settings of a warm-up. The final factor is 0.1 where they don't say another."""

DECAYS = ("cosine", "linear", "exponential", "inverse-sqrt", "constant", "wsd")


def plan_of(shape: str, decay: str, warmup: int = WARMUP, horizon: int = HORIZON) -> Schedule:
    settings = {"final_factor": 0.1} | SHAPES[shape]
    if decay == "exponential":
        settings["final_factor"] = 0.1
    ramp = isinstance(settings["shape"], str) and settings["shape"] != "none"
    return Schedule(peak=3e-3, horizon=horizon, warmup_steps=warmup if ramp else 0, decay=decay, **settings)


def cell(framework: str, shape: str, decay: str) -> str:
    try:
        export = plan_of(shape, decay).export(framework, "config")
    except InputError:
        return "no"
    return "exact" if export.exact else f"{export.max_deviation:.2%}"


def table() -> str:
    """Code first, then a table a framework for its own schedules. Rows without any are left out."""
    lines = ["| framework | tested with | code | own schedules |", "| --- | --- | --- | --- |"]
    for name, framework in FRAMEWORKS.items():
        exact = all(plan_of(shape, decay).export(name).exact for shape in SHAPES for decay in DECAYS)
        own = "below" if framework.own else "none"
        lines.append(f"| {framework.title} (`{name}`) | {framework.tested} | {'exact' if exact else 'no'} | {own} |")
    for name, framework in FRAMEWORKS.items():
        if framework.own:
            lines += ["", f"### {framework.title}", "", f"| warm-up | {' | '.join(DECAYS)} |"]
            lines.append("| --- " * (len(DECAYS) + 1) + "|")
            for shape in SHAPES:
                cells = [cell(name, shape, decay) for decay in DECAYS]
                if set(cells) != {"no"}:
                    lines.append(f"| {shape} | {' | '.join(cells)} |")
    return "\n".join(lines)


def written() -> tuple[str, str, str]:
    """The page: before the table, the table, after it."""
    before, inside, after = PAGE.read_text(encoding="utf-8").split(MARK)
    return before, inside.strip(), after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/exports.md")
    if parser.parse_args().write:
        before, _, after = written()
        PAGE.write_text(f"{before}{MARK}\n\n{table()}\n\n{MARK}{after}", encoding="utf-8")
    else:
        sys.stdout.write(f"{table()}\n")
