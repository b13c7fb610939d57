"""One small task as Transformers' Trainer, Lightning and Accelerate train it, and as ``model_fn, data``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

from tests.export_runs import needs
from tests.tasks import digits

(X, Y), (X_VAL, Y_VAL) = [tuple(map(torch.from_numpy, part)) for part in digits()]
TRAIN = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
HELD_OUT = [{"x": x, "labels": y} for x, y in zip(X_VAL, Y_VAL, strict=True)]


class Net(nn.Module):
    """Returns its loss, as the models of Transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Any, labels: Any) -> dict[str, Any]:
        output = self.net(x)
        return {"loss": nn.functional.cross_entropy(output, labels), "logits": output}


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


def loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Always in the same order, as the Trainer's ``sequential`` sampling."""
    return DataLoader(TRAIN, batch_size=50), DataLoader(HELD_OUT, batch_size=200)  # type: ignore[arg-type]


def in_two_processes(function: Callable[..., None], *args: Any) -> None:
    """Runs a function in two processes of Accelerate. They are forks, so that what other tests' frameworks have left in
    this one is taken down first: Accelerate's state, and DeepSpeed's process group."""
    needs("accelerate")
    from accelerate import debug_launcher
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    if dist.is_initialized():
        dist.destroy_process_group()
    debug_launcher(function, args, num_processes=2)


def accuracy(prediction: Any) -> dict[str, Any]:
    return {"accuracy": (prediction.predictions.argmax(-1) == prediction.label_ids).mean()}


def trainer(folder: Path, cls: Any = None, model: Any = None, **changes: Any) -> Any:
    """A Trainer in whose folder nothing may be left; ``changes`` are arguments of it and of TrainingArguments."""
    needs("accelerate")
    transformers = needs("transformers")
    own = {"train_dataset": TRAIN, "eval_dataset": HELD_OUT, "compute_metrics": accuracy, "model": model or Net()}
    own |= {name: changes.pop(name) for name in [*changes] if name in (*own, "optimizers", "callbacks", "model_init")}
    if "model_init" in own:
        del own["model"]
    if callable(own.get("optimizers")):
        own["optimizers"] = own["optimizers"](own["model"])
    usual = {"max_steps": 40, "per_device_train_batch_size": 50, "per_device_eval_batch_size": 200, "use_cpu": True}
    usual |= {
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "cosine",
        "warmup_steps": 4,
        "report_to": [],
    }
    args = transformers.TrainingArguments(output_dir=str(folder / "output"), **(usual | changes))
    return (cls or transformers.Trainer)(args=args, **own)


def module(**changes: Any) -> Any:
    """A LightningModule; ``changes`` are its methods."""
    pl = needs("lightning.pytorch")

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = Net()

        def training_step(self, batch: Any, index: int) -> Any:
            return self.model(**batch)["loss"]

        def validation_step(self, batch: Any, index: int) -> None:
            output = self.model(**batch)
            self.log("val_loss", output["loss"], batch_size=len(batch["labels"]))
            self.log("val_acc", (output["logits"].argmax(1) == batch["labels"]).float().mean(), batch_size=200)

        def configure_optimizers(self) -> Any:
            return adamw(self.parameters())

    return type("Changed", (Module,), changes)()


def lightning_trainer(**changes: Any) -> Any:
    """A Trainer that would log, save and show progress in the working directory."""
    pl = needs("lightning.pytorch")
    usual = {"max_steps": 40, "gradient_clip_val": 1.0, "accelerator": "cpu"}
    return pl.Trainer(**(usual | changes))


def accelerated(run: Any, *, accumulate: int = 1, evaluate: Any = None, clip: bool = True) -> None:
    """The same as a loop under Accelerate."""
    from accelerate import Accelerator

    from autowarmup.integrations import AcceleratedSteps

    torch.manual_seed(run.seed)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    network = Net()
    train, held_out = loaders()
    model, optimizer, batches = accelerator.prepare(network, adamw(network.parameters()), train)

    def validation_loss() -> float:
        with torch.no_grad():
            return float(network(**next(iter(held_out)))["loss"])

    steps = AcceleratedSteps(run, accelerator, model, optimizer, evaluate or validation_loss)
    while not run.should_stop:
        for batch in batches:
            with accelerator.accumulate(model):
                loss = model(**batch)["loss"]
                accelerator.backward(loss)
                if clip and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            if steps.stop_after(loss):
                break
