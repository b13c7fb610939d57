"""What is wrong with a run at a step, told from its losses and gradient norms. Nothing here imports torch."""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

from autowarmup.errors import InputError
from autowarmup.guard.events import Finding
from autowarmup.guard.expected import ExpectedLoss
from autowarmup.guard.outliers import Outliers
from autowarmup.instability.forest import Forest, shipped
from autowarmup.instability.instability import Instability
from autowarmup.instability.monitor import Detectors


class Judge:
    """Judges a run step by step: a batch before its update is applied, and the run by the steps that were.

    Args:
        detectors: the thresholds.
        horizon: optimizer steps of the run.
        trivial_loss: the loss of the best predictor that ignores its input; None where it isn't known.
        expected: the loss that a study expects at each step; None where there is no study.

    Attributes:
        count: steps that were applied.
    """

    def __init__(
        self, detectors: Detectors, horizon: int, trivial_loss: float | None, expected: ExpectedLoss | None
    ) -> None:
        self.count = 0
        self._monitor = detectors.monitor(horizon, trivial_loss)
        self._outliers = Outliers()
        self._expected = expected

    def look(self, loss: float, grad_norm: float) -> Finding | None:
        """What is wrong with a batch.

        Args:
            loss: its loss.
            grad_norm: its gradient's norm; infinite where the gradient is not finite, NaN where it isn't known.
        """
        if not math.isfinite(loss) or math.isinf(grad_norm):
            what = f"the loss is {loss}" if not math.isfinite(loss) else "the gradient is not finite"
            return Finding(reason="non-finite", message=what)
        return self._outliers.look(loss, grad_norm)

    def add(self, lr: float, loss: float, grad_norm: float) -> Finding | None:
        """Takes in a step that is applied: what is wrong with the run after it.

        Args:
            lr: the learning rate; 0 where a loss scaler skips the step.
            loss: as for :meth:`look`.
            grad_norm: as for :meth:`look`.
        """
        found = self._monitor.observe(self.count, lr, loss, grad_norm)
        off: Finding | None = None
        if math.isfinite(loss):
            self._outliers.add(lr, loss, grad_norm)
            off = self._expected.observe(self.count, loss) if self._expected else None
        self.count += 1
        return _finding(found) if found else off

    def forget_data(self) -> None:
        """The data have changed: single batches are compared with those from now on."""
        self._outliers.forget()

    def saved(self) -> bytes:
        """Its state."""
        file = io.BytesIO()
        _Pickler(file).dump(self)
        return file.getvalue()

    @staticmethod
    def restored(state: bytes) -> Judge:
        """A judge in a saved state.

        Raises:
            InputError: the state is not a judge's, or another version's.
        """
        try:
            judge = _Unpickler(io.BytesIO(state)).load()
        except (pickle.UnpicklingError, AttributeError, ImportError, EOFError, IndexError) as error:
            raise InputError(
                f"the guard's state can't be read: {error}. It was saved by another version, or is damaged; without it "
                f"the guard begins to learn what is normal anew"
            ) from error
        assert isinstance(judge, Judge)
        return judge


def _finding(found: Instability) -> Finding:
    return Finding(
        reason=found.kind,
        ago=found.detected - found.step,
        fatal=found.fatal,
        message=found.message,
        evidence={"severity": found.severity, "learning rate where it began": found.lr},
    )


class _Pickler(pickle.Pickler):
    """Writes a judge without the score of silent failure, which comes with the package."""

    def persistent_id(self, value: Any) -> str | None:
        return "forest" if isinstance(value, Forest) else None


class _Unpickler(pickle.Unpickler):
    """Reads what :class:`_Pickler` has written, and nothing else: only classes of detectors and guard are built."""

    def persistent_load(self, name: str) -> Forest:
        return shipped()

    def find_class(self, module: str, name: str) -> Any:
        ours = module.startswith(("autowarmup.instability.", "autowarmup.guard.", "autowarmup.values"))
        plain = (module, name) in {("collections", "deque"), ("builtins", "object"), ("copyreg", "_reconstructor")}
        if not (plain or ours) or "." in name:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)
