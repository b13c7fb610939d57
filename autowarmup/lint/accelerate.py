"""The YAML that ``accelerate config`` writes. Read in accelerate 1.15: ``scheduler.AcceleratedScheduler``."""

from __future__ import annotations

from autowarmup.lint.reading import Fields, Reading, Run, Trap

KEYS = {"compute_environment", "distributed_type", "num_machines", "num_processes", "machine_rank"}
"""What a configuration of Accelerate's is known by."""


def read(config: Fields, run: Run) -> Reading:
    """What Accelerate makes of the warm-up in a script."""
    processes, traps = max(1, int(config.number("num_processes", run.processes, least=-1))), []
    if processes > 1:
        traps.append(
            Trap(
                what=f"a scheduler that goes through prepare() is stepped {processes} times for each optimizer step: a "
                f"warm-up of 1,000 steps is over after {-(-1000 // processes):,}",
                instead="leave the scheduler out of prepare() and step it after each optimizer step, or "
                "Accelerator(step_scheduler_with_optimizer=False)",
            )
        )
    if config.text("mixed_precision", "no") == "fp16":
        traps.append(
            Trap(
                what="with fp16 some of the first optimizer steps are skipped; a scheduler that did not go through "
                "prepare() is stepped all the same",
                instead="step it only where accelerator.optimizer_step_was_skipped is False",
            )
        )
    if "deepspeed_config_file" in config.within("deepspeed_config"):
        traps.append(
            Trap(
                what="a scheduler in DeepSpeed's configuration takes the place of the script's",
                instead="check that file with `autowarmup lint`",
            )
        )
    return Reading(
        framework="Accelerate", steps=None, unknown="the scheduler is made in the script", traps=tuple(traps)
    )
