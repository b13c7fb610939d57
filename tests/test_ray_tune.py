"""The search in a Ray Tune script of the user's own."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from autowarmup import Schedule, autotune
from autowarmup.errors import InputError
from autowarmup.training.settings import TrainSettings
from autowarmup.training.task import ModelTask
from autowarmup.training.trace import Trace
from tests.cluster import LocalCluster
from tests.tasks import digits, mlp, settings

pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]
"""Ray warns of itself."""


def searcher(**changes: Any) -> Any:
    from autowarmup.ray_tune import WarmupSearcher

    return WarmupSearcher(total_steps=40, current_peak=1e-3, **changes)


def reported(block: Trace) -> dict[str, Any]:
    """A block as a trainable reports it."""
    result: dict[str, Any] = {"step": block.end, "loss": block.loss.tolist(), "grad_norm": block.grad_norm.tolist()}
    for evaluation in block.evaluations:
        result |= {"val_loss": evaluation.val_loss, "val_loss_ema": evaluation.val_loss_ema}
    return result


def test_it_is_the_same_search(tmp_path: Path) -> None:
    """Fed with what the local engine would see, it comes to the same verdict with the same schedules."""
    made = ModelTask(mlp, digits(), settings=TrainSettings(batch_size=64, device="cpu"))
    result = autotune(**settings(study=tmp_path, device="cpu"))
    search = searcher(trivial_loss=made.trivial_loss, beta2=made.beta2, steps_per_epoch=made.steps_per_epoch)
    running: dict[str, Any] = {}
    names = (f"trial-{number}" for number in itertools.count())
    while search.conclusion is None:
        name = next(names)
        if (config := search.suggest(name)) is not None:
            running[name] = made.trial(config["schedule"], config["seed"], 2, None).run(40)
        for name, blocks in running.items():
            while search.is_wanted(name):
                search.observe(name, reported(next(blocks)))
    assert search.suggest("one more") == "FINISHED"
    assert search.conclusion.verdict == result.verdict
    assert len(running) == len(result.records)


def test_a_trial_that_is_run_again_repeats_itself_and_a_gap_is_refused() -> None:
    search = searcher()
    search.suggest("a")
    search.observe("a", {"step": 4, "loss": [2.0, 1.9, 1.8, 1.7]})
    search.observe("a", {"step": 2, "loss": [2.0, 1.9]})
    search.observe("a", {"step": 6, "loss": [1.9, 1.8, 1.7, 1.6]})
    with pytest.raises(InputError, match="a report for steps 9 to 10, but the last one ended at step 6"):
        search.observe("a", {"step": 10, "loss": 1.5})
    assert search.is_wanted("a")
    search.observe("a", {"step": 7, "loss": float("nan")})
    assert search.is_finished("a")


def test_a_trainable_that_ends_by_itself_has_failed() -> None:
    search = searcher()
    search.suggest("a")
    search.on_trial_complete("a", error=True)
    assert search.is_finished("a")
    assert search.suggest("b") is not None


def test_the_current_schedule_is_what_has_to_be_beaten() -> None:
    from autowarmup.ray_tune import WarmupSearcher

    current = Schedule(peak=3e-3, horizon=40, warmup_steps=4, shape="linear")
    search = WarmupSearcher(total_steps=40, current=current, slots=2)
    suggested = [search.suggest(name)["schedule"] for name in ("probe", "current")]
    assert suggested[1] == current
    with pytest.raises(InputError, match="pass current_peak, .* or current, your schedule"):
        WarmupSearcher(total_steps=40)
    with pytest.raises(InputError, match=r"current_peak=0\.1 is not the peak of the current schedule, 0\.003"):
        WarmupSearcher(total_steps=40, current=current, current_peak=0.1)
    with pytest.raises(InputError, match="budget '6 parsecs' is not a number"):
        searcher(budget="6 parsecs")


@pytest.mark.parametrize("slots", [0, -1, 2.0, True, "4"])
def test_slots_are_a_whole_number(slots: Any) -> None:
    with pytest.raises(InputError, match=f"slots={slots!r}: must be a whole number of trials, at least 1"):
        searcher(slots=slots)


def test_it_says_that_it_cannot_be_restored() -> None:
    with pytest.raises(InputError, match="can't be restored"):
        searcher().restore("anywhere")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_finds_a_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from examples.ray_tune import search

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with LocalCluster(nodes=2) as cluster:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        wanted = searcher(slots=2, confirm_seeds=2, budget="12 runs")
        results = search(wanted, str(tmp_path / "storage"))
    assert wanted.conclusion is not None
    assert wanted.conclusion.verdict.kind in {"tuned", "tie", "leaning"}
    assert results.num_errors == 0
    assert results.num_terminated == len(results)
