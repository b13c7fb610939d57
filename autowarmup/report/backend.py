"""matplotlib, whatever ``MPLBACKEND`` says: figures are drawn into files, without a backend."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def import_matplotlib() -> None:
    """Imports matplotlib. It refuses to be imported where ``MPLBACKEND`` names a backend that is not installed: Jupyter
    sets its own for every process that it starts, of any environment. One that is installed is used as usual.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
