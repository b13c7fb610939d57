"""What ``lint`` says of a configuration, against the framework's own schedulers."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from autowarmup.lint.linting import lint
from autowarmup.lint.reading import Reading, Run
from autowarmup.lint.transformers import FROM_FIRST, FROM_ZERO
from tests.export_runs import HOW, needs

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks'

TOTAL = 60
PEAK = 0.01


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=PEAK)


def rates(scheduler: Any, stepping: torch.optim.Optimizer) -> list[float]:
    """Those of every optimizer step."""
    applied = []
    for _ in range(TOTAL):
        applied.append(float(stepping.param_groups[0]["lr"]))
        stepping.step()
        scheduler.step()
    return applied


def read(folder: Path, config: dict[str, Any]) -> Reading:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return lint(file, Run(steps=TOTAL))


def agrees(reading: Reading, applied: list[float]) -> bool:
    """Whether the first rate and the first step at the peak are those that were read."""
    highest = max(applied)
    at_peak = next(step for step, rate in enumerate(applied) if rate > highest * (1 - 1e-9))
    assert reading.steps is not None
    assert reading.first is not None
    assert reading.peak is not None
    return (at_peak, highest, applied[0]) == pytest.approx(
        (reading.steps, reading.peak, reading.first * reading.peak), rel=5e-3
    )


@pytest.mark.parametrize("kind", sorted({*FROM_ZERO, FROM_FIRST, "constant"}))
@pytest.mark.parametrize("asked", [0, 1, 12, 0.11])
def test_transformers(kind: str, asked: float, tmp_path: Path) -> None:
    transformers = needs("transformers")
    options = {
        "cosine_with_min_lr": {"min_lr": 0.001},
        "cosine_warmup_with_min_lr": {"min_lr": 0.001, "warmup_lr_rate": 0.2} if asked == 12 else {"min_lr": 0.001},
        "warmup_stable_decay": {"num_decay_steps": 5, "min_lr_ratio": 0.1},
    }.get(kind, {})
    config = {"output_dir": str(tmp_path), "max_steps": TOTAL, "learning_rate": PEAK, "warmup_steps": asked}
    config |= {"lr_scheduler_type": kind, "lr_scheduler_kwargs": options}
    args = transformers.TrainingArguments(**config, use_cpu=True, report_to=[])
    stepping = optimizer()
    scheduler = transformers.get_scheduler(
        kind, stepping, args.get_warmup_steps(TOTAL), TOTAL, scheduler_specific_kwargs=options
    )
    assert agrees(read(tmp_path, config), rates(scheduler, stepping))


def axolotl_s_method() -> Callable[..., None]:
    """The method of Axolotl's builder that chooses the warm-up. The rest of its module needs the whole of Axolotl."""
    axolotl = importlib.util.find_spec("axolotl")
    if axolotl is None or axolotl.origin is None:
        pytest.skip(f"axolotl: {HOW}")
    source = (Path(axolotl.origin).parent / "core" / "builders" / "base.py").read_text()
    name = "_configure_warmup_and_logging"
    nodes = ast.walk(ast.parse(source))
    method = next(node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == name)
    names: dict[str, Any] = {}
    exec(compile(ast.Module([method], []), "base.py", "exec"), names)  # noqa: S102 - code of the installed package
    return names[name]


@pytest.mark.parametrize("config", [{}, {"warmup_ratio": 0.1}, {"warmup_steps": 1}, {"warmup_steps": 7}])
def test_axolotl(config: dict[str, Any], tmp_path: Path) -> None:
    method, transformers = axolotl_s_method(), needs("transformers")
    names = dict.fromkeys(("warmup_steps", "warmup_ratio", "logging_steps")) | config
    arguments: dict[str, Any] = {}
    method(SimpleNamespace(cfg=SimpleNamespace(**names)), TOTAL, arguments)
    stepping = optimizer()
    scheduler = transformers.get_scheduler("cosine", stepping, arguments["warmup_steps"], TOTAL)
    written = {"base_model": "a/b", "learning_rate": PEAK, "max_steps": TOTAL} | config
    assert agrees(read(tmp_path, written), rates(scheduler, stepping))


@pytest.mark.parametrize("kind", ["WarmupLR", "WarmupDecayLR", "WarmupCosineLR"])
@pytest.mark.parametrize("curve", ["linear", "log"])
@pytest.mark.parametrize("steps", [1, 12])
def test_deepspeed(kind: str, curve: str, steps: int, tmp_path: Path) -> None:
    schedules = needs("deepspeed.runtime.lr_schedules")
    params: dict[str, Any] = {"warmup_num_steps": steps, "warmup_type": curve}
    if kind != "WarmupCosineLR":
        params |= {"warmup_max_lr": PEAK, "warmup_min_lr": PEAK / 10}
    if kind != "WarmupLR":
        params |= {"total_num_steps": 10_000}  # a decay that begins below the peak hardly does
    stepping = optimizer()
    scheduler = getattr(schedules, kind)(stepping, **params)
    config = {"scheduler": {"type": kind, "params": params}, "optimizer": {"params": {"lr": PEAK}}}
    assert agrees(read(tmp_path, config), rates(scheduler, stepping))
