"""Detectors of instability. They read the learning rate, loss and gradient norm of each optimizer step and say what
went wrong, and since when. Nothing here imports torch."""

from autowarmup.instability.instability import Instability, Kind
from autowarmup.instability.monitor import Detectors, Monitor

__all__ = ["Detectors", "Instability", "Kind", "Monitor"]
