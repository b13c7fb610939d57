"""A study keeps to a folder of its own: nothing of the user's is replaced, and nothing is written through a link."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from autowarmup import autotune
from autowarmup.api import _default_folder
from autowarmup.errors import InputError, StudyError
from autowarmup.report import write_report
from autowarmup.schedule.space import SearchSpace
from autowarmup.search.config import TuneConfig
from autowarmup.study.folder import check_folder, make_folder, write_file
from tests.fake_study import fake_study
from tests.tasks import settings


@pytest.mark.parametrize("name", ["report.html", "result.json", "schedule.json", "command.json", "notes.txt"])
def test_a_folder_of_other_things_is_refused_and_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(StudyError, match=f"holds other things than a study \\('{name}'\\): choose a new folder"):
        autotune(**settings(study=tmp_path))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


def test_a_folder_of_pictures_is_refused(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / "figures").mkdir(exist_ok=True)
        (tmp_path / f"picture-{number}.png").touch()
    with pytest.raises(StudyError, match=r"\('figures', 'picture-0.png', 'picture-1.png' and 3 more\)"):
        check_folder(tmp_path)


@pytest.mark.parametrize("study", ["/", "/etc"])
def test_the_machine_s_own_folders_are_refused(study: str) -> None:
    with pytest.raises(StudyError, match="holds other things than a study"):
        autotune(**settings(study=study))


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ("", "study: must name a folder, got ''"),
        ("s3://bucket/study", "study: must be a folder on this machine, not a URL, got 's3://bucket/study'"),
        (Path("gs://bucket"), "not a URL"),
        ("\udcff", "study: holds bytes that are not UTF-8, got '.udcff'"),
        ("a\0b", "study: holds a NUL"),
        (b"study", "study: must be the path of a folder, got b'study'"),
        (3, "study: must be the path of a folder, got 3"),
        (False, "study: must be the path of a folder, got False"),
    ],
)
def test_what_is_no_folder_is_refused(
    study: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        autotune(**settings(study=study))
    assert not list(tmp_path.iterdir())


def test_new_empty_and_begun_folders_are_taken(tmp_path: Path) -> None:
    check_folder(tmp_path / "new")
    check_folder(tmp_path)
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "study.lock").touch()  # a study that was killed as it began
    check_folder(tmp_path)
    (tmp_path / "study.db").touch()
    (tmp_path / "report.html").touch()
    (tmp_path / "notes.txt").touch()  # beside a study's own files, which alone are written
    check_folder(tmp_path)


@pytest.mark.parametrize("name", ["study.db", "study.lock", "study.db-wal", "mlflow.log", "checkpoints", "figures"])
def test_a_study_writes_through_no_link(name: str, tmp_path: Path) -> None:
    study, target = tmp_path / "study", tmp_path / "target"
    study.mkdir()
    (study / "study.db").touch()
    (study / name).unlink(missing_ok=True)
    (study / name).symlink_to(target)
    with pytest.raises(StudyError, match=f"study/{name} is a symbolic link"):
        autotune(**settings(study=study))
    assert not target.exists()


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "study.db")) as db:
        db.execute("CREATE TABLE trials (id INTEGER)")
        db.execute("CREATE TABLE studies (id INTEGER)")
    before = (tmp_path / "study.db").read_bytes()
    with pytest.raises(StudyError, match="is not a study: a database with the tables studies, trials"):
        autotune(**settings(study=tmp_path))
    assert (tmp_path / "study.db").read_bytes() == before


def test_a_link_is_replaced_and_what_it_points_to_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    study = tmp_path / "study"
    study.mkdir()
    for name in ("report.html", "result.json"):
        (study / name).symlink_to(mine)
    result, traces = fake_study()
    result.save(study / "result.json")
    write_report(result, traces, study)
    assert mine.read_text() == "mine"
    assert not any(path.is_symlink() for path in study.rglob("*"))
    assert not list(study.glob(".*"))


def test_pictures_are_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match="figures is a symbolic link"):
        make_folder(tmp_path / "figures")


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StudyError, match="can't write .*/folder: Is a directory"):
        write_file(tmp_path / "folder", "text")
    with pytest.raises(StudyError, match="can't write .*/none/file: No such file or directory"):
        write_file(tmp_path / "none" / "file", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("test.<locals>.<lambda>", "test.locals.lambda-"),
        ("../../etc/passwd", "etc-passwd-"),
        ("a\0b\u00fc\n", "a-b-"),
        ("...", "study-"),
        ("x" * 1_000, "x" * 60 + "-"),
    ],
)
def test_the_default_folder_s_name_is_safe(name: str, start: str) -> None:
    config = TuneConfig(total_steps=20, budget=1_000, space=SearchSpace(), current_peak=0.1, task={"model": name})
    folder = _default_folder(config)
    assert folder.parent == Path("studies")
    assert folder.name.startswith(start)
    assert len(folder.name) == len(start) + 8
