"""Tokens, sessions and the checks before every request, on a small application."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from autowarmup.errors import InputError, StudyError
from autowarmup.service.problems import add_handlers
from autowarmup.service.security.guard import secure
from autowarmup.service.security.limits import MOST_CLIENTS, Pace, RequestRate
from autowarmup.service.security.sessions import COOKIE, KEY_FILE, LASTS_S, Sessions
from autowarmup.service.security.tokens import Tokens
from autowarmup.service.settings import ServiceSettings
from tests.service import token_file

ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdef"


def tokens_of(folder: Path, text: str = f"# the team\nalice {ALICE}\n\nbob {BOB}\n") -> Path:
    return token_file(folder, text)


def client_for(tmp_path: Path, **settings: Any) -> TestClient:
    """A client of a small application with all checks before it."""
    app = FastAPI()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/")
    @app.get("/v1/name")
    async def name(request: Request) -> str | None:
        return getattr(request.state, "client", None)

    @app.post("/v1/size")
    @app.put("/v1/checkpoint")
    async def size(request: Request) -> int:
        return len(await request.body())

    @app.get("/login")
    @app.get("/static/style.css")
    async def style() -> PlainTextResponse:
        return PlainTextResponse("body {}")

    add_handlers(app)
    secure(app, ServiceSettings(folder=tmp_path / "studies", **settings))
    path = settings.get("root_path", "")
    return TestClient(app, base_url="http://localhost:8700", root_path=path, follow_redirects=False)


@pytest.fixture
def guarded(tmp_path: Path) -> TestClient:
    return client_for(tmp_path, token_file=tokens_of(tmp_path))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# --- Tokens -----------------------------------------------------------------------------------------------


def test_a_token_belongs_to_its_client(tmp_path: Path) -> None:
    tokens = Tokens(tokens_of(tmp_path))
    assert tokens.client_of(ALICE) == "alice"
    assert tokens.client_of(BOB) == "bob"
    for wrong in ("", ALICE[:-1], f"{ALICE} ", "alice", "\udcff", "ä"):
        assert tokens.client_of(wrong) is None


def test_the_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tokens_of(tmp_path)
    tokens = Tokens(path)
    tokens_of(tmp_path, f"bob {BOB}\n")
    assert tokens.client_of(ALICE) is None
    assert tokens.client_of(BOB) == "bob"
    path.unlink()
    with pytest.raises(InputError, match="can't be read"):
        tokens.client_of(BOB)
    tokens_of(tmp_path)
    assert tokens.client_of(ALICE) == "alice"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tokens_of(tmp_path)
    path.chmod(mode)
    with pytest.raises(InputError, match="chmod 600"):
        Tokens(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no token"),
        ("# nobody\n", "has no token"),
        (f"{ALICE}\n", "two words"),
        (f"alice {ALICE} x\n", "two words"),
        (f"../alice {ALICE}\n", "a name has letters"),
        ("alice secret-word\n", "too short"),
        (f"alice {ALICE}\nalice {BOB}\n", "twice"),
        (f"alice {ALICE}\nbob {ALICE}\n", "twice"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_without_showing_a_token(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Tokens(tokens_of(tmp_path, text))
    assert not [word for word in (ALICE, BOB, "secret-word") if word in str(caught.value)]


# --- Sessions ---------------------------------------------------------------------------------------------


def test_a_session_is_its_client_s_and_ends_with_its_token(tmp_path: Path) -> None:
    tokens = Tokens(tokens_of(tmp_path))
    sessions = Sessions(tmp_path, tokens)
    cookie = sessions.cookie("alice")
    assert ALICE not in cookie
    assert sessions.client_of(cookie) == "alice"
    assert Sessions(tmp_path, tokens).client_of(cookie) == "alice", "the service was started again"
    for wrong in ("", "alice", cookie[:-1], cookie.replace("alice", "bob"), "nobody.x.y"):
        assert sessions.client_of(wrong) is None
    tokens_of(tmp_path, f"alice {ALICE}-new\nbob {BOB}\n")
    assert sessions.client_of(cookie) is None
    (tmp_path / KEY_FILE).unlink()
    assert Sessions(tmp_path, tokens).client_of(sessions.cookie("bob")) is None


def test_a_session_ends_after_a_week(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(tmp_path, Tokens(tokens_of(tmp_path)))
    cookie = sessions.cookie("alice")
    for seconds, expected in ((LASTS_S - 60, "alice"), (LASTS_S + 60, None)):
        with monkeypatch.context() as patched:
            later = time.time() + seconds
            patched.setattr("itsdangerous.timed.time.time", lambda later=later: later)
            assert sessions.client_of(cookie) == expected


def test_the_sessions_key_is_the_owner_s_alone(tmp_path: Path) -> None:
    Sessions(tmp_path, Tokens(tokens_of(tmp_path)))
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    os.truncate(tmp_path / KEY_FILE, 3)
    with pytest.raises(StudyError, match="damaged"):
        Sessions(tmp_path, Tokens(tokens_of(tmp_path)))


# --- Authentication ---------------------------------------------------------------------------------------


def test_a_token_or_a_session_opens_every_route(guarded: TestClient, tmp_path: Path) -> None:
    refused = guarded.get("/v1/name")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.headers["content-type"] == "application/problem+json"
    assert guarded.get("/v1/name", headers=bearer(ALICE)).json() == "alice"
    cookie = Sessions(tmp_path / "studies", Tokens(tmp_path / "tokens.txt")).cookie("bob")
    assert guarded.get("/v1/name", headers={"Cookie": f"{COOKIE}={cookie}"}).json() == "bob"
    for wrong in (bearer(""), bearer("x"), {"Authorization": ALICE}, {"Authorization": f"Basic {ALICE}"}):
        assert guarded.get("/v1/name", headers=wrong).status_code == 401
    assert guarded.get("/v1/none-such").status_code == 401, "nobody learns which routes there are"


def test_health_the_login_and_its_style_are_open(guarded: TestClient) -> None:
    for path in ("/healthz", "/login", "/static/style.css"):
        assert guarded.get(path).status_code == 200
    for path in ("/healthz/", "/static", "/static/../v1/name", "/login/x", "//healthz"):
        assert guarded.get(path).status_code == 401


def test_a_browser_is_sent_to_the_login(guarded: TestClient) -> None:
    answer = guarded.get("/", headers={"Accept": "text/html,application/xhtml+xml"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert guarded.get("/v1/name", headers={"Accept": "text/html"}).status_code == 401


def test_behind_a_proxy_s_path_the_same_routes_are_open(tmp_path: Path) -> None:
    client = client_for(tmp_path, token_file=tokens_of(tmp_path), root_path="/tune")
    for start in ("", "/tune"):
        assert client.get(f"{start}/healthz").status_code == 200
        assert client.get(f"{start}/v1/name").status_code == 401
        assert client.get(f"{start}/v1/name", headers=bearer(ALICE)).json() == "alice"
    assert client.get("/tune/", headers={"Accept": "text/html"}).headers["location"] == "/tune/login"


def test_nobody_is_let_in_while_the_token_file_is_unusable(guarded: TestClient, tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_text("alice\n")
    assert guarded.get("/v1/name", headers=bearer(ALICE)).status_code == 503
    assert guarded.get("/healthz").status_code == 200
    tokens_of(tmp_path)
    assert guarded.get("/v1/name", headers=bearer(ALICE)).status_code == 200


# --- Hosts and origins ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.org", "localhost.evil.org", "", "localhost@evil.org", "evil.org:8700", "["])
def test_another_host_is_refused(guarded: TestClient, host: str) -> None:
    answer = guarded.get("/v1/name", headers=bearer(ALICE) | {"Host": host})
    assert answer.status_code == 400
    assert "--allowed-host" in answer.json()["detail"]


def test_the_service_s_own_names_are_known(tmp_path: Path) -> None:
    client = client_for(tmp_path, allowed_hosts=("Tuner.example",), host="10.0.0.7")
    for host in ("localhost", "127.0.0.1:8700", "[::1]:8700", "tuner.example", "TUNER.example:443", "10.0.0.7:8700"):
        assert client.get("/v1/name", headers={"Host": host}).status_code == 200
    assert client.get("/healthz", headers={"Host": "172.17.0.3:8700"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.org"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "http://localhost:8700.evil.org"},
        {"Origin": "ftp://localhost:8700"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_origins_are_refused(guarded: TestClient, headers: dict[str, str]) -> None:
    answer = guarded.post("/v1/size", headers=bearer(ALICE) | headers)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_the_own_page_and_other_clients_may_post(guarded: TestClient) -> None:
    own = {"Origin": "http://localhost:8700", "Sec-Fetch-Site": "same-origin"}
    assert guarded.post("/v1/size", headers=bearer(ALICE) | own).status_code == 200
    assert guarded.post("/v1/size", headers=bearer(ALICE)).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site"}
    assert guarded.get("/v1/name", headers=bearer(ALICE) | link).status_code == 200


# --- Limits -----------------------------------------------------------------------------------------------


def test_a_long_body_is_refused_whether_it_says_so_or_not(tmp_path: Path) -> None:
    client = client_for(tmp_path, most_body=2_000, most_checkpoint=4_000)
    assert client.post("/v1/size", content=b"x" * 2_000).json() == 2_000
    assert client.put("/v1/checkpoint", content=b"x" * 4_000).json() == 4_000
    parts = [b"x" * 1_001] * 2
    for answer in (
        client.post("/v1/size", content=b"x" * 2_001),
        client.post("/v1/size", content=iter(parts)),
        client.put("/v1/checkpoint", content=b"x" * 4_001),
    ):
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"


def test_long_addresses_and_many_headers_are_refused(guarded: TestClient) -> None:
    assert guarded.get("/v1/name?" + "x" * 5_000).status_code == 414
    assert guarded.get("/v1/name", headers={"X-Long": "x" * 20_000}).status_code == 431
    assert guarded.get("/v1/name", headers={f"X-{n}": "x" for n in range(120)}).status_code == 431


def test_a_client_that_sends_too_many_requests_is_told_when_to_come_back(tmp_path: Path) -> None:
    client = client_for(tmp_path, token_file=tokens_of(tmp_path), requests_per_s=0.5)
    assert client.get("/v1/name", headers=bearer(ALICE)).status_code == 200
    refused = client.get("/v1/name", headers=bearer(ALICE))
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 2
    assert client.get("/v1/name", headers=bearer(BOB)).status_code == 200, "others are not held up"


def test_the_pace_is_an_average() -> None:
    now = [0.0]
    pace = Pace(2.0, lambda: now[0])
    assert [pace.wait_s("a") for _ in range(5)] == [0.0] * 4 + [0.5]
    now[0] = 0.5
    assert [pace.wait_s("a"), pace.wait_s("a")] == [0.0, 0.5]
    now[0] = 100.0
    assert [pace.wait_s("a") for _ in range(5)] == [0.0] * 4 + [0.5]


def test_the_pace_forgets_the_clients_that_were_quiet_for_longest() -> None:
    pace = Pace(1.0, lambda: 0.0)
    for number in range(2 * MOST_CLIENTS):
        pace.wait_s(str(number))
    assert len(pace._left) == MOST_CLIENTS


def test_requests_that_are_open_at_once_are_limited() -> None:
    """The first one waits for the second one, which is refused; then a third one gets through."""
    answers: list[int] = []

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        if not answers:
            await ask()
        await PlainTextResponse("done")(scope, receive, send)

    async def ask() -> None:
        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answers.append(message["status"])

        async def receive() -> Message:
            return {"type": "http.request"}

        await limited({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)

    limited = RequestRate(waits, per_s=100.0, most_open=1)
    asyncio.run(ask())
    asyncio.run(ask())
    assert answers == [429, 200, 200]


# --- Headers ----------------------------------------------------------------------------------------------


def test_every_answer_has_the_security_headers(guarded: TestClient) -> None:
    for answer in (guarded.get("/healthz"), guarded.get("/v1/name"), guarded.get("/healthz", headers={"Host": "x"})):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "strict-transport-security" not in answer.headers
    assert guarded.get("https://localhost/healthz").headers["strict-transport-security"]
