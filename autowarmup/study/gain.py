"""What the gain is made of: the parts of the tuned schedule, each exchanged against that of the current one."""

from __future__ import annotations

from typing import Literal

from autowarmup.schedule.schedule import Schedule
from autowarmup.training.objective import LOSS, Objective
from autowarmup.values import Frozen


class Expected(Frozen):
    """The final loss of a schedule on the search's seed, as far as it is known.

    Args:
        schedule: the schedule, over the runs that the study trains.
        source: ``"run"``: it was trained to its end, or until it became unstable. ``"pairs"``: it was on fresh seeds
            only, and differs from the tuned one by as much as there. ``"forecast"``: it was not; the search's model
            says what to expect. ``"unknown"``: the trials say too little for a forecast.
        loss: the final loss, or the median of the forecast; None where it is unknown or the schedule is unstable.
        low: the lower end of the forecast's central 68%; None for other sources.
        high: its upper end.
        unstable: whether it became unstable; of a forecast, whether a schedule that asks for less did.
    """

    schedule: Schedule
    source: Literal["run", "pairs", "forecast", "unknown"]
    loss: float | None = None
    low: float | None = None
    high: float | None = None
    unstable: bool = False

    def describe(self) -> str:
        """The loss in words.

        >>> plain = Schedule(peak=1e-3, horizon=100)
        >>> Expected(schedule=plain, source="forecast", loss=0.5, low=0.45, high=0.6).describe()
        'about 0.5 (forecast, 0.45 to 0.6)'
        """
        if self.unstable:
            return "unstable" if self.source == "run" else "unstable (expected: a schedule that asks for less was)"
        if self.loss is None:
            return "not known"
        if self.source == "run":
            return f"{self.loss:.4g}"
        if self.source == "pairs":
            return f"about {self.loss:.4g} (by the pairs on fresh seeds)"
        return f"about {self.loss:.4g} (forecast, {self.low:.4g} to {self.high:.4g})"


class Exchange(Frozen):
    """One part of the tuned schedule exchanged against that of the current one.

    Args:
        part: which one: ``"peak"``, ``"warm-up"``, or of it ``"warm-up duration"`` or ``"warm-up shape"``, ``"decay"``,
            ``"groups"``.
        taken: what the current schedule has there, in words.
        expected: the tuned schedule with that.
    """

    part: str
    taken: str
    expected: Expected


class Gain(Frozen):
    """What the difference between the tuned schedule and the current one is made of. All losses are final losses on the
    search's seed, or final values of another metric that is the objective, in its own sign.

    Args:
        tuned: the tuned schedule; in a tie, the best one that was found.
        current: the current one.
        exchanges: the parts in which they differ, each exchanged alone.
        without_warmup: the tuned schedule with no warm-up.
        margin: the smallest difference that matters, as a share of the loss.
        objective: what the schedules are judged by.
    """

    tuned: Expected
    current: Expected
    exchanges: tuple[Exchange, ...]
    without_warmup: Expected
    margin: float
    objective: Objective = LOSS

    def lines(self) -> list[str]:
        """The schedules and the exchanges, one line each."""
        ends = [f"tuned: {self.tuned.describe()}", f"current: {self.current.describe()}"]
        return [
            *ends,
            *(f"tuned with the current {x.part}, {x.taken}: {x.expected.describe()}" for x in self.exchanges),
        ]

    def warmup_needed(self) -> str:
        """The answer to "Do I need a warm-up?", at the tuned peak.

        >>> plain = Schedule(peak=1e-3, horizon=100)
        >>> tuned = Expected(schedule=plain, source="run", loss=0.5)
        >>> bad = Expected(schedule=plain, source="forecast", loss=0.7, low=0.6, high=0.9)
        >>> Gain(tuned=tuned, current=bad, exchanges=(), without_warmup=tuned, margin=0.005).warmup_needed()
        'No: the tuned schedule has none.'
        """
        tuned, without = self.tuned, self.without_warmup
        if not tuned.schedule.duration:
            return "No: the tuned schedule has none."
        at = f"at the tuned peak of {tuned.schedule.peak:.3g}"
        if without.unstable:
            if without.source == "run":
                return f"Yes: {at} the run without a warm-up became unstable."
            return (
                f"Probably: {at} a run without a warm-up is expected to become unstable, since a schedule that asks "
                f"for less did."
            )
        if without.loss is None or tuned.loss is None:
            return f"Not known: too little was trained to say how a run without a warm-up would end {at}."
        worth, more = self.margin * abs(tuned.loss), abs(without.loss - tuned.loss)
        best = self.objective.shown(tuned.loss)
        if without.source == "run":
            if self.objective.shown(without.loss) > best + worth:
                way = "higher" if without.loss > tuned.loss else "lower"
                return f"Yes: {at} the run without a warm-up ended {more:.3g} {way}, at {without.loss:.4g}."
            return (
                f"No: {at} the run without a warm-up ended at {without.loss:.4g}, the one with it at {tuned.loss:.4g}."
            )
        assert without.low is not None
        assert without.high is not None
        answer = "Not clear"
        _, low, high = self.objective.shown_range(without.loss, without.low, without.high)
        if low > best + worth:
            answer = "Probably"
        elif high <= best + worth:
            answer = "Probably not"
        return (
            f"{answer}: {at} a run without a warm-up is expected to end at {without.describe()}, the one with it at "
            f"{tuned.loss:.4g}."
        )
