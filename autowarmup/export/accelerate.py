"""Accelerate: the closed form in a LambdaLR that Accelerate does not step."""

from autowarmup.export.base import Framework
from autowarmup.export.closed_form import written

CODE = """\
import math

import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import LambdaLR


$multiplier


accelerator = Accelerator()
# Your optimizer, with the schedule's peak as its learning rate.
optimizer = torch.optim.AdamW(model.parameters(), lr=$peak)
scheduler = LambdaLR(optimizer, multiplier)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)  # without the scheduler
accelerator.register_for_checkpointing(scheduler)


def step_scheduler():
    \"\"\"Call it after each optimizer.step(); $horizon optimizer steps make the schedule.\"\"\"
    if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
        scheduler.step()
"""

FRAMEWORK = Framework(
    name="accelerate",
    title="Accelerate",
    tested="accelerate 1.15.0",
    code=written(CODE),
    notes=(
        "A scheduler that is passed to prepare() is stepped once for each process, so it isn't passed.",
        "Your own Accelerator and its arguments stay; gradient accumulation is counted in optimizer steps.",
    ),
)
