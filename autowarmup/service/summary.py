"""How a study stands, and its trials, as the service tells them."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autowarmup.search.config import TuneConfig
from autowarmup.search.trials import COMPARED
from autowarmup.service.hosted import HostedStudy
from autowarmup.service.messages import Best, StudySummary, TrialSummary
from autowarmup.study.folder import STORE
from autowarmup.study.standing import last_line
from autowarmup.study.store import StoredTrial, store_if_begun
from autowarmup.training.trace import Trace


@dataclass(frozen=True)
class Stored:
    """What the store says of a study.

    Args:
        config: total steps, and horizon.
        steps, seconds: that its trials were trained.
        budget: optimizer steps that it may spend.
        trials: how many there are, by outcome.
        best: the best on the search's seed.
        current: the trial of the current schedule on it.
        verdict: its kind.
    """

    total_steps: int | None = None
    horizon: int | None = None
    steps: int = 0
    seconds: float = 0.0
    budget: int | None = None
    trials: dict[str, int] = field(default_factory=dict)
    best: Best | None = None
    current: Best | None = None
    verdict: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Stored:
        """What is in the store now; nothing where there is none yet."""
        with store_if_begun(folder) as store:
            if store is None:
                return cls()
            trials, config, verdict = store.trials(), store.meta("config") or {}, store.meta("verdict")
            return cls(
                total_steps=config.get("total_steps"),
                horizon=config.get("tune_steps") or config.get("total_steps"),
                steps=sum(len(trial.trace) for trial in trials),
                seconds=sum(trial.seconds for trial in trials),
                budget=store.meta("budget"),
                trials=dict(Counter(trial.outcome or "open" for trial in trials)),
                best=_best(trials),
                current=_current(trials, config),
                verdict=verdict and verdict["kind"],
            )


class Summaries:
    """Summaries of studies; a study's store is read again only where it has changed."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[object, Stored]] = {}

    def of(self, study: HostedStudy) -> StudySummary:
        """How a study stands.

        Raises:
            StudyError: its store can't be read.
        """
        stored = self._stored(study.folder)
        workers = study.engine.workers() if study.engine is not None and study.state == "running" else 0
        return StudySummary(
            id=study.id,
            state=study.state,
            run=study.kept.request.run,
            created_at=study.kept.created_at,
            total_steps=stored.total_steps,
            horizon=stored.horizon,
            steps=stored.steps,
            budget=stored.budget,
            runs=stored.steps / stored.horizon if stored.horizon else None,
            time_left_s=_time_left(stored, max(1, workers)) if study.state == "running" else None,
            trials=stored.trials,
            workers=workers,
            best=stored.best,
            current=stored.current,
            verdict=stored.verdict,
            failure=study.failure,
        )

    def _stored(self, folder: Path) -> Stored:
        state = store_state(folder)
        known = self._read.get(folder.name)
        if known is None or known[0] != state:
            known = self._read[folder.name] = (state, Stored.read(folder))
        return known[1]


def recorded(trial: StoredTrial, live: Trace | None) -> Trace:
    """All that a trial has recorded.

    Args:
        trial: as it is stored.
        live: what was recorded beyond that. Where a segment was stored between the two looks, it doesn't fit, and what
            is stored counts alone.
    """
    stored = trial.trace
    return stored if live is None or live.start != stored.end else Trace.join([stored, live])


def trial_summary(trial: StoredTrial, trace: Trace, worker: str | None) -> TrialSummary:
    """A trial in summary.

    Args:
        trial: as it is stored.
        trace: all that it has recorded.
        worker: who trains it now.
    """
    last = trace.evaluations[-1] if trace.evaluations else None
    value = trial.objective.shown(trial.objective.of(last)) if last else math.nan
    return TrialSummary(
        spec=trial.spec,
        outcome=trial.outcome,
        steps=len(trace),
        value=value if math.isfinite(value) else None,
        instability=trial.instability and f"{trial.instability.kind} at step {trial.instability.step}",
        error=trial.error and last_line(trial.error),
        worker=worker,
    )


def _best(trials: list[StoredTrial]) -> Best | None:
    return min(filter(None, map(_compared, trials)), key=lambda pair: pair[0], default=(math.inf, None))[1]


def _current(trials: list[StoredTrial], config: dict[str, Any]) -> Best | None:
    schedule = TuneConfig.model_validate(config).current_schedule if config else None
    found = [pair[1] for trial in trials if trial.spec.schedule == schedule and (pair := _compared(trial))]
    return found[0] if found else None


def _compared(trial: StoredTrial) -> tuple[float, Best] | None:
    """A trial on the search's seed with its final loss, lower being better; None where it has none that is finite."""
    loss = trial.final_loss
    if trial.spec.role not in COMPARED or loss is None or not math.isfinite(loss):
        return None
    return loss, Best(trial=trial.spec.number, value=trial.objective.shown(loss), schedule=trial.spec.schedule)


def _time_left(stored: Stored, slots: int) -> float | None:
    if not stored.steps or stored.budget is None:
        return None
    return stored.seconds / stored.steps * max(0, stored.budget - stored.steps) / slots


def store_state(folder: Path) -> tuple[object, ...] | None:
    """Changes whenever a study's store does; None where there is none yet."""
    parts = [_state(folder / name) for name in (STORE, f"{STORE}-wal")]
    return tuple(parts) if parts[0] else None


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size
