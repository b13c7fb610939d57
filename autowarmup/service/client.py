"""A service of studies as its clients see it: HTTP with a token, and tried again where the service doesn't answer."""

from __future__ import annotations

import logging
import random
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

import autowarmup
from autowarmup import checked_file
from autowarmup.engines.checkpoints import Checkpoints
from autowarmup.errors import InputError, RemoteServiceError
from autowarmup.guard.events import Event
from autowarmup.search.trials import TrialSpec
from autowarmup.service.messages import (
    MOST_STEPS,
    Completion,
    Instruction,
    Problem,
    RecordedTrace,
    Report,
    StudyDetails,
    StudyRequest,
    Suggestion,
    SuggestRequest,
    Trials,
    TrialSummary,
)
from autowarmup.service.names import is_name
from autowarmup.service.run_messages import MOST_AT_ONCE, RunEvent, RunEvents
from autowarmup.service.traces import trace_of
from autowarmup.shell import printable
from autowarmup.study.result import TuneResult
from autowarmup.training.trace import Trace

try:
    import httpx
except ImportError as error:
    raise InputError("a service's clients need httpx: pip install 'autowarmup[service]'") from error

LOG = logging.getLogger("autowarmup")

PATIENCE_S = 600.0
"""Seconds for which a request is tried again: a service may be restarted, or its machine."""

FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 15.0
"""Between two tries; it doubles each time, and half of it is random, so that clients don't come all at once."""

TIMEOUT = httpx.Timeout(90.0, connect=10.0)
"""The end of a segment is answered when the search has decided, a request for trials when there is one."""

QUICK = httpx.Timeout(10.0)
"""Of requests that somebody waits for who has better things to do."""

PREFIX = "urn:autowarmup:"

Body = TypeVar("Body", bound=BaseModel)


class Version(BaseModel):
    """``GET /version``."""

    version: str


class RefusedError(RemoteServiceError):
    """The service has refused a request.

    Attributes:
        status: the HTTP status.
        kind: what a client can act on, such as ``"lease-lapsed"``; None for the rest.
    """

    def __init__(self, message: str, status: int, kind: str | None) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


class ServiceClient:
    """A service's client. It may be used by several threads.

    Args:
        url: the service's address, such as ``"https://tuner.example:8700"``, with the path that a proxy adds.
        token: the client's token; None where the service asks for none.
        ca: certificates to trust, as a PEM file; None for those that this machine trusts.

    Raises:
        InputError: the address or the file can't be used.

    Every method raises :class:`autowarmup.errors.RemoteServiceError`: the service can't be reached; and
    :class:`RefusedError`, its subclass: it refuses.

    Example:
        >>> ServiceClient("tuner.example:8700")
        Traceback (most recent call last):
        ...
        autowarmup.errors.InputError: service='tuner.example:8700': must begin with http:// or https://
    """

    def __init__(self, url: str, token: str | None = None, *, ca: Path | None = None) -> None:
        self.url = checked_url(url)
        headers = {"Authorization": f"Bearer {checked_token(token)}"} if token is not None else {}
        verify = ssl.create_default_context() if ca is None else _trusting(ca)
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT, verify=verify)

    def check_version(self) -> None:
        """Checks that the service has this version of autowarmup: others may decide differently.

        Raises:
            InputError: it has another one.
        """
        found = self._asked(Version, "GET", "/version").version
        if found != autowarmup.__version__:
            raise InputError(
                f"{self.url} has autowarmup {printable(found, longest=40)}, and this is {autowarmup.__version__}: "
                f"use the same version"
            )

    def put(self, study: str, request: StudyRequest) -> StudyDetails:
        """Begins a study, or finds the one that was begun with the same request."""
        return self._asked(StudyDetails, "PUT", _path(study), request)

    def details(self, study: str) -> StudyDetails:
        """How a study stands."""
        return self._asked(StudyDetails, "GET", _path(study))

    def resume(self, study: str) -> StudyDetails:
        """Goes on with a study that was cancelled or has failed."""
        return self._asked(StudyDetails, "POST", f"{_path(study)}:resume")

    def suggest(self, study: str, request: SuggestRequest) -> Suggestion:
        """Trials to train."""
        return self._asked(Suggestion, "POST", _path(study, "trials:suggest"), request)

    def report(self, study: str, number: int, report: Report, *, once: bool = False) -> Instruction:
        """Reports steps, and gets what to do next. It is tried ``once`` where another report follows soon."""
        return self._asked(Instruction, "POST", _path(study, f"trials/{number}/reports"), report, once=once)

    def complete(self, study: str, number: int, completion: Completion, *, once: bool = False) -> None:
        """Says that a trial has failed, or gives it back."""
        self._sent("POST", _path(study, f"trials/{number}:complete"), **_json(completion), once=once)

    def trial(self, study: str, number: int) -> TrialSummary:
        """A trial in summary."""
        return self._asked(TrialSummary, "GET", _path(study, f"trials/{number}"))

    def specs(self, study: str) -> Iterator[TrialSpec]:
        """All trials as they were decided, in order of their numbers."""
        token: str | None = ""
        while token is not None:
            page = self._asked(Trials, "GET", _path(study, "trials"), params={"page_token": token} if token else {})
            yield from (trial.spec for trial in page.trials)
            token = page.next_page_token

    def trace(self, study: str, number: int, end: int) -> Trace:
        """What a trial has recorded up to step ``end``."""
        parts = []
        for start in range(0, end, MOST_STEPS):
            params = {"start": start, "count": min(MOST_STEPS, end - start)}
            part = self._asked(RecordedTrace, "GET", _path(study, f"trials/{number}/trace"), params=params)
            parts.append(trace_of(part))
        return Trace.join(parts)

    def upload_checkpoint(self, study: str, number: int, lease: str, step: int, file: IO[bytes]) -> None:
        """Hands in the checkpoint of a paused trial, as :meth:`Checkpoints.reading` has opened it."""
        size = checked_file.size(file)
        headers = {"X-Checksum-SHA256": checked_file.checksum(file), "Content-Length": str(size)}

        def content() -> Iterator[bytes]:
            file.seek(0)
            left = size
            while part := file.read(min(checked_file.CHUNK, left)):
                left -= len(part)
                yield part

        path = _path(study, f"trials/{number}/checkpoint")
        self._sent("PUT", path, params={"lease": lease, "steps": step}, headers=headers, content=content)

    def download_checkpoint(self, study: str, number: int, step: int, checkpoints: Checkpoints) -> None:
        """Writes the checkpoint of a paused trial to ``checkpoints``."""

        def save() -> httpx.Response:
            path = _path(study, f"trials/{number}/checkpoint")
            with self._http.stream("GET", path, params={"steps": step}) as answer:
                if answer.is_success:
                    with checkpoints.writing(number, step) as file:
                        for part in answer.iter_bytes(checked_file.CHUNK):
                            file.write(part)
                else:
                    answer.read()
            return answer

        self._tried(save)

    def result(self, study: str) -> TuneResult:
        """What a finished study has found."""
        return self._asked(TuneResult, "GET", _path(study, "result"))

    def add_events(self, study: str, run: str, events: Sequence[Event], *, once: bool = False) -> None:
        """Tells of events of a guarded run; of no event: that it has begun. Tried ``once``, it takes ten seconds at
        most.

        Raises:
            InputError: the run's name, or an event, can't be used.
        """
        options: dict[str, Any] = {"once": True, "timeout": QUICK} if once else {}
        path = _path(study, f"runs/{_checked_run(run)}/events")
        for start in range(0, max(1, len(events)), MOST_AT_ONCE):
            part = tuple(RunEvent(**event.model_dump()) for event in events[start : start + MOST_AT_ONCE])
            self._sent("POST", path, **_json(RunEvents(events=part)), **options)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _asked(self, kind: type[Body], method: str, path: str, body: BaseModel | None = None, **options: Any) -> Body:
        answer = self._sent(method, path, **_json(body), **options)
        try:
            return kind.model_validate_json(answer.content)
        except ValidationError as error:
            raise RemoteServiceError(
                f"{self.url} gives an answer that this version of autowarmup can't read ({method} {path}): is it the "
                f"address of `autowarmup serve`, and of the same version?"
            ) from error

    def _sent(
        self, method: str, path: str, *, content: Callable[[], Any] | None = None, once: bool = False, **options: Any
    ) -> httpx.Response:
        def send() -> httpx.Response:
            return self._http.request(method, path, content=content and content(), **options)

        return self._tried(send, once=once)

    def _tried(self, send: Callable[[], httpx.Response], *, once: bool = False) -> httpx.Response:
        """The answer, as soon as there is one other than "not now"."""
        delay, end = FIRST_DELAY_S, time.monotonic() + (0.0 if once else PATIENCE_S)
        told = once
        while True:
            with self._failing_for_good():
                try:
                    answer = send()
                    if answer.status_code < 500 and "Retry-After" not in answer.headers:
                        return self._checked(answer)
                    reason, after = f"HTTP {answer.status_code}", _seconds(answer.headers.get("Retry-After"))
                except httpx.TransportError as error:
                    reason, after = str(error) or type(error).__name__, 0.0
                    if "CERTIFICATE_VERIFY_FAILED" in reason:
                        raise RemoteServiceError(f"{self.url} is not trusted: {reason}") from error
            pause = max(after, delay * random.uniform(0.5, 1.0))
            if time.monotonic() + pause >= end:
                raise RemoteServiceError(f"{self.url} doesn't answer: {printable(reason, longest=200)}")
            if not told:
                LOG.warning(
                    "autowarmup: %s doesn't answer (%s): it is tried again for %d minutes",
                    self.url, printable(reason, longest=200), PATIENCE_S // 60,
                )  # fmt: skip
                told = True
            time.sleep(pause)
            delay = min(2 * delay, LONGEST_DELAY_S)

    @contextmanager
    def _failing_for_good(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise RemoteServiceError(f"{self.url} can't be used: {error}") from error

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        if answer.is_success:
            return answer
        try:
            problem = Problem.model_validate_json(answer.content)
        except ValidationError:
            problem = Problem(title=answer.reason_phrase, status=answer.status_code, detail=answer.reason_phrase)
        kind = problem.type.removeprefix(PREFIX) if problem.type.startswith(PREFIX) else None
        detail = printable(problem.detail, longest=2_000)
        raise RefusedError(f"{self.url} refuses (HTTP {answer.status_code}): {detail}", answer.status_code, kind)


def checked_url(url: str) -> str:
    """A service's address, without a slash at its end.

    Raises:
        InputError: it is none.
    """
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise InputError(f"service={url!r}: must begin with http:// or https://")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InputError(f"service: the address can't be used: {error}") from error
    if parsed.userinfo or parsed.query or parsed.fragment or not parsed.host:
        raise InputError(
            "service: the address must be a host with a port and a path, no more; pass the token by itself"
        )
    return url.rstrip("/")


def checked_token(token: str) -> str:
    """A token that a header can hold.

    Raises:
        InputError: it can't; the message doesn't show it.
    """
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token or " " in token:
        raise InputError("the service's token must be printable ASCII characters without spaces")
    return token


def token_from(path: Path) -> str:
    """The token in a file: alone, or on a line ``name token`` as the service has it.

    Raises:
        InputError: the file can't be read, or holds something else.

    Example:
        >>> _ = (tmp_path / "token").write_text("alice 5f3a\\n")
        >>> token_from(tmp_path / "token")
        '5f3a'
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise InputError(
            f"the token file {path} can't be read: {getattr(error, 'strerror', 'it is not text')}"
        ) from error
    words = [line.split() for line in lines if line.strip()]
    if len(words) != 1 or len(words[0]) > 2:
        raise InputError(f"the token file {path} must have one line: the token, or a name and the token")
    return checked_token(words[0][-1])


def _path(study: str, rest: str = "") -> str:
    if not is_name(study):
        raise InputError(
            f"study={study!r}: a study's name on a service has letters, digits, dashes and underscores, at most 63"
        )
    return f"/v1/studies/{study}{rest and '/'}{rest}"


def _checked_run(run: str) -> str:
    if not is_name(run):
        raise InputError(
            f"run={run!r}: a run's name on a service has letters, digits, dashes and underscores, at most 63"
        )
    return run


def _json(body: BaseModel | None) -> dict[str, Any]:
    if body is None:
        return {}
    text = body.model_dump_json().encode()
    return {"content": lambda: text, "headers": {"Content-Type": "application/json"}}


def _seconds(header: str | None) -> float:
    """How long to wait, from a ``Retry-After``; a date there is not understood."""
    return min(float(header), LONGEST_DELAY_S) if header and header.isdecimal() else 0.0


def _trusting(ca: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca))
    except OSError as error:
        raise InputError(f"the certificates in {ca} can't be used: {error.strerror or error}") from error
