"""The store: what is written comes back, and what a trial's segments come to together."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from autowarmup import Schedule
from autowarmup.errors import StudyError
from autowarmup.instability import Instability
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.study.store import StudyStore
from autowarmup.training.trace import Evaluation, Trace

SCHEDULE = Schedule(peak=0.1, horizon=40, warmup_steps=10, shape="linear")


def instability(kind: str, step: int, *, fatal: bool) -> Instability:
    settings = {"kind": kind, "severity": 2.0, "step": step, "lr": 0.1, "detected": step + 2, "fatal": fatal}
    return Instability.model_validate(settings | {"message": f"a {kind} at {step}"})


def spec(number: int, peak: float = 0.1) -> TrialSpec:
    schedule = SCHEDULE.model_copy(update={"peak": peak})
    return TrialSpec(number=number, candidate=number, role="proposal", seed=3, schedule=schedule, params={"peak": peak})


def trace(start: int, end: int) -> Trace:
    steps = np.arange(start, end, dtype=float)
    evaluation = Evaluation(end, 10.0 - end / 10, 11.0 - end / 10, {"accuracy": end / 100})
    return Trace(0.1 * steps, 5.0 - steps / 10, 1.0 + steps, (evaluation,), start)


FIRST = SegmentResult(0, 10, trace(0, 10), None, (instability("spike", 4, fatal=False),), None, 1000.0, 1.5)
SECOND = SegmentResult(0, 40, trace(10, 40), None, (instability("stall", 20, fatal=False),), None, 1002.0, 2.25)
BROKEN = SegmentResult(1, 10, trace(0, 7), instability("divergence", 5, fatal=True), (), None, 1005.0, 0.5)
FAILED = SegmentResult(2, 10, trace(0, 3), None, (), "Traceback: no luck", 1006.0, 0.25)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study of four trials: completed, unstable, failed and not begun."""
    store = StudyStore(tmp_path / "study", write=True)
    for number in (3, 0, 2, 1):
        store.add_trial(spec(number))
    for position, result in enumerate((BROKEN, FIRST, FAILED, SECOND)):
        store.add_segment(result, position, slots=4 - position)
    store.finish(0, "completed")
    store.finish(1, "unstable")
    store.finish(2, "failed")
    store.close()
    return tmp_path / "study"


def same(stored: SegmentResult | None, written: SegmentResult) -> bool:
    assert stored is not None
    parts = [(r.number, r.until, r.trace.to_bytes(), r.instability, r.events, r.error) for r in (stored, written)]
    times = [(r.started_at, r.seconds) for r in (stored, written)]
    return parts[0] == parts[1] and times[0] == times[1]


def test_what_is_written_comes_back(folder: Path) -> None:
    store = StudyStore(folder)
    assert same(store.segment(0, 10), FIRST)
    assert same(store.segment(0, 40), SECOND)
    assert same(store.segment(1, 10), BROKEN)
    assert same(store.segment(2, 10), FAILED)
    assert store.segment(0, 20) is None
    assert store.segment(3, 10) is None
    assert store.numbers() == [0, 1, 2, 3]
    assert store.segment_count() == 4
    assert [trial.spec for trial in store.trials()] == [spec(number) for number in range(4)]
    assert [trial.outcome for trial in store.trials()] == ["completed", "unstable", "failed", None]
    store.close()


def test_a_trial_is_what_its_segments_are_together(folder: Path) -> None:
    store = StudyStore(folder)
    whole, broken, failed, unbegun = store.trials()
    store.close()
    assert [segment.until for segment in whole.segments] == [10, 40]
    assert whole.trace.to_bytes() == Trace.join([FIRST.trace, SECOND.trace]).to_bytes()
    assert [event.kind for event in whole.events] == ["spike", "stall"]
    assert (whole.final_loss, whole.seconds, whole.instability, whole.error) == (6.0, 3.75, None, None)
    assert (broken.final_loss, broken.instability, broken.error) == (None, BROKEN.instability, None)
    assert (failed.final_loss, failed.instability, failed.error) == (None, None, "Traceback: no luck")
    assert (len(unbegun.trace), unbegun.segments, unbegun.seconds, unbegun.final_loss) == (0, (), 0, None)


def test_segments_are_listed_in_the_order_in_which_they_arrived(folder: Path) -> None:
    store = StudyStore(folder)
    assert store.arrivals() == [(0, 1, 10, 4), (1, 0, 10, 3), (2, 2, 10, 2), (3, 0, 40, 1)]
    store.close()


def test_a_segment_and_its_arrival_are_written_together_or_not_at_all(folder: Path) -> None:
    """A position that is taken, and a segment that is there already."""
    store = StudyStore(folder, write=True)
    before = store.arrivals()
    for result, position in ((SegmentResult(3, 10, trace(0, 10)), 3), (FIRST, 4)):
        with pytest.raises(StudyError, match="UNIQUE constraint failed"):
            store.add_segment(result, position, slots=1)
    assert store.segment(3, 10) is None
    assert store.arrivals() == before
    store.add_segment(SegmentResult(3, 10, trace(0, 10)), 4, slots=1)
    assert store.arrivals() == [*before, (4, 3, 10, 1)]
    store.close()


def test_a_trial_that_the_study_does_not_have(folder: Path) -> None:
    store = StudyStore(folder)
    with pytest.raises(StudyError, match="has no trial 7; it has 4, from 0"):
        store.trial(7)
    store.close()


def test_settings_of_a_study(folder: Path) -> None:
    store = StudyStore(folder, write=True)
    assert store.meta("status") is None
    for value in ("running", None, {"a": [1, 2.5, None]}, 0):
        store.set_meta("status", value)
        assert store.meta("status") == value
    store.close()


def test_a_trial_that_is_decided_again_is_the_same_or_refused(folder: Path) -> None:
    store = StudyStore(folder, write=True)
    store.add_trial(spec(0))
    assert store.trial(0).outcome == "completed"
    with pytest.raises(StudyError, match="trial 0 of the study in .* is not the one that is decided now"):
        store.add_trial(spec(0, peak=0.2))
    assert store.trial(0).spec == spec(0)
    store.close()


def test_reading_needs_a_study_and_writes_nothing(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(StudyError, match=r"holds no study \(no study.db in it\)"):
        StudyStore(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    store = StudyStore(folder)
    with pytest.raises(Exception, match="readonly"):
        store.set_meta("status", "spoilt")
    store.close()
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StudyError, match="can't write the study folder"):
        StudyStore(file / "study", write=True)


def test_two_levels_of_folders_are_made_and_an_old_study_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "c"
    for number in (0, 1):
        store = StudyStore(folder, write=True)
        assert store.numbers() == list(range(number))
        store.add_trial(spec(number))
        store.close()


def test_how_the_file_is_opened(folder: Path) -> None:
    """Readers don't block the writer, what is committed survives a power failure, and a busy file is waited for."""
    store = StudyStore(folder, write=True)
    pragmas = ("journal_mode", "synchronous", "busy_timeout")
    assert [store._db.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas] == ["wal", 2, 30_000]
    store.close()
    with pytest.raises(StudyError, match="closed"):
        store.numbers()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "CREATE TABLE others (name TEXT)",
            r"is not a study: a database with the tables arrivals, meta, others, segments, trials",
        ),
        ("PRAGMA user_version = 77", r"was written by another version of autowarmup \(format 77, this one reads \d+\)"),
    ],
)
def test_a_database_of_another_program_or_version_is_refused_and_let_go(
    statement: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(folder / "study.db")) as db:
        db.execute(statement)
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *args, **kwargs: opened.append(connect(*args, **kwargs)) or opened[-1]
    )
    for write in (False, True):
        with pytest.raises(StudyError, match=message):
            StudyStore(folder, write=write)
    for db in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            db.execute("SELECT 1")
