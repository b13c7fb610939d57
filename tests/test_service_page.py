"""The page: what it shows, to whom, and what hostile names become in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from autowarmup.service.app import make_app
from autowarmup.service.hosted import Kept
from autowarmup.service.settings import ServiceSettings
from tests.mlflow_server import wait_until
from tests.service import Worker, report_of, steep_loss, token_file

TOKEN = "alice-0123456789abcdef"
REQUEST = {"total_steps": 100, "current_peak": 0.001}
pytestmark = pytest.mark.filterwarnings("ignore:You should not use the 'timeout' argument with the TestClient")

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = ServiceSettings(folder=tmp_path_factory.mktemp("page") / "studies", mlflow=False)
    with TestClient(make_app(settings), base_url="http://localhost", follow_redirects=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def finished(client: TestClient) -> str:
    """The page of a study that has come to its end."""
    asked = {"total_steps": 200, "current_peak": 0.02, "budget": "16 runs"}
    assert client.put("/v1/studies/whole", json=asked).status_code == 201
    assert Worker(client, "whole", "one", pace=50, loss=steep_loss).work() == "finished"
    wait_until(lambda: "The report is being written" not in client.get("/studies/whole/live").text, 120)
    return client.get("/studies/whole").text


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[TestClient]:
    file = token_file(tmp_path, f"alice {TOKEN}\n")
    settings = ServiceSettings(folder=tmp_path / "studies", mlflow=False, token_file=file)
    with TestClient(make_app(settings), base_url="http://localhost", follow_redirects=False) as opened:
        yield opened


class Elements(HTMLParser):
    """All start tags of a page with their attributes, and its text by the element that it is in."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def words(html: str) -> str:
    """What one reads on a page."""
    return " ".join(" ".join(Elements(html).text).split())


# --- What is shown ----------------------------------------------------------------------------------------


def test_the_studies_are_listed(client: TestClient, finished: str) -> None:
    text = words(client.get("/").text)
    assert "whole finished tuned" in text
    assert re.search(r"Begun whole", text)
    assert 'href="/studies/whole"' in client.get("/").text


def test_a_service_without_studies_says_how_one_begins(guarded: TestClient) -> None:
    guarded.headers["Authorization"] = f"Bearer {TOKEN}"
    assert "There are no studies yet" in words(guarded.get("/").text)


def test_a_finished_study_shows_what_was_found(client: TestClient, finished: str) -> None:
    text = words(finished)
    verdict = client.get("/v1/studies/whole/verdict").json()
    summary = client.get("/v1/studies/whole").json()
    assert " ".join(verdict["verdict"]["message"].split()) in text
    assert f"{summary['best']['value']:.4g} loss, trial {summary['best']['trial']}" in text
    labels = [found["for"] for found in Elements(finished).all("label")]
    assert {"use-pytorch", "use-transformers", "use-optax", "wanted", "outcome"} <= {*labels}
    assert "LambdaLR" in text
    for link in ("/v1/studies/whole/report", "/v1/studies/whole/result", "/v1/studies/whole/schedule"):
        assert f'href="{link}"' in finished
    assert client.get("/v1/studies/whole/report").status_code == 200


def test_the_current_schedule_is_shown_beside_the_best(client: TestClient) -> None:
    """Where it has got to its end on the search's seed."""
    assert client.put("/v1/studies/beside", json={"total_steps": 200, "current_peak": 0.06}).status_code == 201
    assert Worker(client, "beside", "one", pace=50).work() == "finished"
    summary = client.get("/v1/studies/beside").json()
    text = words(client.get("/studies/beside").text)
    for which in ("best", "current"):
        assert f"{summary[which]['value']:.4g} loss, trial {summary[which]['trial']}" in text
    assert summary["current"]["value"] > summary["best"]["value"]


def test_the_table_and_the_charts_have_all_trials(client: TestClient, finished: str) -> None:
    trials = client.get("/v1/studies/whole/trials").json()["trials"]
    page = Elements(finished)
    rows = [row["data-outcome"] for row in page.all("tr") if "data-outcome" in row]
    assert rows == [trial["outcome"] for trial in trials]
    searched = [trial for trial in trials if trial["spec"]["role"] in ("baseline", "proposal")]
    drawn = finished.split('id="map"')[1].split('id="curves"')[0]
    assert drawn.count('<g class="mark') == len(searched) + len({*rows}), "and the legend"
    broke = [trial for trial in searched if trial["outcome"] == "unstable"]
    curves = finished.split('id="curves"')[1].split('id="trials"')[0]
    assert curves.count('<g class="mark unstable"><title>') == len(broke) > 0
    assert ">best</text>" in drawn
    assert ">current</text>" in drawn


def test_the_live_part_is_the_same_as_in_the_page(client: TestClient, finished: str) -> None:
    live = client.get("/studies/whole/live").text
    assert "<html" not in live
    parts = [attributes["id"] for _, attributes in Elements(live).found if "data-part" in attributes]
    assert parts == [attributes["id"] for _, attributes in Elements(finished).found if "data-part" in attributes]
    assert live.strip() in finished


def test_a_study_that_runs_shows_how_far_it_is(client: TestClient) -> None:
    client.put("/v1/studies/growing", json=REQUEST)
    assert "No loss has been reported yet" in words(client.get("/studies/growing").text)
    asked = {"client_id": "worker-7", "wait_s": 10}
    (trial,) = client.post("/v1/studies/growing/trials:suggest", json=asked).json()["trials"]
    number = trial["spec"]["number"]
    client.post(f"/v1/studies/growing/trials/{number}/reports", json=report_of(trial, 1, 0, 5))
    html = client.get("/studies/growing/live").text
    text = words(html)
    assert "on worker-7" in text
    budget = client.get("/v1/studies/growing").json()["budget"]
    assert f"0.1 of {budget / 100:.1f} whole runs" in text
    (bar,) = Elements(html).all("progress")
    assert (bar["value"], bar["max"]) == ("5", str(budget))
    assert "Resume" not in text


@pytest.mark.parametrize(
    "losses",
    [
        [1e308, 1e308, 1e-300, 2.0],
        ["NaN", "Infinity", "-Infinity", None],
        [-1e308, 0.0, -0.0, 5e-324],
        [0.0, 0.0, 0.0, 0.0],
        [1.5, "NaN", 1.5, "NaN"],
    ],
)
def test_losses_of_any_size_are_drawn(client: TestClient, losses: list[Any]) -> None:
    study = f"sizes-{abs(hash(str(losses)))}"
    client.put(f"/v1/studies/{study}", json=REQUEST | {"total_steps": 250})

    def stop_in_time(trial: dict[str, Any], step: int) -> None:
        if trial["spec"]["role"] != "probe" and step >= 8:
            raise StopIteration

    with suppress(StopIteration):
        Worker(
            client, study, "one", pace=8, before_report=stop_in_time, loss=lambda _, __, step: losses[step % 4]
        ).work()
    answer = client.get(f"/studies/{study}")
    assert answer.status_code == 200
    finite = any(isinstance(loss, float) for loss in losses)
    assert ('id="curves-plot"' in answer.text) == finite
    drawn = re.findall(r'(?: d| x| y|cx|cy)="([^"]*)"', answer.text)
    assert not [place for place in drawn if re.search("nan|inf|e", place)]


def test_a_study_is_cancelled_resumed_and_deleted_by_forms(client: TestClient) -> None:
    client.put("/v1/studies/shortlived", json=REQUEST)
    for action, state, offered in (("cancel", "cancelled", "Resume the study"), ("resume", "running", "Cancel the")):
        answer = client.post(f"/studies/shortlived/{action}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/studies/shortlived")
        assert client.get("/v1/studies/shortlived").json()["state"] == state
        assert offered in client.get("/studies/shortlived").text
        assert client.get(f"/studies/shortlived/{action}").status_code == 405
    answer = client.post("/studies/shortlived/delete")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert client.get("/studies/shortlived").status_code == 404


def test_a_study_in_mlflow_leads_there(client: TestClient) -> None:
    client.put("/v1/studies/told", json=REQUEST)
    study = client.app.state.studies.study("told")  # type: ignore[attr-defined]
    address = "https://mlflow.example/#/experiments/1?searchFilter=a"
    assert "MLflow</a>" not in client.get("/studies/told").text
    study.update(mlflow=address)
    links = [link.get("href") for link in Elements(client.get("/studies/told/live").text).all("a")]
    assert address in links
    assert Kept.load(study.folder).mlflow == address


def test_what_is_kept_of_a_deleted_study_is_not_written_again(client: TestClient) -> None:
    client.put("/v1/studies/gone", json=REQUEST)
    study = client.app.state.studies.study("gone")  # type: ignore[attr-defined]
    client.post("/studies/gone/delete")
    study.update(delivered=True)
    assert not study.folder.exists()


def test_errors_are_pages(client: TestClient) -> None:
    for path in ("/studies/nonesuch", "/studies/nonesuch/live", "/studies/a.b", "/static/../page.css"):
        answer = client.get(path, headers={"Accept": "text/html"})
        assert answer.status_code == 404
    answer = client.get("/studies/nonesuch")
    assert answer.headers["content-type"].startswith("text/html")
    assert "there is no study 'nonesuch'" in words(answer.text)


# --- Hostile names ----------------------------------------------------------------------------------------


def test_hostile_texts_are_shown_and_do_nothing(client: TestClient) -> None:
    asked = REQUEST | {"task": {"model": HOSTILE, HOSTILE: 1}, "objective": {"name": HOSTILE}}
    assert client.put("/v1/studies/hostile", json=asked).status_code == 201
    (trial,) = client.post("/v1/studies/hostile/trials:suggest", json={"client_id": "one", "wait_s": 10}).json()[
        "trials"
    ]
    failed = {"lease": trial["lease"], "outcome": "failed", "reason": f"Traceback\nValueError: {HOSTILE}"}
    path = f"/v1/studies/hostile/trials/{trial['spec']['number']}:complete"
    assert client.post(path, json=failed).status_code == 204
    study = client.app.state.studies.study("hostile")  # type: ignore[attr-defined]
    study.failure = HOSTILE
    try:
        for path in ("/studies/hostile", "/studies/hostile/live"):
            html = client.get(path).text
            page = Elements(html)
            assert "<script>" not in html
            assert not page.all("img")
            assert not [name for _, attributes in page.found for name in attributes if name.startswith("on")]
            assert words(html).count(HOSTILE) >= 2
    finally:
        study.failure = None


def test_a_page_has_no_style_or_script_inside_it(client: TestClient, finished: str) -> None:
    for html in (finished, client.get("/").text, client.get("/studies/nonesuch").text):
        page = Elements(html)
        assert not page.all("style")
        assert [script["src"] for script in page.all("script")] == [page.all("script")[0]["src"]]
        assert not [attributes for _, attributes in page.found if "style" in attributes]


# --- For everybody ----------------------------------------------------------------------------------------


def test_pages_are_accessible(client: TestClient, finished: str) -> None:
    for html in (finished, client.get("/").text, client.get("/studies/growing").text):
        page = Elements(html)
        assert page.all("html")[0]["lang"] == "en"
        levels = [int(tag[1]) for tag, _ in page.found if re.fullmatch(r"h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
        assert len(ids) == len({*ids})
        labelled = {label["for"] for label in page.all("label")}
        fields = [field for tag in ("input", "select", "progress") for field in page.all(tag)]
        assert {field["id"] for field in fields} <= labelled
        for _, attributes in page.found:
            assert {*(attributes.get("aria-labelledby") or "").split()} <= {*ids}
        assert all(svg.get("aria-hidden") or svg.get("aria-label") for svg in page.all("svg"))
    assert 'aria-live="polite"' in finished


def test_the_page_s_own_files_are_kept_by_browsers(client: TestClient, finished: str) -> None:
    page = Elements(finished)
    for address in (page.all("script")[0]["src"], *(link["href"] for link in page.all("link"))):
        answer = client.get(str(address))
        assert answer.status_code == 200
        assert "max-age" in answer.headers["cache-control"]
    assert client.get("/").headers["cache-control"] == "no-store"


# --- Who may see it ---------------------------------------------------------------------------------------


def test_one_logs_in_with_a_token_once(guarded: TestClient) -> None:
    html = {"Accept": "text/html"}
    for path in ("/", "/studies/x", "/studies/x/live"):
        refused = guarded.get(path, headers=html)
        assert (refused.status_code, refused.headers["location"]) == (303, "/login")
    for path in ("/studies/x/delete", "/logout"):
        assert guarded.post(path, headers=html).status_code == 401
    assert "Token" in words(guarded.get("/login").text)
    for wrong in ("", "x", TOKEN[:-1], TOKEN + "x", "\x00", "%ff"):
        refused = guarded.post("/login", data={"token": wrong})
        assert refused.status_code == 401
        assert "no valid token" in words(refused.text)
        assert "set-cookie" not in refused.headers
    answer = guarded.post("/login", data={"token": f" {TOKEN}\n"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert TOKEN not in cookie
    for part in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=604800"):
        assert part in cookie
    assert "Secure" not in cookie
    page = guarded.get("/", headers=html)
    assert page.status_code == 200
    assert "alice Log out" in words(page.text)
    guarded.post("/logout")
    assert guarded.get("/", headers=html).headers["location"] == "/login"


def test_over_https_the_cookie_stays_there(guarded: TestClient) -> None:
    answer = guarded.post("https://localhost/login", data={"token": TOKEN})
    assert "Secure" in answer.headers["set-cookie"]


def test_a_page_of_another_origin_can_t_log_in_or_delete(guarded: TestClient) -> None:
    for path in ("/login", "/studies/x/delete"):
        answer = guarded.post(path, data={"token": TOKEN}, headers={"Origin": "https://evil.example"})
        assert answer.status_code == 403


def test_where_the_token_file_is_unusable_nobody_logs_in_and_nothing_is_told(
    guarded: TestClient, tmp_path: Path
) -> None:
    (tmp_path / "tokens.txt").write_text("alice\n")
    answer = guarded.post("/login", data={"token": TOKEN})
    assert answer.status_code == 503
    assert str(tmp_path) not in answer.text


def test_without_tokens_there_is_no_login(client: TestClient) -> None:
    for answer in (client.get("/login"), client.post("/login", data={"token": "x"})):
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert "set-cookie" not in answer.headers
    assert "Log out" not in client.get("/").text


def test_behind_a_proxy_s_path_links_lead_there(tmp_path: Path) -> None:
    settings = ServiceSettings(folder=tmp_path / "studies", mlflow=False)
    app = make_app(settings)
    with TestClient(app, base_url="http://localhost", root_path="/tune") as client:
        client.put("/v1/studies/one", json=REQUEST)
        page = Elements(client.get("/tune/studies/one").text)
        links = [link["href"] for link in page.all("a")] + [
            form["action"] for form in page.all("form") if "action" in form
        ]
        links += [script["src"] for script in page.all("script")]
        assert all(str(link).startswith(("/tune/", "#")) for link in links)
        (main,) = page.all("main")
        assert main["data-events"] == "/tune/v1/studies/one/events"
