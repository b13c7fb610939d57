"""How to train, apart from the schedule."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool

from autowarmup.values import Frozen, Number, Whole


def _device_name(value: Any) -> Any:
    """A ``torch.device`` by its name, without importing torch."""
    return str(value) if type(value).__module__ == "torch" else value


class TrainSettings(Frozen):
    """How to train, apart from the schedule.

    Args:
        batch_size: 1 to 1,000,000; for Datasets, tensors and arrays; loaders have their own.
        accumulate: batches whose gradients make one optimizer step, 1 to 10,000. Steps always mean optimizer steps.
        clip_norm: largest gradient norm, > 0; larger gradients are scaled down to it.
        precision: ``"fp32"``, ``"bf16"`` (autocast) or ``"fp16"`` (autocast with a gradient scaler).
        device: ``"cuda"``, ``"cuda:1"``, ``"mps"``, ``"cpu"`` or a ``torch.device``; left out, the best there is.
        compile: whether to run the model through ``torch.compile``.
    """

    batch_size: Whole = Field(default=32, ge=1, le=1_000_000)
    accumulate: Whole = Field(default=1, ge=1, le=10_000)
    clip_norm: Number | None = Field(default=None, gt=0.0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: Annotated[str | None, BeforeValidator(_device_name)] = None
    compile: StrictBool = False
