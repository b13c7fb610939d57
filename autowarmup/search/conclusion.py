"""What a study concludes from the runs of its search and from its pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from autowarmup.search.config import TuneConfig
from autowarmup.search.confirmation import FAR_BEHIND, Challenger, Confirmation, Pair
from autowarmup.search.trial_state import TrialState
from autowarmup.search.verdict import CURRENT, TUNED, Comparison, Interval, Verdict
from autowarmup.training.objective import Objective


def concluded(
    config: TuneConfig,
    current: TrialState,
    challenger: Challenger | None,
    best: TrialState | None,
    confirmation: Confirmation,
) -> Verdict:
    """The verdict of a study.

    Args:
        config: what the study does.
        current: the run of the current schedule on the search's seed.
        challenger: the schedule that met the current one on fresh seeds, or would have; None where none was ahead.
        best: the run of the best schedule that was found, on the search's seed; None where none got to its horizon.
        confirmation: the pairs.
    """
    common = {"margin": config.margin, "searched": None if best is None else best.schedule}
    if challenger is None or confirmation.untried(challenger):
        if current.outcome == "unstable":
            return Verdict(kind="nothing stable", candidate=None, schedule=None, message=_nothing(best), **common)
        return _keep(current, _no_challenger(config, current, best, broke=confirmation.broke), **common)
    pairs = confirmation.pairs(challenger.candidate)
    compared = _comparisons(config.objective, challenger, current, pairs, confirmation)
    standing, posterior = confirmation.standing(challenger), confirmation.posterior(challenger)
    handed_back = {"candidate": challenger.candidate, "schedule": challenger.schedule, "comparisons": compared}
    if standing == "better":
        return Verdict(kind="tuned", message=_shown(config, current, pairs, compared), **handed_back, **common)
    if standing == "undecided" and (posterior is None or posterior.mean < -confirmation.worth(challenger)):
        return Verdict(
            kind="leaning", message=_expected(config, current, challenger, compared), **handed_back, **common
        )
    return _keep(current, _no_better(config, compared), comparisons=compared, **common)


def with_warning(verdict: Verdict, config: TuneConfig, runs: Iterable[TrialState | None]) -> Verdict:
    """The verdict, with a warning where none of the runs learned anything."""
    finals = [run.final_loss for run in runs if run is not None and run.final_loss is not None]
    if not finals or not config.learned_nothing(min(finals)):
        return verdict
    warning = (
        f"No run learned much: the best one ends at a loss of {min(finals):.4g}, and predictions that ignore the input "
        f"have one of {config.trivial_loss:.4g}. Look at the model, its data and its initial weights first."
    )
    return verdict.model_copy(update={"message": f"{verdict.message} {warning}"})


def _keep(current: TrialState, message: str, **found: object) -> Verdict:
    return Verdict.model_validate(
        {
            "kind": "tie",
            "candidate": current.spec.candidate,
            "schedule": current.schedule,
            "message": f"{message} Keep the current one.",
            **found,
        }
    )


def _comparisons(
    objective: Objective,
    challenger: Challenger,
    current: TrialState,
    pairs: Sequence[Pair],
    confirmation: Confirmation,
) -> tuple[Comparison, ...]:
    """The two schedules on the fresh seeds, in the objective's own sign."""
    if not pairs:
        return ()
    posterior = confirmation.posterior(challenger)
    sides = (
        (TUNED, challenger.candidate, challenger.schedule, [pair.challenger for pair in pairs]),
        (CURRENT, current.spec.candidate, current.schedule, [pair.current for pair in pairs]),
    )
    return tuple(
        Comparison(
            candidate=candidate,
            name=name,
            schedule=schedule,
            final_losses=tuple(_shown_final(objective, run) for run in runs),
            unstable=sum(run is not None and run.outcome == "unstable" for run in runs),
            interval=Interval.of(posterior, objective) if posterior and name == CURRENT else None,
        )
        for name, candidate, schedule, runs in sides
    )


def _shown_final(objective: Objective, run: TrialState | None) -> float | None:
    return None if run is None or run.final_loss is None else objective.shown(run.final_loss)


def _nothing(best: TrialState | None) -> str:
    if best is None:
        return "No schedule got to its horizon: all became unstable, the current one too."
    return "No schedule is stable: the current one became unstable, and so did, on fresh seeds, what the search found."


def _no_challenger(config: TuneConfig, current: TrialState, best: TrialState | None, *, broke: bool) -> str:
    if best is None:
        return "No other schedule got to its horizon."
    if broke or best.final_loss is None or current.final_loss is None:
        return "What the search found became unstable on fresh seeds."
    gain = current.final_loss - best.final_loss
    if gain <= 0:
        return "The search has nothing better than the current schedule."
    return (
        f"The best schedule that was found ends {gain:.4g} {config.objective.better} than the current one on the "
        f"search's seed, which favours it. That is within the noise, or less than {config.margin:.2%} of the "
        f"{config.objective.name}, which doesn't matter."
    )


def _shown(config: TuneConfig, current: TrialState, pairs: Sequence[Pair], compared: Sequence[Comparison]) -> str:
    interval, lost = compared[1].interval, compared[1].unstable
    told = []
    if interval is not None and config.objective.shown(interval.mean) < 0.0:
        told.append(f"The tuned schedule beats the current one by {_in_words(config, interval)}.")
    if lost:
        told.append(f"The current schedule became unstable on {_seeds(lost)}, where the tuned one is stable.")
    if current.outcome == "unstable":
        told.append("The current schedule became unstable on the search's seed, where the tuned one is stable.")
    ahead = [pair.ahead_halfway for pair in pairs if pair.difference is None and pair.far_ahead]
    if ahead:
        told.append(
            f"On {_seeds(len(ahead))} the current schedule was {sum(ahead) / len(ahead):.4g} in "
            f"{config.objective.name} behind the tuned one halfway, more than {FAR_BEHIND:g} times as much as their "
            f"difference moves from one evaluation to the next. From there it doesn't catch up, so these runs "
            f"ended there."
        )
    return " ".join(told)


def _expected(config: TuneConfig, current: TrialState, challenger: Challenger, compared: Sequence[Comparison]) -> str:
    if compared and compared[1].interval is not None:
        return (
            f"The tuned schedule is expected to be better than the current one, which is not shown: by "
            f"{_in_words(config, compared[1].interval)}."
        )
    why = (
        "no pairs of runs were asked for" if not config.confirm_seeds else "the budget ended before a pair of runs did"
    )
    by = ""
    if current.final_loss is not None and math.isfinite(challenger.loss):
        ahead = f"{current.final_loss - challenger.loss:.4g} in final {config.objective.name}"
        by = f" by {ahead} on the search's seed, which favours it"
    return f"The tuned schedule is expected to be better than the current one{by}; {why}, so this is not shown."


def _no_better(config: TuneConfig, compared: Sequence[Comparison]) -> str:
    interval = compared[1].interval
    found = "" if interval is None else f", by {_in_words(config, interval)}"
    return (
        f"What the search found is not expected to be better than the current schedule by more than "
        f"{config.margin:.2%} of the {config.objective.name}{found}."
    )


def _in_words(config: TuneConfig, interval: Interval) -> str:
    mean, low, high = config.objective.shown_range(interval.mean, interval.low, interval.high)
    return (
        f"{-mean:.4g} in final {config.objective.name}, {interval.confidence:.0%} interval "
        f"{-high:.4g} to {-low:.4g} over {_seeds(len(interval.differences))}"
    )


def _seeds(count: int) -> str:
    return f"{count} fresh seed{'' if count == 1 else 's'}"
