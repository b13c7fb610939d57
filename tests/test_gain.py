"""What the gain is made of, for small studies that are really trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from autowarmup import Schedule, TuneResult, autotune
from autowarmup.engines.base import MonitorSettings, Segment
from autowarmup.engines.local import LocalEngine
from autowarmup.search.trials import TrialSpec
from autowarmup.study.exchanges import exchanged, gain_of
from autowarmup.study.gain import Expected, Gain
from autowarmup.training.objective import LOSS
from autowarmup.training.settings import TrainSettings
from autowarmup.training.task import ModelTask
from autowarmup.training.trace import Trace
from tests.tasks import digits, mlp, settings

PLAIN = Schedule(peak=1e-3, horizon=40)
WARM = Schedule(peak=1e-2, horizon=40, warmup_steps=8, shape="linear", decay="linear")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    return autotune(**settings(study=tmp_path_factory.mktemp("gain")))


@pytest.fixture(scope="module")
def harsh(tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    """The current schedule has a peak that is far too high, and yet gets to its end."""
    current = Schedule(peak=1.0, horizon=40)
    return autotune(**settings(study=tmp_path_factory.mktemp("harsh"), current=current))


def trained(schedule: Schedule, result: TuneResult, folder: Path) -> float:
    """The final loss of a schedule on the search's seed, by training it."""
    task = ModelTask(mlp, digits(), settings=TrainSettings(batch_size=64))
    engine = LocalEngine(task, folder, MonitorSettings.of(result.config))
    spec = TrialSpec(number=0, candidate=0, role="proposal", seed=result.config.seed, schedule=schedule)
    engine.start(Segment(spec, schedule.horizon, Trace.empty()))
    loss = LOSS.final(engine.wait(lambda *_: None).trace)
    assert loss is not None
    return loss


def test_each_exchange_changes_one_part_of_the_tuned_schedule(result: TuneResult) -> None:
    gain, current = result.gain, result.config.current_schedule
    assert gain is not None
    assert gain.tuned.schedule == result.verdict.schedule
    assert gain.current.schedule == current
    tuned = gain.tuned.schedule
    assert [exchange.part for exchange in gain.exchanges] == ["peak", "warm-up"]
    peak, warmup = (exchange.expected.schedule for exchange in gain.exchanges)
    assert peak == tuned.model_copy(update={"peak": current.peak})
    assert warmup == Schedule(peak=tuned.peak, horizon=40) == gain.without_warmup.schedule


def test_losses_are_those_of_the_runs_or_said_to_be_forecast(result: TuneResult, tmp_path: Path) -> None:
    gain = result.gain
    assert gain is not None
    finals = {record.schedule: record.final_loss for record in result.records if record.role == "proposal"}
    assert gain.tuned.source == "run"
    assert gain.tuned.loss == finals[gain.tuned.schedule]
    for exchange in gain.exchanges:
        expected = exchange.expected
        assert expected.source == "forecast"
        assert "forecast" in expected.describe()
        assert expected.low is not None
        assert expected.loss is not None
        assert expected.high is not None
        assert expected.low < expected.loss < expected.high
    peak, warmup = (exchange.expected for exchange in gain.exchanges)
    truths = [trained(each.schedule, result, tmp_path) for each in (peak, warmup)]
    assert truths[0] > truths[1]
    assert peak.loss > warmup.loss  # type: ignore[operator]


def traces_of(result: TuneResult) -> dict[int, Trace]:
    return {record.number: result.trace(record.number) for record in result.records}


def test_the_forecast_of_a_current_schedule_that_was_stopped_is_near_its_run(
    result: TuneResult, tmp_path: Path
) -> None:
    current = next(record for record in result.records if record.role == "baseline")
    assert current.outcome == "pruned"
    assert result.gain is not None
    assert result.gain.current.source == "forecast"
    assert result.gain.current.loss == pytest.approx(trained(current.schedule, result, tmp_path), rel=0.2)


def test_a_current_schedule_that_ended_on_fresh_seeds_only_is_known_by_the_pairs(harsh: TuneResult) -> None:
    known, traces = harsh.gain, traces_of(harsh)
    assert known is not None
    assert known.current.source == "run"
    number = next(record.number for record in harsh.records if record.role == "baseline")
    stopped = {"outcome": "pruned", "steps": 10, "final_loss": None}
    records = tuple(r.model_copy(update=stopped) if r.number == number else r for r in harsh.records)
    whole = traces[number]
    early = tuple(evaluation for evaluation in whole.evaluations if evaluation.step <= 10)
    traces[number] = Trace(whole.lr[:10], whole.loss[:10], whole.grad_norm[:10], early)
    gain = gain_of(harsh.model_copy(update={"records": records}), traces)
    assert gain is not None
    assert gain.current.source == "pairs"
    assert "by the pairs on fresh seeds" in gain.current.describe()
    assert gain.current.loss == pytest.approx(known.current.loss, rel=0.3)


def test_the_summary_says_it_in_a_few_lines(result: TuneResult) -> None:
    gain = result.gain
    assert gain is not None
    lines = result.summary().splitlines()
    assert sum("tuned with the current" in line for line in lines) == 2
    assert f"do you need a warm-up? {gain.warmup_needed()}" in lines


def test_the_gain_is_kept_with_the_result(result: TuneResult) -> None:
    assert TuneResult.load(result.study).gain == result.gain


def test_a_run_without_a_warmup_at_the_tuned_peak_answers_by_itself(tmp_path: Path) -> None:
    space = {"peak": 1.0, "shapes": ["linear"], "warmup": {"low": "20%", "high": "50%"}}
    result = autotune(**settings(study=tmp_path, space=space, current_peak=1.0))
    gain = result.gain
    assert gain is not None
    assert [exchange.part for exchange in gain.exchanges] == ["warm-up"]
    assert gain.without_warmup == gain.current
    assert gain.current.source == "run"
    assert gain.warmup_needed().startswith(("Yes: ", "No: "))
    assert f"{gain.current.loss:.4g}" in gain.warmup_needed()


@pytest.mark.parametrize(
    ("current", "parts"),
    [
        (WARM, []),
        (WARM.model_copy(update={"peak": 1e-3}), ["peak"]),
        (WARM.model_copy(update={"warmup_steps": 4}), ["warm-up duration"]),
        (Schedule(peak=1e-2, horizon=40, warmup_steps=8, shape="cosine", decay="linear"), ["warm-up shape"]),
        (Schedule(peak=1e-2, horizon=40, warmup_steps=8, shape="linear", decay="cosine"), ["decay"]),
        (Schedule(peak=1e-2, horizon=40, decay="linear"), ["warm-up"]),
        (Schedule(peak=1e-2, horizon=40, shape="untuned-linear", decay="linear"), ["warm-up"]),
        (PLAIN, ["peak", "warm-up", "decay"]),
    ],
)
def test_the_parts_in_which_two_schedules_differ(current: Schedule, parts: list[str]) -> None:
    for tuned, other in ((WARM, current), (current, WARM)):
        assert [part for part, _, _ in exchanged(tuned, other)] == parts
    if len(parts) == 1:
        assert [schedule for _, _, schedule in exchanged(WARM, current)] == [current]


def expected(source: str, **known: float | bool) -> Expected:
    return Expected.model_validate({"schedule": PLAIN, "source": source} | known)


@pytest.mark.parametrize(
    ("without", "answer"),
    [
        (expected("run", loss=0.6), "Yes: "),
        (expected("run", loss=0.501), "No: "),
        (expected("run", loss=0.4), "No: "),
        (expected("run", unstable=True), "Yes: "),
        (expected("forecast", unstable=True), "Probably: "),
        (expected("forecast", loss=0.6, low=0.55, high=0.7), "Probably: "),
        (expected("forecast", loss=0.6, low=0.4, high=0.7), "Not clear: "),
        (expected("forecast", loss=0.45, low=0.4, high=0.5), "Probably not: "),
        (expected("unknown"), "Not known: "),
    ],
)
def test_whether_a_warmup_is_needed(without: Expected, answer: str) -> None:
    tuned = Expected(schedule=WARM, source="run", loss=0.5)
    gain = Gain(tuned=tuned, current=without, exchanges=(), without_warmup=without, margin=0.005)
    assert gain.warmup_needed().startswith(answer)
