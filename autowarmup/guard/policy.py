"""From what is wrong to what is done, within bounds."""

from __future__ import annotations

from typing import Any

from autowarmup.guard.events import Action, Finding

LOWER = 0.5
"""What the learning rates are multiplied by where they were too high."""


class Policy:
    """Decides what is done about a finding.

    ============================================= =====================================================
    a batch that is an outlier or not finite       skip; a burst of them counts as one intervention
    more of them in a row than a burst has         outliers: the data have changed, go on; else rewind
    a spike, exploding gradients, off the forecast hold the warm-up; after the warm-up nothing
    damage to the weights                          rewind, and lower the learning rates
    the optimizer's state is lost                  rewind
    ============================================= =====================================================

    Where there is no snapshot to go back to, learning rates are lowered for damage, and a lost optimizer state stops
    the run. Past ``most`` interventions the next one is a stop.

    Args:
        horizon: optimizer steps of the run.
        duration: those of its warm-up.
        most: interventions.
    """

    def __init__(self, horizon: int, duration: int, most: int) -> None:
        self.most = most
        self.burst = max(8, horizon // 50)
        self.pause = max(5, duration // 10)
        self.cooldown = max(10, horizon // 50)
        self.interventions = 0
        self.skipped = 0
        """Steps skipped in a row."""
        self._quiet_until = 0

    def for_batch(self, step: int, finding: Finding, can_rewind: bool) -> Action:
        """What is done about a batch."""
        self.skipped += 1
        if self.skipped == 1:
            return self._intervene(step, "skip")
        if self.skipped <= self.burst:
            return "skip"
        self.skipped = 0
        if finding.reason == "outlier":
            return "ok"
        return self._intervene(step, "rewind" if can_rewind else "stop")

    def for_run(self, step: int, finding: Finding, warming_up: bool, can_rewind: bool) -> Action:
        """What is done about a run."""
        if finding.reason == "optimizer-state-lost":
            return self._intervene(step, "rewind" if can_rewind else "stop")
        if finding.reason == "non-finite":  # a loss scaler that finds no scale any more
            return self._intervene(step, "stop")
        if step < self._quiet_until:
            return "ok"
        if finding.fatal:
            return self._intervene(step, "rewind" if can_rewind else "lower")
        return self._intervene(step, "hold") if warming_up else "ok"

    def healthy(self) -> None:
        """A step was applied."""
        self.skipped = 0

    def _intervene(self, step: int, action: Action) -> Action:
        self.interventions += 1
        self._quiet_until = step + self.cooldown
        return action if self.interventions <= self.most else "stop"

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"interventions": self.interventions, "skipped": self.skipped, "quiet_until": self._quiet_until}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with saved numbers."""
        self.interventions, self.skipped = state_dict["interventions"], state_dict["skipped"]
        self._quiet_until = state_dict["quiet_until"]
