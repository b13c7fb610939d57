"""Random numbers: global states that are seeded, swapped, and left as they were found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and torch, GPUs included."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seed_host(seed: int) -> None:
    """Seeds the global generators that data loading uses: Python's, NumPy's and torch's on the CPU."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def capture() -> dict[str, Any]:
    """The state of all global generators, as plain values and tensors (``torch.load(weights_only=True)`` reads it)."""
    version, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [torch.tensor(np.asarray(keys, np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def restore(state: dict[str, Any]) -> None:
    """Sets all global generators to a captured state."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])
    if state["mps"] is not None:
        torch.mps.set_rng_state(state["mps"].cpu())


@contextmanager
def borrowed() -> Iterator[None]:
    """Whatever happens to the global generators inside, they are as before afterwards."""
    state = capture()
    try:
        yield
    finally:
        restore(state)


class Stream:
    """A random state of one's own, swapped in while in use: ``with stream: ...``."""

    def __init__(self, seed: int) -> None:
        with borrowed():
            seed_everything(seed)
            self.state = capture()

    def __enter__(self) -> None:
        self._outer = capture()
        restore(self.state)

    def __exit__(self, *_: object) -> None:
        self.state = capture()
        restore(self._outer)
