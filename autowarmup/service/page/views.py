"""What a study's page shows, read from the study's store and from the trials under way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from autowarmup.report.uses import Use, uses
from autowarmup.schedule.schedule import Schedule
from autowarmup.search.config import TuneConfig
from autowarmup.search.trials import COMPARED, Role
from autowarmup.search.verdict import Verdict
from autowarmup.service.messages import StudyDetails, TrialSummary
from autowarmup.service.run_messages import RunEntry
from autowarmup.service.studies import Studies
from autowarmup.service.summary import recorded, trial_summary
from autowarmup.study.found import Found, found
from autowarmup.study.standing import in_words
from autowarmup.study.store import StoredTrial, store_if_begun
from autowarmup.training.objective import LOSS, Objective
from autowarmup.training.trace import Outcome, Trace

BEST, CURRENT = "best", "current"
"""What the charts and the table call two of the trials."""

MOST_TOLD = 100
"""Of what guards have told, as many are shown."""


@dataclass(frozen=True)
class TrialView:
    """A trial as the page shows it.

    Args:
        summary: the trial in summary.
        trace: all that it has recorded.
        began: the step at which the instability began that ended it, if any.
    """

    summary: TrialSummary
    trace: Trace
    began: int | None

    @property
    def number(self) -> int:
        return self.summary.spec.number

    @property
    def role(self) -> Role:
        return self.summary.spec.role

    @property
    def schedule(self) -> Schedule:
        return self.summary.spec.schedule

    @property
    def share(self) -> float:
        """The warm-up's share of the run."""
        return self.schedule.duration / self.schedule.horizon

    @property
    def outcome(self) -> Outcome | None:
        return self.summary.outcome

    @property
    def shown_outcome(self) -> str:
        """Its outcome; those that may go on are open."""
        return self.summary.outcome or "open"

    @property
    def outlived(self) -> bool:
        """Whether it is known to be stable: it went on after its warm-up."""
        return self.outcome in ("completed", "pruned") and self.summary.steps > self.schedule.duration

    @property
    def remark(self) -> str:
        """What else there is to say of it."""
        worker = self.summary.worker and f"on {self.summary.worker}"
        return self.summary.instability or self.summary.error or worker or ""

    @property
    def text(self) -> str:
        """One line that says what it is and how it stands."""
        parts = [f"trial {self.number}, {self.shown_outcome}: {in_words(self.schedule)}"]
        if self.summary.value is not None:
            parts.append(f"{self.summary.value:.4g} after {self.summary.steps:,} steps")
        return "; ".join([*parts, self.remark] if self.remark else parts)


@dataclass(frozen=True)
class StudyView:
    """A study as the page shows it.

    Args:
        details: how it stands.
        objective: what its trials are judged by.
        current: the current schedule; None before the study has begun.
        trials: all of them, in order of their numbers.
        steps: optimizer steps that were trained, with those of trials under way.
        verdict: its verdict, once it has one.
        schedule: the schedule to use; None before the verdict, and where nothing was stable.
        extrapolation: what is to be said where it was extrapolated to longer runs.
        mlflow: where MLflow's page shows the study; None where it has none.
        has_report: whether the report is written.
        told: what guards have told of real runs, the latest first.
    """

    details: StudyDetails
    objective: Objective
    current: Schedule | None
    trials: tuple[TrialView, ...]
    steps: int
    verdict: Verdict | None
    schedule: Schedule | None
    extrapolation: str | None
    mlflow: str | None
    has_report: bool
    told: tuple[RunEntry, ...]

    @property
    def horizon(self) -> int | None:
        return self.details.horizon

    @property
    def uses(self) -> list[Use]:
        """The schedule for every framework."""
        return [] if self.schedule is None else _uses(self.schedule)

    @property
    def gain(self) -> float | None:
        """By how much the best is better than the current one, as a share of that; None where that is unknown."""
        best, current = self.details.best, self.details.current
        if best is None or current is None or current.value == 0.0:
            return None
        return abs(best.value - current.value) / abs(current.value)

    @property
    def best_trial(self) -> TrialView | None:
        """The best of the trials that got to their end, on the search's seed."""
        best = self.details.best
        return None if best is None else next(trial for trial in self.trials if trial.number == best.trial)

    @property
    def current_trial(self) -> TrialView | None:
        """The trial of the current schedule on the search's seed, however it ended."""
        return next((t for t in self.trials if t.role in COMPARED and t.schedule == self.current), None)

    def name_of(self, trial: TrialView) -> str:
        """What a trial is called beside its number; an empty text for most."""
        if trial is self.current_trial:
            return CURRENT
        return BEST if trial is self.best_trial else ""


def view(studies: Studies, name: str) -> StudyView:
    """A study as the page shows it.

    Raises:
        UnknownStudyError: there is none of that name.
        StudyError: its store can't be read.
    """
    details, study, live = studies.details(name), studies.study(name), studies.live(name)
    trials: list[StoredTrial] = []
    config: TuneConfig | None = None
    result: Found | None = None
    remembered = None
    with store_if_begun(study.folder) as store:
        if store is not None:
            trials, remembered, stored = store.trials(), store.meta("mlflow"), store.meta("config")
            config = None if stored is None else TuneConfig.model_validate(stored)
            result = found(store)
    return StudyView(
        details=details,
        objective=LOSS if config is None else config.objective,
        current=None if config is None else config.current_schedule,
        trials=tuple(_trial(trial, live, studies.worker_of(name, trial.spec.number)) for trial in trials),
        steps=details.steps + sum(map(len, live.values())),
        verdict=None if result is None else result.verdict,
        schedule=None if result is None else result.schedule,
        extrapolation=None if result is None else result.extrapolation,
        mlflow=study.kept.mlflow or _server(remembered),
        has_report=(study.folder / "report.html").is_file(),
        told=tuple(reversed(study.runs.entries[-MOST_TOLD:])),
    )


def settings_of(details: StudyDetails) -> str:
    """What a study was asked to do, as JSON."""
    return (details.config or details.request).model_dump_json(indent=2, exclude_defaults=True)


def _trial(stored: StoredTrial, live: Mapping[int, Trace], worker: str | None) -> TrialView:
    trace, instability = recorded(stored, live.get(stored.spec.number)), stored.instability
    return TrialView(trial_summary(stored, trace, worker), trace, instability.step if instability else None)


@lru_cache(maxsize=32)
def _uses(schedule: Schedule) -> list[Use]:
    return uses(schedule)


def _server(remembered: str | None) -> str | None:
    """The server whose page has the study, where that is one."""
    return remembered if remembered is not None and remembered.startswith(("http://", "https://")) else None
