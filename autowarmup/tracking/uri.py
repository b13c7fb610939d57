"""Which MLflow a study is mirrored to, checked without importing or contacting MLflow."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from autowarmup.errors import InputError

DRIVERS = {"sqlite": "sqlite3", "postgresql": "psycopg2", "mysql": "MySQLdb", "mssql": "pyodbc"}
"""Databases that MLflow stores runs in, and the Python module that each needs, unless the URI names one."""

ALLOWED = "an MLflow server (http://host:5000) or a database (sqlite:///runs.db, postgresql://, mysql://, mssql://)"


def default_uri(folder: str | Path) -> str:
    """The embedded store of the study in ``folder``: an SQLite file in it, as an absolute URI."""
    return sqlite_uri(Path(folder) / "mlflow.db")


def tracking_uri(folder: str | Path, uri: str | None = None) -> str:
    """Where the study in ``folder`` goes: ``uri``, else ``MLFLOW_TRACKING_URI``, else its embedded store.

    The path of an SQLite store comes back absolute.

    Raises:
        InputError: see :func:`check_uri`.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not chosen:
        return default_uri(folder)
    check_uri(chosen)
    path = sqlite_path(chosen)
    return sqlite_uri(path) if path else chosen


def check_uri(uri: str) -> None:
    """Refuses a tracking URI that can't work. Takes milliseconds: a server that is down passes.

    Raises:
        InputError: not an MLflow server or a database, no host or file in it, or a database whose Python
            driver is not installed.

    Example:
        >>> check_uri("http://127.0.0.1:5000")
        >>> check_uri("mlruns")
        Traceback (most recent call last):
        autowarmup.errors.InputError: tracking URI 'mlruns' is not supported: it must be an MLflow server ...
    """
    parts = _split(uri)
    scheme, _, driver = parts.scheme.partition("+")
    if scheme in ("http", "https"):
        if not parts.hostname:
            raise InputError(f"tracking URI {redact(uri)!r} names no host: write http://host:5000")
        return
    if scheme not in DRIVERS:
        raise InputError(f"tracking URI {redact(uri)!r} is not supported: it must be {ALLOWED}")
    module = (driver or DRIVERS[scheme]).partition(".")[0]
    if find_spec(module) is None:
        raise InputError(f"tracking URI {redact(uri)!r} needs the Python module {module}, which is not installed")
    if scheme == "sqlite":
        _check_sqlite(uri)


def sqlite_uri(path: Path) -> str:
    """The tracking URI of an SQLite file.

    >>> sqlite_uri(Path("/runs/100%.db"))
    'sqlite:////runs/100%25.db'
    """
    return f"sqlite:///{path.absolute()}".replace("%", "%25").replace("?", "%3F")


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite store; None for everything else."""
    if not uri.startswith("sqlite"):
        return None
    return Path(unquote(uri.partition(":///")[2].partition("?")[0]))


def redact(uri: str) -> str:
    """``uri`` without its password, for messages.

    >>> redact("https://ada:secret@mlflow.example:5000")
    'https://ada:***@mlflow.example:5000'
    """
    credentials, at, rest = uri.rpartition("@")
    scheme, slashes, login = credentials.partition("://")
    user, colon, _ = login.partition(":")
    return f"{scheme}{slashes}{user}{':***' if colon else ''}{at}{rest}" if slashes else uri


def scrub(text: str, uri: str) -> str:
    """``text`` without the password of ``uri``.

    >>> scrub("https://ada:secret@host/api refused", "https://ada:secret@host")
    'https://ada:***@host/api refused'
    """
    password = urlsplit(uri).password
    return text.replace(f":{password}@", ":***@") if password else text


def _split(uri: str) -> SplitResult:
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:
        raise InputError(f"tracking URI {redact(uri)!r} can't be read: {error}") from error
    return parts


def _check_sqlite(uri: str) -> None:
    path = sqlite_path(uri)
    if path is None or path.name in ("", ":memory:"):
        raise InputError(f"tracking URI {uri!r} names no file: write sqlite:///runs.db")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"tracking URI {uri!r}: the folder {folder} doesn't exist")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise InputError(f"tracking URI {uri!r}: {path.absolute()} can't be written")
