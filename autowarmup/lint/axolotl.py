"""Axolotl's YAML. Read in axolotl 0.19: ``TrainerBuilderBase._configure_warmup_and_logging``."""

from __future__ import annotations

import math

from autowarmup.errors import InputError
from autowarmup.lint.reading import Fields, Reading, Run, Trap, given_steps
from autowarmup.lint.transformers import warmup

KEYS = {"base_model", "micro_batch_size", "num_epochs", "datasets", "sequence_len", "sample_packing"}
"""What a configuration of Axolotl's is known by, beside fields of Transformers."""

OWN = {"one_cycle", "rex"}
"""Schedulers that Axolotl has beside those of Transformers."""


def read(config: Fields, run: Run) -> Reading:
    """What Axolotl makes of the warm-up.

    Raises:
        InputError: both ``warmup_steps`` and ``warmup_ratio``, which Axolotl refuses.
    """
    if config.get("warmup_steps") and config.get("warmup_ratio"):
        raise InputError("warmup_steps and warmup_ratio exclude each other in Axolotl: leave one out")
    kind, total, traps = config.text("lr_scheduler", "cosine"), _total(config, run), []
    asked = _asked(config, total)
    if "warmup_steps" not in config and "warmup_ratio" not in config:
        traps.append(
            Trap(
                what="neither warmup_steps nor warmup_ratio is set: Axolotl takes 3% of the run, at most 100 steps",
                instead="warmup_steps, as many as you mean; 0 for none",
            )
        )
    if asked == 1:
        traps.append(Trap(what="Axolotl turns a warm-up of 1 step into one of 2", instead="warmup_steps: 0, or 2"))
        asked = 2
    if kind in OWN:
        return Reading(
            framework="Axolotl", steps=None, unknown=f"{kind!r} is a curve of Axolotl's own", traps=tuple(traps)
        )
    found = warmup(kind, asked, total, "Axolotl", config.within("lr_scheduler_kwargs"))
    peak = config.number("learning_rate", 0.0) or None
    curve = "quadratic" if kind == "cosine" and config.get("lr_quadratic_warmup") else "linear"
    return found.model_copy(update={"peak": peak, "curve": curve, "traps": (*traps, *found.traps)})


def _asked(config: Fields, total: int | None) -> float:
    """Steps, or a share of the run where that isn't known."""
    if "warmup_steps" in config:
        return config.whole("warmup_steps", 0)
    share = config.number("warmup_ratio", 0.03)
    if total is None:
        return share
    steps = int(share * total)
    return steps if "warmup_ratio" in config else min(steps, 100)


def _total(config: Fields, run: Run) -> int | None:
    """Optimizer steps of the run. With packed samples the number of examples doesn't tell."""
    given = given_steps(config, run)
    if given is not None or run.examples is None or config.get("sample_packing"):
        return given
    batch = config.whole("micro_batch_size", 1, least=1) * config.whole("gradient_accumulation_steps", 1, least=1)
    return math.ceil(run.examples * config.number("num_epochs", 1.0) / (batch * run.processes))
