"""The names that clients may choose. They become folder names, log lines and HTML, so the alphabet is small."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
"""Letters, digits, dashes and underscores, at most 63; no dot and no slash, so no name is a path."""

StudyId = Annotated[str, Field(pattern=NAME)]
TaskName = Annotated[str, Field(pattern=NAME)]
RunName = Annotated[str, Field(pattern=NAME)]
ClientId = Annotated[str, Field(pattern=NAME)]
Lease = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


def is_name(text: str) -> bool:
    """
    >>> is_name("gpt-small"), is_name("../secrets"), is_name("a.b")
    (True, False, False)
    """
    return re.fullmatch(NAME, text) is not None
