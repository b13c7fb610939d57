"""What is asked of a Keras model, on any of its backends. Nothing here imports torch."""

from __future__ import annotations

from typing import Any


def inner_optimizer(optimizer: Any) -> Any:
    """The optimizer that a loss scaler wraps, or the optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def accumulation(model: Any) -> int:
    """Batches of an optimizer step."""
    return inner_optimizer(model.optimizer).gradient_accumulation_steps or 1


def as_float(value: Any) -> float:
    """A number of any backend's."""
    from keras import ops

    return float(ops.convert_to_numpy(value))


def sync(model: Any) -> None:
    """JAX keeps a model's state apart while it trains: brings it back."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
