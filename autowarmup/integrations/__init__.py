"""Studies and guards of what is trained by a framework. A framework is imported when its function is called.

>>> import autowarmup.integrations
>>> sorted(name for name in autowarmup.integrations.__all__ if name.startswith("guard"))
['guard_accelerate', 'guard_keras', 'guard_lightning', 'guard_trainer']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autowarmup.integrations.accelerate import AcceleratedSteps
    from autowarmup.integrations.guarded_accelerate import guard_accelerate
    from autowarmup.integrations.guarded_keras import guard_keras
    from autowarmup.integrations.guarded_lightning import guard_lightning
    from autowarmup.integrations.guarded_trainer import guard_trainer
    from autowarmup.integrations.keras import from_keras
    from autowarmup.integrations.lightning import from_lightning
    from autowarmup.integrations.transformers import from_trainer

__all__ = [
    "AcceleratedSteps",
    "from_keras",
    "from_lightning",
    "from_trainer",
    "guard_accelerate",
    "guard_keras",
    "guard_lightning",
    "guard_trainer",
]

HOMES = {"AcceleratedSteps": "accelerate", "from_trainer": "transformers"}
"""The modules of names that don't say it: ``from_lightning`` is in ``lightning``, ``guard_keras`` in
``guarded_keras``."""


def __getattr__(name: str) -> Any:
    """The public names when asked for: their modules need torch."""
    if name in __all__:
        home = HOMES.get(name) or name.replace("from_", "").replace("guard_", "guarded_")
        return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
