"""The trained model of a study in one run."""

from __future__ import annotations

from pathlib import Path

from autowarmup.engines.checkpoints import Checkpoints
from autowarmup.errors import StudyError
from autowarmup.search.trials import TrialSpec

TRAINED = "trained.pt"
"""The file in a study's folder: what ``torch.load`` reads, with the model's state dict as ``"model"``."""


def keep_weights(folder: Path, spec: TrialSpec) -> None:
    """Makes a trial's checkpoint at its horizon the study's trained model. A training loop of the user's own has no
    checkpoint.

    Raises:
        StudyError: the folder can't be written.
    """
    checkpoint = Checkpoints(folder / "checkpoints").path(spec.number, spec.schedule.horizon)
    try:
        if checkpoint.exists():
            checkpoint.replace(folder / TRAINED)
    except OSError as error:
        raise StudyError(f"can't write {folder / TRAINED}: {error.strerror}") from error
