"""The YAML of Lightning's command line. Read in lightning 2.6: ``LightningCLI.configure_optimizers``."""

from __future__ import annotations

from autowarmup.lint.reading import Fields, Reading, Run, Trap

KEYS = {"trainer", "seed_everything"}
"""What a configuration of Lightning's is known by."""

RAMPS = {"LinearLR": 5, "ConstantLR": 5}
"""PyTorch's schedulers that raise the learning rate, with their default of ``total_iters``."""

START = {"LinearLR": 1 / 3, "ConstantLR": 1 / 3}
"""Their first learning rate as a share of the peak, by default."""


def read(config: Fields, run: Run) -> Reading:
    """What Lightning makes of the warm-up. The steps are those of epochs, where their number is known."""
    scheduler = config.within("lr_scheduler")
    kind, options = scheduler.text("class_path", "").rsplit(".", 1)[-1], scheduler.within("init_args")
    trainer = config.within("trainer")
    peak = config.within("optimizer").within("init_args").number("lr", 0.0) or None
    if not kind:
        why = "it has no lr_scheduler, so the module's configure_optimizers makes one"
        beware = Trap(
            what="a scheduler that configure_optimizers returns is stepped once an epoch unless it says otherwise",
            instead='{"scheduler": scheduler, "interval": "step"}',
        )
        return Reading(framework="Lightning", steps=None, unknown=why, traps=(beware,))
    once = Trap(
        what=f"Lightning steps the {kind} of a configuration file once an epoch: its numbers count epochs",
        instead='configure_optimizers in the module, which returns {"scheduler": scheduler, "interval": "step"}',
    )
    if kind not in RAMPS:
        return Reading(framework="Lightning", steps=None, unknown=f"{kind} is not read here", peak=peak, traps=(once,))
    epochs, first = options.whole("total_iters", RAMPS[kind]), options.number("start_factor", START[kind])
    if kind == "ConstantLR":
        first = options.number("factor", START[kind])
    an_epoch = _steps_of_an_epoch(trainer, run)
    if an_epoch is None:
        why = f"{epochs:,} epochs; give --steps of the whole run, and trainer.max_epochs in the file"
        return Reading(framework="Lightning", steps=None, unknown=why, peak=peak, traps=(once,))
    return Reading(
        framework="Lightning", steps=epochs * an_epoch, first=first, peak=peak, total=run.steps,
        curve="stepwise" if kind == "LinearLR" else "constant", traps=(once,),
    )  # fmt: skip


def _steps_of_an_epoch(trainer: Fields, run: Run) -> int | None:
    """Of a run of so many steps in all and so many epochs."""
    epochs = trainer.number("max_epochs", -1.0, least=-1.0)
    return round(run.steps / epochs) if run.steps is not None and epochs > 0 else None
