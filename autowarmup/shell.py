"""What people read in a terminal and paste into a shell: text without control characters, commands that run."""

from __future__ import annotations

import shlex
import shutil
import sys
import sysconfig
from pathlib import Path


def command_line(*args: str | Path) -> str:
    """A command of autowarmup's, to be pasted into a fresh shell on this machine.

    It begins with ``autowarmup`` where PATH leads to the one of this Python, and with that one's path elsewhere.

    Args:
        args: the command and its arguments; they are quoted. A path is made absolute.

    Example:
        >>> command_line("show", Path("/studies/my first")).split(maxsplit=1)[1]
        "show '/studies/my first'"
    """
    words = [str(arg.absolute()) if isinstance(arg, Path) else arg for arg in args]
    return shlex.join([*_program(), *words])


def _program() -> list[str]:
    script = Path(sysconfig.get_path("scripts"), "autowarmup")
    if not script.is_file():
        return [sys.executable, "-m", "autowarmup"]
    found = shutil.which("autowarmup")
    return ["autowarmup"] if found and Path(found).samefile(script) else [str(script)]


def printable(text: str, longest: int | None = None) -> str:
    r"""The text with control characters escaped, so that a terminal shows them and does not obey them. Line ends and
    tabs stay.

    Args:
        text: from a user's exception or a study's files, for example.
        longest: characters to shorten it to; left out, it is not shortened.

    Example:
        >>> printable("a \x1b[31mred\x1b[0m word")
        'a \\x1b[31mred\\x1b[0m word'
        >>> printable("a long text", longest=7)
        'a long…'
    """
    if longest is not None and len(text) > longest:
        text = f"{text[: longest - 1]}\N{HORIZONTAL ELLIPSIS}"
    return "".join(char if char.isprintable() or char in "\n\t" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
