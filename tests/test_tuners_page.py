"""The code on docs/tuners.md runs as it is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import optuna
import pytest
from click.testing import CliRunner

from autowarmup.cli.program import cli

PAGE = (Path(__file__).parent.parent / "docs" / "tuners.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_optuna_script(capsys: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    script, _ = blocks("python")
    names: dict[str, object] = {}
    exec(script, names)  # noqa: S102 - code that is meant to be pasted
    assert "current schedule" in capsys.readouterr().out
    sampler = names["sampler"]
    assert sampler.conclusion.verdict.kind == "tuned"  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore")  # Ray warns of itself
def test_the_ray_tune_lines() -> None:
    names: dict[str, object] = {}
    exec(blocks("python")[1], names)  # noqa: S102
    assert names["config"].search_alg is names["searcher"]  # type: ignore[attr-defined]


def test_the_command() -> None:
    command = shlex.split(blocks("bash")[0].splitlines()[0])
    done = CliRunner().invoke(cli, [*command[1:3], "--help"])
    assert command[:2] == ["autowarmup", "optuna"]
    assert all(option in done.output for option in command if option.startswith("--"))
