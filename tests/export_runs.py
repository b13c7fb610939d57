"""Runs of exported schedules in the frameworks' own code: each gives the learning rate of every optimizer step, with a
resume in the middle from what the framework saves."""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import os
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from autowarmup import Schedule
from autowarmup.export.base import Export

Run = Callable[[Export, Schedule, Path], list[float]]

HOW = "needs the extra frameworks: pip install 'autowarmup[frameworks]', or make test-frameworks"


def needs(module: str) -> Any:
    return pytest.importorskip(module, reason=HOW, exc_type=ImportError)


def without_init(package: str, module: str) -> Any:
    """A module of a package whose ``__init__`` needs more than is installed, such as a torchvision for this torch."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip(f"{package}: {HOW}")
    if package not in sys.modules:
        sys.modules[package] = importlib.util.module_from_spec(spec)  # without running it
    return importlib.import_module(module)


def executed(code: str | None, **names: Any) -> dict[str, Any]:
    assert code is not None
    module = sys.modules["pasted"] = ModuleType("pasted")
    module.__dict__.update(names)
    exec(compile(code, "pasted", "exec"), module.__dict__)  # noqa: S102 - code that is meant to be pasted
    return module.__dict__


def optimizer_of(plan: Schedule) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=plan.peak)


def lr_of(optimizer: Any) -> float:
    return float(optimizer.param_groups[0]["lr"])


def torch_like(make: Callable[[], tuple[Any, Any]], steps: int) -> list[float]:
    """``make`` gives an optimizer and a scheduler that is stepped after it; both are made anew halfway."""
    optimizer, scheduler = make()
    applied = []
    for step in range(steps):
        if step == steps // 2:
            saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
            optimizer, scheduler = make()
            optimizer.load_state_dict(saved[0])
            scheduler.load_state_dict(saved[1])
        applied.append(lr_of(optimizer))
        optimizer.step()
        scheduler.step()
    return applied


class Line(torch.nn.Module):
    """A model for trainers: a line, and its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def forward(self, x: Any, labels: Any = None) -> Any:
        out = self.line(x)
        return {"loss": ((out - labels) ** 2).mean(), "logits": out}


ROWS = [{"x": torch.ones(1), "labels": torch.ones(1)}] * 16


def recorded(optimizer: torch.optim.Optimizer, applied: list[float]) -> None:
    optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: applied.append(lr_of(optimizer)))


# --- code -------------------------------------------------------------------------------------------------


def pytorch(export: Export, plan: Schedule, folder: Path) -> list[float]:
    def make() -> tuple[Any, Any]:
        names = executed(export.code, model=Line())
        return names["optimizer"], names["scheduler"]

    return torch_like(make, plan.horizon)


def transformers(export: Export, plan: Schedule, folder: Path) -> list[float]:
    needs("transformers")
    needs("accelerate")
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == plan.horizon // 2:
                control.should_save = control.should_training_stop = True

    applied: list[float] = []
    os.chdir(folder)
    trainer = executed(export.code, model=Line(), train_dataset=ROWS)["trainer"]
    recorded(trainer.optimizer, applied)
    if plan.horizon > 1:
        trainer.add_callback(Stop())
        trainer.train()
        trainer = executed(export.code, model=Line(), train_dataset=ROWS)["trainer"]
        recorded(trainer.optimizer, applied)
        trainer.train(resume_from_checkpoint=f"output/checkpoint-{plan.horizon // 2}")
    return applied


def lightning(export: Export, plan: Schedule, folder: Path) -> list[float]:
    pl = needs("lightning.pytorch")
    applied: list[float] = []

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = Line()

        def training_step(self, batch: Any, index: int) -> Any:
            return self.model(batch["x"], batch["labels"])["loss"]

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            applied.append(lr_of(optimizer))

        configure_optimizers = executed(export.code)["configure_optimizers"]

    def trainer(steps: int) -> Any:
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        return pl.Trainer(
            max_steps=steps, accumulate_grad_batches=2, accelerator="cpu", default_root_dir=folder, **quiet
        )

    loader = torch.utils.data.DataLoader(ROWS, batch_size=2)
    first = trainer(plan.horizon // 2)
    first.fit(Module(), loader)
    first.save_checkpoint(folder / "half.ckpt")
    trainer(plan.horizon).fit(Module(), loader, ckpt_path=folder / "half.ckpt")
    return applied


def accelerate(export: Export, plan: Schedule, folder: Path) -> list[float]:
    needs("accelerate")
    applied: list[float] = []

    def make() -> dict[str, Any]:
        return executed(export.code, model=Line(), loader=torch.utils.data.DataLoader(ROWS, batch_size=4))

    names = make()
    while len(applied) < plan.horizon:
        if len(applied) == plan.horizon // 2:
            names["accelerator"].save_state(folder / "half")
            names = make()
            names["accelerator"].load_state(folder / "half")
        for batch in names["loader"]:
            names["accelerator"].backward(names["model"](**batch)["loss"])
            applied.append(lr_of(names["optimizer"]))
            names["optimizer"].step()
            names["step_scheduler"]()
            names["optimizer"].zero_grad()
            if len(applied) in (plan.horizon // 2, plan.horizon):
                break
    return applied


def deepspeed(export: Export, plan: Schedule, folder: Path) -> list[float]:
    os.environ |= {"DS_ACCELERATOR": "cpu", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    needs("deepspeed")
    adam = {"type": "AdamW", "params": {"lr": plan.peak, "torch_adam": True}}
    applied = []

    def make() -> tuple[Any, Any]:
        names = executed(export.code, model=Line(), ds_config={"train_batch_size": 2, "optimizer": dict(adam)})
        return names["engine"], names["optimizer"]

    engine, optimizer = make()
    for step in range(plan.horizon):
        if step == plan.horizon // 2:
            engine.save_checkpoint(str(folder))
            engine, optimizer = make()
            engine.load_checkpoint(str(folder))
        applied.append(lr_of(optimizer))
        engine.backward(engine(torch.ones(2, 1), torch.ones(2, 1))["loss"])
        engine.step()
    return applied


def timm(export: Export, plan: Schedule, folder: Path) -> list[float]:
    without_init("timm", "timm.scheduler")
    names = executed(export.code or export.config, model=Line())
    applied = []
    for step in range(plan.horizon):
        if step == plan.horizon // 2:
            names = executed(export.code or export.config, model=Line())
            names["scheduler"].step_update(step)
        applied.append(lr_of(names["optimizer"]))
        names["scheduler"].step_update(step + 1)
    return applied


def keras(export: Export, plan: Schedule, folder: Path) -> list[float]:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = needs("keras")
    import numpy as np

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer=executed(export.code or export.config)["optimizer"], loss="mse")
    applied = []
    for step in range(plan.horizon):
        if step == plan.horizon // 2:
            model.save(folder / "half.keras")
            model = keras.models.load_model(folder / "half.keras")
        applied.append(float(model.optimizer.learning_rate))
        model.train_on_batch(np.ones((1, 1)), np.ones((1, 1)))
    return applied


def optax(export: Export, plan: Schedule, folder: Path) -> list[float]:
    needs("jax")
    optax = needs("optax")
    import jax
    import jax.numpy as jnp

    def make() -> Any:
        """Plain gradient descent, so that the update of a gradient of 1 is the learning rate."""
        optimizer = optax.sgd(executed(export.code or export.config)["schedule"])
        return optimizer, jax.jit(optimizer.update)

    optimizer, update = make()
    state = optimizer.init(jnp.zeros(()))
    applied = []
    for step in range(plan.horizon):
        if step == plan.horizon // 2:
            leaves, tree = jax.tree.flatten(state)
            state = jax.tree.unflatten(tree, [jnp.asarray(leaf.tolist()) for leaf in leaves])
            _, update = make()
        updates, state = update(jnp.ones(()), state)
        applied.append(-float(updates))
    return applied


def torchtitan(export: Export, plan: Schedule, folder: Path) -> list[float]:
    needs("torchtitan.components.optimizer")

    def make() -> tuple[Any, Any]:
        optimizer = optimizer_of(plan)
        config = executed(export.code or export.config)["lr_scheduler"]
        return optimizer, config.build(optimizers=[optimizer], training_steps=plan.horizon)

    return torch_like(make, plan.horizon)


def megatron(export: Export, plan: Schedule, folder: Path) -> list[float]:
    """With batches of 4 samples, as Megatron counts samples."""
    module = needs("megatron.core.optimizer_param_scheduler")
    scheduler_class, batch = module.OptimizerParamScheduler, 4
    original = scheduler_class.get_lr
    parser = argparse.ArgumentParser()
    for name in ("lr", "min-lr", "lr-warmup-init"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    for name in ("lr-decay-iters", "lr-warmup-iters", "lr-wsd-decay-iters"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--lr-decay-style", default="linear")
    parser.add_argument("--lr-wsd-decay-style", default="exponential")
    assert export.config is not None
    args = parser.parse_args(shlex.split(export.config))

    def make() -> tuple[Any, Any]:
        optimizer = optimizer_of(plan)
        scheduler = scheduler_class(
            optimizer, args.lr_warmup_init, args.lr, args.min_lr, args.lr_warmup_iters * batch,
            args.lr_decay_iters * batch, args.lr_decay_style, 0.0, 0.0, 0, "constant",
            wsd_decay_steps=args.lr_wsd_decay_iters * batch, lr_wsd_decay_style=args.lr_wsd_decay_style,
        )  # fmt: skip
        state = SimpleNamespace(step=lambda: scheduler.step(batch), state_dict=scheduler.state_dict)
        state.load_state_dict = scheduler.load_state_dict
        return optimizer, state

    try:
        if export.code:
            executed(export.code)
        return torch_like(make, plan.horizon)
    finally:
        scheduler_class.get_lr = original


def olmo(export: Export, plan: Schedule, folder: Path) -> list[float]:
    needs("olmo_core.optim.scheduler")
    group = {"lr": plan.peak, "params": []}
    applied = []
    for step in range(plan.horizon):
        if step in (0, plan.horizon // 2):
            scheduler = executed(export.code or export.config)["scheduler"]
        trainer = SimpleNamespace(global_step=step + 1, max_steps=plan.horizon)  # it counts before it trains
        applied.append(float(scheduler.set_lr(group, trainer)))
    return applied


def axolotl(export: Export, plan: Schedule, folder: Path) -> list[float]:
    base = needs("axolotl.integrations.base")
    (folder / "planned_schedule.py").write_text(export.code or "")
    sys.path.insert(0, str(folder))
    sys.modules.pop("planned_schedule", None)
    try:
        manager = base.PluginManager.get_instance()
        manager.plugins.clear()
        manager.cfg = {}
        (plugin,) = yaml.safe_load(export.config or "")["plugins"]
        manager.register(plugin)

        def make() -> tuple[Any, Any]:
            optimizer = optimizer_of(plan)
            return optimizer, manager.create_lr_scheduler(None, optimizer, plan.horizon)

        return torch_like(make, plan.horizon)
    finally:
        sys.path.remove(str(folder))


def torchtune(export: Export, plan: Schedule, folder: Path) -> list[float]:
    lr_schedulers = needs("torchtune.training.lr_schedulers")
    config = needs("torchtune.config")
    from omegaconf import OmegaConf

    assert lr_schedulers
    (folder / "planned.py").write_text(export.code or "")
    sys.path.insert(0, str(folder))
    sys.modules.pop("planned", None)
    try:
        settings = OmegaConf.create(yaml.safe_load(export.config or ""))["lr_scheduler"]

        def make() -> tuple[Any, Any]:
            optimizer = optimizer_of(plan)
            made = config.instantiate(settings, optimizer, num_training_steps=plan.horizon, last_epoch=-1)
            return optimizer, made

        return torch_like(make, plan.horizon)
    finally:
        sys.path.remove(str(folder))


# --- configurations ---------------------------------------------------------------------------------------


def transformers_config(export: Export, plan: Schedule, folder: Path) -> list[float]:
    needs("accelerate")
    module = needs("transformers")
    settings = yaml.safe_load(export.config or "")

    def make() -> tuple[Any, Any]:
        args = module.TrainingArguments(output_dir=str(folder), **settings)
        trainer = module.Trainer(model=Line(), args=args)
        trainer.create_optimizer_and_scheduler(args.max_steps)
        return trainer.optimizer, trainer.lr_scheduler

    return torch_like(make, plan.horizon)


def axolotl_config(export: Export, plan: Schedule, folder: Path) -> list[float]:
    """Axolotl hands these fields to a Trainer of Transformers', except for the quadratic warm-up."""
    settings = yaml.safe_load(export.config or "")
    if not settings.pop("lr_quadratic_warmup", False):
        settings["lr_scheduler_type"] = settings.pop("lr_scheduler")
        renamed = export.model_copy(update={"config": yaml.safe_dump(settings)})
        return transformers_config(renamed, plan, folder)
    schedulers = without_init("axolotl", "axolotl.utils.schedulers")

    def make() -> tuple[Any, Any]:
        optimizer = optimizer_of(plan)
        function = schedulers.get_cosine_schedule_with_quadratic_warmup
        return optimizer, function(optimizer, settings["warmup_steps"], settings["max_steps"])

    return torch_like(make, plan.horizon)


def deepspeed_config(export: Export, plan: Schedule, folder: Path) -> list[float]:
    os.environ["DS_ACCELERATOR"] = "cpu"
    module = needs("deepspeed.runtime.lr_schedules")
    section = yaml.safe_load(export.config or "")["scheduler"]

    def make() -> tuple[Any, Any]:
        optimizer = optimizer_of(plan)
        return optimizer, getattr(module, section["type"])(optimizer, **section["params"])

    return torch_like(make, plan.horizon)


CODE: dict[str, Run] = {
    "pytorch": pytorch,
    "transformers": transformers,
    "lightning": lightning,
    "accelerate": accelerate,
    "deepspeed": deepspeed,
    "timm": timm,
    "keras": keras,
    "optax": optax,
    "torchtitan": torchtitan,
    "megatron": megatron,
    "olmo-core": olmo,
    "axolotl": axolotl,
    "torchtune": torchtune,
}
"""Runs of code, by framework."""

CONFIG: dict[str, Run] = {
    "transformers": transformers_config,
    "deepspeed": deepspeed_config,
    "timm": timm,
    "keras": keras,
    "optax": optax,
    "torchtitan": torchtitan,
    "megatron": megatron,
    "olmo-core": olmo,
    "axolotl": axolotl_config,
    "torchtune": torchtune,
}
"""Runs of configurations, by framework."""
