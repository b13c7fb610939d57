"""What trials that are paused in the middle of Accelerate's loops must not see of each other, and gradient norms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def own_gradient_state() -> Iterator[None]:
    """Other trials may run within the context: Accelerate has one ``GradientState`` for the whole process, with the
    loaders that are read and whether gradients are synchronized. At the end it is as it was."""
    from accelerate.state import GradientState

    state = vars(GradientState())
    kept = dict(state)
    try:
        yield
    finally:
        state.clear()
        state.update(kept)


def forget_loaders() -> None:
    """At the start of a trial: the loaders that paused trials read are not its own."""
    from accelerate.state import GradientState

    GradientState().dataloader_references = [None]


class GradNorm:
    """The norm of the gradients before clipping, as an accelerator's ``clip_grad_norm_`` returns it.

    Attributes:
        latest: since it was taken last; None where nothing was clipped.
    """

    def __init__(self, accelerator: Any) -> None:
        self.latest: Any = None
        own = accelerator.clip_grad_norm_

        def clip_grad_norm_(*args: Any, **keywords: Any) -> Any:
            self.latest = own(*args, **keywords)
            return self.latest

        accelerator.clip_grad_norm_ = clip_grad_norm_

    def taken(self) -> float | None:
        """The latest norm, once."""
        latest, self.latest = self.latest, None
        return None if latest is None else float(latest)
