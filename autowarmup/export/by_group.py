"""A schedule with groups as plain Python: a multiplier for each group, and lines that freeze groups."""

from __future__ import annotations

import re
from collections.abc import Callable
from string import Template
from typing import Any

from autowarmup.export.base import Form, Plan
from autowarmup.export.closed_form import closed_form, number, of_group

GROUPS = """\
# The parameters of each group, by patterns of their names, from the model's input to its output.
PATTERNS = $patterns


def parameters_of(group):
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and any(fnmatchcase(name, pattern) for pattern in PATTERNS[group])
    ]


# Your optimizer, with the schedule's peak as its learning rate.
optimizer = torch.optim.AdamW([{"name": name, "params": parameters_of(name)} for name in PATTERNS], lr=$peak)
"""

NAMED = """\
# Your optimizer, with the schedule's peak as its learning rate. Its parameter groups have a "name": one of
# $names.
"""

FREEZING = """\
FROZEN = $frozen  # optimizer steps before a group is trained


def freeze(step):
    \"\"\"Freezes and thaws the groups as optimizer step `step` has them.\"\"\"
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.requires_grad_(step >= FROZEN.get(group["name"], 0))


def keep_statistics(module, _):
    \"\"\"Batch normalisation of frozen groups is in evaluation mode.\"\"\"
    module.train(model.training and module.weight.requires_grad)


for module in model.modules():
    if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.weight is not None:
        module.register_forward_pre_hook(keep_statistics)
"""


def written_by_group(template: str) -> Callable[[Plan], Form]:
    """A framework's code for a schedule with groups, from a template of it.

    Args:
        template: with ``$multipliers`` for the sources of the groups' multipliers, ``$optimizer`` for the optimizer's
            lines, ``$freezing`` for those that freeze groups, ``$peak`` and ``$horizon``. Lines between ``# if frozen``
            and ``# end`` are kept where groups are frozen.
    """

    def form(plan: Plan) -> Form:
        frozen = {group.name: group.frozen_steps for group in plan.groups if group.frozen_steps}
        kept = "" if not frozen else r"\1"
        text = re.sub(r"# if frozen\n(.*?)# end\n", kept, template, flags=re.DOTALL)
        sources = [closed_form(plan), *(of_group(plan, group, f"of_group_{i}") for i, group in _lower(plan))]
        table = {group.name: f"of_group_{i}" for i, group in _lower(plan)} | {plan.groups[-1].name: "multiplier"}
        lines = ", ".join(f"{name!r}: {function}" for name, function in table.items())
        values = {"peak": number(plan.peak), "horizon": plan.horizon, "frozen": repr(frozen)}
        named = all(group.parameters for group in plan.groups)
        values["patterns"] = _as_dict({group.name: list(group.parameters) for group in plan.groups})
        values["names"] = ", ".join(repr(group.name) for group in plan.groups)
        code = Template(text).substitute(
            multipliers="\n\n\n".join(sources) + f"\n\n\nMULTIPLIERS = {{{lines}}}",
            optimizer=Template(GROUPS if named else NAMED).substitute(values),
            freezing=Template(FREEZING).substitute(values) if frozen else "",
            **values,
        )
        used = {"import math\n": "math.", "from fnmatch import fnmatchcase\n": "fnmatchcase("}
        for line, use in used.items():
            code = code if use in code else code.replace(line, "", 1)
        names: dict[str, Any] = {}
        exec("import math\n" + "\n\n\n".join(sources), names)  # noqa: S102 - our own arithmetic, as it is pasted
        return Form(
            share=names["multiplier"],
            code=f"# {plan.describe()}\n{code.strip()}\n",
            by_group={name: names[function] for name, function in table.items()},
        )

    return form


def _lower(plan: Plan) -> list[tuple[int, Any]]:
    return list(enumerate(plan.groups[:-1]))


def _as_dict(patterns: dict[str, list[str]]) -> str:
    lines = [f"    {name!r}: {theirs!r}," for name, theirs in patterns.items()]
    return "\n".join(["{", *lines, "}"])
