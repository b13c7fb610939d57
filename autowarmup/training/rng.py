"""The state of the global random generators: seeded, saved, restored.

It is that of the host (Python, NumPy, torch on the CPU) and of the one device that is used, if any. Other devices'
generators are left alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

CPU = torch.device("cpu")


def seed_everything(seed: int, device: torch.device = CPU) -> None:
    """Seeds the global generators of the host and of ``device``."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def capture(device: torch.device = CPU) -> dict[str, Any]:
    """The state of the global generators."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=True),
        "torch": torch.get_rng_state(),
        "device": _device_state(device),
    }


def restore(state: dict[str, Any], device: torch.device = CPU) -> None:
    """Sets the global generators to a captured state."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["device"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state["device"])


def portable(state: dict[str, Any]) -> dict[str, Any]:
    """A captured state as plain values and tensors, which ``torch.load(weights_only=True)`` reads."""
    version, numbers, gauss = state["python"]
    name, keys, *rest = state["numpy"]
    plain = {"python": [version, list(numbers), gauss], "numpy": [name, keys.tolist(), *map(float, rest)]}
    return state | plain


def usable(state: dict[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`portable`."""
    version, numbers, gauss = state["python"]
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy_state = (name, np.array(keys, np.uint32), int(position), int(has_gauss), cached)
    return state | {"python": (version, tuple(numbers), gauss), "numpy": numpy_state}


def _device_state(device: torch.device) -> torch.Tensor | None:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else None


@contextmanager
def borrowed(device: torch.device = CPU) -> Iterator[None]:
    """Restores the state of the global generators at the end of the context."""
    state = capture(device)
    try:
        yield
    finally:
        restore(state, device)


class Stream:
    """A random state beside the global one. In ``with stream: ...`` the global generators have this state; it goes on
    where the last context ended."""

    def __init__(self, seed: int, device: torch.device = CPU) -> None:
        self._device = device
        with borrowed(device):
            seed_everything(seed, device)
            self.state = capture(device)

    def __enter__(self) -> None:
        self._outer = capture(self._device)
        restore(self.state, self._device)

    def __exit__(self, *_: object) -> None:
        self.state = capture(self._device)
        restore(self._outer, self._device)
