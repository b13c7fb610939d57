"""What ``autowarmup tune`` was asked to do: a function in a file and options. Kept in the study's folder, for
``autowarmup resume``."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeVar

from pydantic import Field, ValidationError

from autowarmup.api import autotune
from autowarmup.engines.settings import RaySettings
from autowarmup.errors import InputError
from autowarmup.values import Frozen, explain, nearest

FILE = "command.json"
"""Its name in the study's folder."""

MODELS_ONLY = ("device", "precision", "batch_size")
"""Options that a training loop of the user's own decides itself."""


TOKEN_FILE = "token_file"
"""An option of the command alone: the file of the service's token. The token itself is not kept."""

T = TypeVar("T")


class Command(Frozen):
    """A call of ``autotune`` as the command line makes it.

    Args:
        file: the Python file, as an absolute path.
        function: the function in it that returns what ``autotune`` takes.
        options: what overrides it, by the names of ``autotune``'s arguments.
        folder: where it was called; relative paths in the task are relative to it.
    """

    file: str
    function: str
    options: dict[str, Any] = Field(default_factory=dict)
    folder: str

    @classmethod
    def of(cls, target: str, options: dict[str, Any]) -> Self:
        """From ``FILE.py:function`` as people write it.

        Raises:
            InputError: it isn't of that form.
        """
        file, _, function = target.rpartition(":")
        if not file or not function.isidentifier():
            raise InputError(f"the task must be given as FILE.py:function, such as train.py:task; got {target!r}")
        return cls(file=str(Path(file).absolute()), function=function, options=options, folder=str(Path.cwd()))

    def save(self, study: Path) -> None:
        """Writes it into the study's folder."""
        draft = study / f"{FILE}.draft"
        draft.write_text(self.model_dump_json(indent=1), encoding="utf-8")
        draft.replace(study / FILE)

    @classmethod
    def load(cls, study: Path) -> Self:
        """The command behind the study in a folder.

        Raises:
            InputError: there is none, or it can't be read.
        """
        path = study / FILE
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(
                f"the study in {study} was not started by `autowarmup tune` (no {FILE} in it): run the Python call of "
                f"autotune() that started it again, with study={str(study)!r}; it goes on where it stopped"
            ) from error
        except ValidationError as error:
            raise InputError(f"{path} can't be used: {explain(error, cls.model_fields)}") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{path} can't be read: {error}") from error

    def arguments(self) -> dict[str, Any]:
        """What ``autotune`` is called with: the task's entries, overridden by the options.

        Raises:
            InputError: the file or what its function returns can't be used.
        """
        entries = load_task(Path(self.file), self.function)
        arguments = entries | self.options
        if isinstance(cluster := self.options.get("engine"), dict):
            arguments["engine"] = RaySettings(**cluster)
        if (token_file := arguments.pop(TOKEN_FILE, None)) is not None:
            from autowarmup.service.client import token_from

            arguments["service_token"] = token_from(Path(token_file))
        own = sorted(key for key in MODELS_ONLY if key in self.options)
        if "train_fn" in entries and own:
            names = ", ".join(f"--{key.replace('_', '-')}" for key in own)
            raise InputError(f"{names}: the task has a training loop of its own (train_fn), which decides that itself")
        if "total_steps" not in arguments:
            raise InputError(
                f"how many optimizer steps does the run take that is to be tuned? Pass --steps N (or --steps "
                f"'5 epochs'), or add \"total_steps\" to what {self.function}() returns"
            )
        return arguments


def load_task(file: Path, function: str) -> dict[str, Any]:
    """Loads ``file`` as ``python FILE`` would, calls the function and returns its dictionary.

    Raises:
        InputError: no such file or function; the user's code raised, with its traceback; not a dictionary of
            ``autotune``'s arguments.
    """
    module = _guarded(file, f"loading {file}", lambda: _module(file))
    make = _function(module, file, function)
    entries = _guarded(file, f"{function}() in {file}", make)
    if not isinstance(entries, dict):
        raise InputError(
            f"{function}() in {file} must return a dict of autotune's arguments, such as "
            f'{{"model_fn": ..., "data": ...}}; got {type(entries).__name__}'
        )
    known = set(inspect.signature(autotune).parameters) - {"progress"}
    for key in entries:
        if key not in known:
            raise InputError(
                f"{function}() in {file} returns the entry {key!r}, which autotune does not take"
                f"{nearest(str(key), known)}; allowed: {', '.join(sorted(known))}"
            )
    return entries


def users_traceback(error: BaseException, file: Path) -> str | None:
    """A traceback from the user's file on, without what lies above it; None where it doesn't pass through there."""
    part = error.__traceback__
    while part is not None and part.tb_frame.f_code.co_filename != str(file):
        part = part.tb_next
    if part is None:
        return None
    return "".join(traceback.format_exception(type(error), error, part)).rstrip()


def _module(file: Path) -> ModuleType:
    """The file as a module. It is found under its own name, so that worker processes can import it too, except where
    that name is taken."""
    try:
        known = file.is_file()
    except OSError as error:
        raise InputError(f"{file} can't be read: {error.strerror}") from error
    if not known:
        raise InputError(f"no file {file}{_nearest_file(file)}")
    name = _module_name(file)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} is not a Python file: its name must end in .py")
    sys.path.insert(0, str(file.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _module_name(file: Path) -> str:
    name = file.stem
    if name.isidentifier() and not name.startswith("__"):
        taken = importlib.util.find_spec(name)
        if taken is None or taken.origin == str(file):
            return name
    return "_task_" + re.sub(r"\W", "_", name)


def _function(module: ModuleType, file: Path, name: str) -> Callable[[], Any]:
    found = getattr(module, name, None)
    if found is None:
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        known = [key for key in functions if getattr(module, key).__module__ == module.__name__]
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise InputError(f"{file} has no function {name!r}{nearest(name, known)}; {has}")
    if not callable(found):
        raise InputError(f"{name} in {file} must be a function, got {type(found).__name__}")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise InputError(f"{name}() in {file} is called without arguments: {error}") from error
    make: Callable[[], Any] = found
    return make


def _guarded(file: Path, what: str, call: Callable[[], T]) -> T:
    """The call's result; what the user's code raises as an ``InputError`` with the user's part of the traceback."""
    try:
        return call()
    except InputError as error:
        if users_traceback(error, file) is None:
            raise
        raise InputError(f"{what} failed:\n{users_traceback(error, file)}") from error
    except SystemExit as error:
        raise InputError(
            f"{what} ended with sys.exit({error.code!r}): put what only a script does under "
            f'`if __name__ == "__main__":`'
        ) from error
    except Exception as error:
        shown = users_traceback(error, file) or "".join(traceback.format_exception_only(error)).rstrip()
        raise InputError(f"{what} failed:\n{shown}") from error


def _nearest_file(file: Path) -> str:
    try:
        known = [name for name in os.listdir(file.parent) if name.endswith(".py")]
    except OSError:
        return f": there is no folder {file.parent}"
    return nearest(file.name, known)
