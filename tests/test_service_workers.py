"""Workers of a service's study, each a process that trains a real model: the trials are those of the local engine."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autowarmup import autotune
from autowarmup.api import task_of
from autowarmup.engines.local import LocalEngine, MonitorSettings
from autowarmup.errors import InputError, RemoteServiceError
from autowarmup.search.config import TuneConfig
from autowarmup.search.trials import SegmentResult, TrialSpec
from autowarmup.service import tuning
from autowarmup.service.client import RefusedError, ServiceClient, token_from
from autowarmup.service.messages import StudyRequest, SuggestRequest
from autowarmup.service.reporter import DroppedError, Reporter
from autowarmup.service.worker import Worker, check_task
from autowarmup.study.progress import Silent
from autowarmup.study.store import StudyStore
from autowarmup.training.trace import Evaluation, Trace
from tests import worker_tasks
from tests.mlflow_server import free_port, wait_until
from tests.namespaces import hosts, needs_namespaces
from tests.service import replay, service, started, token_file
from tests.test_study import ROOT, findings

TASKS = ROOT / "tests" / "worker_tasks.py"


def config_of_local(folder: Path, task: str, **changes: Any) -> TuneConfig:
    """The configuration that ``autotune`` makes of a task, from a study of it that runs on the local engine."""
    autotune(**getattr(worker_tasks, task)() | changes, study=folder, progress=False)
    with closing(StudyStore(folder)) as store:
        return TuneConfig.model_validate(store.meta("config"))


def request_of(config: TuneConfig, **settings: Any) -> StudyRequest:
    """What begins the same study on a service."""
    return StudyRequest(**dict(tuning.request_of(config)) | settings)


def command(service: str, study: str, task: str, *options: str) -> list[str]:
    """A worker."""
    target = f"{TASKS}:{task}"
    return [sys.executable, "-m", "autowarmup", "work", target, "--url", service, "--study", study, *options]


def worker(service: str, study: str, task: str, *options: str, where: Sequence[str] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*where, *command(service, study, task, *options)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """What a worker said, which must have ended with this code."""
    said = process.communicate(timeout=240)[1]
    assert process.returncode == code, said
    return said


class Recorded(Silent):
    """What was trained: the trial and the steps, part by part; and which trials ended."""

    def __init__(self) -> None:
        self.blocks: list[tuple[int, int, int]] = []
        self.ends: dict[int, str] = {}

    def observe(self, spec: TrialSpec, block: Trace) -> None:
        self.blocks.append((spec.number, block.start, block.end))

    def finished(self, number: int, outcome: str) -> None:
        self.ends[number] = outcome


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServiceClient, Path]]:
    """A service, and the folder of its studies."""
    folder = tmp_path_factory.mktemp("service") / "studies"
    with service(folder, "--no-mlflow") as found, ServiceClient(found.url) as client:
        yield client, folder


@contextmanager
def local_worker(
    client: ServiceClient, study: str, task: str, folder: Path, name: str = "here", progress: Silent | None = None
) -> Iterator[Worker]:
    """A worker in this process."""
    config = client.details(study).config
    assert config is not None
    made = task_of(**getattr(worker_tasks, task)())
    check_task(config, made, study)
    found = Worker(client, study, config, made, name, folder, progress or Silent())
    try:
        yield found
    finally:
        found.close()


@pytest.mark.parametrize("task", ["cohort", pytest.param("loop", marks=pytest.mark.slow)])
def test_a_worker_trains_what_the_local_engine_does(
    running: tuple[ServiceClient, Path], tmp_path: Path, task: str
) -> None:
    client, folder = running
    client.put(task, request_of(config_of_local(tmp_path / "local", task)))
    seen = Recorded()
    with local_worker(client, task, task, tmp_path / "checkpoints", progress=seen) as found:
        assert found.work() == "finished"
    assert findings(folder / task) == findings(tmp_path / "local")
    result = client.result(task)
    assert seen.ends == {record.number: record.outcome for record in result.records}
    assert sum(end - start for _, start, end in seen.blocks) == result.cost.steps, "nothing is trained twice"
    assert not [*(tmp_path / "checkpoints").glob("*")]


@pytest.mark.slow
def test_another_worker_goes_on_from_the_checkpoint(running: tuple[ServiceClient, Path], tmp_path: Path) -> None:
    """The first one stops, between two trials, once it has paused four."""
    client, folder = running
    client.put("handed", request_of(config_of_local(tmp_path / "local", "cohort")))

    class Stops(Recorded):
        parts = 0

        def segment_ended(self, result: SegmentResult) -> None:
            self.parts += 1

        def observe(self, spec: TrialSpec, block: Trace) -> None:
            if self.parts == 8:
                raise KeyboardInterrupt
            super().observe(spec, block)

    first, second = Stops(), Recorded()
    with (
        local_worker(client, "handed", "cohort", tmp_path / "a", "a", first) as found,
        pytest.raises(KeyboardInterrupt),
    ):
        found.work()
    with local_worker(client, "handed", "cohort", tmp_path / "b", "b", second) as found:
        assert found.work() == "finished"
    assert findings(folder / "handed") == findings(tmp_path / "local")
    starts = {number: start for number, start, _ in reversed(second.blocks)}
    resumed = [number for number, start in starts.items() if start > 0]
    assert resumed, "some trial was taken over where it was paused"


@pytest.mark.slow
def test_a_trial_without_a_checkpoint_is_trained_again(running: tuple[ServiceClient, Path], tmp_path: Path) -> None:
    """A loop of the user's own waits in the memory of a worker. When that is gone, its trials begin anew elsewhere."""
    client, folder = running
    client.put("again", request_of(config_of_local(tmp_path / "local", "loop"), lease_s=5.0))
    lost = worker(client.url, "again", "loop", "--client-id", "lost")
    try:
        wait_until(
            lambda: client.details("again").trials.get("open", 0) > 0 and client.details("again").steps >= 30, 60
        )
    finally:
        lost.kill()
        lost.communicate()
    with local_worker(client, "again", "loop", tmp_path / "b", "b") as found:
        assert found.work() == "finished"
    assert findings(folder / "again") == findings(tmp_path / "local")


@pytest.mark.slow
def test_the_server_is_killed_and_the_workers_go_on(tmp_path: Path) -> None:
    config, port = config_of_local(tmp_path / "local", "cohort"), free_port()
    folder = tmp_path / "studies"
    server = started(folder, "--no-mlflow", port=port)
    with ServiceClient(server.url) as client:
        client.put("killed", request_of(config))
        workers = [worker(server.url, "killed", "cohort") for _ in range(2)]
        for steps in (1, 100):
            wait_until(lambda wanted=steps: client.details("killed").steps >= wanted, 60)  # type: ignore[misc]
            server.kill()
            server = started(folder, "--no-mlflow", port=port)
        try:
            said = [ended(process) for process in workers]
        finally:
            server.process.send_signal(signal.SIGTERM)
            server.process.communicate(timeout=30)
    assert all("study killed is finished" in text for text in said)
    assert findings(folder / "killed") == findings(tmp_path / "local")


@pytest.mark.slow
def test_another_task_is_refused_before_the_first_trial(running: tuple[ServiceClient, Path], tmp_path: Path) -> None:
    client, _ = running
    client.put("mine", request_of(config_of_local(tmp_path / "local", "one")))
    said = ended(worker(client.url, "mine", "other"), 2)
    assert "study 'mine' tunes another task: it differs in code, groups, model, parameters, structure" in said
    assert client.details("mine").workers == 0


@pytest.mark.slow
def test_code_that_fails_ends_the_study_with_its_traceback(running: tuple[ServiceClient, Path]) -> None:
    client, _ = running
    client.put("broken", StudyRequest(total_steps=40, current_peak=1e-3))
    said = ended(worker(client.url, "broken", "broken"), 1)
    assert "study broken is failed" in said
    assert "RuntimeError: out of ideas" in str(client.details("broken").failure)


@pytest.mark.slow
def test_an_interrupted_worker_gives_its_trial_back(running: tuple[ServiceClient, Path], tmp_path: Path) -> None:
    client, _ = running
    client.put("returned", request_of(config_of_local(tmp_path / "local", "slow_free")))
    process = worker(client.url, "returned", "slow_free", "--client-id", "guest")
    wait_until(
        lambda: client.trial("returned", 0).worker == "guest" if client.details("returned").trials else False, 60
    )
    process.send_signal(signal.SIGTERM)
    assert "interrupted: its trial goes to another worker" in ended(process, 130)
    assert client.trial("returned", 0).worker is None


def test_what_a_service_refuses_is_said(running: tuple[ServiceClient, Path], tmp_path: Path) -> None:
    client, _ = running
    assert "there is no study 'nonesuch'" in ended(worker(client.url, "nonesuch", "one"), 1)
    with pytest.raises(RefusedError, match="no study 'nonesuch'") as refused:
        client.details("nonesuch")
    assert (refused.value.status, refused.value.kind) == (404, "unknown-study")
    with pytest.raises(InputError, match="letters, digits, dashes"):
        client.details("../secrets")


@pytest.mark.parametrize("url", ["localhost:8700", "ftp://host", "http://me:secret@host", "http://host?token=secret"])
def test_an_address_that_is_none_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(InputError, match="service") as refused:
        ServiceClient(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "a b c", "one\ntwo", "bob t\N{LATIN SMALL LETTER O WITH DIAERESIS}ken"])
def test_a_token_file_holds_one_token(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(InputError, match="token"):
        token_from(tmp_path / "token")


def test_another_version_is_refused(running: tuple[ServiceClient, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = running
    client.check_version()
    monkeypatch.setattr("autowarmup.__version__", "0.0.1")
    with pytest.raises(InputError, match=r"and this is 0\.0\.1: use the same version"):
        client.check_version()


def test_a_certificate_is_trusted_when_it_is_named(tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=tuner", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(cert)]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files]
    subprocess.run(made, check=True, capture_output=True)
    with service(tmp_path / "studies", "--no-mlflow", "--tls-cert", str(cert), "--tls-key", str(key)) as found:
        with ServiceClient(found.url, ca=cert) as client:
            client.check_version()
        with ServiceClient(found.url) as client, pytest.raises(RemoteServiceError, match="is not trusted"):
            client.check_version()


def test_a_long_report_goes_in_parts(running: tuple[ServiceClient, Path]) -> None:
    client, _ = running
    client.put("long", StudyRequest(total_steps=250_000, current_peak=1e-3))
    (leased,) = client.suggest("long", SuggestRequest(client_id="one", wait_s=10.0)).trials
    count = leased.until
    assert count > 20_000
    loss = np.linspace(2.0, 1.0, count)
    every = tuple(
        Evaluation(step, 1.5, np.nan, {"f1": 0.5}) for step in range(leased.eval_every, count + 1, leased.eval_every)
    )
    trace = Trace(np.full(count, 0.1), loss, np.full(count, np.nan), every)
    reporter = Reporter(client, "long", leased)
    reporter.observe(trace)
    reporter.end(SegmentResult(leased.spec.number, count, trace))
    assert client.trace("long", leased.spec.number, count).to_bytes() == trace.to_bytes()


@pytest.mark.slow
def test_a_lease_is_kept_while_a_step_takes_long_and_lapses_after_that(running: tuple[ServiceClient, Path]) -> None:
    client, _ = running
    client.put("kept", StudyRequest(total_steps=40, current_peak=1e-3, lease_s=5.0))
    other = SuggestRequest(client_id="other")
    (leased,) = client.suggest("kept", SuggestRequest(client_id="one", wait_s=10.0)).trials
    reporter = Reporter(client, "kept", leased)
    with reporter.alive():
        time.sleep(8)
        assert client.suggest("kept", other).trials == ()
    time.sleep(7)
    assert [trial.spec for trial in client.suggest("kept", other).trials] == [leased.spec]
    with pytest.raises(DroppedError, match="not leased under this lease any more"):
        reporter.end(SegmentResult(leased.spec.number, leased.until, Trace.empty()))


@pytest.mark.slow
@needs_namespaces
@pytest.mark.parametrize("task", ["slow_cohort", "slow_free"])
def test_three_hosts_and_one_is_lost(tmp_path: Path, task: str) -> None:
    """Three workers, each in a network namespace, and one killed in the middle of a trial: with a cohort, what the
    local engine finds to the bit; without, what it finds when its segments end in the same order."""
    config, folder = config_of_local(tmp_path / "local", task), tmp_path / "studies"
    names = ["alice", "bob", "carol"]
    tokens = token_file(tmp_path, "".join(f"{name} {name}-{'0' * 32}\n" for name in [*names, "me"]))
    for name in names:
        (tmp_path / name).write_text(f"{name}-{'0' * 32}\n")
    with (
        hosts(3) as (address, inside),
        service(folder, "--no-mlflow", "--host", address, "--token-file", str(tokens)) as found,
        ServiceClient(found.url, f"me-{'0' * 32}") as client,
    ):
        client.put("shared", request_of(config, workers=3, lease_s=5.0))
        workers = {
            name: worker(
                found.url, "shared", task, "--client-id", name, "--token-file", str(tmp_path / name), where=where
            )
            for name, where in zip(names, inside, strict=True)
        }
        lost = killed_in_a_trial(client, workers["bob"], "bob")
        for name in ("alice", "carol"):
            assert "study shared is finished" in ended(workers[name])
        assert client.trial("shared", lost).outcome is not None
    if config.cohort:
        assert findings(folder / "shared") == findings(tmp_path / "local")
        return
    with closing(StudyStore(folder / "shared")) as store:
        assert len(store.arrivals()) > len(store.numbers())
        task_made = task_of(**getattr(worker_tasks, task)())
        engine = LocalEngine(task_made, tmp_path / "checkpoints", MonitorSettings.of(config))
        replay(store, config, tmp_path / "replayed", engine)
    assert findings(folder / "shared") == findings(tmp_path / "replayed")


def killed_in_a_trial(client: ServiceClient, process: subprocess.Popen[str], name: str) -> int:
    """Kills a worker in the middle of a trial. Returns the trial's number."""
    while True:
        for spec in client.specs("shared"):
            trial = client.trial("shared", spec.number)
            if trial.worker == name and 0 < trial.steps < spec.schedule.horizon:
                process.kill()
                process.communicate()
                return spec.number
        time.sleep(0.05)
        assert process.poll() is None
