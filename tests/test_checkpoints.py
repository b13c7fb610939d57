"""Paused trials on disk: whole or not there, and a study that finds one damaged ends as it would have."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from autowarmup import autotune
from autowarmup.engines.checkpoints import Checkpoints
from autowarmup.errors import StudyError
from autowarmup.search.trials import SegmentResult
from autowarmup.study.progress import Silent
from tests.tasks import wide
from tests.test_study import findings


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, emptied, flipped])
def test_a_damaged_file_counts_as_not_there(damage: Callable[[Path], None], tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with checkpoints.writing(1, 10) as file:
        torch.save({"weights": torch.arange(1000)}, file)  # type: ignore[arg-type]
    with checkpoints.reading(1, 10) as whole:
        assert whole is not None
        assert torch.load(whole, weights_only=True)["weights"][-1] == 999
    damage(next(tmp_path.iterdir()))
    with checkpoints.reading(1, 10) as file:
        assert file is None


class Interrupting(Silent):
    """Stops a study after so many segments."""

    def __init__(self, after: int) -> None:
        self.left = after

    def segment_ended(self, result: SegmentResult) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_study_whose_checkpoints_are_damaged_ends_as_it_would_have(tmp_path: Path) -> None:
    autotune(**wide(study=tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        autotune(**wide(study=tmp_path / "damaged", progress=Interrupting(after=7)))
    states = sorted((tmp_path / "damaged" / "checkpoints").iterdir())
    assert len(states) >= 3
    for number, path in enumerate(states):
        (cut, emptied, flipped)[number % 3](path)
    autotune(**wide(study=tmp_path / "damaged"))
    assert findings(tmp_path / "damaged") == findings(tmp_path / "whole")


@pytest.fixture
def small_files() -> Iterator[None]:
    """The system lets no file grow beyond a kilobyte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_is_named_and_holds_no_draft(small_files: None, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with (
        pytest.raises(StudyError, match="can't write the checkpoint .*File too large"),
        checkpoints.writing(1, 10) as file,
    ):
        torch.save({"weights": torch.arange(1000)}, file)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
