"""Plays a tuner's trials on an objective, as many at once as there are slots."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

from benchmarks.search.objective import Objective, Plan
from benchmarks.search.slots import Slots

Method = Callable[[Objective, int], None]
Trial = Generator[tuple[Plan, int], float, None]
"""A trial as a tuner plays it: yields a plan and the evaluation to train it to (counted from 1), and is sent the raw
validation loss there, NaN where the training broke."""

PROPOSALS = 1000
"""Trials that a method may start; more than any budget here allows, unless the grid is small."""


def play(objective: Objective, start: Callable[[int], Trial]) -> None:
    """Runs a tuner's trials, as many at once as there are slots.

    Args:
        objective: is trained.
        start: the trial of that number.

    Raises:
        BudgetSpent: sooner or later.
    """
    slots: Slots[tuple[Trial, float]] = objective.slots
    numbers = iter(range(PROPOSALS))
    running = 0

    def go_on(trial: Trial, wanted: tuple[Plan, int]) -> None:
        loss = validation(objective, *wanted)
        slots.start((trial, loss), objective.end(objective.schedule(wanted[0])))

    while True:
        while slots.free and (number := next(numbers, None)) is not None:
            trial = start(number)
            go_on(trial, next(trial))
            running += 1
        if not running:
            return
        trial, loss = slots.wait()
        try:
            go_on(trial, trial.send(loss))
        except StopIteration:
            running -= 1


def validation(objective: Objective, plan: Plan, evaluation: int) -> float:
    """Trains on to an evaluation (counted from 1); its raw validation loss, NaN where the training broke."""
    until = min(evaluation * objective.eval_every, objective.horizon)
    trace = objective.train(objective.schedule(plan), until)
    if trace.end < until or not trace.evaluations or not math.isfinite(trace.loss[-1]):
        return math.nan
    loss = trace.evaluations[-1].val_loss
    return loss if math.isfinite(loss) else math.nan


def last_evaluation(objective: Objective) -> int:
    """The number of evaluations of a run: 20."""
    return math.ceil(objective.horizon / objective.eval_every)
