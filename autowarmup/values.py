"""Frozen values, strictly typed numbers, and validation errors in words."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from autowarmup.errors import InputError

MAX_PROBLEMS = 5
"""Most problems that one error message names."""


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError("must be a whole number")
    number = int(value)
    if number.bit_length() >= 64:
        raise ValueError("must be a whole number of at most 64 bits")
    return number


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError("must be a number")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("must be a finite number") from None
    return value if isinstance(value, int) else number  # errors then show an integer as it was given


Whole = Annotated[int, BeforeValidator(_whole)]
"""An integer, NumPy's included; no float, bool or text."""
Number = Annotated[float, BeforeValidator(_number)]
"""A real number, NumPy's included; no bool or text."""


class Frozen(BaseModel):
    """A value: immutable, without unknown keys, without NaN or infinity.

    ``Model(...)`` raises :class:`autowarmup.errors.InputError` for what can't be used; the message names each key, the
    value it had and what is allowed. ``model_validate`` and its kin raise pydantic's ``ValidationError``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    refused_with: ClassVar[type[InputError]] = InputError
    """What the constructor raises."""

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise self.refused_with(explain(error, type(self).model_fields)) from error
        except ValueError as error:  # pydantic writes values out; Python refuses that for integers of 5,000 digits
            raise self.refused_with(str(error)) from error

    # So pydantic builds models within models by itself, and its errors keep the whole path to a key.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


def explain(error: ValidationError, known: Mapping[str, FieldInfo]) -> str:
    """A validation error for people: each key, what is wrong with it, the value it had and what is allowed. Unknown
    keys come first: a key that is missing is often one that was misspelt.

    Args:
        error: what pydantic raised.
        known: the fields of the model that was validated.
    """
    items = sorted(error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
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
        expected = item["ctx"]["expected"]
        message = f"must be {expected}{nearest(value, _quoted(expected)) if isinstance(value, str) else ''}"
    named = not path or message.startswith(("duration ", "tracking URI "))  # the message names the value itself
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
    """The keys that are known at ``path`` below a model with ``fields``. In a union of models, the path names the
    ``kind``."""
    known = dict(fields)
    models: list[type[BaseModel]] = []
    for part in path:
        if part in known:
            models = list(_models(known[str(part)].annotation))
        else:
            models = [model for model in models if _kind(model) == part] or models
        known = {name: field for model in models for name, field in model.model_fields.items()}
    return list(known)


def _kind(model: type[BaseModel]) -> Any:
    field = model.model_fields.get("kind")
    return field and field.default


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


class _Short(reprlib.Repr):
    """The first parts of large values, dictionaries in their own order."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = self.maxlong = 200
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 20

    def repr_dict(self, value: dict[Any, Any], level: int) -> str:
        if level <= 0:
            return "{...}"
        items = islice(value.items(), 20)
        return f"{{{', '.join(f'{self.repr1(key, level - 1)}: {self.repr1(part, level - 1)}' for key, part in items)}}}"


def short(value: Any) -> str:
    """The value as Python writes it, in at most 80 characters, however large it is."""
    try:
        text = _Short().repr(value)
    except ValueError:  # Python does not write integers of thousands of digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."
