"""Makes a study's :class:`autowarmup.study.gain.Gain`: by its trials, and for what they leave open by a forecast."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from autowarmup.schedule.decays import ConstantDecay
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.shapes import WITHOUT_WARMUP, NoWarmup, Rule
from autowarmup.search.candidates import harsher
from autowarmup.study.forecast import Forecast, Traces, current_by_pairs, searched
from autowarmup.study.gain import Exchange, Expected, Gain
from autowarmup.study.result import TuneResult


def gain_of(result: TuneResult, traces: Traces) -> Gain | None:
    """What the difference between the schedule that a study found and the current one is made of; None where it found
    none other.

    Args:
        result: what the study found.
        traces: each trial's trace by its number.
    """
    verdict, current = result.verdict, result.config.current_schedule
    tuned = verdict.schedule if verdict.kind in ("tuned", "leaning") else verdict.searched
    if tuned is None or tuned == current:
        return None
    forecast = Forecast.of(result, traces)
    return Gain(
        tuned=_expected(tuned, result, forecast),
        current=_current(current, result, traces, forecast),
        exchanges=tuple(
            Exchange(part=part, taken=taken, expected=_expected(schedule, result, forecast))
            for part, taken, schedule in exchanged(tuned, current)
        ),
        without_warmup=_expected(tuned.rewarmed(**WITHOUT_WARMUP), result, forecast),
        margin=verdict.margin,
        objective=result.config.objective,
    )


def exchanged(tuned: Schedule, current: Schedule) -> Iterator[tuple[str, str, Schedule]]:
    """The parts in which two schedules differ: each with its name, what ``current`` has there, and ``tuned`` with that.
    Durations and shapes are parts of their own where both schedules have a warm-up whose duration can be chosen."""
    if current.peak != tuned.peak:
        yield "peak", f"{current.peak:.3g}", _changed(tuned, peak=current.peak)
    shape = {"shape": current.shape, "start_factor": current.start_factor}
    if any(isinstance(schedule.shape, NoWarmup | Rule) for schedule in (tuned, current)):
        if current.shape != tuned.shape:
            warmup = shape | {"warmup_steps": current.warmup_steps}
            yield "warm-up", _warmup_in_words(current), tuned.rewarmed(**warmup)
    else:
        if current.warmup_steps != tuned.warmup_steps:
            longer = tuned.rewarmed(warmup_steps=current.warmup_steps)
            yield "warm-up duration", f"{current.duration:,} steps", longer
        if (current.shape, current.start_factor) != (tuned.shape, tuned.start_factor):
            yield "warm-up shape", current.shape.kind, tuned.rewarmed(**shape)
    decay = {"decay": current.decay, "final_factor": current.final_factor}
    if decay != {"decay": tuned.decay, "final_factor": tuned.final_factor}:
        ends = "" if isinstance(current.decay, ConstantDecay) else f" to {current.lr_at(current.horizon):.3g}"
        yield "decay", f"{current.decay.kind}{ends}", _changed(tuned, **decay)

    if current.groups != tuned.groups:
        words = ", ".join(group.describe() for group in current.groups) or "one curve for all"
        yield "groups", words, _changed(tuned, groups=current.groups)


def _warmup_in_words(schedule: Schedule) -> str:
    return f"{schedule.shape.kind} over {schedule.duration:,} steps" if schedule.duration else "none"


def _changed(schedule: Schedule, **settings: Any) -> Schedule:
    return schedule.model_copy(update=settings)


def _current(schedule: Schedule, result: TuneResult, traces: Traces, forecast: Forecast | None) -> Expected:
    by_pairs = dict(current_by_pairs(result, traces))
    if (loss := by_pairs.get(schedule.horizon)) is not None:
        return Expected(schedule=schedule, source="pairs", loss=result.config.objective.shown(loss))
    return _expected(schedule, result, forecast)


def _expected(schedule: Schedule, result: TuneResult, forecast: Forecast | None) -> Expected:
    """What is known of a schedule's final loss on the search's seed."""
    trials = searched(result)
    for record in trials:
        if record.schedule == schedule and record.final_loss is not None:
            return Expected(schedule=schedule, source="run", loss=record.final_loss)
        if record.schedule == schedule and record.outcome == "unstable":
            return Expected(schedule=schedule, source="run", unstable=True)
    if any(record.outcome == "unstable" and harsher(schedule, record.schedule) for record in trials):
        return Expected(schedule=schedule, source="forecast", unstable=True)
    if forecast is not None:
        losses = forecast.losses([schedule])
        loss, low, high = (float(part[0]) for part in (losses.median, losses.low, losses.high))
        if all(map(math.isfinite, (loss, low, high))):
            loss, low, high = result.config.objective.shown_range(loss, low, high)
            return Expected(schedule=schedule, source="forecast", loss=loss, low=low, high=high)
    return Expected(schedule=schedule, source="unknown")
