"""What a study found: the verdict, the schedule, every trial and the cost."""

from __future__ import annotations

import math
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import ValidationError

from autowarmup.errors import InputError
from autowarmup.instability.instability import Instability
from autowarmup.schedule.extrapolation import Extrapolation, extrapolated
from autowarmup.schedule.ranges import PeakRange
from autowarmup.schedule.schedule import Schedule
from autowarmup.search.config import TuneConfig
from autowarmup.search.trials import Role
from autowarmup.search.verdict import Verdict
from autowarmup.study.folder import write_file
from autowarmup.study.gain import Gain
from autowarmup.study.store import StoredTrial, StudyStore
from autowarmup.study.weights import TRAINED
from autowarmup.training.trace import Outcome, Trace
from autowarmup.values import Frozen, explain

if TYPE_CHECKING:
    import optuna
    import pandas as pd

SAME_UNDER_ALL_SEEDS = (
    "runs of one schedule have the very same loss under all seeds: the training seems to ignore its seed. Fresh "
    "seeds then repeat the same run, and say nothing about how far the result can be trusted"
)


class TrialRecord(Frozen):
    """A trial in summary, without its trace.

    Args:
        number: the trial's number in its study, from 0.
        candidate: the number of its schedule in the study.
        role: why it ran.
        seed: its seed.
        schedule: the schedule that it trained with; where its warm-up adapted, the nearest one.
        adapts: whether its warm-up adapted.
        outcome: how it ended.
        steps: optimizer steps that it trained.
        val_loss: its last validation loss with the raw weights; None where there is none, or it is not finite.
        val_loss_ema: the same with averaged weights.
        value: the last value of what it is judged by, with the raw weights, in its own sign; None as for ``val_loss``.
        early_loss: its training loss after a quarter of its schedule; None where it didn't get there or isn't finite.
        final_loss: what it is judged by, in its own sign; None where it didn't get to its end, or it is not finite.
        validated: whether that is a validation loss; where a loop didn't validate at its end it is the training loss.
        instability: the instability that ended it, if any.
        events: instabilities that didn't end it, such as spikes that recovered.
        error: the traceback that ended it, if any.
        seconds: how long it trained.
    """

    number: int
    candidate: int
    role: Role
    seed: int
    schedule: Schedule
    adapts: bool = False
    outcome: Outcome
    steps: int
    val_loss: float | None
    val_loss_ema: float | None
    value: float | None
    early_loss: float | None
    final_loss: float | None
    validated: bool
    instability: Instability | None
    events: tuple[Instability, ...]
    error: str | None
    seconds: float

    @classmethod
    def of(cls, trial: StoredTrial) -> Self:
        """The summary of a stored trial."""
        last = trial.trace.evaluations[-1] if trial.trace.evaluations else None
        early = trial.trace.loss[max(0, trial.spec.schedule.horizon // 4 - 1) :]
        return cls(
            number=trial.spec.number,
            candidate=trial.spec.candidate,
            role=trial.spec.role,
            seed=trial.spec.seed,
            schedule=trial.spec.schedule,
            adapts=trial.spec.climb is not None,
            outcome=trial.outcome or "pruned",
            steps=len(trial.trace),
            val_loss=_finite(last.val_loss) if last else None,
            val_loss_ema=_finite(last.val_loss_ema) if last else None,
            value=_finite(trial.objective.shown(trial.objective.of(last))) if last else None,
            early_loss=_finite(float(early[0])) if len(early) else None,
            final_loss=None if trial.final_loss is None else _finite(trial.objective.shown(trial.final_loss)),
            validated=trial.trace.final_evaluation is not None,
            instability=trial.instability,
            events=trial.events,
            error=trial.error,
            seconds=trial.seconds,
        )


class Cost(Frozen):
    """What a study has cost.

    Args:
        steps: optimizer steps of all trials.
        runs: the same in whole runs, that is, divided by the horizon.
        seconds: seconds of training, summed over trials.
        unstable_steps: optimizer steps of the trials that became unstable.
    """

    steps: int
    runs: float
    seconds: float
    unstable_steps: int

    @property
    def unstable_share(self) -> float:
        """The share of the steps that went into unstable trials, 0 to 1."""
        return self.unstable_steps / self.steps if self.steps else 0.0


class TuneResult(Frozen):
    """The result of a study.

    Args:
        verdict: *tuned*, *leaning*, *tie*, *nothing stable* or *not compared*, with the paired comparisons behind it.
        records: all trials in summary, in order of their numbers.
        peak_range: the range of peaks that was searched, as given or as measured by the probe.
        config: the study's configuration.
        budget: optimizer steps that the study could spend.
        study: the absolute path of the study's folder.
        gain: what the difference between the schedule that was found and the current one is made of; None where none
            other was found.
    """

    verdict: Verdict
    records: tuple[TrialRecord, ...]
    peak_range: PeakRange | None
    config: TuneConfig
    budget: int
    study: str
    gain: Gain | None = None

    @property
    def schedule(self) -> Schedule | None:
        """The schedule to use, over ``config.total_steps`` steps; None where nothing was stable. Where the study
        trained shorter runs, it is extrapolated."""
        return self.extrapolation.schedule if self.extrapolation else self.verdict.schedule

    @property
    def extrapolation(self) -> Extrapolation | None:
        """How the schedule was extrapolated from ``tune_steps`` to ``total_steps``; None where it was not."""
        tuned, config = self.verdict.schedule, self.config
        if tuned is None or config.horizon == config.total_steps:
            return None
        return extrapolated(tuned, config.total_steps)

    @property
    def trained(self) -> Path | None:
        """The trained model of a study in one run: a file for ``torch.load``, with the model's state dict as
        ``"model"``. None where there is none, as with a training loop of your own."""
        file = Path(self.study) / TRAINED
        return file if file.exists() else None

    @property
    def cost(self) -> Cost:
        """What the study has cost."""
        steps = sum(record.steps for record in self.records)
        return Cost(
            steps=steps,
            runs=steps / self.config.horizon,
            seconds=sum(record.seconds for record in self.records),
            unstable_steps=sum(record.steps for record in self.records if record.outcome == "unstable"),
        )

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A table with one row for each trial: its schedule, its outcome, its losses, its last value of the
        objective, and where an instability began. The index is the trial's number."""
        import pandas as pd

        rows = []
        for record in self.records:
            schedule, found = record.schedule, record.instability
            rows.append(
                {
                    "number": record.number,
                    "candidate": record.candidate,
                    "role": record.role,
                    "seed": record.seed,
                    "outcome": record.outcome,
                    "peak": schedule.peak,
                    "shape": schedule.shape.kind,
                    "warmup_steps": schedule.duration,
                    "decay": schedule.decay.kind,
                    **({"groups": schedule.treatment} if self.config.groups else {}),
                    "steps": record.steps,
                    "val_loss": record.val_loss,
                    "val_loss_ema": record.val_loss_ema,
                    "value": record.value,
                    "instability": found.kind if found else None,
                    "instability_step": found.step if found else None,
                    "instability_lr": found.lr if found else None,
                    "spikes": sum(event.kind == "spike" for event in record.events),
                    "seconds": record.seconds,
                }
            )
        return pd.DataFrame(rows).set_index("number")

    def optuna_study(self) -> optuna.Study:
        """The study's trials as an Optuna study in memory, for Optuna's visualisations and samplers; see
        :func:`autowarmup.study.optuna_study.optuna_study` for how they are mapped."""
        from autowarmup.study.optuna_study import optuna_study

        assert self.peak_range is not None
        with closing(StudyStore(Path(self.study))) as store:
            return optuna_study(self.config, self.peak_range, store.trials())

    def trace(self, number: int) -> Trace:
        """The trace of trial ``number``, read from the study's folder."""
        with closing(StudyStore(Path(self.study))) as store:
            return store.trial(number).trace

    def summary(self) -> str:
        """The findings in a few lines, for a terminal."""
        lines = [f"verdict: {self.verdict.kind}. {self.verdict.message}"]
        if self.schedule:
            lines.append(f"schedule: {self.schedule.describe()}")
        if self.extrapolation:
            lines.append(f"  {self.extrapolation.describe()}")
        if self.verdict.kind == "tie" and self.verdict.searched:
            lines.append(f"best that was found: {self.verdict.searched.describe()}")
        for comparison in self.verdict.comparisons:
            if not comparison.losses:
                lines.append(f"  {comparison.name}: not trained to the end on fresh seeds")
                continue
            difference = ""
            if interval := comparison.interval:
                difference = f"; tuned minus this: {interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
            lines.append(f"  {comparison.name}: final {self.judged_by} {', '.join(comparison.ends)}{difference}")
        if self.gain:
            lines.append(f"what the difference is made of (final {self.loss_name} on the search's seed):")
            lines += [f"  {line}" for line in self.gain.lines()]
            lines.append(f"do you need a warm-up? {self.gain.warmup_needed()}")
        for record in self.records:
            if record.error is not None:
                lines.append(f"  trial {record.number} failed: {record.error.strip().splitlines()[-1]}")
        if self.trained:
            lines.append(f"trained model: {self.trained}")
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join([*lines, *self._costs()])

    def _repr_html_(self) -> str:
        """What a notebook shows: the verdict, the schedule, the comparisons, and the pictures of the study's folder."""
        from autowarmup.study.notebook import result_html

        return result_html(
            self.verdict,
            self.schedule,
            self.extrapolation,
            self.gain,
            loss_name=self.loss_name,
            judged_by=self.judged_by,
            costs=self._costs(),
            warnings=self.warnings,
            study=Path(self.study),
        )

    @property
    def loss_name(self) -> str:
        """What the trials are judged by: a metric, or a loss, which is the training loss where a training loop of the
        user's own doesn't validate at its end."""
        if not self.config.objective.is_loss:
            return self.config.objective.name
        judged = [record for record in self.records if record.outcome == "completed"]
        return "validation loss" if any(record.validated for record in judged) else "training loss"

    @property
    def judged_by(self) -> str:
        """The same, of a metric with its direction: ``"accuracy (higher is better)"``."""
        return self.loss_name if self.config.objective.is_loss else str(self.config.objective)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the findings doubtful, one sentence each."""
        found: dict[int, list[float]] = {}
        for record in self.records:
            if record.role != "probe" and record.early_loss is not None:
                found.setdefault(record.candidate, []).append(record.early_loss)
        repeated = [losses for losses in found.values() if len(losses) > 1]
        if repeated and all(len(set(losses)) == 1 for losses in repeated):
            return (SAME_UNDER_ALL_SEEDS,)
        return ()

    def _costs(self) -> list[str]:
        """How many trials there were and what they cost, in two lines."""
        outcomes, cost = [record.outcome for record in self.records], self.cost
        counted = ", ".join(f"{outcomes.count(name)} {name}" for name in dict.fromkeys(outcomes))
        return [
            f"trials: {len(outcomes)} ({counted})",
            f"cost: {cost.steps:,} optimizer steps = {cost.runs:.1f} whole runs, {cost.seconds:.0f} s; "
            f"{cost.unstable_share:.0%} of the steps on unstable trials",
        ]

    def save(self, path: str | Path) -> None:
        """Writes the result as JSON to ``path``, without the traces; those stay in the study's folder.

        Raises:
            StudyError: the file can't be written.
        """
        write_file(Path(path), self.model_dump_json(indent=1))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a result that :meth:`save` has written.

        Args:
            path: the file, or the study's folder.

        Raises:
            InputError: there is no such file, or it is not a result.
        """
        file = Path(path) / "result.json" if Path(path).is_dir() else Path(path)
        try:
            return cls.model_validate_json(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"no result at {file}: {error.strerror}") from error
        except ValidationError as error:
            raise InputError(f"{file} is not a result: {explain(error, cls.model_fields)}") from error


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
