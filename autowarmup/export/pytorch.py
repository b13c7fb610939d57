"""PyTorch: the closed form in a LambdaLR, which resumes well; chained schedulers don't (pytorch#162591, #185872)."""

from autowarmup.export.base import Framework
from autowarmup.export.by_group import written_by_group
from autowarmup.export.closed_form import written

CODE = """\
import math

import torch
from torch.optim.lr_scheduler import LambdaLR


$multiplier


# Your optimizer, with the schedule's peak as its learning rate.
optimizer = torch.optim.AdamW(model.parameters(), lr=$peak)
scheduler = LambdaLR(optimizer, multiplier)  # scheduler.step() after each optimizer.step(), for $horizon steps
"""

GROUPS = """\
import math
from fnmatch import fnmatchcase

import torch
from torch.optim.lr_scheduler import LambdaLR


$multipliers

$optimizer
# scheduler.step() after each optimizer.step(), for $horizon steps
scheduler = LambdaLR(optimizer, [MULTIPLIERS[group["name"]] for group in optimizer.param_groups])

# if frozen
$freezing

# Before the forward pass of each optimizer step, counted from 0: freeze(step).
freeze(0)
# end
"""

FRAMEWORK = Framework(
    name="pytorch",
    title="PyTorch",
    tested="torch 2.13.0",
    code=written(CODE),
    groups=written_by_group(GROUPS),
    notes=(
        "Parameter groups with learning rates of their own keep their ratios: give the highest one the peak.",
        "To resume, load the state of the scheduler as well as that of the optimizer.",
    ),
)
