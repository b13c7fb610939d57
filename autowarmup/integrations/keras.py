"""A study of what Keras' ``model.fit`` trains, on any of its backends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from autowarmup.errors import InputError
from autowarmup.integrations.current import current_settings
from autowarmup.integrations.keras_model import accumulation, as_float, inner_optimizer, sync
from autowarmup.integrations.steps import built, check_function, imported, report_both
from autowarmup.seeds import derive_seed
from autowarmup.training.identity import digest_of
from autowarmup.training.loop import DescribedLoop, LoopRun
from autowarmup.training.recipe import best_device
from autowarmup.training.rng import borrowed
from autowarmup.values import nearest, short

FitArguments = Mapping[str, Any] | Callable[[], Mapping[str, Any]]

VALIDATION = {"validation_data", "validation_split", "validation_batch_size", "validation_steps", "validation_freq"}
OWN = {"callbacks", "epochs", "initial_epoch", "verbose"} | VALIDATION
"""Arguments of ``fit`` that a trial sets itself."""


def from_keras(make_model: Callable[[], Any], fit_arguments: FitArguments) -> dict[str, Any]:
    """The arguments of ``autotune`` for what Keras trains: ``autotune(**from_keras(make_model, fit_arguments))``.

    Each trial builds the model anew, with Keras' random seed set after the trial's seed, and calls ``model.fit`` with
    your arguments. The learning rate of each optimizer step is the trial's; a ``LearningRateSchedule`` of your
    optimizer is replaced. It validates with ``model.evaluate`` where the study does. Callbacks are left out.

    To change an argument, pass ``**{**from_keras(...), "total_steps": 500}``.

    Args:
        make_model: builds a fresh compiled ``keras.Model``; no arguments.
        fit_arguments: what you pass to ``model.fit``, as a dict, or a function that returns it, where the data are read
            only once. ``validation_data`` or ``validation_split`` must be among them.

    Returns:
        ``train_fn``; ``total_steps``, the optimizer steps of all epochs; ``steps_per_epoch``; ``current``, what the
        optimizer's learning rate is today over these steps, or the nearest schedule, which a warning says; and
        ``beta2``.

    Raises:
        InputError: the model or the arguments can't be tuned. The message says what is allowed.
    """
    keras = imported("keras")
    check_function("make_model", make_model, "a compiled keras.Model")
    with borrowed(best_device()):
        keras.utils.set_random_seed(0)
        return _look_at(make_model, fit_arguments)


def _look_at(make_model: Any, fit_arguments: Any) -> dict[str, Any]:
    """The arguments of ``autotune``, from a batch of training and a validation."""
    import keras

    model, arguments = _model(make_model), _arguments(fit_arguments)
    fit, validation = _parts(arguments)
    accumulate, inner = accumulation(model), inner_optimizer(model.optimizer)
    beta2, rate = float(getattr(inner, "beta_2", 0.999)), inner._learning_rate
    _settable(model)
    callback = _look()
    built("model.fit", partial(model.fit, **fit, epochs=1, verbose=0, callbacks=[callback]))
    if callback.batches is None:
        raise InputError(
            "fit_arguments: x has no length, so that the optimizer steps of an epoch are not known: pass "
            "steps_per_epoch"
        )
    values = built("model.evaluate", partial(_evaluated, model, validation))
    total = int(arguments.get("epochs", 1)) * callback.batches // accumulate
    if total < 1:
        raise InputError(f"fit_arguments: {callback.batches} batches an epoch make no optimizer step")
    return {
        "train_fn": DescribedLoop(
            partial(_train, make_model, fit_arguments, keras.config.dtype_policy()),
            _description(model, make_model, arguments, accumulate, [*values]),
        ),
        "total_steps": total,
        "steps_per_epoch": max(1, callback.batches // accumulate),
        "current": current_settings(_rates(rate, total, accumulate), "the optimizer of the Keras model"),
        "beta2": beta2,
    }


def _train(make_model: Any, fit_arguments: Any, policy: Any, run: LoopRun) -> None:
    """One trial. It runs in a thread, and Keras keeps its global settings by thread."""
    import keras

    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(derive_seed(run.seed, "model"))
    model = _model(make_model)
    _settable(model)
    fit, validation = _parts(_arguments(fit_arguments))
    callback = _reporting(model, run, partial(_evaluated, model, validation))
    keras.utils.set_random_seed(derive_seed(run.seed, "training"))
    epochs = run.total_steps * accumulation(model)  # an epoch has at least one batch; the callback stops before
    model.fit(**fit, epochs=epochs, verbose=0, callbacks=[callback])
    if not run.should_stop:
        raise InputError(
            f"model.fit ended after {callback.steps} of {run.total_steps} optimizer steps by itself: its data must last"
        )


def _look() -> Any:
    """A callback that ends ``fit`` after a batch, and knows the batches of an epoch."""
    import keras

    class Look(keras.callbacks.Callback):  # type: ignore[misc]
        batches: int | None = None

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.batches = self.params.get("steps")
            self.model.stop_training = True

    return Look()


def _reporting(model: Any, run: LoopRun, evaluate: Callable[[], dict[str, float]]) -> Any:
    """The callback that sets each step's learning rate, and reports the step."""
    import keras

    accumulate = accumulation(model)

    class Reporting(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps, self._made = 0, 0
            self._losses: list[float] = []
            self._average: Average | None = None

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            sync(model)
            model.reset_metrics()  # what a batch's end tells is else the mean of the epoch so far
            model.optimizer.learning_rate = run.schedule.lr_at(self.steps)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            sync(model)
            self._average = self._average or Average(model)
            self._losses.append(_loss_of(logs))
            if len(self._losses) < accumulate:
                return
            loss, self._losses = sum(self._losses) / accumulate, []
            made = int(keras.ops.convert_to_numpy(inner_optimizer(model.optimizer).iterations))
            skipped, self._made = made == self._made, made
            self.steps += 1
            self._average.update(self.steps)
            validates = run.should_validate
            stop = run.report(loss, lr=0.0 if skipped else as_float(model.optimizer.learning_rate))
            if validates and (not stop or self.steps == run.total_steps):
                self._validate()
            model.stop_training = stop

        def _validate(self) -> None:
            assert self._average is not None
            raw = evaluate()
            with self._average.swapped_in():
                averaged = evaluate()
            report_both(run, raw, averaged)

    return Reporting()


class Average:
    """An exponential moving average of a Keras model's weights, by the rule of
    :class:`autowarmup.training.average.AveragedWeights`.

    Args:
        model: the model, built.
    """

    def __init__(self, model: Any) -> None:
        statistics = [one for one in model.non_trainable_variables if "float" in str(one.dtype)]
        self._variables = [*model.trainable_variables, *statistics]
        with _no_gradients():
            self._values = self._current()

    def update(self, step: int) -> None:
        """Takes in the weights after ``step`` steps, counted from 1."""
        new = 9.0 / (step + 10.0)
        with _no_gradients():
            pairs = zip(self._values, self._current(), strict=True)
            self._values = [value + (current - value) * new for value, current in pairs]

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within the context the model has the averaged weights, afterwards its own again."""
        with _no_gradients():
            own = self._current()
            self._assign(self._values)
        try:
            yield
        finally:
            with _no_gradients():
                self._assign(own)

    def _current(self) -> list[Any]:
        from keras import ops

        return [ops.copy(ops.cast(variable.value, "float32")) for variable in self._variables]

    def _assign(self, values: list[Any]) -> None:
        from keras import ops

        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(ops.copy(ops.cast(value, variable.dtype)))  # JAX takes over what it is given


def _model(make_model: Callable[[], Any]) -> Any:
    """A model of the user's.

    Raises:
        InputError: it isn't one, or can't be tuned.
    """
    import keras

    model = built("make_model", make_model)
    if not isinstance(model, keras.Model):
        raise InputError(f"make_model must return a keras.Model, got {type(model).__name__}")
    if getattr(model, "optimizer", None) is None:
        raise InputError("make_model returned a model that is not compiled: call model.compile(optimizer, loss) in it")
    if inner_optimizer(model.optimizer).built and int(
        keras.ops.convert_to_numpy(inner_optimizer(model.optimizer).iterations)
    ):
        raise InputError("make_model returned a model that was trained before: it must build a fresh one at every call")
    if model.steps_per_execution != 1:
        raise InputError(
            f"the model is compiled with steps_per_execution={model.steps_per_execution}: its learning rate can only "
            f"be set once in so many steps. Leave it out"
        )
    return model


def _settable(model: Any) -> None:
    """Gives an optimizer that has a schedule of its own one that can be set."""
    import keras

    optimizer, inner = model.optimizer, inner_optimizer(model.optimizer)
    if isinstance(inner._learning_rate, keras.Variable):
        return
    config = inner.get_config() | {"learning_rate": 1.0}
    plain = type(inner).from_config(config)
    if inner is optimizer:
        model.optimizer = plain
    else:
        optimizer.inner_optimizer = plain


def _rates(rate: Any, total: int, accumulate: int) -> list[float]:
    """Today's learning rates. Under accumulation Keras asks a schedule by the number of the batch, which is what
    counts."""
    import keras

    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return [_single(rate((step + 1) * accumulate - 1)) for step in range(total)]
    return [_single(rate() if callable(rate) and not isinstance(rate, keras.Variable) else rate)] * total


def _arguments(fit_arguments: Any) -> dict[str, Any]:
    """The arguments of ``fit``.

    Raises:
        InputError: they are none, or lack something.
    """
    made = built("fit_arguments", fit_arguments) if callable(fit_arguments) else fit_arguments
    if not isinstance(made, Mapping):
        raise InputError(f"fit_arguments must be a dict of the arguments of model.fit, got {short(made)}")
    arguments = dict(made)
    if "x" not in arguments:
        raise InputError(f"fit_arguments lacks x, the training data; it has: {', '.join(arguments) or 'nothing'}")
    known = _fit_parameters()
    for name in arguments:
        if name not in known:
            raise InputError(f"fit_arguments: {name!r} is no argument of model.fit{nearest(name, known)}")
    if isinstance(arguments["x"], Iterator) and not callable(fit_arguments):
        raise InputError(
            "fit_arguments: x is a generator, which the first trial would use up: pass a function that returns the dict"
        )
    if arguments.get("validation_data") is None and not arguments.get("validation_split"):
        raise InputError(
            "fit_arguments has neither validation_data nor validation_split: schedules are compared by a validation "
            "loss; add one of them"
        )
    return arguments


def _fit_parameters() -> list[str]:
    import inspect

    import keras

    return [name for name in inspect.signature(keras.Model.fit).parameters if name != "self"]


def _parts(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of a trial's ``fit``, and those of ``evaluate``."""
    import keras

    fit = {name: value for name, value in arguments.items() if name not in OWN}
    validation = {"batch_size": arguments.get("validation_batch_size") or arguments.get("batch_size")}
    validation["steps"] = arguments.get("validation_steps")
    held_out = arguments.get("validation_data")
    if held_out is None:
        share = arguments["validation_split"]
        names = [name for name in ("x", "y", "sample_weight") if arguments.get(name) is not None]
        try:
            rows = len(keras.tree.flatten(arguments["x"])[0])
        except TypeError:
            raise InputError(
                f"validation_split={share!r} needs arrays, and x is {short(arguments['x'])}: pass validation_data"
            ) from None
        cut = math.floor(rows * (1.0 - share))
        for name in names:
            fit[name] = keras.tree.map_structure(lambda part: part[:cut], arguments[name])
            validation[name] = keras.tree.map_structure(lambda part: part[cut:], arguments[name])
        return fit, validation
    if isinstance(held_out, tuple | list):
        validation |= dict(zip(("x", "y", "sample_weight"), held_out, strict=False))
    else:
        validation |= {"x": held_out, "batch_size": None}
    return fit, validation


def _evaluated(model: Any, validation: dict[str, Any]) -> dict[str, float]:
    """The validation loss and the metrics, with the model's current weights. The training's random state stays as it
    is."""
    training = getattr(model, "training", None)  # of a torch module
    with borrowed(best_device()):
        values = model.evaluate(**validation, verbose=0, return_dict=True)
    if training is not None and hasattr(model, "train"):
        model.train(training)
    return {name: as_float(value) for name, value in values.items()}


def _loss_of(logs: Any) -> float:
    if "loss" not in (logs or {}):
        raise InputError(f"the model's train_step returns no 'loss'; it returns: {', '.join(logs or {}) or 'nothing'}")
    return as_float(logs["loss"])


def _single(value: Any) -> float:
    """A number in single precision as it was written: 0.001, not 0.0010000000475."""
    return float(str(np.float32(as_float(value))))


def _no_gradients() -> AbstractContextManager[Any]:
    import keras

    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()


def _description(
    model: Any, make_model: Any, arguments: dict[str, Any], accumulate: int, values: list[str]
) -> dict[str, Any]:
    """What is trained, as plain values."""
    optimizer = {name: str(value) for name, value in inner_optimizer(model.optimizer).get_config().items()}
    plain = {name: value for name, value in arguments.items() if isinstance(value, int | float | str)}
    return {
        "train_fn": getattr(make_model, "__qualname__", type(make_model).__name__),
        "model": type(model).__name__,
        "structure": digest_of([(one.path.rpartition("/")[2], tuple(one.shape)) for one in model.variables]),
        "optimizer": {name: value for name, value in optimizer.items() if name not in ("name", "learning_rate")},
        "accumulate": accumulate,
        "arguments": {name: plain[name] for name in sorted(plain) if name not in ("epochs", "verbose")},
        "metrics": values,
        "code": digest_of(make_model),
        "data": digest_of([arguments.get(name) for name in ("x", "y", "sample_weight", "validation_data")]),
    }
