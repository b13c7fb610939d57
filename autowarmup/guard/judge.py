"""What is wrong with a run at a step, told from its losses and gradient norms. Nothing here imports torch."""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

from autowarmup.errors import InputError
from autowarmup.guard.events import Finding
from autowarmup.guard.expected import Band, ExpectedLoss
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
        band: the loss that a study expects at each step; None where there is no study.

    Attributes:
        count: steps that were applied.
    """

    def __init__(self, detectors: Detectors, horizon: int, trivial_loss: float | None, band: Band | None) -> None:
        self.count = 0
        self._settings = detectors, horizon, trivial_loss
        self._band = band
        self._expected = ExpectedLoss(band) if band else None
        self.forget_data()

    def forget_data(self) -> None:
        """The data have changed: what was seen before says nothing about them."""
        detectors, horizon, trivial_loss = self._settings
        self._monitor = detectors.monitor(horizon, trivial_loss)
        self._outliers = Outliers()

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

    @property
    def bursting(self) -> bool:
        """Whether the last batch was an outlier, so that less tells the next one."""
        return self._outliers.bursting

    @bursting.setter
    def bursting(self, value: bool) -> None:
        self._outliers.bursting = value

    def near_start(self, loss: float) -> bool:
        """Whether a loss is not above that of the run's first steps by more than a quarter."""
        return self._outliers.near_start(loss)

    def saved(self) -> bytes:
        """Its state."""
        file = io.BytesIO()
        _Pickler(file).dump(self)
        return file.getvalue()

    def restored(self, state: bytes) -> Judge:
        """A judge in a saved state, with this one's band.

        Raises:
            InputError: the state is not a judge's, or another version's.
        """
        try:
            judge = _Unpickler(io.BytesIO(state), self._band).load()
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
    """Writes a judge without what doesn't change: the score of silent failure, and the band."""

    def persistent_id(self, value: Any) -> str | None:
        return {Forest: "forest", Band: "band"}.get(type(value))


class _Unpickler(pickle.Unpickler):
    """Reads what :class:`_Pickler` has written, and nothing else: only classes of detectors and guard are built."""

    def __init__(self, file: io.BytesIO, band: Band | None) -> None:
        super().__init__(file)
        self._constant = {"forest": shipped(), "band": band}

    def persistent_load(self, name: str) -> Any:
        return self._constant[name]

    def find_class(self, module: str, name: str) -> Any:
        ours = module.startswith(("autowarmup.instability.", "autowarmup.guard.", "autowarmup.values"))
        plain = (module, name) in {("collections", "deque"), ("builtins", "object"), ("copyreg", "_reconstructor")}
        if not (plain or ours) or "." in name:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)
