"""A study of what Keras trains: a small convolutional network, on scikit-learn's handwritten digits.

The lines that are there for autowarmup end in ``# glue``. Needs ``pip install 'autowarmup[keras]'`` and a backend. The
variable ``KERAS_BACKEND`` names it: ``tensorflow``, ``jax`` or ``torch``.

    KERAS_BACKEND=torch python examples/keras_model.py
    KERAS_BACKEND=torch autowarmup tune examples/keras_model.py:task
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits

from autowarmup.integrations import from_keras  # glue

digits = load_digits()
images, labels = (digits.images / 16).astype(np.float32)[..., None], digits.target


def make_model() -> keras.Model:
    """A convolution, and a dense layer."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


FIT = {
    "x": images[360:],
    "y": labels[360:],
    "batch_size": 64,
    "epochs": 8,
    "validation_data": (images[:360], labels[:360]),
}
"""The arguments of ``model.fit`` as they would be without autowarmup."""


def task() -> dict[str, Any]:
    """The arguments of ``autotune``."""
    return from_keras(make_model, FIT)  # glue


if __name__ == "__main__":
    from autowarmup import autotune

    print(autotune(**task(), study="studies/keras-model").summary())  # glue
