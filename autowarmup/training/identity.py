"""What identifies a task: digests of code and of data that are the same in every process.

Code counts, its comments, line numbers and file names don't: a digest is made of compiled code with its constants, the
defaults and the enclosing variables of a function, and the user's own functions and classes that it names, in turn.
Installed packages count by name alone. Not followed: what a function imports in its body, methods of objects that it is
given, and files that it reads. Compiled code depends on Python's minor version, and so does the digest.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

CHUNK = 2**26
"""Bytes of a tensor that are hashed at a time."""

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))

STANDARD_LIBRARY = sysconfig.get_path("stdlib")

MEMBERS = (*PLAIN, FunctionType, staticmethod, classmethod, property, tuple, list, dict, type)
"""Kinds of a class's attributes that are hashed."""

SKIPPED = {"__module__", "__dict__", "__weakref__", "__doc__", "__qualname__", "__annotations__", "__firstlineno__"}
"""Attributes of a class that say nothing about what it does."""


class Digest:
    """Hashes values by their content.

    Example:
        >>> digest_of(torch.zeros(2)) == digest_of(torch.zeros(2)), digest_of(torch.zeros(2)) == digest_of([0.0, 0.0])
        (True, False)
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no number in _seen is given to another object

    @property
    def text(self) -> str:
        """The digest of all that was added, 16 hexadecimal digits."""
        return self._hash.hexdigest()

    def add(self, value: Any) -> None:
        """Adds a value: numbers, text and containers of them, tensors, arrays, code. Of other objects the type."""
        if isinstance(value, PLAIN):
            self._write(type(value).__name__, repr(value))
        elif isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, np.generic | torch.dtype | torch.device | torch.Size):
            self._write(type(value).__name__, str(value))
        elif isinstance(value, CodeType):
            self._code(value)
        elif isinstance(value, tuple):
            self._write("tuple", str(len(value)))
            self._each(value)
        elif isinstance(value, frozenset | set):
            self._write("set", *sorted(self._apart(part) for part in value))
        elif self._is_new(value):
            self._compound(value)

    def _apart(self, value: Any) -> str:
        """The digest of a part of a set, which has no order; what came before the set is known, so that circles end."""
        digest = Digest()
        if not isinstance(value, PLAIN):
            digest._seen, digest._kept = dict(self._seen), self._kept
        digest.add(value)
        return digest.text

    def _is_new(self, value: Any) -> bool:
        """Whether an object comes for the first time; else its number is written, so that circles end. Not for
        constants: whether two equal ones are one object depends on how the code was loaded."""
        known = self._seen.get(id(value))
        if known is None:
            self._seen[id(value)] = len(self._seen)
            self._kept.append(value)
            return True
        self._write("again", str(known))
        return False

    def _compound(self, value: Any) -> None:
        match value:
            case list():
                self._write("list", str(len(value)))
                self._each(value)
            case Mapping():
                self._write(type(value).__name__, str(len(value)))
                for key, part in value.items():
                    self._each((key, part))
            case functools.partial():
                self._each(("partial", value.func, value.args, value.keywords))
            case FunctionType():
                self._function(value)
            case MethodType():
                self._each(("method", value.__func__, value.__self__))
            case staticmethod() | classmethod():
                self._each((type(value).__name__, value.__func__))
            case property():
                self._each(("property", value.fget, value.fset, value.fdel))
            case type():
                self._class(value)
            case nn.Module():
                self._each((type(value), _without_addresses(repr(value)), *value.state_dict().items()))
            case DataLoader():
                self._each((type(value), value.dataset, value.batch_size))
            case _:
                self._object(value)

    def _each(self, values: Iterable[Any]) -> None:
        for value in values:
            self.add(value)

    def _write(self, *texts: str) -> None:
        for text in texts:
            data = text.encode("utf-8", "surrogatepass")
            self._hash.update(len(data).to_bytes(8, "little"))
            self._hash.update(data)

    def _function(self, function: FunctionType) -> None:
        if not is_own(function):
            self._write("installed", f"{function.__module__}.{function.__qualname__}")
            return
        self._write("function")
        self._each((function.__code__, function.__defaults__, function.__kwdefaults__))
        self._each(_contents(function))
        names = _names(function.__code__)
        for name in dict.fromkeys(names):
            if name in function.__globals__:
                self._named(name, function.__globals__[name], names)

    def _named(self, name: str, value: Any, names: list[str]) -> None:
        """What a function's global name stands for; of a module of the user's own, what the function may take of it."""
        self._write("name", name)
        if not isinstance(value, ModuleType):
            self.add(value)
        elif is_own(value) and self._is_new(value):
            for attribute in dict.fromkeys(names):
                if attribute in vars(value):
                    self._named(attribute, vars(value)[attribute], names)

    def _code(self, code: CodeType) -> None:
        self._write("code", code.co_code.hex(), *code.co_names, *code.co_varnames, *code.co_freevars)
        self._write(str(code.co_argcount), str(code.co_kwonlyargcount), str(code.co_flags))
        self._each(constant for constant in code.co_consts)

    def _class(self, cls: type) -> None:
        if not is_own(cls):
            self._write("installed", f"{cls.__module__}.{cls.__qualname__}")
            return
        self._write("class", cls.__qualname__.rpartition(".")[2])
        self._each(cls.__bases__)
        for name in sorted(set(vars(cls)) - SKIPPED):
            value = vars(cls)[name]
            if isinstance(value, MEMBERS):
                self._write(name)
                self.add(value)

    def _object(self, value: Any) -> None:
        """Of a dataset or an object of the user's own, its class and attributes; of another, the name of its class."""
        self.add(type(value))
        if is_own(type(value)) or isinstance(value, Dataset):
            for name, attribute in sorted(getattr(value, "__dict__", {}).items()):
                self._write(name)
                self.add(attribute)
        elif callable(value) and isinstance(getattr(value, "__name__", None), str):
            self._write(value.__name__)

    def _tensor(self, tensor: Tensor) -> None:
        self._write("tensor", str(tensor.dtype), str(tuple(tensor.shape)))
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.numel() == 0:
            return
        flat = tensor.detach().reshape(1) if tensor.dim() == 0 else tensor.detach()
        for part in _rows(flat, flat[0].nbytes):
            whole = part.cpu().resolve_conj().resolve_neg().contiguous()
            self._hash.update(whole.reshape(-1).view(torch.uint8).numpy().data)

    def _array(self, array: np.ndarray[Any, Any]) -> None:
        self._write("array", str(array.dtype), str(array.shape))
        if array.size == 0:
            return
        if array.dtype.hasobject:
            self._each(array.ravel().tolist())
            return
        flat = array.reshape(1) if array.ndim == 0 else array
        for part in _rows(flat, flat[0].nbytes):
            self._hash.update(np.ascontiguousarray(part).view(np.uint8).reshape(-1).data)


def digest_of(*values: Any) -> str:
    """The digest of some values; see :class:`Digest`."""
    digest = Digest()
    for value in values:
        digest.add(value)
    return digest.text


def structure_of(model: nn.Module) -> str:
    """A digest of a model's tree of modules and of its parameters' and buffers' names, shapes and types."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    parts = [[name, tuple(tensor.shape), str(tensor.dtype)] for name, tensor in tensors]
    return digest_of(_without_addresses(repr(model)), parts)


def classes_of(model: nn.Module) -> list[type]:
    """The classes of the user's own among a model's modules, each once."""
    return [cls for cls in dict.fromkeys(type(module) for module in model.modules()) if is_own(cls)]


def arrays_of(function: Any) -> Iterator[Any]:
    """The tensors and arrays that a function finds in its enclosing variables, its defaults and its globals."""
    if isinstance(function, functools.partial):
        yield from (part for part in (*function.args, *function.keywords.values()) if _is_array(part))
        function = function.func
    if not isinstance(function, FunctionType):
        return
    named = (function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__)
    for value in (*_contents(function), *(function.__defaults__ or ()), *named):
        yield from (part for part in (value if isinstance(value, tuple | list) else (value,)) if _is_array(part))


def is_own(thing: Any) -> bool:
    """Whether a function, class or module is the user's own: part of neither Python, nor an installed package, nor
    autowarmup."""
    module = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None) or ""
    if module.split(".")[0] in _not_own():
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    if isinstance(thing, FunctionType):
        file = thing.__code__.co_filename
    if file is None:
        return module == "__main__" or module not in sys.modules
    return not _is_installed(str(file))


@functools.cache
def _not_own() -> frozenset[str]:
    return frozenset({__name__.split(".")[0], *sys.builtin_module_names, *sys.stdlib_module_names} - {"__main__"})


@functools.cache
def _is_installed(file: str) -> bool:
    path = Path(file)
    if not {"site-packages", "dist-packages"}.isdisjoint(path.parts) or path.is_relative_to(STANDARD_LIBRARY):
        return True
    return any(path.is_relative_to(folder) and _holds_packages(folder) for folder in sys.path if folder)


@functools.cache
def _holds_packages(folder: str) -> bool:
    """Whether packages were installed into a folder, as by ``pip install --target``."""
    return any(Path(folder).glob("*.dist-info"))


def _contents(function: FunctionType) -> list[Any]:
    """The values of a function's enclosing variables; those that aren't set yet are left out."""
    values = []
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:
            continue
    return values


def _names(code: CodeType) -> list[str]:
    """Names of globals and attributes in a function's code and in those inside it."""
    inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant)]
    return [*code.co_names, *inner]


def _rows(array: Any, row_bytes: int) -> Iterator[Any]:
    """Parts of a tensor or array along its first dimension, of about :data:`CHUNK` bytes."""
    step = max(1, CHUNK // max(1, row_bytes))
    return (array[start : start + step] for start in range(0, len(array), step))


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (isinstance(value, Tensor) and not value.requires_grad)


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)
