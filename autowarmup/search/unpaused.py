"""The search where trials can't be paused, as a function of the trials so far.

A tuner such as Optuna runs each trial to its end, or prunes it for good. So a trial at a rung goes on only where it is
what the search would train next. A schedule that was pruned may be chosen again, from its start, at the price of the
whole run. The first proposal comes before the current schedule, so that there is a good schedule early. Everything else
is as in :mod:`autowarmup.search.search`.

Nothing is kept between two decisions. So it makes no difference which process runs which trial, or which of them were
there before.
"""

from __future__ import annotations

from collections.abc import Sequence

from autowarmup.schedule import Schedule
from autowarmup.schedule.ranges import PeakRange
from autowarmup.search.candidates import Candidate, Candidates
from autowarmup.search.config import TuneConfig
from autowarmup.search.confirmation import Confirmation
from autowarmup.search.decisions import Conclusion
from autowarmup.search.exploration import Exploration
from autowarmup.search.prior import Prior
from autowarmup.search.search import Search, Stage
from autowarmup.search.trial_state import TrialState

REPEATED = 2.5
"""Lengths of a run that the search may spend beyond the default budget: steps are repeated where a schedule that was
pruned is chosen again."""


class UnpausedSearch(Search):
    """The next decision of a search.

    Args:
        config: what the search does.
        trials: those so far that didn't fail, numbered from 0. Trials of one schedule have one candidate's number.
        running: those of them that are being trained.
        reading: the peak that the probe tells; None where there is no probe, or it hasn't ended.
        bounds: the peaks that may be searched at all; left out, any.
        slots: how many trials can run at once, >= 1.
        candidates: where schedules come from; left out, the configuration's space.
        prior: what is expected of schedules; left out, what was learned from other tasks.
    """

    _pauses = False

    def __init__(
        self,
        config: TuneConfig,
        trials: Sequence[TrialState],
        running: Sequence[TrialState],
        *,
        reading: float | None = None,
        bounds: PeakRange | None = None,
        slots: int = 1,
        candidates: Candidates | None = None,
        prior: Prior | None = None,
    ) -> None:
        super().__init__(config, candidates, slots, prior)
        if config.budget is None:
            extra = round(REPEATED * config.horizon)
            least, most = self._search_budgets
            self.budget, self._search_budgets = self.budget + extra, (least + extra, most + extra)
        self._trials, self._reading, self._bounds = [*trials], reading, bounds
        self._running = {trial.spec.number: (trial, self._until(trial)) for trial in running}
        self._probe = next((trial for trial in trials if trial.spec.role == "probe"), None)
        self._current = next((trial for trial in trials if trial.spec.role == "baseline"), None)
        self._candidates = max((trial.spec.candidate + 1 for trial in trials), default=0)

    def next_trial(self) -> TrialState | None:
        """The trial to start now; None where what is running decides, or, if nothing is, where the search is over."""
        stage = self._next_stage()
        return None if stage is None else stage[0]

    def any_proposal(self) -> TrialState:
        """A new trial of the next schedule of the space, whatever is expected of it."""
        choice = self._explored_so_far().next_of_pool(self._on_search_seed)
        return self._new(choice.schedule, "proposal", self.config.seed, params=choice.params)

    def goes_on(self, trial: TrialState) -> bool:
        """Whether a trial that is at a rung, and not among those that are running, is trained further."""
        if trial.spec.role == "baseline":
            return True
        stage = self._exploring_stage() if trial.spec.role == "proposal" else self._confirming_stage()
        return stage is not None and stage[0] is trial

    def conclusion(self) -> Conclusion | None:
        """What the trials so far say; None before the run of the current schedule has ended."""
        if self._current is None or self._current.outcome is None:
            return None
        self._explored_so_far()
        return self._conclusion()

    # -- where it differs --

    def _next_stage(self) -> Stage | None:
        probed = not self.config.probe_steps or (self._probe is not None and self._probe.outcome is not None)
        proposed = any(trial.spec.role == "proposal" for trial in self._trials)
        first = self._exploring_stage() if probed and not proposed and self._current is None else None
        return first or super()._next_stage()

    @property
    def _looks(self) -> int:
        return max(1, self.slots - 1)

    def _until(self, trial: TrialState) -> int:
        horizon = trial.spec.schedule.horizon
        exploring = trial.spec.role == "proposal" and trial.end < horizon
        return self.config.rung_after(trial.end) if exploring else horizon

    def _explored_so_far(self) -> Exploration:
        self._exploration = self._exploration or self._begin_exploration()
        return self._exploration

    def _begin_exploration(self) -> Exploration:
        exploration = super()._begin_exploration()
        proposals = [trial for trial in self._on_search_seed if trial.spec.role == "proposal"]
        tried = {trial.schedule for trial in proposals}
        final = {trial.schedule for trial in proposals if trial.outcome != "pruned"}
        pruned = {t.schedule: Candidate(t.schedule, t.spec.params) for t in proposals if t.schedule not in final}
        exploration.leave_out(tried, [*pruned.values()])
        return exploration

    def _expected_peak(self) -> float:
        if self._reading is None:
            return self._source.expected_peak(None, self._prior)
        return self._source.within(self._prior.expected_peak(self.config.current_peak, self._reading))

    def _peak_range(self, expected: float) -> PeakRange:
        found = super()._peak_range(expected)
        if self._bounds is None:
            return found
        low, high = self._bounds.low, self._bounds.high
        return PeakRange(low=min(max(found.low, low), high), high=max(min(found.high, high), low))

    @property
    def _pairs(self) -> Confirmation:
        new = self._confirmation is None
        pairs = super()._pairs
        if new:
            pairs.know(trial for trial in self._trials if trial.spec.role == "confirmation")
        return pairs

    def _next_candidate(self, schedule: Schedule) -> int:
        known = {trial.schedule: trial.spec.candidate for trial in self._trials}
        return known[schedule] if schedule in known else super()._next_candidate(schedule)
