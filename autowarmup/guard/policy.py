"""From what is wrong to what is done, within bounds."""

from __future__ import annotations

from typing import Any

from autowarmup.guard.events import Action, Finding

LOWER = 0.5
"""What the learning rates are multiplied by where they were too high."""

WAIT_FOR = ("spike", "gradient-explosion")
"""What a warm-up is held for."""

STATE = ("interventions", "skipped", "bursts", "rewound", "quiet_until", "off_forecast")
"""The attributes that change."""


class Policy:
    """Decides what is done about a finding.

    * A batch that is an outlier or not finite: *skip*. A burst of them counts as one intervention.
    * More of them in a row than a burst has: *rewind*, since the last update before them may have broken the weights.
      Where outliers go on after that the data have changed, and the run goes on with them.
    * A spike, or exploding gradients: *hold* the warm-up; after the warm-up nothing.
    * Damage to the weights: *rewind*, and lower the learning rates.
    * A loss that stays above what the study expects: the same, but only once.
    * The optimizer's state is lost: *rewind* that alone.

    Where there is no snapshot to go back to, learning rates are lowered for damage, and a lost optimizer state stops
    the run. Past ``most`` interventions the next one is a stop.

    Args:
        horizon: optimizer steps of the run.
        duration: those of its warm-up.
        most: interventions.

    Attributes:
        interventions: so far.
        skipped: steps skipped in a row.
        bursts: how often more batches in a row were bad than a burst has.
        rewound: whether the last of them was gone back for, and no step was applied since.
        quiet_until: the step before which damage isn't looked for again.
        off_forecast: whether the loss has stayed above what the study expects.
    """

    def __init__(self, horizon: int, duration: int, most: int) -> None:
        self.most = most
        self.burst = max(8, horizon // 50)
        self.pause = max(5, duration // 10)
        self.cooldown = max(10, horizon // 50)
        self.interventions = 0
        self.skipped = 0
        self.bursts = 0
        self.rewound = False
        self.quiet_until = 0
        self.off_forecast = False

    def for_batch(self, step: int, finding: Finding, can_rewind: bool) -> Action:
        """What is done about a batch."""
        self.skipped += 1
        if self.skipped == 1:
            return self._intervene(step, "skip")
        if self.skipped <= self.burst:
            return "skip"
        self.skipped = 0
        if finding.reason == "outlier" and (self.rewound or not can_rewind):
            return "ok"
        self.bursts += 1
        self.rewound = True
        return self._intervene(step, "rewind" if can_rewind else "stop")

    def lowers(self, finding: Finding) -> bool:
        """Whether going back to earlier weights lowers the learning rates: not where a burst of outliers may be all
        that there was."""
        return finding.reason != "outlier" or self.bursts > 1

    def for_run(self, step: int, finding: Finding, warming_up: bool, can_rewind: bool) -> Action:
        """What is done about a run."""
        if finding.reason == "optimizer-state-lost":
            return self._intervene(step, "rewind" if can_rewind else "stop")
        if finding.reason == "non-finite":  # a loss scaler that finds no scale any more
            return self._intervene(step, "stop")
        if step < self.quiet_until:
            return "ok"
        if finding.reason == "off-forecast":
            if self.off_forecast:
                return "ok"
            self.off_forecast = True
        if finding.fatal:
            return self._intervene(step, "rewind" if can_rewind else "lower")
        return self._intervene(step, "hold") if warming_up and finding.reason in WAIT_FOR else "ok"

    def healthy(self) -> None:
        """A step was applied."""
        self.skipped = 0
        self.rewound = False

    def _intervene(self, step: int, action: Action) -> Action:
        self.interventions += 1
        self.quiet_until = step + self.cooldown
        return action if self.interventions <= self.most else "stop"

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with saved numbers."""
        for name in STATE:
            setattr(self, name, state_dict[name])
