"""The lines of docs/security.md that only the whole service can show: one test for each."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import ssl
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from autowarmup.errors import InputError
from autowarmup.service.app import make_app
from autowarmup.service.security.tokens import Tokens
from autowarmup.service.server import serve
from autowarmup.service.settings import ServiceSettings
from autowarmup.study.store import StudyStore
from tests.service import Worker, service, started, token_file

ROOT = Path(__file__).parents[1]
TOKEN, OTHER = "a" * 32, "b" * 32
OPEN = {"/healthz", "/readyz", "/version", "/login", "/static/{path:path}"}


def tokens(folder: Path) -> Path:
    return token_file(folder, f"alice {TOKEN}\nbob {OTHER}\n")


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    return make_app(ServiceSettings(folder=tmp_path / "studies", token_file=tokens(tmp_path), mlflow=False))


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://localhost", follow_redirects=False) as opened:
        yield opened


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """All methods and paths, also of routes that are added later."""
    found = []
    for path, operations in app.openapi()["paths"].items():
        found += [(method.upper(), path) for method in operations]
    for route in app.router.routes:
        if isinstance(route, APIRoute):
            found += [(method, route.path) for method in route.methods]
    return sorted({*found, ("GET", "/v1/openapi.json"), ("GET", "/nonesuch"), ("POST", "/v1/studies/x/nonesuch")})


def test_every_route_but_health_needs_the_token(app: FastAPI, client: TestClient) -> None:
    asked = routes(app)
    assert len(asked) > 20
    for method, path in asked:
        if path in OPEN:
            continue
        filled = re.sub(r"\{[^}]+\}", "1", path)
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "autowarmup_session=alice.x.y"}):
            answer = client.request(method, filled, headers=headers)
            assert answer.status_code in (401, 303), (method, path, headers)
    assert client.get("/healthz").status_code == 200


def test_a_revoked_token_is_refused_at_once(client: TestClient, tmp_path: Path) -> None:
    bob = {"Authorization": f"Bearer {OTHER}"}
    assert client.get("/v1/studies", headers=bob).status_code == 200
    (tmp_path / "tokens.txt").write_text(f"alice {TOKEN}\n")
    assert client.get("/v1/studies", headers=bob).status_code == 401
    assert client.get("/v1/studies", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_without_tokens_it_listens_on_loopback_only(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without a token file anybody"):
        serve(ServiceSettings(folder=tmp_path / "studies", host="0.0.0.0", port=0))
    with service(tmp_path / "studies", "--no-mlflow") as running:
        assert running.url.startswith("http://127.0.0.1:")
        assert "no token needed" in running.said


def test_tls_by_a_certificate_of_the_operators(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    options = ["--no-mlflow", "--tls-cert", str(certificate), "--tls-key", str(key)]
    with service(tmp_path / "studies", *options) as running:
        assert running.url.startswith("https://")
        answer = httpx.get(f"{running.url}/healthz", verify=ssl.create_default_context(cafile=certificate))
        assert answer.status_code == 200
        assert "strict-transport-security" in answer.headers
        with pytest.raises(httpx.TransportError):
            httpx.get(running.url.replace("https", "http") + "/healthz")


@pytest.mark.parametrize(
    "body",
    [
        {"run": "../../etc/passwd"},
        {"run": "os:system"},
        {"total_steps": 100, "current_peak": 0.1, "space": "../secrets.yaml"},
        {"total_steps": 100, "current_peak": 0.1, "space": "/etc/passwd.yaml"},
        {"total_steps": 100, "current_peak": 0.1, "study": "/tmp/elsewhere"},
        {"total_steps": 100, "current_peak": 0.1, "mlflow": "http://elsewhere"},
        {"total_steps": 100, "current_peak": 0.1, "model_fn": "os.system"},
    ],
)
def test_no_path_and_no_import_string_comes_from_a_client(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.put("/v1/studies/x", json=body, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "a%2Fb", "<script>", "a b", "x" * 64, "é", "a\x00b"])
def test_a_study_is_named_in_letters_digits_and_dashes(client: TestClient, tmp_path: Path, name: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    path = httpx.URL("http://localhost").copy_with(raw_path=b"/v1/studies/" + _quoted(name))
    answer = client.put(str(path), json={"total_steps": 100, "current_peak": 0.1}, headers=headers)
    assert answer.status_code in (400, 404, 405, 422)
    assert {entry.name for entry in (tmp_path / "studies").iterdir()} <= {".session-key"}


def _quoted(name: str) -> bytes:
    from urllib.parse import quote

    return quote(name, safe="%/").encode()


def test_no_pickle_is_read(client: TestClient) -> None:
    """A checkpoint is stored as it is, and read by workers with ``weights_only``."""
    package = ROOT / "autowarmup"
    for path in [*(package / "service").rglob("*.py"), package / "engines" / "checkpoints.py"]:
        assert not re.search(r"\bpickle|cloudpickle|yaml\.load\(|\beval\(|\bexec\(|shell=True", path.read_text()), path
    trial = (package / "training" / "trial.py").read_text()
    assert "weights_only=True" in trial


@pytest.mark.slow
def test_files_that_hold_secrets_are_the_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    with (
        service(folder, "--no-mlflow", "--token-file", str(tokens(tmp_path))) as running,
        httpx.Client(base_url=running.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as client,
    ):
        client.put("/v1/studies/mine", json={"total_steps": 100, "current_peak": 0.001})
        Worker(client, "mine", "one").work()
    assert stat.S_IMODE(os.stat(folder / ".session-key").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(folder / "mine" / "study.db").st_mode) == 0o600
    (tmp_path / "tokens.txt").chmod(0o644)
    with pytest.raises(AssertionError, match="can be read by others"):
        started(folder, "--no-mlflow", "--token-file", str(tmp_path / "tokens.txt"))


@pytest.mark.slow
def test_the_tracking_password_is_in_no_file_and_in_no_argument(tmp_path: Path) -> None:
    folder, secret = tmp_path / "studies", "hunter2secret"
    with service(folder, "--mlflow", f"http://ada:{secret}@127.0.0.1:9") as running:
        httpx.put(f"{running.url}/v1/studies/mine", json={"total_steps": 100, "current_peak": 0.001}, timeout=30)
        with httpx.Client(base_url=running.url, timeout=30) as client:
            Worker(client, "mine", "one").work()
            shown = client.get("/v1/studies/mine").text + client.get("/metrics").text
    assert secret not in shown
    with closing(StudyStore(folder / "mine")) as store:
        assert store.meta("mlflow") == "http://127.0.0.1:9"
    for path in folder.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path


def test_limits_answer_413_and_429(tmp_path: Path) -> None:
    settings = ServiceSettings(
        folder=tmp_path / "studies", mlflow=False, most_studies=1, most_body=2_000, most_checkpoint=2_500
    )
    with TestClient(make_app(settings), base_url="http://localhost") as client:
        study = {"total_steps": 100, "current_peak": 0.1}
        assert client.put("/v1/studies/one", json=study).status_code == 201
        assert client.put("/v1/studies/two", json=study).status_code == 429
        assert client.put("/v1/studies/two", json=study | {"task": {"x": "y" * 4_000}}).status_code == 413
        wanted = {"client_id": "me", "wait_s": 10}
        (trial,) = client.post("/v1/studies/one/trials:suggest", json=wanted).json()["trials"]
        path = f"/v1/studies/one/trials/{trial['spec']['number']}/checkpoint"
        for data in (b"x" * 3_000, iter([b"x" * 1_000] * 3)):  # which says its length, and which doesn't
            answer = client.put(
                path,
                params={"lease": trial["lease"], "steps": 10},
                content=data,
                headers={"X-Checksum-SHA256": hashlib.sha256(b"x" * 3_000).hexdigest()},
            )
            assert answer.status_code == 413


def test_a_report_shows_its_styles_and_pictures_and_runs_nothing(client: TestClient, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    study = {"total_steps": 100, "current_peak": 0.1}
    assert client.put("/v1/studies/one", json=study, headers=headers).status_code == 201
    (tmp_path / "studies" / "one" / "report.html").write_text("<style></style>")
    policy = client.get("/v1/studies/one/report", headers=headers).headers["content-security-policy"]
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in policy
    assert "script-src" not in policy


def test_only_a_trusted_proxy_says_how_a_client_came(tmp_path: Path) -> None:
    forged = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "8.8.8.8"}
    header = "strict-transport-security"  # which answers to HTTPS have
    with service(tmp_path / "one", "--no-mlflow") as running:
        assert header not in httpx.get(f"{running.url}/healthz", headers=forged).headers
    with service(tmp_path / "two", "--no-mlflow", "--trusted-proxy", "127.0.0.1") as running:
        assert header in httpx.get(f"{running.url}/healthz", headers=forged).headers


def test_every_token_is_compared_whichever_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, compared = Tokens(tokens(tmp_path)), []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *pair: compared.append(pair) or compare(*pair))
    for token in (TOKEN, OTHER, "wrong"):
        known.client_of(token)
        assert len(compared) == 2
        assert all(len(part) == 32 for pair in compared for part in pair)  # digests: no length tells anything
        compared.clear()


def test_the_log_has_nothing_that_a_client_wrote(tmp_path: Path) -> None:
    running = started(tmp_path / "studies", "--no-mlflow")
    with httpx.Client(base_url=running.url, timeout=30) as client:
        client.put(
            "/v1/studies/mine", json={"total_steps": 100, "current_peak": 0.001, "task": {"x": "\x1b[31mFORGED"}}
        )
        for _ in range(4):
            wanted = {"client_id": "one", "wait_s": 2}
            for trial in client.post("/v1/studies/mine/trials:suggest", json=wanted).json()["trials"]:
                failed = {"lease": trial["lease"], "outcome": "failed", "reason": "\nERROR FORGED \x1b[31m"}
                client.post(f"/v1/studies/mine/trials/{trial['spec']['number']}:complete", json=failed)
        assert client.get("/v1/studies/mine").json()["state"] == "failed"
        client.get("/v1/studies/%0aFORGED")
    running.process.terminate()
    said = running.process.communicate(timeout=30)[1]
    assert "study mine failed" in said
    assert "FORGED" not in said
