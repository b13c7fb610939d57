"""autowarmup finds the learning-rate warm-up for your model and data, and shows the evidence.

>>> from autowarmup import Schedule
>>> Schedule(peak=3e-3, horizon=1_000, warmup_steps=100, shape="linear").describe()
'peak 0.003, linear warm-up over 100 steps (10%), cosine decay to 0 at step 1,000'
"""

from typing import TYPE_CHECKING, Any

from autowarmup.api import autotune
from autowarmup.engines.settings import RaySettings
from autowarmup.errors import AutowarmupError
from autowarmup.instability.instability import Instability
from autowarmup.instability.monitor import Detectors
from autowarmup.schedule.groups import ParameterGroup
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.space import SearchSpace
from autowarmup.study.result import TuneResult

if TYPE_CHECKING:
    from autowarmup.adaptive.scheduler import AdaptiveWarmup
    from autowarmup.audit.rate_audit import RateAudit
    from autowarmup.guard.guard import Guard
    from autowarmup.service.sender import EventSender
    from autowarmup.training.loop import LoopRun

__version__ = "0.1.0"
__all__ = [
    "AdaptiveWarmup",
    "AutowarmupError",
    "Detectors",
    "EventSender",
    "Guard",
    "Instability",
    "LoopRun",
    "ParameterGroup",
    "RateAudit",
    "RaySettings",
    "Schedule",
    "SearchSpace",
    "TuneResult",
    "autotune",
]


def __getattr__(name: str) -> Any:
    """``AdaptiveWarmup``, ``Guard``, ``LoopRun`` and ``RateAudit`` when asked for: their modules need torch. Also
    ``EventSender``, whose module needs httpx."""
    if name == "AdaptiveWarmup":
        from autowarmup.adaptive.scheduler import AdaptiveWarmup

        return AdaptiveWarmup
    if name == "LoopRun":
        from autowarmup.training.loop import LoopRun

        return LoopRun
    if name == "EventSender":
        from autowarmup.service.sender import EventSender

        return EventSender
    if name == "Guard":
        from autowarmup.guard.guard import Guard

        return Guard
    if name == "RateAudit":
        from autowarmup.audit.rate_audit import RateAudit

        return RateAudit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
