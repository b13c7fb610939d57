"""What clients and the service send each other: the bodies of requests and of answers, as JSON."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from autowarmup.arguments import current_schedule
from autowarmup.errors import InputError
from autowarmup.instability.monitor import Detectors
from autowarmup.schedule.duration import budget_steps, duration_steps
from autowarmup.schedule.ranges import Rate
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.shapes import Beta2
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.config import MAX_STEPS, Cohort, ConfirmSeeds, Margin, Seed, TuneConfig
from autowarmup.search.trials import TrialSpec
from autowarmup.search.verdict import Verdict
from autowarmup.service.measured import Measured
from autowarmup.service.names import NAME, ClientId, Lease, StudyId, TaskName
from autowarmup.training.objective import LOSS, Objective
from autowarmup.training.trace import Outcome
from autowarmup.values import Frozen, Number, Whole

MOST_STEPS = 10_000
"""Optimizer steps of one report, or of one page of learning rates."""


class StudyRequest(Frozen):
    """What ``PUT /v1/studies/{id}`` takes: what a study tunes. With ``run``, the service trains the trials itself; else
    workers ask for them.

    Args:
        run: the name of one of the operator's task files; the service trains it. Left out, workers do.
        workers: how many trials are expected to run at once, 1 to 1,000. Left out, as many as ask for some. Not with
            ``run``.
        lease_s: seconds without a report after which a worker counts as lost, 5 to 86,400. Not with ``run``.
        total_steps, tune_steps: optimizer steps, or such as ``"5 epochs"``; as for :func:`autowarmup.autotune`.
        budget: optimizer steps, or such as ``"6 runs"``.
        space: a preset's name, or a search space.
        current: today's schedule, or a part of its settings.
        current_peak: the learning rate that is used today; needed without ``run``, if ``current`` doesn't say it.
        seed, groups, beta2, steps_per_epoch, confirm_seeds, margin, cohort, trivial_loss, objective, detectors: as for
            :class:`autowarmup.TuneConfig`.
        task: a description of what is trained, plain values; workers may check it. Not with ``run``.
    """

    run: TaskName | None = None
    workers: Annotated[Whole, Field(ge=1, le=1_000)] | None = None
    lease_s: Annotated[Number, Field(ge=5.0, le=86_400.0)] = 60.0
    total_steps: int | str | None = None
    tune_steps: int | str | None = None
    budget: int | str | None = None
    space: Annotated[str, Field(pattern=NAME)] | SearchSpace = "default"
    seed: Seed = 0
    current: Schedule | dict[str, Any] | None = None
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    current_peak: Rate | None = None
    beta2: Beta2 = 0.999
    steps_per_epoch: Annotated[Whole, Field(ge=1, le=MAX_STEPS)] | None = None
    confirm_seeds: ConfirmSeeds = 4
    margin: Margin = 0.005
    cohort: Cohort | None = None
    trivial_loss: Number | None = None
    objective: Objective = LOSS
    detectors: Detectors = Field(default_factory=Detectors)
    task: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> StudyRequest:
        if self.run is None:
            if self.total_steps is None:
                raise ValueError("total_steps is missing: how many optimizer steps the run takes that is to be tuned")
            self.config()
        else:
            odd = sorted(self.model_fields_set & {"workers", "lease_s", "groups", "beta2", "detectors", "task"})
            if odd:
                raise ValueError(f"{', '.join(odd)} can't be given with run: the task file decides that")
        return self

    def config(self) -> TuneConfig:
        """The configuration of a study whose trials are run by workers.

        Raises:
            InputError: the settings make no study.
        """
        assert self.total_steps is not None
        space = SearchSpace.load(self.space) if isinstance(self.space, str) else self.space
        total = duration_steps(self.total_steps, 0, self.steps_per_epoch)
        tuned = None if self.tune_steps is None else duration_steps(self.tune_steps, total, self.steps_per_epoch)
        peak = self.current_peak
        if peak is None and self.current is not None:
            peak = self.current.peak if isinstance(self.current, Schedule) else self.current.get("peak")
        if peak is None:
            raise InputError("current_peak is missing: the learning rate that is used today")
        return TuneConfig(
            total_steps=total,
            tune_steps=tuned,
            budget=None if self.budget is None else budget_steps(self.budget, tuned or total),
            space=space,
            seed=self.seed,
            current=current_schedule(self.current, total, peak, space, self.steps_per_epoch, self.groups),
            groups=self.groups,
            current_peak=peak,
            beta2=self.beta2,
            confirm_seeds=self.confirm_seeds,
            margin=self.margin,
            cohort=self.cohort,
            steps_per_epoch=self.steps_per_epoch,
            trivial_loss=self.trivial_loss,
            objective=self.objective,
            detectors=self.detectors,
            task=self.task,
        )

    def options(self) -> dict[str, Any]:
        """What is given to a task file's study, by the names of ``autotune``'s arguments."""
        given = self.model_dump(mode="json", include=self.model_fields_set - {"run", "objective"})
        if "objective" in self.model_fields_set:
            given |= {"objective": self.objective.name, "direction": self.objective.direction}
        return given


class SuggestRequest(Frozen):
    """What ``POST .../trials:suggest`` takes.

    Args:
        client_id: the worker's name, its own choice; trials that it has not finished are given to it again.
        count: how many trials it can train at once, 1 to 100.
        wait_s: seconds to wait where there is no trial for it now, 0 to 60.
    """

    client_id: ClientId
    count: Annotated[Whole, Field(ge=1, le=100)] = 1
    wait_s: Annotated[Number, Field(ge=0.0, le=60.0)] = 0.0


class LeasedTrial(Frozen):
    """A trial that a worker is to train, and the lease on it.

    Args:
        spec: the trial: its number, seed and schedule.
        until: the optimizer step to train up to now.
        steps: optimizer steps that have been reported so far. A worker without the trial in memory begins at step 0
            with the same seed; it need not report the steps before this one.
        eval_every: validate after so many steps, and at the horizon.
        lease: names the lease in reports.
        lease_s: seconds without a report after which the trial is given to another worker.
        seq: the number of the last report that was received, 0 where there was none; the next one has the number after.
        checkpoint: the step of the checkpoint of this trial that the service holds; None where it has none.
    """

    spec: TrialSpec
    until: int
    steps: int
    eval_every: int
    lease: Lease
    lease_s: float
    seq: int
    checkpoint: int | None = None


StudyState = Literal["running", "finished", "failed", "cancelled"]
"""``running``: waits for workers or trains. ``failed``: the task's code raised, or the study can't be written; see
``failure``, and resume it when the cause is mended."""


class Suggestion(Frozen):
    """The answer to ``trials:suggest``: trials to train; none where there is nothing to do now.

    Args:
        trials: at most ``count``.
        state: the study's; only a running one will have more trials.
    """

    trials: tuple[LeasedTrial, ...]
    state: StudyState


class Validation(Frozen):
    """A validation.

    Args:
        step: optimizer steps made before it, >= 1.
        val_loss: the validation loss.
        val_loss_ema: the same with averaged weights, where there are some.
        metrics: further validation metrics by name, at most 100.
    """

    step: Annotated[Whole, Field(ge=1, le=MAX_STEPS)]
    val_loss: Measured
    val_loss_ema: Measured = math.nan
    metrics: Annotated[dict[Annotated[str, Field(max_length=200)], Measured], Field(max_length=100)] = Field(
        default_factory=dict
    )


Measurements = Annotated[tuple[Measured, ...], Field(max_length=MOST_STEPS)]


class Report(Frozen):
    """What ``POST .../trials/{n}/reports`` takes: the steps since the last report. Without steps it says that the
    worker is alive.

    Args:
        lease: the trial's lease.
        seq: the report's number, from 1; the same report sent again has the same number, and changes nothing.
        steps: optimizer steps that the trial has made at the end of this report, at most ``until``.
        losses: the training loss of each of the last steps, up to 10,000. Steps that were reported before are skipped.
        grad_norms: the gradient's norm before clipping of each of these steps, where measured.
        lrs: the learning rates that these steps applied; left out, the schedule's. 0 for a step that a loss scaler
            skipped.
        validation: one validation or several among these steps, in their order. That of the last step must come with
            it.
    """

    lease: Lease
    seq: Annotated[Whole, Field(ge=1, lt=2**53)]
    steps: Annotated[Whole, Field(ge=0, le=MAX_STEPS)]
    losses: Measurements = ()
    grad_norms: Measurements | None = None
    lrs: Measurements | None = None
    validation: Validation | Annotated[tuple[Validation, ...], Field(max_length=MOST_STEPS)] = ()

    @model_validator(mode="after")
    def _fits(self) -> Report:
        start = self.steps - len(self.losses)
        if start < 0:
            raise ValueError(f"{len(self.losses)} losses are more than the trial's steps={self.steps}")
        for name, values in (("grad_norms", self.grad_norms), ("lrs", self.lrs)):
            if values is not None and len(values) != len(self.losses):
                raise ValueError(f"{name} must have a value for each of the {len(self.losses)} losses")
        steps = [one.step for one in self.validations]
        if any(not start < step <= self.steps for step in steps) or steps != sorted(set(steps)):
            raise ValueError(f"validations must be in order, after steps {start + 1} to {self.steps}; got {steps[:5]}")
        return self

    @property
    def validations(self) -> tuple[Validation, ...]:
        """All of them."""
        return self.validation if isinstance(self.validation, tuple) else (self.validation,)


class Instruction(Frozen):
    """The answer to a report: what the worker does next.

    Args:
        action: ``go_on`` up to step ``until``; ``pause``: keep the trial if you can, and ask for another one;
            ``stop``: the trial is over.
        until: the optimizer step to train up to.
        steps: optimizer steps of the trial that the service has.
        reason: why, where the trial is stopped.
    """

    action: Literal["go_on", "pause", "stop"]
    until: int
    steps: int
    reason: str | None = None


class Completion(Frozen):
    """What ``POST .../trials/{n}:complete`` takes: the worker has ended a trial before its time, or gives it back.

    Args:
        lease: the trial's lease.
        outcome: ``completed``: it was told to stop or got to its horizon, nothing is left to do. ``failed``: the
            training code raised. ``returned``: another worker may train it.
        reason: for ``failed`` what was raised, such as a traceback; at most 20,000 characters.
    """

    lease: Lease
    outcome: Literal["completed", "failed", "returned"]
    reason: Annotated[str, Field(max_length=20_000)] | None = None


class Best(Frozen):
    """A trial that got to its end, and what it is judged by there, in its own sign."""

    trial: int
    value: float
    schedule: Schedule


class StudySummary(Frozen):
    """How a study stands.

    Args:
        id: its name.
        state: running, finished, failed or cancelled.
        run: the task file that the service trains; None where workers do.
        created_at: seconds since the Unix epoch.
        total_steps, horizon: optimizer steps of the run that the schedule is for, and of the trials. None: unknown yet.
        steps, budget: optimizer steps that were trained and stored, and that may be spent. None: unknown yet.
        runs: ``steps`` in whole runs.
        time_left_s: seconds that the rest of the budget takes at most; None while that is unknown.
        trials: how many there are, by outcome; ``open`` ones have none yet.
        workers: how many workers were heard of within their lease.
        best: the trial with the best value so far, on the search's seed.
        current: the trial of the current schedule on that seed; None before it got to its end.
        verdict: *tuned*, *leaning*, *tie* or *nothing stable*, at the end.
        failure: why it failed.
    """

    id: StudyId
    state: StudyState
    run: str | None
    created_at: float
    total_steps: int | None
    horizon: int | None
    steps: int
    budget: int | None
    runs: float | None
    time_left_s: float | None
    trials: dict[str, int]
    workers: int
    best: Best | None
    current: Best | None
    verdict: str | None
    failure: str | None


class StudyDetails(StudySummary):
    """A study with its request and, for its workers, its configuration."""

    request: StudyRequest
    config: TuneConfig | None


class Studies(Frozen):
    """A page of ``GET /v1/studies``."""

    studies: tuple[StudySummary, ...]
    next_page_token: str | None = None


class TrialSummary(Frozen):
    """A trial in summary.

    Args:
        spec: the trial.
        outcome: how it ended; None while it may go on.
        steps: optimizer steps that it has made.
        value: the last value of what it is judged by, in its own sign; None where there is none or it is not finite.
        instability: the kind of instability that ended it, and where it began.
        error: the last line of the traceback that ended it.
        worker: who trains it now.
    """

    spec: TrialSpec
    outcome: Outcome | None
    steps: int
    value: float | None
    instability: str | None
    error: str | None
    worker: str | None


class Trials(Frozen):
    """A page of ``GET /v1/studies/{id}/trials``."""

    trials: tuple[TrialSummary, ...]
    next_page_token: str | None = None


class RecordedTrace(Frozen):
    """What a trial has recorded, from step ``start`` on, ``losses[i]`` at step ``start + i``."""

    start: int
    lrs: tuple[Measured, ...]
    losses: tuple[Measured, ...]
    grad_norms: tuple[Measured, ...]
    validation: tuple[Validation, ...]


class LearningRates(Frozen):
    """The schedule of a trial: ``rates[i]`` is the learning rate of optimizer step ``start + i``."""

    start: int
    rates: tuple[float, ...]


class VerdictAnswer(Frozen):
    """``GET .../verdict``."""

    verdict: Verdict
    schedule: Schedule | None
    extrapolation: str | None


class Problem(Frozen):
    """An error (RFC 9457, ``application/problem+json``)."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
