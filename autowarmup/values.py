"""What all modules stand on: frozen values, and how their errors are told to people."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from autowarmup.errors import InputError

T = TypeVar("T")

MAX_PROBLEMS = 5
"""Most problems that one error message names."""


class Frozen(BaseModel):
    """A value: immutable, without unknown keys, without NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def checked(model: type[T], **values: Any) -> T:
    """A pydantic model of the values.

    Raises:
        InputError: one of them is out of its range or of the wrong type; the message names it.
    """
    try:
        return model(**values)
    except ValidationError as error:
        raise InputError(explain(error, getattr(model, "model_fields", {}))) from error


def explain(error: ValidationError, known: Mapping[str, FieldInfo]) -> str:
    """A validation error for people: each key, what is wrong with it, the value it had and what is allowed.

    Args:
        error: what pydantic raised.
        known: the fields of the model that was validated.
    """
    items = error.errors(include_url=False)
    lines = list(dict.fromkeys(_explain(item, known) for item in items[:MAX_PROBLEMS]))
    if len(items) > MAX_PROBLEMS:
        lines.append(f"and {len(items) - MAX_PROBLEMS} more problems")
    return "; ".join(lines)


def _explain(item: ErrorDetails, known: Mapping[str, FieldInfo]) -> str:
    kind, value, path = item["type"], item["input"], item["loc"]
    key = re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, path)))
    if kind == "extra_forbidden":
        keys = _keys(known, path[:-1])
        return f"unknown key {short(key)}{nearest(str(path[-1]), keys)}; known: {', '.join(keys)}"
    message = MESSAGES.get(kind) or item["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "must be")
    if kind == "literal_error":
        message = f"must be {item['ctx']['expected']}{nearest(str(value), _quoted(item['ctx']['expected']))}"
    named = not path or message.startswith("duration ")  # the message names the value itself
    got = "" if named else f", got {short(value)}"
    return f"{key}{': ' if key else ''}{message}{got}"


MESSAGES = {
    "missing": "is missing",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "tuple_type": "must be a list",
    "string_type": "must be text",
    "invalid_key": "keys must be text",
}
"""What people read instead of pydantic's words, by the type of the error."""


def _keys(fields: Mapping[str, FieldInfo], path: Iterable[int | str]) -> list[str]:
    """The keys that are known at ``path`` below a model with ``fields``."""
    levels = dict(fields)
    for part in path:
        if part in levels:
            levels = {
                name: field
                for model in _models(levels[str(part)].annotation)
                for name, field in model.model_fields.items()
            }
    return list(levels)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models within a type such as ``tuple[Range, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word[:80], list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
