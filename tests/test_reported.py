"""Trials by what is reported of them."""

from __future__ import annotations

import numpy as np

from autowarmup.engines.base import MonitorSettings
from autowarmup.reported import MOST_PARTS, ReportedTrial
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.config import TuneConfig
from autowarmup.search.trials import TrialSpec
from autowarmup.training.trace import Evaluation, Trace


def test_many_small_reports_are_put_together_and_nothing_is_lost() -> None:
    config = TuneConfig(total_steps=10_000, current_peak=0.001, space=SearchSpace.load("default"))
    spec = TrialSpec(number=0, candidate=0, role="baseline", seed=0, schedule=config.current_schedule)
    losses = 2.0 - np.arange(3_000) / 3_000.0
    trial, most = ReportedTrial(spec, MonitorSettings.of(config)), 0
    for start in range(0, 3_000, 10):
        loss = losses[start : start + 10]
        trial.add(Trace(np.full(10, 0.001), loss, np.ones(10), (Evaluation(start + 10, loss[-1], 1.0),), start))
        trial.pack()
        most = max(most, len(trial.parts))
    assert most == MOST_PARTS
    trace = trial.end_segment(3_000).trace
    assert trace.loss.tolist() == losses.tolist()
    assert [evaluation.step for evaluation in trace.evaluations] == list(range(10, 3_001, 10))
