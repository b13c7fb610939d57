"""Runs ``autowarmup`` as a child of the service: when the service is killed, it stops as after Ctrl-C, so that the
study goes on when the service does. The first argument is the service's process; the rest is the command line."""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Linux: the signal that a process gets when its parent is gone (prctl(2))."""


def main() -> None:
    """Ties this process to its parent, and runs the command line."""
    parent = int(sys.argv.pop(1))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != parent:
        sys.exit(1)
    runpy.run_module("autowarmup", run_name="__main__")


if __name__ == "__main__":
    main()
