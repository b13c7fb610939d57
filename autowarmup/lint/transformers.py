"""Transformers' TrainingArguments. Read in transformers 5.24: ``TrainingArguments.get_warmup_steps``,
``optimization.get_scheduler``."""

from __future__ import annotations

import math

from autowarmup.errors import InputError
from autowarmup.lint.reading import Fields, Reading, Run, Trap, given_steps
from autowarmup.values import nearest

FROM_ZERO = {
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant_with_warmup", "inverse_sqrt",
    "cosine_with_min_lr", "warmup_stable_decay",
}  # fmt: skip
"""Schedulers whose rate at step ``t`` of a warm-up of ``W`` is ``t / W``."""

FROM_FIRST = "cosine_warmup_with_min_lr"
"""The scheduler whose rate at step ``t`` is ``(t + 1) / W``."""

WITHOUT = {"constant", "reduce_lr_on_plateau", "greedy"}
"""Schedulers without a warm-up."""

KEYS = {
    "output_dir", "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps",
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio",
}  # fmt: skip
"""What TrainingArguments are known by."""

START = Trap(
    what="the first optimizer step has a learning rate of 0: it trains nothing",
    instead=f"lr_scheduler_type: {FROM_FIRST} with one step more, or code that applies any schedule: "
    "`autowarmup schedule DIR --code transformers`",
)


def read(config: Fields, run: Run) -> Reading:
    """What TrainingArguments make of the warm-up."""
    kind, traps = config.text("lr_scheduler_type", "linear"), []
    total = _total(config, run)
    asked = config.number("warmup_steps", 0.0)
    if "warmup_ratio" in config:
        traps.append(
            Trap(
                what="warmup_ratio is unknown to Transformers since version 5: TrainingArguments refuse it",
                instead=f"warmup_steps: {config.get('warmup_ratio')}, which is a share of the run where it is below 1",
            )
        )
        asked = asked or config.number("warmup_ratio", 0.0)
    if asked >= 1 and not asked.is_integer():
        traps.append(
            Trap(what=f"warmup_steps of {asked:g} becomes {int(asked)}", instead="a whole number, or a share below 1")
        )
    if config.get("deepspeed") is not None:
        traps.append(
            Trap(
                what="a scheduler in DeepSpeed's configuration takes the place of this one",
                instead="leave `scheduler` out of it, or check that file with `autowarmup lint`",
            )
        )
    found = warmup(kind, asked, total, "Transformers", config.within("lr_scheduler_kwargs"))
    return found.model_copy(
        update={"peak": config.number("learning_rate", 5e-5), "traps": (*traps, *found.traps)},
    )


def warmup(kind: str, asked: float, total: int | None, framework: str, options: Fields) -> Reading:
    """The warm-up of one of Transformers' schedulers.

    Args:
        kind: its name.
        asked: ``warmup_steps`` as it was given: steps, or a share where it is below 1.
        total: optimizer steps of the run.
        framework: whose configuration it is in.
        options: the scheduler's own.

    Raises:
        InputError: an unknown scheduler.
    """
    known = {*FROM_ZERO, *WITHOUT, FROM_FIRST}
    if kind not in known:
        raise InputError(
            f"lr_scheduler_type: {kind!r} is unknown{nearest(kind, known)}; known: {', '.join(sorted(known))}"
        )
    if kind in WITHOUT:
        ignored = Trap(
            what=f"the scheduler {kind!r} has no warm-up: warmup_steps is ignored",
            instead="lr_scheduler_type: constant_with_warmup, or another one with a warm-up",
        )
        return Reading(framework=framework, steps=0, first=1.0, total=total, traps=(ignored,) if asked else ())
    if 0 < asked < 1 and total is None:
        return Reading(
            framework=framework,
            steps=None,
            unknown=f"{asked:.3g} of the run, rounded up; give --steps, or --examples and --processes",
        )
    steps = int(asked) if asked >= 1 else math.ceil((total or 0) * asked)
    traps = []
    if total is not None and steps >= total:
        traps.append(
            Trap(
                what=f"the warm-up of {steps:,} steps is as long as the run of {total:,}: the peak is never reached",
                instead="a shorter warm-up",
            )
        )
    if kind == FROM_FIRST:
        start = options.number("warmup_lr_rate", 1.0 / max(1, steps))
        below = max(0, steps - 1)
        return Reading(framework=framework, steps=below, first=start if below else 1.0, total=total, traps=tuple(traps))
    start = options.number("min_lr_ratio", 0.0) if kind == "warmup_stable_decay" else 0.0
    if steps and start == 0.0:
        traps.append(START)
    return Reading(framework=framework, steps=steps, first=start if steps else 1.0, total=total, traps=tuple(traps))


def _total(config: Fields, run: Run) -> int | None:
    """Optimizer steps of the run, as the Trainer counts them."""
    given = given_steps(config, run)
    if given is not None or run.examples is None:
        return given
    batch = config.whole("per_device_train_batch_size", 8, least=1)
    batches = math.ceil(math.ceil(run.examples / batch) / run.processes)
    an_epoch = math.ceil(batches / config.whole("gradient_accumulation_steps", 1, least=1))
    return math.ceil(config.number("num_train_epochs", 3.0) * an_epoch)
