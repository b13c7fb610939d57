"""Lightning: configure_optimizers with a LambdaLR that is stepped after optimizer steps."""

from autowarmup.export.base import Framework
from autowarmup.export.closed_form import written

CODE = """\
import math

import torch
from torch.optim.lr_scheduler import LambdaLR


$multiplier


def configure_optimizers(self):
    \"\"\"A method of your LightningModule; Trainer(max_steps=$horizon) makes the whole schedule.\"\"\"
    # Your optimizer, with the schedule's peak as its learning rate.
    optimizer = torch.optim.AdamW(self.parameters(), lr=$peak)
    scheduler = LambdaLR(optimizer, multiplier)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
"""

FRAMEWORK = Framework(
    name="lightning",
    title="Lightning",
    tested="lightning 2.6.6",
    code=written(CODE),
    notes=(
        "Without interval='step' Lightning steps the scheduler once an epoch.",
        "With manual optimization call self.lr_schedulers().step() after each optimizer step.",
    ),
)
