"""The clients' tokens, from the operator's file."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
import threading
from pathlib import Path
from typing import NamedTuple

from autowarmup.errors import InputError
from autowarmup.service.names import is_name

SHORTEST = 16
"""Characters that a token has at least. Shorter ones could be guessed."""

MAKE_ONE = "openssl rand -hex 32"


class Tokens:
    """The tokens of a file: a line ``name token`` for each client. Empty lines and such that begin with ``#`` don't
    count. The file is read again when it has changed, so a client whose line is deleted is refused from then on.

    Args:
        path: the file. Only its owner may read it.

    Raises:
        InputError: it can't be used. So does every method, once the file has been changed to such a one: then nobody
            is let in.

    Example:
        >>> file = tmp_path / "tokens.txt"
        >>> file.touch(mode=0o600)
        >>> _ = file.write_text("alice 0123456789abcdef")
        >>> tokens = Tokens(file)
        >>> tokens.client_of("0123456789abcdef"), tokens.client_of("another")
        ('alice', None)
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known = _read(path)

    def client_of(self, token: str) -> str | None:
        """The client that has this token; None where nobody has. Takes as long for a wrong token as for a right one."""
        digest, found = _digest(token), None
        for name, known in self._current().digests.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def token_of(self, name: str) -> str | None:
        """A client's token; None where there is no such client any more."""
        return self._current().tokens.get(name)

    def _current(self) -> _Known:
        with self._lock:
            if _version(self._path) != self._known.version:
                self._known = _read(self._path)
            return self._known


Version = tuple[int, ...]


class _Known(NamedTuple):
    version: Version
    tokens: dict[str, str]
    digests: dict[str, bytes]


def _read(path: Path) -> _Known:
    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token file {path} can't be read: {error}") from error
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(f"the token file {path} can be read by others than its owner: chmod 600 {path}")
    tokens: dict[str, str] = {}
    for position, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        _add(tokens, line.split(), f"the token file {path}, line {position}")
    if not tokens:
        raise InputError(f"the token file {path} has no token: write a line 'name token', with a token of {MAKE_ONE!r}")
    return _Known(_version_of(status), tokens, {name: _digest(token) for name, token in tokens.items()})


def _add(tokens: dict[str, str], parts: list[str], where: str) -> None:
    """Adds a line's token. The messages don't show it."""
    if len(parts) != 2:
        raise InputError(f"{where} must be 'name token', two words; it has {len(parts)}")
    name, token = parts
    if not is_name(name):
        raise InputError(f"{where}: a name has letters, digits, dashes and underscores, at most 63")
    if len(token) < SHORTEST:
        raise InputError(f"{where}: the token of {name} is too short: make one with {MAKE_ONE!r}")
    if name in tokens or token in tokens.values():
        raise InputError(f"{where}: the name or the token of {name} is there twice")
    tokens[name] = token


def _version(path: Path) -> Version | None:
    try:
        return _version_of(os.stat(path))
    except OSError:
        return None


def _version_of(status: os.stat_result) -> Version:
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
