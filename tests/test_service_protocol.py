"""The protocol of leases and reports against a model of it: whatever workers send in whatever order, each answer is the
one that the model expects, and the study finds what it finds undisturbed."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from autowarmup.service.app import make_app
from autowarmup.service.settings import ServiceSettings
from tests.service import Worker, report_of
from tests.test_study import findings

LEASE_S = 1_000.0
REQUEST = {
    "total_steps": 20,
    "current_peak": 0.001,
    "cohort": 4,
    "confirm_seeds": 2,
    "budget": 220,
    "lease_s": LEASE_S,
}
WORKERS = ["ann", "ben", "cy"]
STUDY = "model"
PICKS = st.integers(0, 5)


class Host:
    """The service's application over a folder, which can be stopped and started again, and a clock that can be set
    forward."""

    def __init__(self, folder: Path) -> None:
        self._settings = ServiceSettings(folder=folder, mlflow=False)
        self.folder = folder

    def start(self) -> None:
        self._app, self._skipped = make_app(self._settings), 0.0
        listening = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn.Config(self._app, log_level="warning", ws="none"))
        self._thread = threading.Thread(target=self._server.run, args=([listening],))
        self._thread.start()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=60)
        self.client.get("/healthz")

    def stop(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join()

    def skip(self, seconds: float) -> None:
        """Sets the clock of the study's leases forward."""
        self._skipped += seconds
        skipped = self._skipped
        self._app.state.studies.engine(STUDY)._clock = lambda: time.monotonic() + skipped

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self.client.post(f"/v1/studies/{STUDY}/{path}", json=body)


@dataclass
class Held:
    """A lease as the model has it."""

    worker: str
    trial: dict[str, Any]
    until: int
    seq: int
    heard_at: float
    last: dict[str, Any] | None = None

    @property
    def number(self) -> int:
        return int(self.trial["spec"]["number"])


@dataclass
class Model:
    """What the service must know.

    Attributes:
        now: seconds, as the clock was set.
        held: leases by their names, also those that have lapsed and were not given to another worker yet.
        gone: leases that are over, each with what the service says of it: "stop", or "lapsed".
        steps: optimizer steps that were received, by trial.
    """

    now: float = 0.0
    held: dict[str, Held] = field(default_factory=dict)
    gone: dict[str, tuple[dict[str, Any], str]] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)

    def reclaim(self) -> None:
        """The trials of lost workers are free again."""
        for lease, one in [*self.held.items()]:
            if one.heard_at < self.now - LEASE_S:
                self.lose(lease, "lapsed")

    def lose(self, lease: str, said: str) -> None:
        self.gone[lease] = (self.held.pop(lease).trial, said)


def picked(leases: dict[str, Any], pick: int) -> tuple[str, Any]:
    """One of the leases, by a number, and what is known of it."""
    lease = sorted(leases)[pick % len(leases)]
    return lease, leases[lease]


class Protocol(RuleBasedStateMachine):
    """Three workers that are late, forgetful, impatient and sometimes lost, and a service that is restarted.

    Which leases there are depends on when the service answers, and what Hypothesis draws must not: so a lease is drawn
    as a number, and a rule that has no lease to go by does nothing.
    """

    reference: dict[str, Any]

    @initialize()
    def begin(self) -> None:
        self._folder = TemporaryDirectory()
        self.host, self.model = Host(Path(self._folder.name) / "studies"), Model()
        self.host.start()
        assert self.host.client.put(f"/v1/studies/{STUDY}", json=REQUEST).status_code == 201

    @rule(worker=st.sampled_from(WORKERS), count=st.integers(1, 3))
    def suggest(self, worker: str, count: int) -> None:
        self.model.reclaim()
        answer = self.host.post("trials:suggest", {"client_id": worker, "count": count, "wait_s": 0.2}).json()
        own = [lease for lease, one in self.model.held.items() if one.worker == worker]
        leases = [trial["lease"] for trial in answer["trials"]]
        assert len({*own} & {*leases}) == min(len(own), count), "first those that it has"
        assert len(leases) <= count
        taken = {one.number: one.worker for one in self.model.held.values()}
        for trial in answer["trials"]:
            number, lease = trial["spec"]["number"], trial["lease"]
            assert taken.get(number, worker) == worker
            assert trial["steps"] == self.model.steps.setdefault(number, 0) < trial["until"] <= 20
            known = self.model.held.get(lease)
            assert lease not in self.model.gone
            assert trial["seq"] == (known.seq if known else 0)
            if known is None:
                assert number not in taken, "a lease that holds is given again as it is"
                known = Held(worker, trial, trial["until"], 0, self.model.now)
            known.heard_at = self.model.now
            assert known.until == trial["until"]
            self.model.held[lease] = known

    @rule(pick=PICKS, steps=st.integers(0, 8), before=st.integers(0, 3))
    def report(self, pick: int, steps: int, before: int) -> None:
        """Steps from some that are known to some that are new."""
        if not self.model.held:
            return
        lease, one = picked(self.model.held, pick)
        known = self.model.steps[one.number]
        end = min(one.until, known + steps)
        one.seq += 1
        one.last = report_of(one.trial, one.seq, max(0, known - before), end)
        self._answered(lease, self._sent(one.number, one.last), end)

    @rule(pick=PICKS, altered=st.booleans())
    def send_again(self, pick: int, altered: bool) -> None:
        """The same report, or another one under its number: nothing is counted twice."""
        reported = {lease: one for lease, one in self.model.held.items() if one.last}
        if not reported:
            return
        lease, one = picked(reported, pick)
        assert one.last is not None
        body = one.last | {"losses": [9.0] * len(one.last["losses"])} if altered else one.last
        answer = self._sent(one.number, body)
        assert answer.json()["action"] == "go_on"
        self._answered(lease, answer, self.model.steps[one.number])

    @rule(pick=PICKS)
    def leave_steps_out(self, pick: int) -> None:
        if not self.model.held:
            return
        _, one = picked(self.model.held, pick)
        known = self.model.steps[one.number]
        if known + 1 < one.until:
            answer = self._sent(one.number, report_of(one.trial, one.seq + 1, known + 1, one.until))
            self._refused(answer, "steps-missing")
            assert answer.json()["steps"] == known
            one.heard_at = self.model.now

    @rule(pick=PICKS)
    def train_too_far(self, pick: int) -> None:
        if not self.model.held:
            return
        _, one = picked(self.model.held, pick)
        known = self.model.steps[one.number]
        answer = self._sent(one.number, report_of(one.trial, one.seq + 1, known, one.until + 1))
        self._refused(answer, "too-far")
        one.heard_at = self.model.now

    @rule(pick=PICKS)
    def use_a_lease_that_never_was(self, pick: int) -> None:
        if not self.model.held:
            return
        _, one = picked(self.model.held, pick)
        body = report_of(one.trial, 1, 0, one.until) | {"lease": "0" * 32}
        self._refused(self._sent(one.number, body), "lease-lapsed")

    @rule(pick=PICKS)
    def use_a_lease_that_is_over(self, pick: int) -> None:
        if not self.model.gone:
            return
        _, (trial, said) = picked(self.model.gone, pick)
        number = trial["spec"]["number"]
        answer = self._sent(number, report_of(trial, 10_000, 0, 1))
        if answer.status_code == 409:
            self._refused(answer, "lease-lapsed")
        else:  # the trial is paused under this lease, or over
            assert said != "lapsed"
            assert answer.json()["action"] in ("pause", "stop")

    @rule(pick=PICKS)
    def give_back(self, pick: int) -> None:
        if not self.model.held:
            return
        lease, one = picked(self.model.held, pick)
        answer = self.host.post(f"trials/{one.number}:complete", {"lease": lease, "outcome": "returned"})
        assert answer.status_code == 204
        self.model.lose(lease, "lapsed")

    @rule(pick=PICKS)
    def say_it_is_complete(self, pick: int) -> None:
        if not self.model.held:
            return
        lease, one = picked(self.model.held, pick)
        answer = self.host.post(f"trials/{one.number}:complete", {"lease": lease, "outcome": "completed"})
        self._refused(answer, "steps-to-go")

    @rule(seconds=st.sampled_from([0.4 * LEASE_S, 1.1 * LEASE_S]))
    def time_passes(self, seconds: float) -> None:
        self.host.skip(seconds)
        self.model.now += seconds

    @rule()
    def restart(self) -> None:
        """The service knows the leases still, and hears of all workers from now on."""
        self.host.stop()
        self.host.start()
        assert self.host.client.put(f"/v1/studies/{STUDY}", json=REQUEST).status_code == 200
        for one in self.model.held.values():
            one.heard_at = self.model.now
        self.model.gone.clear()

    def teardown(self) -> None:
        """Whoever comes now finishes the study, and finds what is found undisturbed."""
        if not hasattr(self, "host"):
            return
        try:
            if self.host.client.get(f"/v1/studies/{STUDY}").json()["state"] == "running":
                self.host.skip(2 * LEASE_S)
            assert Worker(self.host.client, STUDY, "last", pace=20).work() == "finished"
            assert findings(self.host.folder / STUDY) == self.reference
        finally:
            self.host.stop()
            self._folder.cleanup()

    def _sent(self, number: int, body: dict[str, Any]) -> httpx.Response:
        return self.host.post(f"trials/{number}/reports", body)

    def _answered(self, lease: str, answer: httpx.Response, steps: int) -> None:
        one = self.model.held[lease]
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["action"] in ("go_on", "pause", "stop")
        self.model.steps[one.number] = steps
        one.heard_at = self.model.now
        if found["action"] == "go_on":
            assert found["steps"] == steps < found["until"] <= 20
            assert found["until"] == one.until or steps == one.until
            one.until = found["until"]
        else:
            assert steps == one.until or found["reason"], "before the end of a segment only an instability ends it"
            self.model.lose(lease, found["action"])

    def _refused(self, answer: httpx.Response, kind: str) -> None:
        assert answer.status_code == 409, answer.text
        assert answer.json()["type"] == f"urn:autowarmup:{kind}"


@pytest.mark.slow
def test_every_answer_is_the_models_and_the_study_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autowarmup.service.workers_study.write_report", lambda folder: None)  # which takes seconds
    host = Host(tmp_path / "undisturbed")
    host.start()
    host.client.put(f"/v1/studies/{STUDY}", json=REQUEST)
    assert Worker(host.client, STUDY, "only").work() == "finished"
    host.stop()
    Protocol.reference = findings(host.folder / STUDY)
    run_state_machine_as_test(
        Protocol,
        settings=settings(
            max_examples=20,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # each try costs a study: a failure is shown as it was found
            suppress_health_check=list(HealthCheck),
        ),
    )
