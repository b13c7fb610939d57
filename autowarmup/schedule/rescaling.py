"""Published rules for another batch size or width, as arithmetic: by how much the peak changes, and what with it."""

from __future__ import annotations

import math

from autowarmup.errors import InputError
from autowarmup.values import Frozen, nearest, short

ADAM = ("adam", "adamw")
KNOWN = (*ADAM, "sgd")
"""Optimizers for which there is a rule."""

INSTEAD = (
    "A study of runs of an eighth of the length costs about half a run: autotune(..., total_steps=N, tune_steps=N // 8)"
)
"""What to do where no rule holds."""


class ScalingRule(Frozen):
    """What changes with the batch size and the width.

    Args:
        peak: the factor on the peak.
        steps: the factor on numbers of steps, so that the number of samples stays.
        beta: the factor on ``1 - beta`` of each of Adam's decays.
        weight_decay: the factor on the weight decay.
        eps: the factor on Adam's ``eps``.
        name: of the rules.
        source: where they come from.
        holds: under which conditions.
    """

    peak: float
    steps: float
    beta: float
    weight_decay: float
    eps: float
    name: str
    source: str
    holds: str

    def new_beta(self, beta: float) -> float:
        """The decay of a moment of Adam's that averages over as many samples as ``beta`` does now.

        Raises:
            InputError: there is none: a step has more samples than that.
        """
        new = 1.0 - self.beta * (1.0 - beta)
        if not 0.0 <= new < 1.0:
            raise InputError(
                f"batch={1.0 / self.steps:g}: no rule holds: beta={beta:g} would become {new:.3g}, since one batch has "
                f"more samples than it averages over. {INSTEAD}"
            )
        return new


def scaling_rule(batch: float, width: float, optimizer: str) -> ScalingRule:
    """The rule for a batch and a width that are so many times as large.

    Raises:
        InputError: a factor that isn't above 0 and finite, or no rule is known.

    Example:
        >>> rule = scaling_rule(batch=4.0, width=1.0, optimizer="adamw")
        >>> rule.name, rule.peak, rule.steps, round(rule.new_beta(0.999), 3)
        ('square-root scaling', 2.0, 0.25, 0.996)
    """
    for name, factor in (("batch", batch), ("width", width)):
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0.0 < factor < math.inf:
            raise InputError(f"{name}={short(factor)}: must be a factor above 0, such as 4.0 for four times as much")
    if optimizer not in KNOWN:
        raise InputError(
            f"optimizer={short(optimizer)}{nearest(str(optimizer), KNOWN)}: no rule is known; there are rules for "
            f"{', '.join(KNOWN)}. {INSTEAD}"
        )
    if width != 1.0 and optimizer not in ADAM:
        raise InputError(
            f"width={width:g}: for {optimizer} no rule holds with one learning rate for all layers: each kind of layer "
            f"scales in its own way (Everett et al. 2024, arXiv 2407.05872). {INSTEAD}"
        )
    rules = [_of_adam(batch, optimizer) if optimizer in ADAM else _of_sgd(batch)] if batch != 1.0 else []
    rules += [_of_width(width, optimizer)] if width != 1.0 else []
    if not rules:
        raise InputError("batch=1 and width=1 change nothing: give at least one of them, such as batch=4.0")
    return rules[0] if len(rules) == 1 else _both(*rules)


def _of_sgd(batch: float) -> ScalingRule:
    return ScalingRule(
        peak=batch, steps=1.0 / batch, beta=1.0, weight_decay=1.0, eps=1.0, name="linear scaling",
        source="Goyal et al. 2017, arXiv 1706.02677",
        holds="with a warm-up, as long as gradients are mostly noise; beyond that the peak may be too high to train at",
    )  # fmt: skip


def _of_adam(batch: float, optimizer: str) -> ScalingRule:
    """AdamW's weight decay keeps the number of samples over which it averages the weights: lr * weight decay grows in
    proportion to the batch."""
    decoupled = optimizer == "adamw"
    return ScalingRule(
        peak=math.sqrt(batch), steps=1.0 / batch, beta=batch, weight_decay=math.sqrt(batch) if decoupled else 1.0,
        eps=1.0 / math.sqrt(batch), name="square-root scaling",
        source="Malladi et al. 2022, arXiv 2205.10287"
        + ("; weight decay: Wang & Aitchison 2024, arXiv 2405.13698" if decoupled else ""),
        holds="with betas, eps and weight decay changed as well, as long as gradients are mostly noise",
    )  # fmt: skip


def _of_width(width: float, optimizer: str) -> ScalingRule:
    """AdamW's weight decay grows so that lr * weight decay stays."""
    decoupled = optimizer == "adamw"
    return ScalingRule(
        peak=1.0 / width, steps=1.0, beta=1.0, weight_decay=width if decoupled else 1.0, eps=1.0,
        name="1 / width",
        source="Yang et al. 2022, arXiv 2203.03466; Everett et al. 2024, arXiv 2407.05872"
        + ("; weight decay: Wang & Aitchison 2024, arXiv 2405.13698" if decoupled else ""),
        holds="for the matrices of hidden layers and the output; embeddings, norms and biases keep theirs: give their "
        f"groups {width:g} times the learning rate of the others",
    )  # fmt: skip


def _both(one: ScalingRule, other: ScalingRule) -> ScalingRule:
    return ScalingRule(
        peak=one.peak * other.peak, steps=one.steps * other.steps, beta=one.beta * other.beta,
        weight_decay=one.weight_decay * other.weight_decay, eps=one.eps * other.eps,
        name=f"{one.name} and {other.name}", source=f"{one.source}; {other.source}",
        holds=f"{one.holds}; {other.holds}",
    )  # fmt: skip
