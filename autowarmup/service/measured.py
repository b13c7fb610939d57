"""Measured numbers in JSON: losses may be NaN or infinite.

JSON has no such numbers, so they are written as ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``; ``null``, which
JavaScript makes of them, counts as NaN.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf, None: math.nan}


def _read(value: Any) -> Any:
    """A number from JSON."""
    if isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if value is None or isinstance(value, str):
        try:
            return WORDS[value]
        except KeyError:
            pass
    raise ValueError('must be a number, "NaN", "Infinity", "-Infinity" or null')


def written(value: float) -> float | str:
    """A number for JSON.

    >>> written(0.5), written(float("inf"))
    (0.5, 'Infinity')
    """
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


Measured = Annotated[
    float,
    Field(allow_inf_nan=True),
    BeforeValidator(_read),
    PlainSerializer(written, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity", None]}]}),
]
"""A number that was measured: it may be NaN or infinite."""
