"""The frameworks, by name."""

from __future__ import annotations

from autowarmup.errors import InputError
from autowarmup.export import (
    accelerate,
    axolotl,
    deepspeed,
    keras,
    lightning,
    megatron,
    olmo,
    optax,
    package,
    pytorch,
    timm,
    torchtitan,
    torchtune,
    transformers,
)
from autowarmup.export.base import Framework
from autowarmup.values import nearest, short

FRAMEWORKS: dict[str, Framework] = {
    framework.name: framework
    for framework in (
        pytorch.FRAMEWORK,
        transformers.FRAMEWORK,
        lightning.FRAMEWORK,
        accelerate.FRAMEWORK,
        deepspeed.FRAMEWORK,
        timm.FRAMEWORK,
        keras.FRAMEWORK,
        optax.FRAMEWORK,
        torchtitan.FRAMEWORK,
        megatron.FRAMEWORK,
        olmo.FRAMEWORK,
        axolotl.FRAMEWORK,
        torchtune.FRAMEWORK,
        package.FRAMEWORK,
    )
}
"""In the order in which people are shown them."""

ALSO = {"torch": "pytorch", "tensorflow": "keras", "huggingface": "transformers", "jax": "optax", "olmo": "olmo-core"}
"""Other names for which a framework is suggested."""


def named(name: str) -> Framework:
    """The framework of that name.

    Raises:
        InputError: there is none; the message has the nearest name.

    Example:
        >>> named("keras").title
        'Keras / TensorFlow'
    """
    if isinstance(name, str) and name in FRAMEWORKS:
        return FRAMEWORKS[name]
    word = str(name).lower()
    close = f" (did you mean {ALSO[word]!r}?)" if word in ALSO else nearest(word, FRAMEWORKS)
    raise InputError(f"unknown framework {short(name)}{close}; known: {', '.join(FRAMEWORKS)}")
