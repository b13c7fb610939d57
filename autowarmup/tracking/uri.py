"""Which MLflow a study is mirrored to, checked without importing or contacting MLflow."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from autowarmup.errors import InputError
from autowarmup.study.delivery import Delivery

DRIVERS = {"sqlite": "sqlite3", "postgresql": "psycopg2", "mysql": "MySQLdb", "mssql": "pyodbc"}
"""Databases that MLflow stores runs in, and the Python module that each needs, unless the URI names one."""

SECRET = re.compile(
    r"([?&][^=&#]*(?:password|passwd|pwd|passphrase|token|secret|api[_-]?key|access[_-]?key|credential)[^=&#]*=)([^&#]*)",
    re.I,
)
"""A setting in a URI's query that nobody else may read, and its value."""

ALLOWED = "an MLflow server (http://host:5000) or a database (sqlite:///runs.db, postgresql://, mysql://, mssql://)"


def default_store(folder: str | Path) -> Path:
    """The file of the embedded store of the study in ``folder``."""
    return Path(folder).absolute() / "mlflow.db"


def default_uri(folder: str | Path) -> str:
    """The embedded store of the study in ``folder``: an SQLite file in it, as an absolute URI."""
    return sqlite_uri(default_store(folder))


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
    return _sqlite_uri(path.absolute())


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite store; None for everything else."""
    if not uri.startswith("sqlite"):
        return None
    return Path(unquote(uri.partition(":///")[2].partition("?")[0]))


def remembered_uri(folder: str | Path, uri: str | None) -> str | None:
    """``uri`` as the study in ``folder`` keeps it: without passwords and tokens; the path of an SQLite file in the
    folder relative to it, so that a study that is moved or copied finds its own.

    >>> remembered_uri("/studies/gpt", "sqlite:////studies/gpt/mlflow.db")
    'sqlite:///mlflow.db'
    >>> remembered_uri("/studies/gpt", "https://ada:secret@mlflow.example?token=abc")
    'https://mlflow.example'
    """
    if uri is None:
        return None
    path, home = sqlite_path(uri), Path(folder).absolute()
    if path and path.is_relative_to(home):
        return _sqlite_uri(path.relative_to(home))
    return _without_secrets(uri)


def recalled_uri(folder: str | Path, remembered: str | None) -> str | None:
    """The tracking URI behind what :func:`remembered_uri` made. Its password comes from ``MLFLOW_TRACKING_URI``, where
    that names the same place."""
    if remembered is None:
        return None
    path = sqlite_path(remembered)
    if path:
        return sqlite_uri(Path(folder) / path)
    given = os.environ.get("MLFLOW_TRACKING_URI")
    return given if given and _without_secrets(given) == remembered else remembered


def redact(uri: str) -> str:
    """``uri`` without its password and tokens, for messages.

    >>> redact("https://ada:secret@mlflow.example:5000")
    'https://ada:***@mlflow.example:5000'
    >>> redact("postgresql://host/runs?user=ada&password=secret")
    'postgresql://host/runs?user=ada&password=***'
    """
    credentials, at, rest = uri.rpartition("@")
    scheme, slashes, login = credentials.partition("://")
    user, colon, _ = login.partition(":")
    hidden = f"{scheme}{slashes}{user}{':***' if colon else ''}{at}{rest}" if slashes else uri
    return SECRET.sub(r"\1***", hidden)


def scrub(text: str, uri: str) -> str:
    """``text`` without the password and the tokens of ``uri``.

    >>> scrub("https://ada:secret@host/api refused", "https://ada:secret@host")
    'https://ada:***@host/api refused'
    """
    credentials, _, _ = uri.rpartition("@")
    _, colon, password = credentials.partition("://")[2].partition(":")
    if colon:
        text = text.replace(f":{password}@", ":***@")
    for secret in (password, *(value for _, value in SECRET.findall(uri))):
        for form in (secret, unquote(secret)):
            text = text.replace(form, "***") if len(form) >= 4 else text
    return text


def page_address(delivery: Delivery) -> str | None:
    """Where an MLflow server shows a study's trials; None where there is no server, or it couldn't be reached.

    >>> page_address(Delivery(folder="study", uri="https://ada:***@mlflow.example:5000/team/", page="#/experiments/1"))
    'https://mlflow.example:5000/team/#/experiments/1'
    """
    parts = urlsplit(delivery.uri)
    if parts.scheme not in ("http", "https") or delivery.page is None:
        return None
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/{delivery.page}"


def _sqlite_uri(path: Path) -> str:
    return f"sqlite:///{path}".replace("%", "%25").replace("?", "%3F")


def _without_secrets(uri: str) -> str:
    """``uri`` as it can be stored. A server's user goes too: alone it would stand for both."""
    if uri.startswith("http"):
        bare = re.sub(r"^([^:/]+://)[^/?#]*@", r"\1", uri)
    else:
        bare = re.sub(r"^([^:/]+://[^:/@]*):[^@?]*@", r"\1@", uri)
    head, _, query = bare.partition("?")
    settings = "&".join(part for part in query.split("&") if part and not SECRET.match(f"?{part}"))
    return f"{head}?{settings}" if settings else head


def _split(uri: str) -> SplitResult:
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:
        raise InputError(f"tracking URI {redact(uri)!r} can't be read: {error}") from error
    return parts


def _check_sqlite(uri: str) -> None:
    path = sqlite_path(uri)
    if path is None or str(path) in (".", "/", ":memory:"):
        raise InputError(f"tracking URI {uri!r} names no file: write sqlite:///runs.db")
    file = path.absolute()
    if not file.parent.is_dir():
        raise InputError(f"tracking URI {uri!r}: the folder {file.parent} doesn't exist")
    if file.is_dir():
        raise InputError(f"tracking URI {uri!r} names a folder: write {sqlite_uri(file / 'runs.db')}")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise InputError(f"tracking URI {uri!r}: {file} can't be written")
    if file.exists() and not (file.is_file() and _is_sqlite(file)):
        raise InputError(f"tracking URI {uri!r}: {file} is not an SQLite database")


def _is_sqlite(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(16) in (b"", b"SQLite format 3\0")
