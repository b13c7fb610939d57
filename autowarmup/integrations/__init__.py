"""Studies of what is trained by a framework. A framework is imported when its function is called.

>>> import autowarmup.integrations
>>> sorted(autowarmup.integrations.__all__)
['AcceleratedSteps', 'from_keras', 'from_lightning', 'from_trainer']
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autowarmup.integrations.accelerate import AcceleratedSteps
    from autowarmup.integrations.keras import from_keras
    from autowarmup.integrations.lightning import from_lightning
    from autowarmup.integrations.transformers import from_trainer

__all__ = ["AcceleratedSteps", "from_keras", "from_lightning", "from_trainer"]


def __getattr__(name: str) -> Any:
    """The public names when asked for: their modules need torch."""
    if name == "from_trainer":
        from autowarmup.integrations.transformers import from_trainer

        return from_trainer
    if name == "from_lightning":
        from autowarmup.integrations.lightning import from_lightning

        return from_lightning
    if name == "from_keras":
        from autowarmup.integrations.keras import from_keras

        return from_keras
    if name == "AcceleratedSteps":
        from autowarmup.integrations.accelerate import AcceleratedSteps

        return AcceleratedSteps
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
