"""Every example runs, at a small size, on its real data."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from autowarmup import autotune

EXAMPLES = sorted(path.stem for path in (Path(__file__).parent.parent / "examples").glob("[a-z]*.py"))
EXAMPLES.remove("ray_tune")  # test_ray_tune.py runs it
for framework in ("transformers_trainer", "lightning_module", "accelerate_loop"):
    EXAMPLES.remove(framework)  # test_integrations_frameworks.py runs it
EXAMPLES.remove("night_run")  # below
EXAMPLES.remove("keras_model")  # test_keras_frameworks.py runs it
SMALL = {"confirm_seeds": 2, "cohort": 2, "total_steps": 10, "budget": 130}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "char_gpt" else name for name in EXAMPLES]
)
def test_example_runs(name: str, tmp_path: Path) -> None:
    task = importlib.import_module(f"examples.{name}").task()
    result = autotune(**task | SMALL, study=tmp_path, mlflow=False)
    assert result.schedule is not None
    assert result.verdict.comparisons


def test_the_gpt_does_not_see_the_future() -> None:
    """A character's logits do not depend on the characters after it, with either place of the norms."""
    import torch

    from examples.char_gpt import CONTEXT, GPT

    for post_norm in (True, False):
        model = GPT(50, post_norm=post_norm).eval()
        tokens = torch.randint(50, (1, CONTEXT))
        changed = tokens.clone()
        changed[0, 40:] = (changed[0, 40:] + 1) % 50
        with torch.no_grad():
            before, after = model(tokens), model(changed)
        assert torch.allclose(before[..., :40], after[..., :40], atol=1e-5)
        assert not torch.allclose(before[..., 40:], after[..., 40:], atol=1e-2)


@pytest.mark.slow
def test_the_night_run_outlives_its_accidents_and_goes_on_where_it_was(tmp_path: Path) -> None:
    from autowarmup import Schedule
    from examples.night_run import train

    schedule = Schedule(peak=2e-3, horizon=120, warmup_steps=30, shape="linear")
    assert train(schedule, tmp_path, accidents=True) < 4.0
    kept = sorted((tmp_path / "snapshots").glob("*.pt"))
    assert len(kept) == 5
    kept[-1].unlink()  # as if the run had been killed before
    assert train(schedule, tmp_path) < 4.0
    steps = [line for line in (tmp_path / "run.jsonl").read_text().splitlines() if '"step"' in line]
    assert 120 < sum('"loss"' in line and '"event"' not in line for line in steps) < 200
