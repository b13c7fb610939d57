"""Detectors of instability: from what a trial records, step by step, to what went wrong. No torch."""

from autowarmup.instability.instability import Instability, Kind
from autowarmup.instability.monitor import Detectors, Monitor

__all__ = ["Detectors", "Instability", "Kind", "Monitor"]
