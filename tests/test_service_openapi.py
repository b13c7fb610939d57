"""Requests that nobody would write, made from the OpenAPI document: no answer may be a 500, and errors are problems."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from tests.service import service

ENDLESS = r"\{study\}/events$"
"""Streams that last as long as a study."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("openapi") / "studies"
    with service(folder, "--no-mlflow", "--max-studies", "20") as running:
        yield running.url


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_request_makes_the_service_fail(address: str) -> None:
    document = schemathesis.openapi.from_url(f"{address}/v1/openapi.json").exclude(path_regex=ENDLESS)
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) > 15
    for operation in operations:

        @given(operation.as_strategy())
        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        def no_failure(case: schemathesis.Case) -> None:
            answer = case.call(timeout=70)
            assert answer.status_code < 500 or answer.status_code == 503, answer.text
            if answer.status_code >= 400:
                assert answer.headers["content-type"][0] == "application/problem+json", answer.text

        no_failure()
