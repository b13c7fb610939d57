"""Sessions of the page: a cookie that says who has logged in."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from itsdangerous import BadSignature, TimestampSigner

from autowarmup.errors import StudyError
from autowarmup.service.security.tokens import Tokens

COOKIE = "autowarmup_session"

LASTS_S = 7 * 24 * 3600
"""Seconds after which one logs in again."""

KEY_FILE = ".session-key"
"""The name of the key in the service's folder."""


class Sessions:
    """Cookies that can't be forged: signed with the service's key and the client's token. So a session ends with its
    token, and all sessions end when the key is deleted.

    Args:
        folder: the service's; the key is made there when it is missing.
        tokens: the clients'.

    Raises:
        StudyError: the key can't be read or made.
    """

    def __init__(self, folder: Path, tokens: Tokens) -> None:
        self._key = _key(folder / KEY_FILE)
        self._tokens = tokens

    def cookie(self, client: str) -> str:
        """The cookie of a client who has logged in."""
        token = self._tokens.token_of(client)
        assert token is not None
        return self._signer(token).sign(client).decode()

    def client_of(self, cookie: str) -> str | None:
        """The client who has this cookie; None where it is not a session's, or not any more."""
        name = cookie.partition(".")[0]
        token = self._tokens.token_of(name)
        if token is None:
            return None
        try:
            return self._signer(token).unsign(cookie, max_age=LASTS_S).decode()
        except BadSignature:
            return None

    def _signer(self, token: str) -> TimestampSigner:
        return TimestampSigner(self._key + token.encode(), salt="autowarmup.session")


def _key(path: Path) -> bytes:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            key = path.read_bytes()
        else:
            key = secrets.token_bytes(32)
            with os.fdopen(handle, "wb") as file:
                file.write(key)
    except OSError as error:
        raise StudyError(f"can't use the key of the service's sessions, {path}: {error.strerror}") from error
    if len(key) != 32:
        raise StudyError(f"the key of the service's sessions, {path}, is damaged: delete it; everybody logs in again")
    return key
