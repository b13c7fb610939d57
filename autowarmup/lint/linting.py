"""Reads a configuration file of any framework that is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from autowarmup.errors import InputError
from autowarmup.lint import accelerate, axolotl, deepspeed, lightning, transformers
from autowarmup.lint.reading import Fields, Reading, Run
from autowarmup.schedule import plain_yaml
from autowarmup.values import nearest, short

MAX_BYTES = 1_000_000
"""The largest file that is read."""


class Reader(Protocol):
    """A module that reads a framework's configuration, and the keys that this is known by."""

    KEYS: set[str]

    def read(self, config: Fields, run: Run) -> Reading: ...


READERS: dict[str, Reader] = {
    "accelerate": accelerate,
    "deepspeed": deepspeed,
    "lightning": lightning,
    "axolotl": axolotl,
    "transformers": transformers,
}
"""In the order in which a configuration is told by its keys: Axolotl's has fields of Transformers as well."""


def lint(path: Path, run: Run, framework: str | None = None) -> Reading:
    """What the warm-up of a configuration file really is, and the traps that it falls into.

    Args:
        path: YAML or JSON of Transformers' TrainingArguments, of Accelerate, DeepSpeed, Axolotl or Lightning.
        run: what the file doesn't say.
        framework: whose it is; left out, its keys tell.

    Raises:
        InputError: no such file, not a configuration, or a value in it that isn't allowed.
    """
    values = _values(path)
    name = framework or _framework_of(path, values)
    if name not in READERS:
        raise InputError(f"framework {name!r} is unknown{nearest(name, READERS)}; known: {', '.join(READERS)}")
    try:
        return READERS[name].read(Fields(values), run)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _values(path: Path) -> Mapping[str, Any]:
    try:
        if not path.is_file():
            raise InputError(f"{path} is not a file: give a framework's configuration, as YAML or JSON")
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} has more than {MAX_BYTES:,} bytes: it is no configuration")
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if text.lstrip().startswith("{") else plain_yaml.load(text)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is neither YAML nor JSON: {error}") from error
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise InputError(f"{path} is not a configuration: it must hold keys with values, got {short(values)}")
    return values


def _framework_of(path: Path, values: Mapping[str, Any]) -> str:
    """The first framework that has some of the keys."""
    found = next((name for name, reader in READERS.items() if reader.KEYS & set(values)), None)
    if found is None:
        raise InputError(
            f"{path} is not a configuration that is known: it has the keys {short(sorted(values))}. Known are those of "
            f"{', '.join(READERS)}; say which with --framework"
        )
    return found
