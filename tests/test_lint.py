"""``autowarmup lint``: the warm-up of configuration files as the frameworks read them, and their traps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from autowarmup.cli.program import cli
from autowarmup.errors import InputError
from autowarmup.lint.linting import lint
from autowarmup.lint.reading import Reading, Run

TRANSFORMERS = {"output_dir": "out", "learning_rate": 1e-3, "lr_scheduler_type": "cosine", "max_steps": 1000}
AXOLOTL = {"base_model": "a/b", "micro_batch_size": 2, "gradient_accumulation_steps": 4, "learning_rate": 2e-4}
ACCELERATE = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU", "num_processes": 4}
LIGHTNING = {"trainer": {"max_epochs": 10}, "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1}}}


def deepspeed(kind: str, **params: Any) -> dict[str, Any]:
    return {"train_batch_size": 8, "scheduler": {"type": kind, "params": params}}


def lightning(kind: str, **options: Any) -> dict[str, Any]:
    return LIGHTNING | {"lr_scheduler": {"class_path": f"torch.optim.lr_scheduler.{kind}", "init_args": options}}


def read(folder: Path, config: dict[str, Any], run: Run | None = None) -> Reading:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return lint(file, run or Run())


def told(folder: Path, config: dict[str, Any], run: Run | None = None) -> str:
    """The reading's first line and its traps."""
    reading = read(folder, config, run)
    return "\n".join([reading.describe(), *(trap.what for trap in reading.traps)])


@pytest.mark.parametrize(
    ("config", "run", "words"),
    [
        (
            TRANSFORMERS | {"warmup_steps": 100},
            Run(),
            "Transformers: a linear warm-up over 100 of 1,000 optimizer steps (10%), from 0 to 0.001",
        ),
        (TRANSFORMERS | {"warmup_steps": 0.0305}, Run(), "over 31 of 1,000 optimizer steps (3%)"),
        (TRANSFORMERS, Run(), "Transformers: no warm-up"),
        (
            {"output_dir": "out", "warmup_steps": 0.1, "gradient_accumulation_steps": 4},
            Run(examples=10_000, processes=2),  # 625 batches of 8 a process, 157 steps an epoch, 3 epochs
            "over 48 of 471 optimizer steps (10%), from 0 to 5e-05",
        ),
        (
            {"output_dir": "out", "warmup_steps": 0.1},
            Run(),
            "the file alone doesn't tell how long the warm-up is: 0.1 of the run, rounded up; give --steps",
        ),
        (
            TRANSFORMERS | {"warmup_steps": 101, "lr_scheduler_type": "cosine_warmup_with_min_lr"},
            Run(),
            "over 100 of 1,000 optimizer steps (10%), from 9.9e-06 to 0.001",
        ),
        (AXOLOTL | {"max_steps": 1000}, Run(), "Axolotl: a linear warm-up over 30 of 1,000"),
        (AXOLOTL | {"max_steps": 100_000}, Run(), "Axolotl: a linear warm-up over 100 of 100,000"),
        (AXOLOTL | {"warmup_steps": 9, "lr_quadratic_warmup": True}, Run(), "a quadratic warm-up over 9 optimizer"),
        (AXOLOTL | {"lr_scheduler": "rex", "warmup_steps": 9}, Run(), "'rex' is a curve of Axolotl's own"),
        (AXOLOTL | {"warmup_ratio": 0.1}, Run(examples=8000), "over 100 of 1,000 optimizer steps (10%), from 0"),
        (
            AXOLOTL | {"warmup_ratio": 0.1, "sample_packing": True},
            Run(examples=8000),
            "the file alone doesn't tell how long the warm-up is: 0.1 of the run",
        ),
        (
            deepspeed("WarmupLR", warmup_max_lr=0.01, warmup_num_steps=100, warmup_type="linear"),
            Run(steps=1000),
            "DeepSpeed: a linear warm-up over 101 of 1,000 optimizer steps (10%), from 0 to 0.01",
        ),
        (
            deepspeed("WarmupLR", warmup_max_lr=0.01, warmup_min_lr=0.001),
            Run(),
            "DeepSpeed: a logarithmic warm-up over 1,000 optimizer steps, from 0.001 to 0.01",
        ),
        (deepspeed("WarmupLR", warmup_num_steps="auto"), Run(), "warmup_num_steps is 'auto': Transformers puts"),
        (deepspeed("OneCycle"), Run(), "OneCycle is no warm-up of DeepSpeed's"),
        ({"train_batch_size": 8, "zero_optimization": {"stage": 2}}, Run(), "it has no scheduler, so the script"),
        (
            lightning("LinearLR", total_iters=3, start_factor=0.1),
            Run(steps=1000),
            "Lightning: a stepwise warm-up over 300 of 1,000 optimizer steps (30%), from 0.01 to 0.1",
        ),
        (lightning("LinearLR", total_iters=500), Run(), "the warm-up is: 500 epochs; give --steps of the whole run"),
        (lightning("CosineAnnealingLR", T_max=3), Run(), "CosineAnnealingLR is not read here"),
        (LIGHTNING, Run(), "it has no lr_scheduler, so the module's configure_optimizers makes one"),
        (ACCELERATE, Run(), "Accelerate: the file alone doesn't tell how long the warm-up is: the scheduler is made"),
    ],
)
def test_the_warmup_in_optimizer_steps(config: dict[str, Any], run: Run, words: str, tmp_path: Path) -> None:
    assert words in told(tmp_path, config, run)


@pytest.mark.parametrize(
    ("config", "trap"),
    [
        (TRANSFORMERS | {"warmup_steps": 100}, "the first optimizer step has a learning rate of 0"),
        (TRANSFORMERS | {"warmup_ratio": 0.1}, "warmup_ratio is unknown to Transformers since version 5"),
        (TRANSFORMERS | {"warmup_steps": 1.5}, "warmup_steps of 1.5 becomes 1"),
        (
            TRANSFORMERS | {"warmup_steps": 9, "lr_scheduler_type": "constant"},
            "'constant' has no warm-up: warmup_steps",
        ),
        (
            TRANSFORMERS | {"warmup_steps": 2000},
            "2,000 steps is as long as the run of 1,000: the peak is never reached",
        ),
        (TRANSFORMERS | {"deepspeed": "ds.json"}, "a scheduler in DeepSpeed's configuration takes the place"),
        (AXOLOTL | {"warmup_steps": 1}, "Axolotl turns a warm-up of 1 step into one of 2"),
        (AXOLOTL, "Axolotl takes 3% of the run, at most 100 steps"),
        (deepspeed("WarmupLR"), "warmup_type is left out: the warm-up is logarithmic"),
        (deepspeed("WarmupLR"), "the first step is an extra one at the lowest learning rate"),
        (
            deepspeed("WarmupDecayLR") | {"optimizer": {"type": "AdamW", "params": {"lr": 3e-4}}},
            "warmup_max_lr is left out: the peak is 0.001, whatever the optimizer's 0.0003 says",
        ),
        (ACCELERATE, "stepped 4 times for each optimizer step: a warm-up of 1,000 steps is over after 250"),
        (ACCELERATE | {"mixed_precision": "fp16"}, "with fp16 some of the first optimizer steps are skipped"),
        (ACCELERATE | {"deepspeed_config": {"deepspeed_config_file": "ds.json"}}, "takes the place of the script's"),
        (lightning("LinearLR", total_iters=500), "Lightning steps the LinearLR of a configuration file once an epoch"),
        (LIGHTNING, "stepped once an epoch unless it says otherwise"),
    ],
)
def test_each_trap_is_told(config: dict[str, Any], trap: str, tmp_path: Path) -> None:
    assert trap in told(tmp_path, config)


@pytest.mark.parametrize(
    "config",
    [
        TRANSFORMERS | {"warmup_steps": 101, "lr_scheduler_type": "cosine_warmup_with_min_lr"},
        TRANSFORMERS,
        AXOLOTL | {"warmup_steps": 0},
        ACCELERATE | {"num_processes": 1, "mixed_precision": "bf16"},
    ],
)
def test_a_configuration_without_traps(config: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path, config).traps == ()


# --- The command --------------------------------------------------------------------------------------------


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["lint", *map(str, args)])


def test_the_command_says_what_to_do_instead(tmp_path: Path) -> None:
    file = tmp_path / "args.json"
    file.write_text(json.dumps({"output_dir": "out", "warmup_steps": 0.1}))
    result = run(file, "--steps", "500")
    assert result.exit_code == 1
    assert "a linear warm-up over 50 of 500 optimizer steps (10%), from 0 to 5e-05\ntrap: the first" in result.output
    assert "instead: lr_scheduler_type: cosine_warmup_with_min_lr" in result.output
    assert json.loads(run(file, "--steps", "500", "--json").output)["steps"] == 50
    file.write_text(json.dumps(TRANSFORMERS))
    assert run(file).exit_code == 0


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (None, [], "is not a file: give a framework's configuration, as YAML or JSON"),
        ("{]", [], "is neither YAML nor JSON"),
        ("a: [", [], "is neither YAML nor JSON"),
        ("\x00", [], "is neither YAML nor JSON"),
        ("- 1", [], "it must hold keys with values, got [1]"),
        ("colour: red", [], "is not a configuration that is known: it has the keys ['colour']"),
        ("output_dir: x", ["--framework", "transfomers"], "is unknown (did you mean 'transformers'?)"),
        ("warmup_steps: soon", [], "warmup_steps: must be a number of at least 0, got 'soon'"),
        ("warmup_steps: -1", [], "warmup_steps: must be a number of at least 0, got -1"),
        ("warmup_steps: true", [], "warmup_steps: must be a number of at least 0, got True"),
        ("lr_scheduler_type: cosin", [], "'cosin' is unknown (did you mean 'cosine'?)"),
        ("output_dir: x\nlr_scheduler_type: 3", [], "lr_scheduler_type: must be text, got 3"),
        ("trainer: 3", [], "trainer: must be a mapping, got 3"),
        ("output_dir: x\ngradient_accumulation_steps: 1.5", ["--examples", "9"], "must be a whole number, got 1.5"),
        ("base_model: x\nwarmup_steps: 3\nwarmup_ratio: 0.1", [], "exclude each other in Axolotl"),
    ],
)
def test_what_is_no_configuration_is_refused(
    text: str | None, arguments: list[str], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    if text is not None:
        file.write_text(text)
    result = run(file, *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.json"
    file.write_bytes(b" " * 1_000_001)
    with pytest.raises(InputError, match="has more than 1,000,000 bytes: it is no configuration"):
        lint(file, Run())
