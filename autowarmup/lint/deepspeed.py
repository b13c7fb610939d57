"""DeepSpeed's JSON. Read in deepspeed 0.19: ``runtime/lr_schedules.py``."""

from __future__ import annotations

from autowarmup.lint.reading import Fields, Reading, Run, Trap

KEYS = {"train_batch_size", "train_micro_batch_size_per_gpu", "zero_optimization", "scheduler"}
"""What a configuration of DeepSpeed's is known by."""

WARMUPS = {"WarmupLR", "WarmupDecayLR", "WarmupCosineLR"}

DEFAULT_PEAK = 0.001
"""The peak of WarmupDecayLR where ``warmup_max_lr`` is left out."""


def read(config: Fields, run: Run) -> Reading:
    """What DeepSpeed makes of the warm-up. Its engine steps the scheduler once for each optimizer step that is made."""
    scheduler = config.within("scheduler")
    kind, params = scheduler.text("type", ""), scheduler.within("params")
    own_lr = _known(config.within("optimizer").within("params"), "lr")
    if kind not in WARMUPS:
        why = f"{kind} is no warm-up of DeepSpeed's" if kind else "it has no scheduler, so the script makes one"
        return Reading(framework="DeepSpeed", steps=None, unknown=why)
    total = _known(params, "total_num_steps")
    steps = _known(params, "warmup_num_steps", 1000)
    peak = own_lr if kind == "WarmupCosineLR" else _known(params, "warmup_max_lr", _peak(kind, own_lr))
    traps = _traps(kind, params, own_lr)
    whole = run.steps if total is None else int(total)
    if steps is None:
        why = "warmup_num_steps is 'auto': Transformers puts the steps of its TrainingArguments there"
        return Reading(framework="DeepSpeed", steps=None, unknown=why, peak=peak, total=whole, traps=tuple(traps))
    start = 0.0 if kind == "WarmupCosineLR" else (_known(params, "warmup_min_lr", 0.0) or 0.0)
    linear = params.text("warmup_type", "log") == "linear"
    steps = max(2, int(steps)) + linear
    traps.append(
        Trap(
            what="DeepSpeed's schedulers are one step late: the first step is an extra one at the lowest learning rate",
            instead="code that applies any schedule: `autowarmup schedule DIR --code deepspeed`",
        )
    )
    curve = "linear" if linear else "logarithmic"
    first = start / peak if peak else (0.0 if start == 0.0 else None)
    return Reading(
        framework="DeepSpeed", steps=steps, first=first, peak=peak, total=whole, curve=curve, traps=tuple(traps)
    )


def _traps(kind: str, params: Fields, own_lr: float | None) -> list[Trap]:
    traps = []
    if "warmup_type" not in params:
        traps.append(
            Trap(
                what="warmup_type is left out: the warm-up is logarithmic. It is at half the peak after the square "
                "root of its steps",
                instead='"warmup_type": "linear"',
            )
        )
    if kind == "WarmupDecayLR" and "warmup_max_lr" not in params:
        beside = "" if own_lr is None else f", whatever the optimizer's {own_lr:g} says"
        traps.append(
            Trap(
                what=f"warmup_max_lr is left out: the peak is {DEFAULT_PEAK:g}{beside}",
                instead='"warmup_max_lr", the learning rate that you mean',
            )
        )
    return traps


def _peak(kind: str, own_lr: float | None) -> float | None:
    """Where ``warmup_max_lr`` is left out."""
    return own_lr if kind == "WarmupLR" else DEFAULT_PEAK


def _known(fields: Fields, key: str, default: float | None = None) -> float | None:
    """A number; None where it is ``"auto"``, which Transformers fills in."""
    if fields.get(key) == "auto":
        return None
    return default if key not in fields else fields.number(key, 0.0)
